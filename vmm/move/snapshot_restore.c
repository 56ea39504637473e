/* SPDX-License-Identifier: Apache-2.0 */
/* The way back from a snapshot's folder. */
#include "vmm/move/snapshot_restore.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/guest.h"
#include "proto/unix_files.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/move/snapshot.h"
#include "vmm/move/snapshot_folder.h"
#include "vmm/move/snapshot_manifest.h"
#include "vmm/move/snapshot_pager.h"
#include "vmm/vm.h"

#define SCHEME     "file:"
#define FORCE      ",force"

struct snapshot_restore {
    struct vm *vm;
    char path[LIMIT_PATH_SIZE];
    bool force;
    struct unix_files files;
    struct snapshot_manifest manifest;
    struct snapshot_map map;
    uint8_t *state;
    int uffd;
    unsigned threads;
    struct snapshot_pager *pager;
};

bool snapshot_restore_wanted(const char *incoming)
{
    return strncmp(incoming, SCHEME, sizeof(SCHEME) - 1) == 0;
}

static int uri_take(struct snapshot_restore *restore, const char *incoming,
                    struct error *err)
{
    const char *path = incoming + sizeof(SCHEME) - 1;
    size_t size = strlen(path);
    size_t force_size = sizeof(FORCE) - 1;
    if (size > force_size && strcmp(path + size - force_size, FORCE) == 0) {
        restore->force = true;
        size -= force_size;
    }
    if (size == 0 || size >= sizeof(restore->path)) {
        return error_set(err, DROVER_EBADINPUT, "--incoming %.200s: give file:DIR[,force]",
                         incoming);
    }
    memcpy(restore->path, path, size);
    restore->path[size] = '\0';
    return 0;
}

/* A small file as a whole; the caller frees it. */
static int file_read(int fd, uint64_t size, uint8_t **ret_data)
{
    uint8_t *data = malloc(size + 1);
    if (data == NULL) {
        return -ENOMEM;
    }
    uint64_t done = 0;
    while (done < size) {
        ssize_t got = pread(fd, data + done, size - done, (off_t)done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            int result = got < 0 ? -errno : DROVER_EMALFORMED;
            free(data);
            return result;
        }
        done += (uint64_t)got;
    }
    *ret_data = data;
    return 0;
}

static int size_of(const struct snapshot_restore *restore, enum snapshot_file file,
                   uint64_t *ret_size)
{
    struct stat status;
    if (fstat(restore->files.fds[file], &status) != 0) {
        return -errno;
    }
    *ret_size = (uint64_t)status.st_size;
    return 0;
}

static int manifest_read(struct snapshot_restore *restore, struct error *err)
{
    uint64_t size = 0;
    CLEANUP(cleanup_free) uint8_t *data = NULL;
    int result = size_of(restore, SNAPSHOT_FILE_MANIFEST, &size);
    if (result == 0 && size > SNAPSHOT_MANIFEST_BYTES) {
        return error_set(err, DROVER_EMALFORMED,
                         "%s: the manifest is too big: give the folder of a snapshot",
                         restore->path);
    }
    result = result < 0
                 ? result
                 : file_read(restore->files.fds[SNAPSHOT_FILE_MANIFEST], size, &data);
    if (result < 0) {
        return error_set(err, result, "%s: can't read the manifest: %s", restore->path,
                         err_text(result));
    }
    return snapshot_manifest_decode(data, size, &restore->manifest, err);
}

static int state_read(struct snapshot_restore *restore, struct error *err)
{
    uint64_t size = 0;
    int result = size_of(restore, SNAPSHOT_FILE_STATE, &size);
    if (result == 0 && size != restore->manifest.state_size) {
        result = DROVER_EMALFORMED;
    }
    result =
        result < 0
            ? result
            : file_read(restore->files.fds[SNAPSHOT_FILE_STATE], size, &restore->state);
    crc32c_function crc = crc32c_pick();
    if (result == 0 && crc(0, restore->state, size) != restore->manifest.state_crc) {
        result = DROVER_EMALFORMED;
    }
    return result == 0 ? 0
                       : error_set(err, result,
                                   "%s: the devices' state is damaged (%s): take another "
                                   "snapshot",
                                   restore->path, err_text(result));
}

static int memory_judge(struct snapshot_restore *restore, struct error *err)
{
    const struct snapshot_manifest *manifest = &restore->manifest;
    struct guest_ram *ram = vm_ram(restore->vm);
    uint64_t pages = snapshot_manifest_pages(manifest);
    bool same = manifest->region_count == guest_ram_region_count(ram);
    for (unsigned i = 0; same && i < manifest->region_count; i++) {
        same = manifest->regions[i].gpa == guest_ram_region(ram, i)->gpa &&
               manifest->regions[i].size_bytes == guest_ram_region(ram, i)->size_bytes;
    }
    if (!same) {
        return error_set(err, DROVER_EBADINPUT,
                         "the snapshot's guest has %" PRIu64 " MiB of memory, this VM %" PRIu64
                         ": give the same --memory",
                         pages * GUEST_PAGE_SIZE >> 20, guest_ram_size(ram) >> 20);
    }
    uint64_t size = 0;
    int result = size_of(restore, SNAPSHOT_FILE_MEMORY, &size);
    if (result < 0 || size != pages * GUEST_PAGE_SIZE) {
        return error_set(err, DROVER_EMALFORMED,
                         "%s: the memory's file is cut short: take another snapshot",
                         restore->path);
    }
    return snapshot_map_read(&restore->map, restore->files.fds[SNAPSHOT_FILE_PAGES], pages,
                             manifest->pages_crc, err);
}

/*
 * The cluster does not know of a guest that comes from a file: under its name it might
 * come twice. So a snapshot is never restored as a VM of a cluster; and that one of a
 * cluster's VM is not restored beside it is for the person to say.
 */
static int owner_judge(const struct snapshot_restore *restore, struct error *err)
{
    if (vm_config(restore->vm)->vm_id != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "a snapshot is restored by hand only, not as a VM of a cluster: "
                         "leave out --vm-id");
    }
    if (restore->manifest.vm_id != 0 && !restore->force) {
        return error_set(err, DROVER_ECONFLICT,
                         "the snapshot is of VM %" PRIu64
                         " of a cluster: stop or delete that one, so that it can't run "
                         "twice, and add ,force",
                         restore->manifest.vm_id);
    }
    return 0;
}

static int open_all(struct snapshot_restore *restore, const char *incoming,
                    struct error *err)
{
    int result = uri_take(restore, incoming, err);
    result = result < 0 ? result
                        : snapshot_folder_open(restore->path, &restore->files, err);
    result = result < 0 ? result : manifest_read(restore, err);
    result = result < 0 ? result : owner_judge(restore, err);
    result = result < 0 ? result : memory_judge(restore, err);
    result = result < 0 ? result : state_read(restore, err);
    restore->uffd = result < 0 ? -1 : snapshot_pager_uffd();
    return result;
}

int snapshot_restore_open(struct vm *vm, const char *incoming,
                          struct snapshot_restore **ret_restore, struct error *err)
{
    struct snapshot_restore *restore = calloc(1, sizeof(*restore));
    if (restore == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    restore->vm = vm;
    restore->uffd = -1;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN); /* the jail hides it */
    restore->threads = cpus < 1 ? 1 : (unsigned)cpus;
    int result = open_all(restore, incoming, err);
    if (result < 0) {
        snapshot_restore_free(restore);
        return result;
    }
    *ret_restore = restore;
    return 0;
}

/* Pager's threads. */
static void pager_begun(void *owner)
{
    struct snapshot_restore *restore = owner;
    vm_thread_confine(restore->vm, SECCOMP_ROLE_MOVE);
}

static int pager_start(struct snapshot_restore *restore, struct error *err)
{
    const struct snapshot_pager_config config = {
        .ram = vm_ram(restore->vm),
        .log = vm_log(restore->vm),
        .name = vm_config(restore->vm)->name,
        .uffd = restore->uffd,
        .memory_fd = restore->files.fds[SNAPSHOT_FILE_MEMORY],
        .map = &restore->map,
        .threads = restore->threads,
        .begun = pager_begun,
        .owner = restore,
    };
    return snapshot_pager_start(&config, &restore->pager, err);
}

int snapshot_restore_run(struct snapshot_restore *restore, struct migration_guest *guest,
                         struct snapshot *snapshot, struct error *err)
{
    struct vm *vm = restore->vm;
    const struct snapshot_manifest *manifest = &restore->manifest;
    int result =
        guest->ops->config_compare(guest, manifest->machine, manifest->machine_size, err);
    result = result < 0 ? result : pager_start(restore, err);
    result = result < 0
                 ? result
                 : guest->ops->load(guest, restore->state, manifest->state_size, err);
    result = result < 0 ? result : guest->ops->claim(guest, err);
    /* Nobody else writes to them now. */
    if (result == 0 && !restore->force) {
        result = snapshot_disks_compare(snapshot, manifest, err);
    }
    if (result < 0) {
        return result;
    }
    log_notice(vm_log(vm), "restored vm=%s folder=%s pages=%" PRIu64 " memory=%s",
               vm_config(vm)->name, restore->path, restore->map.present_count,
               snapshot_pager_is_lazy(restore->pager) ? "comes as it is needed" : "is here");
    vm_hold_clear(vm, VM_HOLD_INCOMING);
    guest->ops->announce(guest);
    return 0;
}

void snapshot_restore_free(struct snapshot_restore *restore)
{
    if (restore == NULL) {
        return;
    }
    snapshot_pager_free(restore->pager);
    cleanup_fd(&restore->uffd);
    unix_files_done(&restore->files);
    snapshot_manifest_done(&restore->manifest);
    snapshot_map_done(&restore->map);
    free(restore->state);
    free(restore);
}
