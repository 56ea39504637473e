/* SPDX-License-Identifier: Apache-2.0 */
/* Files of UEFI variables: a firmware volume each (UEFI PI 1.7, volume 3, section 3.2.1):
 * 16 zeros, the file system's GUID, the length (8), "_FVH". */
#include "vmm/firmware/vars_store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/limits.h"
#include "vmm/firmware/flash.h"
#include "vmm/storage/block_disk.h"

#define VOLUME_HEADER    48
#define VOLUME_SIGNATURE 40
#define VOLUME_GUID      16
#define TEMPORARY_SUFFIX ".new"

/* EFI_SYSTEM_NV_DATA_FV_GUID: a volume of variables. */
static const uint8_t variables_guid[16] = {0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76,
                                           0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47,
                                           0x07, 0x5b, 0x4f, 0x50};

struct vars_store {
    struct block_disk disk;
};

static int content_judge(const char *path, const char *option, const uint8_t *data,
                         struct error *err)
{
    if (memcmp(data + VOLUME_SIGNATURE, "_FVH", 4) == 0 &&
        memcmp(data + VOLUME_GUID, variables_guid, sizeof(variables_guid)) == 0) {
        return 0;
    }
    return error_set(err, DROVER_EBADINPUT,
                     "%s %s is no store of UEFI variables: name another file, or remove "
                     "it to have it made anew",
                     option, path);
}

static int size_judge(const char *path, const char *option, const struct stat *status,
                      struct error *err)
{
    if (!S_ISREG(status->st_mode)) {
        return error_set(err, DROVER_EBADINPUT, "%s %s is not a file: name one", option,
                         path);
    }
    uint64_t size = (uint64_t)status->st_size;
    if (size < FLASH_SECTOR_SIZE || size > FLASH_SIZE_MAX ||
        size % FLASH_SECTOR_SIZE != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s %s has %" PRIu64
                         " bytes, which no store of UEFI variables has: name another "
                         "file, or remove it to have it made anew",
                         option, path, size);
    }
    return 0;
}

static int all_read(int fd, uint8_t *data, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t got = pread(fd, data + done, size - done, (off_t)done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -errno : -EIO;
        }
        done += (uint64_t)got;
    }
    return 0;
}

static int all_write(int fd, const uint8_t *data, uint64_t offset, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t put = pwrite(fd, data + done, size - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return put < 0 ? -errno : -EIO;
        }
        done += (uint64_t)put;
    }
    return 0;
}

int vars_file_read(const char *path, const char *option, uint8_t **ret_data,
                   uint64_t *ret_size, struct error *err)
{
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0) {
        int result = -errno;
        return error_set(err, result, "cannot open %s %s: %s", option, path,
                         err_text(result));
    }
    int result = size_judge(path, option, &status, err);
    if (result < 0) {
        return result;
    }
    uint64_t size = (uint64_t)status.st_size;
    CLEANUP(cleanup_free) uint8_t *data = malloc(size);
    if (data == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    result = all_read(fd, data, size);
    if (result < 0) {
        return error_set(err, result, "cannot read %s %s: %s", option, path,
                         err_text(result));
    }
    result = content_judge(path, option, data, err);
    if (result == 0) {
        *ret_data = TAKE(data);
        *ret_size = size;
    }
    return result;
}

/* A file appears under its name only when it is whole and durable. */
static int file_make(const char *path, const uint8_t *data, uint64_t size)
{
    char temporary[LIMIT_PATH_SIZE + sizeof(TEMPORARY_SUFFIX)];
    char folder[LIMIT_PATH_SIZE];
    (void)snprintf(temporary, sizeof(temporary), "%s" TEMPORARY_SUFFIX, path);
    (void)snprintf(folder, sizeof(folder), "%s", path);
    CLEANUP(cleanup_fd)
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return -errno;
    }
    int result = all_write(fd, data, 0, size);
    if (result == 0 && fsync(fd) < 0) {
        result = -errno;
    }
    /* Whoever was faster has made the same. */
    if (result == 0 && link(temporary, path) < 0 && errno != EEXIST) {
        result = -errno;
    }
    (void)unlink(temporary);
    CLEANUP(cleanup_fd)
    int folder_fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (result == 0 && (folder_fd < 0 || fsync(folder_fd) < 0)) {
        result = -errno;
    }
    return result;
}

static void store_close_scope(struct vars_store **store)
{
    vars_store_close(*store);
}

/* The store is opened as disks are, whose errors speak of one. */
static int speak_of_vars(const char *path, struct error *err)
{
    char disk[LIMIT_PATH_SIZE + sizeof("disk ")];
    char text[ERROR_TEXT_SIZE];
    (void)snprintf(disk, sizeof(disk), "disk %s", path);
    const char *at = strstr(err->text, disk);
    if (at != NULL) {
        (void)snprintf(text, sizeof(text), "%.*s--vars %s", (int)(at - err->text),
                       err->text, at + strlen("disk "));
        memcpy(err->text, text, sizeof(text));
    }
    return err->code;
}

static int extent_judge(const struct vars_store *store, const struct stat *status,
                        uint64_t size, struct error *err)
{
    if (S_ISBLK(status->st_mode)) {
        return store->disk.size_bytes >= size
                   ? 0
                   : error_set(err, DROVER_EBADINPUT,
                               "--vars %s has %" PRIu64 " bytes, this firmware's store "
                               "needs %" PRIu64 ": name a larger device",
                               store->disk.path, store->disk.size_bytes, size);
    }
    return store->disk.size_bytes == size
               ? 0
               : error_set(err, DROVER_EBADINPUT,
                           "--vars %s has %" PRIu64 " bytes, this firmware's store has "
                           "%" PRIu64 ": name the file of this VM, or remove it to have "
                           "it made anew",
                           store->disk.path, store->disk.size_bytes, size);
}

/* A new device, all zeros where the store begins, is a store that is not made yet. */
static int device_make(struct vars_store *store, const uint8_t *initial, uint64_t size,
                       struct error *err)
{
    static const uint8_t nothing[VOLUME_SIGNATURE + 4];
    CLEANUP(cleanup_free) uint8_t *data = aligned_alloc(FLASH_SECTOR_SIZE, size);
    if (data == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    int result = all_read(store->disk.fd, data, FLASH_SECTOR_SIZE);
    if (result == 0 && memcmp(data, nothing, sizeof(nothing)) == 0) {
        memcpy(data, initial, size);
        result = all_write(store->disk.fd, data, 0, size);
        result = result == 0 && fdatasync(store->disk.fd) < 0 ? -errno : result;
    }
    return result == 0 ? 0
                       : error_set(err, result, "cannot make --vars %s: %s",
                                   store->disk.path, err_text(result));
}

int vars_store_read(struct vars_store *store, uint64_t size, uint8_t **ret_data,
                    struct error *err)
{
    CLEANUP(cleanup_free) uint8_t *data = aligned_alloc(FLASH_SECTOR_SIZE, size);
    if (data == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    int result = all_read(store->disk.fd, data, size);
    if (result < 0) {
        return error_set(err, result, "cannot read --vars %s: %s", store->disk.path,
                         err_text(result));
    }
    result = content_judge(store->disk.path, "--vars", data, err);
    if (result == 0) {
        *ret_data = TAKE(data);
    }
    return result;
}

int vars_store_open(const char *path, const uint8_t *initial, uint64_t size,
                    bool unlocked, struct vars_store **ret_store, struct error *err)
{
    struct stat status;
    if (strlen(path) >= LIMIT_PATH_SIZE) {
        return error_set(err, DROVER_EBADINPUT, "--vars: the path is too long");
    }
    int result = access(path, F_OK) == 0 ? 0 : file_make(path, initial, size);
    if (result == 0 && stat(path, &status) < 0) {
        result = -errno;
    }
    if (result < 0) {
        return error_set(err, result, "cannot make --vars %s: %s", path,
                         err_text(result));
    }
    CLEANUP(store_close_scope) struct vars_store *store = calloc(1, sizeof(*store));
    if (store == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    bool is_file = S_ISREG(status.st_mode);
    if (is_file && (uint64_t)status.st_size % FLASH_SECTOR_SIZE != 0) {
        return size_judge(path, "--vars", &status, err);
    }
    store->disk.fd = store->disk.lock_fd = -1;
    result = block_disk_open(&store->disk, path, false, false, err);
    if (result < 0) {
        return speak_of_vars(path, err);
    }
    result = extent_judge(store, &status, size, err);
    if (result == 0 && !unlocked) {
        result = vars_store_lock(store, err);
    }
    if (result == 0 && !unlocked && !is_file) {
        result = device_make(store, initial, size, err);
    }
    if (result == 0) {
        *ret_store = TAKE(store);
    }
    return result;
}

void vars_store_close(struct vars_store *store)
{
    if (store == NULL) {
        return;
    }
    block_disk_close(&store->disk);
    free(store);
}

int vars_store_lock(struct vars_store *store, struct error *err)
{
    int result = block_disk_lock(&store->disk, err);
    if (result == DROVER_EINUSE) {
        return error_set(err, result,
                         "--vars %s is in use by another VM of this host: each VM needs "
                         "a file of its own",
                         store->disk.path);
    }
    return result;
}

int vars_store_broker_set(struct vars_store *store, struct broker *broker,
                          struct error *err)
{
    return block_disk_broker_set(&store->disk, broker, err);
}

int vars_store_unlock(struct vars_store *store, struct error *err)
{
    return block_disk_unlock(&store->disk, err);
}

int vars_store_write(struct vars_store *store, uint64_t offset, const uint8_t *data,
                     size_t size)
{
    CHECK(offset % FLASH_SECTOR_SIZE == 0 && size % FLASH_SECTOR_SIZE == 0);
    CHECK(offset + size <= store->disk.size_bytes);
    return all_write(store->disk.fd, data, offset, size);
}

int vars_store_sync(struct vars_store *store)
{
    return fdatasync(store->disk.fd) < 0 ? -errno : 0;
}

const char *vars_store_path(const struct vars_store *store)
{
    return store->disk.path;
}
