/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of one drover-vmm: lock, record, last words. */
#include "node-agent/vmm_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "proto/frame.h"

#define RECORD_LIMIT_BYTES 65536u
#define LAST_WORDS_BYTES   4096

static const char *const folder_files[] = {"control.sock", "serial.sock", "record",
                                           "record.new", "lock"};

bool vmm_folder_parse(const char *name, uint64_t *ret_vm_id, uint64_t *ret_epoch)
{
    uint64_t vm_id = 0;
    uint64_t epoch = 0;
    int used = 0;
    char again[64];
    if (sscanf(name, "%" SCNu64 ".%" SCNu64 "%n", &vm_id, &epoch, &used) != 2 ||
        name[used] != '\0' || vm_id == 0) {
        return false;
    }
    /* Only the one way to write it: no signs, zeros or blanks in front. */
    (void)snprintf(again, sizeof(again), "%" PRIu64 ".%" PRIu64, vm_id, epoch);
    if (strcmp(again, name) != 0) {
        return false;
    }
    *ret_vm_id = vm_id;
    *ret_epoch = epoch;
    return true;
}

int vmm_folder_path(const char *run_directory, uint64_t vm_id, uint64_t epoch,
                    const char *file, char *ret_path, size_t size)
{
    int length =
        snprintf(ret_path, size, "%s/vms/%" PRIu64 ".%" PRIu64 "%s%s", run_directory,
                 vm_id, epoch, file == NULL ? "" : "/", file == NULL ? "" : file);
    return length < 0 || (size_t)length >= size ? DROVER_ELIMIT : 0;
}

static int make_directory(const char *path)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        return -errno;
    }
    return 0;
}

int vmm_folder_lock(const char *run_directory, uint64_t vm_id, uint64_t epoch,
                    struct error *err)
{
    char path[VMM_FOLDER_PATH_SIZE];
    int rv = vmm_folder_path(run_directory, vm_id, epoch, NULL, path, sizeof(path));
    if (rv == 0) {
        rv = make_directory(path);
    }
    if (rv != 0) {
        return error_set(err, rv, "can't make the VM's folder %s: %s", path,
                         err_text(rv));
    }
    (void)vmm_folder_path(run_directory, vm_id, epoch, "lock", path, sizeof(path));
    CLEANUP(cleanup_fd) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_set(err, -errno, "can't open %s: %s", path, strerror(errno));
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        rv = errno == EAGAIN || errno == EACCES ? DROVER_EINUSE : -errno;
        return error_set(err, rv, "a VMM of this VM and epoch holds %s already", path);
    }
    return take_fd(&fd);
}

int vmm_folder_held(const char *run_directory, uint64_t vm_id, uint64_t epoch)
{
    char path[VMM_FOLDER_PATH_SIZE];
    int rv = vmm_folder_path(run_directory, vm_id, epoch, "lock", path, sizeof(path));
    if (rv != 0) {
        return rv;
    }
    CLEANUP(cleanup_fd) int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        /* No lock file: no VMM was ever started in this folder. */
        return errno == ENOENT ? 0 : -errno;
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0) {
        return -errno;
    }
    return lock.l_type != F_UNLCK;
}

static int write_whole(const char *path, const void *data, size_t size)
{
    CLEANUP(cleanup_fd)
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -errno;
    }
    ssize_t put = write(fd, data, size);
    if (put < 0) {
        return -errno;
    }
    return (size_t)put == size ? 0 : -ENOSPC;
}

int vmm_folder_record_save(const char *run_directory, const Drover__VmmRecord *record)
{
    char path[VMM_FOLDER_PATH_SIZE];
    char fresh[VMM_FOLDER_PATH_SIZE];
    CLEANUP(buffer_done) struct buffer out = {0};
    uint8_t packed[4096];
    if (drover__vmm_record__get_packed_size(record) > sizeof(packed)) {
        return DROVER_ELIMIT;
    }
    size_t size = drover__vmm_record__pack(record, packed);
    int rv = frame_encode(&out, FRAME_KIND_FILE, packed, size, RECORD_LIMIT_BYTES);
    if (rv == 0) {
        rv = vmm_folder_path(run_directory, record->vm_id, record->epoch, "record", path,
                             sizeof(path));
    }
    if (rv == 0) {
        rv = vmm_folder_path(run_directory, record->vm_id, record->epoch, "record.new",
                             fresh, sizeof(fresh));
    }
    if (rv == 0) {
        rv = write_whole(fresh, out.data, out.size);
    }
    if (rv == 0 && rename(fresh, path) != 0) {
        rv = -errno;
    }
    return rv;
}

int vmm_folder_record_load(const char *run_directory, uint64_t vm_id, uint64_t epoch,
                           Drover__VmmRecord **ret_record)
{
    char path[VMM_FOLDER_PATH_SIZE];
    int rv = vmm_folder_path(run_directory, vm_id, epoch, "record", path, sizeof(path));
    if (rv != 0) {
        return rv;
    }
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    uint8_t data[8192];
    ssize_t got = read(fd, data, sizeof(data));
    if (got < 0) {
        return -errno;
    }
    const struct buffer in = {.data = data, .size = (size_t)got};
    const uint8_t *payload = NULL;
    size_t size = 0;
    size_t frame_size = 0;
    rv = frame_decode(&in, FRAME_KIND_FILE, RECORD_LIMIT_BYTES, &payload, &size,
                      &frame_size);
    if (rv <= 0) {
        return rv < 0 ? rv : DROVER_EMALFORMED;
    }
    Drover__VmmRecord *record = drover__vmm_record__unpack(NULL, size, payload);
    if (record == NULL || record->vm_id != vm_id || record->epoch != epoch) {
        drover__vmm_record__free_unpacked(record, NULL);
        return DROVER_EMALFORMED;
    }
    *ret_record = record;
    return 0;
}

/* What base/log.h puts in front of a line, with and without the journal, says nothing to
 * who reads the reason. */
static const char *without_log_prefix(const char *line)
{
    int used = 0;
    int number = 0;
    char word[16];
    if (sscanf(line, "<%1d>%n", &number, &used) == 1 && used > 0) {
        line += used;
    }
    used = 0;
    if (sscanf(line, "%2d:%2d:%2d.%3d %n", &number, &number, &number, &number, &used) ==
            4 &&
        used > 0) {
        line += used;
    }
    used = 0;
    if (sscanf(line, "drover-vmm %15[a-z]: %n", word, &used) == 1 && used > 0) {
        line += used;
    }
    return line;
}

void vmm_folder_last_words(const char *run_directory, uint64_t vm_id, uint64_t epoch,
                           char *ret_text, size_t size)
{
    char path[VMM_FOLDER_PATH_SIZE];
    char data[LAST_WORDS_BYTES + 1];
    ret_text[0] = '\0';
    if (vmm_folder_path(run_directory, vm_id, epoch, "vmm.log", path, sizeof(path)) !=
        0) {
        return;
    }
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) != 0) {
        return;
    }
    off_t from = stat.st_size > LAST_WORDS_BYTES ? stat.st_size - LAST_WORDS_BYTES : 0;
    ssize_t got = pread(fd, data, LAST_WORDS_BYTES, from);
    if (got <= 0) {
        return;
    }
    while (got > 0 && (data[got - 1] == '\n' || data[got - 1] == ' ')) {
        got--;
    }
    data[got] = '\0';
    const char *line = strrchr(data, '\n');
    line = without_log_prefix(line == NULL ? data : line + 1);
    (void)snprintf(ret_text, size, "%s", line);
    for (char *at = ret_text; *at != '\0'; at++) {
        if ((unsigned char)*at < ' ' || *at == 0x7f) {
            *at = ' '; /* one line, and nothing that moves a terminal's cursor */
        }
    }
}

void vmm_folder_remove(const char *run_directory, uint64_t vm_id, uint64_t epoch)
{
    char path[VMM_FOLDER_PATH_SIZE];
    char kept[VMM_FOLDER_PATH_SIZE];
    int length =
        snprintf(kept, sizeof(kept), "%s/logs/vm-%" PRIu64 ".log", run_directory, vm_id);
    if (vmm_folder_path(run_directory, vm_id, epoch, "vmm.log", path, sizeof(path)) ==
            0 &&
        (length < 0 || (size_t)length >= sizeof(kept) || rename(path, kept) != 0)) {
        (void)unlink(path); /* may be missing */
    }
    for (size_t i = 0; i < sizeof(folder_files) / sizeof(folder_files[0]); i++) {
        if (vmm_folder_path(run_directory, vm_id, epoch, folder_files[i], path,
                            sizeof(path)) == 0) {
            (void)unlink(path); /* may be missing */
        }
    }
    if (vmm_folder_path(run_directory, vm_id, epoch, NULL, path, sizeof(path)) == 0) {
        (void)rmdir(
            path); /* what is left in it is not ours; seen again at the next scan */
    }
}

uint64_t vmm_folder_start_ticks(int pid)
{
    char path[64];
    char text[1024];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (got <= 0) {
        return 0;
    }
    text[got] = '\0';
    /* Field 2, the name in brackets, may hold anything; field 3 comes after the last
     * bracket. */
    const char *at = strrchr(text, ')');
    for (int field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    return at == NULL ? 0 : strtoull(at + 1, NULL, 10);
}
