/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of a snapshot: names, and the order in which they come and go. */
#include "vmm/move/snapshot_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "proto/unix_files.h"
#include "vmm/move/snapshot_manifest.h"

static const char incomplete_text[] =
    "This snapshot is not complete: it was interrupted, or the disk was full. It can't be "
    "restored; delete this folder.\n";

/* While it is made, and when it is whole; by enum snapshot_file. */
static const char *const part_names[SNAPSHOT_FILES] = {
    SNAPSHOT_NAME_MEMORY, SNAPSHOT_NAME_PAGES, SNAPSHOT_NAME_STATE,
    SNAPSHOT_NAME_TEMPORARY};
static const char *const whole_names[SNAPSHOT_FILES] = {
    SNAPSHOT_NAME_MEMORY, SNAPSHOT_NAME_PAGES, SNAPSHOT_NAME_STATE,
    SNAPSHOT_NAME_MANIFEST};

static int folder_failed(const char *path, const char *what, struct error *err)
{
    int result = -errno;
    return error_set(err, result, "snapshot folder %s: %s: %s", path, what,
                     err_text(result));
}

static int marker_write(struct snapshot_folder *folder, struct error *err)
{
    CLEANUP(cleanup_fd)
    int fd = openat(folder->fd, SNAPSHOT_NAME_INCOMPLETE,
                    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    ssize_t size = (ssize_t)sizeof(incomplete_text) - 1;
    if (fd < 0 || write(fd, incomplete_text, (size_t)size) != size || fsync(fd) != 0) {
        return folder_failed(folder->path, "can't write to it", err);
    }
    return 0;
}

static int parts_create(struct snapshot_folder *folder, struct unix_files *files,
                        struct error *err)
{
    for (unsigned i = 0; i < SNAPSHOT_FILES; i++) {
        /* A new file each: an older one may still be in somebody's hands. */
        (void)unlinkat(folder->fd, part_names[i], 0); /* mostly there is none */
        int fd = openat(folder->fd, part_names[i],
                        O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0) {
            return folder_failed(folder->path, "can't make its files", err);
        }
        files->fds[files->count++] = fd;
    }
    return fsync(folder->fd) == 0
               ? 0
               : folder_failed(folder->path, "can't make its files", err);
}

int snapshot_folder_make(struct snapshot_folder *folder, const char *path,
                         struct unix_files *ret_files, struct error *err)
{
    *folder = (struct snapshot_folder){.path = path, .fd = -1};
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        return folder_failed(path, "can't make it", err);
    }
    folder->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->fd < 0) {
        return folder_failed(path, "can't open it", err);
    }
    int result = 0;
    struct unix_files files = {0};
    if (faccessat(folder->fd, SNAPSHOT_NAME_MANIFEST, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        result = error_set(err, DROVER_EEXISTS,
                           "%s holds a snapshot already: give another folder, or delete "
                           "it first",
                           path);
    }
    result = result < 0 ? result : marker_write(folder, err);
    result = result < 0 ? result : parts_create(folder, &files, err);
    if (result < 0) {
        unix_files_done(&files);
        snapshot_folder_close(folder);
        return result;
    }
    *ret_files = files;
    return 0;
}

int snapshot_folder_finish(struct snapshot_folder *folder, struct error *err)
{
    if (fsync(folder->fd) != 0 ||
        renameat(folder->fd, SNAPSHOT_NAME_TEMPORARY, folder->fd,
                 SNAPSHOT_NAME_MANIFEST) != 0 ||
        unlinkat(folder->fd, SNAPSHOT_NAME_INCOMPLETE, 0) != 0 ||
        fsync(folder->fd) != 0) {
        return folder_failed(folder->path, "can't complete it", err);
    }
    return 0;
}

void snapshot_folder_abandon(struct snapshot_folder *folder)
{
    for (unsigned i = 0; i < SNAPSHOT_FILES; i++) {
        (void)unlinkat(folder->fd, part_names[i], 0); /* what can't go may stay */
    }
}

void snapshot_folder_close(struct snapshot_folder *folder)
{
    cleanup_fd(&folder->fd);
    folder->fd = -1;
}

int snapshot_folder_open(const char *path, struct unix_files *ret_files,
                         struct error *err)
{
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return folder_failed(path, "can't open it", err);
    }
    if (faccessat(fd, SNAPSHOT_NAME_INCOMPLETE, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "the snapshot in %s was never completed: it can't be restored",
                         path);
    }
    struct unix_files files = {0};
    for (unsigned i = 0; i < SNAPSHOT_FILES; i++) {
        int file = openat(fd, whole_names[i],
                          O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat status;
        if (file >= 0) {
            files.fds[files.count++] = file;
        }
        if (file < 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
            unix_files_done(&files);
            return error_set(err, DROVER_ENOTFOUND,
                             "%s has no readable file \"%s\": give the folder of a snapshot",
                             path, whole_names[i]);
        }
    }
    *ret_files = files;
    return 0;
}
