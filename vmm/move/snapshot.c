/* SPDX-License-Identifier: Apache-2.0 */
/* The job of taking a snapshot: memory (migration/snapshot_save.h), page map, state, and last the manifest. */
#include "vmm/move/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "migration/crc32c.h"
#include "migration/times.h"
#include "proto/unix_files.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/move/migrate_guest.h"
#include "vmm/move/snapshot_manifest.h"
#include "vmm/vm.h"

#define STACK_BYTES   (128u * 1024u)
#define TICK_NAP_NS   500000
#define TICK_NAPS_MAX 100

struct snapshot {
    struct vm *vm;
    struct migrate_guest guest;
    unsigned threads;
    unsigned disk_count;
    struct {
        const char *path;
        int fd; /* -1: not a file here */
    } disks[LIMIT_VM_DISKS];

    pthread_t thread; /* of the latest; joined by the next, or at the end */
    bool started;
    struct unix_files files; /* the thread's while it runs, as is the manifest */
    struct snapshot_manifest manifest;
    atomic_bool cancel;
    _Atomic(uint64_t) bytes_remaining;
    pthread_mutex_t lock;
    struct snapshot_status status; /* under lock */
};

/* The jail hides how many processors there are. */
static unsigned threads_pick(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    return cpus < 2                      ? 1
           : cpus > SNAPSHOT_THREADS_MAX ? SNAPSHOT_THREADS_MAX
                                         : (unsigned)cpus;
}

int snapshot_create(struct vm *vm, struct snapshot **ret_snapshot)
{
    struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (snapshot == NULL) {
        return -ENOMEM;
    }
    snapshot->vm = vm;
    snapshot->threads = threads_pick();
    int rv = migrate_guest_init(&snapshot->guest, vm, VM_HOLD_SNAPSHOT);
    if (rv != 0) {
        free(snapshot);
        return rv;
    }
    CHECK(pthread_mutex_init(&snapshot->lock, NULL) == 0);
    *ret_snapshot = snapshot;
    return 0;
}

static void thread_join(struct snapshot *snapshot)
{
    if (snapshot->started) {
        CHECK(pthread_join(snapshot->thread, NULL) == 0);
        snapshot->started = false;
    }
    unix_files_done(&snapshot->files);
    snapshot_manifest_done(&snapshot->manifest);
}

void snapshot_free(struct snapshot *snapshot)
{
    if (snapshot == NULL) {
        return;
    }
    snapshot_cancel(snapshot);
    thread_join(snapshot);
    for (unsigned i = 0; i < snapshot->disk_count; i++) {
        cleanup_fd(&snapshot->disks[i].fd);
    }
    migrate_guest_done(&snapshot->guest);
    (void)pthread_mutex_destroy(&snapshot->lock); /* nobody uses it any more */
    free(snapshot);
}

int snapshot_disk_add(struct snapshot *snapshot, const char *path)
{
    if (snapshot->disk_count == LIMIT_VM_DISKS) {
        return DROVER_ELIMIT;
    }
    /* For its time of change only; that it can't be opened is its device's to say. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    snapshot->disks[snapshot->disk_count].path = path;
    snapshot->disks[snapshot->disk_count].fd = fd;
    snapshot->disk_count++;
    return 0;
}

int snapshot_disks_compare(const struct snapshot *snapshot,
                           const struct snapshot_manifest *manifest, struct error *err)
{
    if (snapshot->disk_count != manifest->disk_count) {
        return error_set(err, DROVER_EBADINPUT,
                         "the snapshot's guest has %u disks, this VM %u: give the same "
                         "--disk in the same order",
                         manifest->disk_count, snapshot->disk_count);
    }
    for (unsigned i = 0; i < snapshot->disk_count; i++) {
        struct snapshot_disk now;
        snapshot_disk_look(snapshot->disks[i].path, snapshot->disks[i].fd, &now);
        int rv = snapshot_disk_compare(&manifest->disks[i], &now, err);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

/* ---- the job's thread -------------------------------------------------------------- */

/*
 * A write right after this look would get the same time of change if the kernel's coarse
 * clock had not gone on: waits for its next tick.
 */
static void tick_wait(int64_t changed_ns)
{
    for (unsigned i = 0; i < TICK_NAPS_MAX; i++) {
        struct timespec now;
        if (clock_gettime(CLOCK_REALTIME_COARSE, &now) != 0 ||
            now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec > changed_ns) {
            return;
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = TICK_NAP_NS}, NULL);
    }
}

/* The guest stands: all its writes have been made. */
static int standing(void *owner, struct error *err)
{
    struct snapshot *snapshot = owner;
    if (vm_ended(snapshot->vm)) {
        return error_set(err, DROVER_EWRONGSTATE, "the guest has ended meanwhile");
    }
    struct snapshot_manifest *manifest = &snapshot->manifest;
    manifest->disk_count = snapshot->disk_count;
    for (unsigned i = 0; i < snapshot->disk_count; i++) {
        snapshot_disk_look(snapshot->disks[i].path, snapshot->disks[i].fd,
                           &manifest->disks[i]);
    }
    for (unsigned i = 0; i < snapshot->disk_count; i++) {
        tick_wait(manifest->disks[i].changed_ns);
    }
    return 0;
}

static int file_write(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno != EINTR) {
            return -errno;
        }
        data += written > 0 ? written : 0;
        size -= written > 0 ? (size_t)written : 0;
    }
    return fsync(fd) != 0 ? -errno : 0;
}

static int manifest_fill(struct snapshot *snapshot, const struct buffer *state,
                         const struct snapshot_map *map)
{
    struct snapshot_manifest *manifest = &snapshot->manifest;
    struct guest_ram *ram = vm_ram(snapshot->vm);
    struct migration_guest *guest = &snapshot->guest.guest;
    struct timespec now;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    manifest->taken_ns = now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec;
    manifest->vm_id = vm_config(snapshot->vm)->vm_id;
    manifest->epoch = vm_config(snapshot->vm)->epoch;
    manifest->region_count = guest_ram_region_count(ram);
    for (unsigned i = 0; i < manifest->region_count; i++) {
        manifest->regions[i].gpa = guest_ram_region(ram, i)->gpa;
        manifest->regions[i].size_bytes = guest_ram_region(ram, i)->size_bytes;
    }
    manifest->pages_crc = snapshot_map_crc(map);
    manifest->state_size = state->size;
    manifest->state_crc = map->crc32c(0, state->data, state->size);
    CLEANUP(buffer_done) struct buffer machine = {0};
    int rv = guest->ops->config_save(guest, &machine);
    if (rv == 0) {
        manifest->machine = buffer_take(&machine, &manifest->machine_size);
    }
    return rv;
}

/* All but the memory: small. */
static int rest_write(struct snapshot *snapshot, const struct buffer *state,
                      const struct snapshot_map *map, struct error *err)
{
    const int *fds = snapshot->files.fds;
    CLEANUP(buffer_done) struct buffer manifest = {0};
    int rv = snapshot_map_write(map, fds[SNAPSHOT_FILE_PAGES]);
    if (rv == 0 && fsync(fds[SNAPSHOT_FILE_PAGES]) != 0) {
        rv = -errno;
    }
    rv = rv != 0 ? rv : file_write(fds[SNAPSHOT_FILE_STATE], state->data, state->size);
    for (unsigned i = 0; i < snapshot->disk_count; i++) {
        /* So that after a power cut the disk is not older than the memory. One that is no
         * file has its own way. */
        (void)fdatasync(snapshot->disks[i].fd);
    }
    rv = rv != 0 ? rv : manifest_fill(snapshot, state, map);
    rv = rv != 0 ? rv : snapshot_manifest_encode(&snapshot->manifest, &manifest);
    rv = rv != 0 ? rv
                 : file_write(fds[SNAPSHOT_FILE_MANIFEST], manifest.data, manifest.size);
    if (rv == 0 && fsync(fds[SNAPSHOT_FILE_MEMORY]) != 0) {
        rv = -errno; /* what fdatasync() left: its size */
    }
    return rv == 0 ? 0
                   : error_set(err, rv, "can't write the snapshot: %s", err_text(rv));
}

static int take(struct snapshot *snapshot, struct snapshot_figures *ret_figures,
                struct error *err)
{
    const struct snapshot_save_config config = {
        .guest = &snapshot->guest.guest,
        .memory_fd = snapshot->files.fds[SNAPSHOT_FILE_MEMORY],
        .threads = snapshot->threads,
        .drain_ms = migration_times_from(0).drain_ms,
        .standing = standing,
        .owner = snapshot,
        .cancel = &snapshot->cancel,
        .bytes_remaining = &snapshot->bytes_remaining,
    };
    CLEANUP(buffer_done) struct buffer state = {.limit_bytes = SNAPSHOT_STATE_BYTES};
    struct snapshot_map map = {0};
    int rv = snapshot_save(&config, &state, &map, ret_figures, err);
    if (rv == 0) {
        rv = rest_write(snapshot, &state, &map, err);
        snapshot_map_done(&map);
    }
    return rv;
}

static void log_end(struct snapshot *snapshot, const struct snapshot_figures *figures,
                    const struct error *err)
{
    const char *name = vm_config(snapshot->vm)->name;
    if (err->code == 0) {
        log_notice(vm_log(snapshot->vm),
                   "snapshot taken vm=%s total_ms=%" PRIu64 " pause_us=%" PRIu64
                   " bytes=%" PRIu64 " rounds=%u",
                   name, figures->total_us / 1000, figures->pause_us,
                   figures->bytes_written, figures->rounds);
    } else {
        log_warn(vm_log(snapshot->vm), "no snapshot was taken vm=%s why=%s", name,
                 err->text);
    }
}

static void *job(void *owner)
{
    struct snapshot *snapshot = owner;
    struct snapshot_figures figures = {0};
    struct error err = {0};
    uint64_t begin_ns = clock_now_ns();
    (void)pthread_setname_np(pthread_self(), "snapshot"); /* for people only */
    vm_thread_confine(snapshot->vm, SECCOMP_ROLE_MOVE);
    int rv = take(snapshot, &figures, &err);
    CHECK((rv == 0) == (err.code == 0));
    figures.total_us = (clock_now_ns() - begin_ns) / 1000;
    log_end(snapshot, &figures, &err);
    CHECK(pthread_mutex_lock(&snapshot->lock) == 0);
    snapshot->status.state = rv == 0 ? SNAPSHOT_STATE_DONE : SNAPSHOT_STATE_FAILED;
    snapshot->status.figures = figures;
    snapshot->status.error = err;
    atomic_store(&snapshot->bytes_remaining, 0);
    CHECK(pthread_mutex_unlock(&snapshot->lock) == 0);
    vm_state_changed(snapshot->vm);
    return NULL;
}

/* ---- orders ------------------------------------------------------------------------ */

static int files_judge(const struct unix_files *files, struct error *err)
{
    if (files->count != SNAPSHOT_FILES) {
        return error_set(err, DROVER_EBADINPUT,
                         "a snapshot's files must come with the order: use "
                         "`drover-vmm control PATH snapshot DIR`");
    }
    for (unsigned i = 0; i < files->count; i++) {
        struct stat file;
        if (fstat(files->fds[i], &file) != 0 || !S_ISREG(file.st_mode) ||
            file.st_size != 0 || (fcntl(files->fds[i], F_GETFL) & O_ACCMODE) == O_RDONLY) {
            return error_set(err, DROVER_EBADINPUT,
                             "a snapshot's files must be empty, and open for writing");
        }
    }
    return 0;
}

static int now_judge(struct snapshot *snapshot, struct error *err)
{
    unsigned holds = vm_holds(snapshot->vm);
    if (snapshot_runs(snapshot)) {
        return error_set(err, DROVER_EINUSE,
                         "a snapshot is being taken: wait for its end, or cancel it");
    }
    if ((holds & VM_HOLD_INCOMING) != 0) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "the VM has not arrived here yet: wait until it runs");
    }
    if ((holds & VM_HOLD_LEASE) != 0) {
        return error_set(err, DROVER_ENOLEASE,
                         "the VM is frozen by its lease: try again when it runs");
    }
    return 0;
}

int snapshot_begin(struct snapshot *snapshot, struct unix_files *files, struct error *err)
{
    int rv = now_judge(snapshot, err);
    rv = rv != 0 ? rv : files_judge(files, err);
    if (rv != 0) {
        return rv;
    }
    thread_join(snapshot); /* of the one before, which is over */
    snapshot->manifest = (struct snapshot_manifest){0};
    snapshot->files = *files;
    atomic_store(&snapshot->cancel, false);
    uint64_t total = guest_ram_size(vm_ram(snapshot->vm));
    atomic_store(&snapshot->bytes_remaining, total);
    CHECK(pthread_mutex_lock(&snapshot->lock) == 0);
    snapshot->status =
        (struct snapshot_status){.state = SNAPSHOT_STATE_RUNS, .bytes_total = total};
    CHECK(pthread_mutex_unlock(&snapshot->lock) == 0);
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0);
    rv = -pthread_create(&snapshot->thread, &attributes, job, snapshot);
    (void)pthread_attr_destroy(&attributes); /* can't fail */
    if (rv != 0) {
        snapshot->files.count = 0; /* they stay the caller's */
        snapshot->status.state = SNAPSHOT_STATE_NONE;
        return error_set(err, rv, "can't start a thread: %s", err_text(rv));
    }
    snapshot->started = true;
    files->count = 0;
    log_notice(vm_log(snapshot->vm), "taking a snapshot vm=%s",
               vm_config(snapshot->vm)->name);
    return 0;
}

bool snapshot_runs(struct snapshot *snapshot)
{
    struct snapshot_status status;
    snapshot_status(snapshot, &status);
    return status.state == SNAPSHOT_STATE_RUNS;
}

void snapshot_cancel(struct snapshot *snapshot)
{
    atomic_store(&snapshot->cancel, true);
}

void snapshot_status(struct snapshot *snapshot, struct snapshot_status *ret_status)
{
    CHECK(pthread_mutex_lock(&snapshot->lock) == 0);
    *ret_status = snapshot->status;
    CHECK(pthread_mutex_unlock(&snapshot->lock) == 0);
    ret_status->bytes_remaining = atomic_load(&snapshot->bytes_remaining);
}
