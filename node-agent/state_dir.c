/* SPDX-License-Identifier: Apache-2.0 */
/* What droverd keeps on disk beside raft's folder. */
#include "node-agent/state_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "proto/frame.h"

#define IDENTITY_VERSION  1
#define IDENTITY_SIZE_MAX 65536u
#define FILE_PATH_SIZE    (LIMIT_PATH_SIZE + 32)

static const char *const files_of_cluster[] = {
    STATE_DIR_IDENTITY,    STATE_DIR_CA,  STATE_DIR_CA_KEY,
    STATE_DIR_CERTIFICATE, STATE_DIR_KEY, STATE_DIR_RAFT,
};

static int failed(struct error *err, int code, const char *path, const char *what)
{
    if (code == -ENOSPC || code == -EDQUOT) {
        return error_set(err, DROVER_ENOSPACE,
                         "%s: the disk is full: free some space there, then try again",
                         path);
    }
    return error_set(err, code, "%s: %s: %s", path, what, strerror(-code));
}

static void path_of(const struct state_dir *dir, const char *name, const char *suffix,
                    char ret_path[FILE_PATH_SIZE])
{
    int size = snprintf(ret_path, FILE_PATH_SIZE, "%s/%s%s", dir->path, name, suffix);
    CHECK(size > 0 && size < FILE_PATH_SIZE);
}

/* As mkdir -p. */
static int make_folders(const char *path)
{
    char part[LIMIT_PATH_SIZE];
    (void)snprintf(part, sizeof(part), "%s", path);
    for (char *at = part + 1;; at++) {
        if (*at != '/' && *at != '\0') {
            continue;
        }
        char end = *at;
        *at = '\0';
        if (mkdir(part, end == '\0' ? 0700 : 0755) != 0 && errno != EEXIST) {
            return -errno;
        }
        *at = end;
        if (end == '\0') {
            return 0;
        }
    }
}

int state_dir_lock(const char *folder, const char *file, const char *option, int *ret_fd,
                   struct error *err)
{
    char path[FILE_PATH_SIZE];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, file);
    CLEANUP(cleanup_fd) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        int code = -errno;
        return error_set(
            err, code, "%s: can't be opened: %s: run droverd as root or give another %s",
            path, strerror(-code), option);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        return error_set(err, DROVER_EINUSE,
                         "%s: another droverd runs with this folder: stop it first, or "
                         "give another %s",
                         folder, option);
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

int state_dir_open(const char *path, struct state_dir *ret_dir, struct error *err)
{
    struct state_dir dir = {.lock_fd = -1};
    if (strlen(path) >= sizeof(dir.path) - 32) {
        return error_set(err, DROVER_EBADINPUT,
                         "%.60s...: the path is too long: choose another --state-dir",
                         path);
    }
    (void)snprintf(dir.path, sizeof(dir.path), "%s", path);
    (void)snprintf(dir.ca_path, sizeof(dir.ca_path), "%s/" STATE_DIR_CA, path);
    (void)snprintf(dir.certificate_path, sizeof(dir.certificate_path),
                   "%s/" STATE_DIR_CERTIFICATE, path);
    (void)snprintf(dir.key_path, sizeof(dir.key_path), "%s/" STATE_DIR_KEY, path);
    (void)snprintf(dir.raft_path, sizeof(dir.raft_path), "%s/" STATE_DIR_RAFT, path);
    int rv = make_folders(path);
    if (rv != 0) {
        return failed(err, rv, path,
                      "can't be made: run droverd as root or give another --state-dir");
    }
    CLEANUP(cleanup_fd) int fd = -1;
    rv = state_dir_lock(path, "lock", "--state-dir", &fd, err);
    if (rv != 0) {
        return rv;
    }
    if (chmod(path, 0700) != 0) {
        return failed(err, -errno, path, "can't be made private");
    }
    dir.lock_fd = take_fd(&fd);
    *ret_dir = dir;
    return 0;
}

void state_dir_close(struct state_dir *dir)
{
    if (dir->lock_fd >= 0) {
        (void)close(dir->lock_fd); /* gives the lock up */
    }
    dir->lock_fd = -1;
}

/* ---- files ---- */

int state_dir_read(const struct state_dir *dir, const char *name, size_t size_max,
                   struct buffer *ret_data, struct error *err)
{
    char path[FILE_PATH_SIZE];
    path_of(dir, name, "", path);
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return failed(err, -errno, path, "can't be read");
    }
    CLEANUP(buffer_done) struct buffer data = {0};
    buffer_init(&data, size_max);
    for (;;) {
        uint8_t part[4096];
        ssize_t size = read(fd, part, sizeof(part));
        if (size < 0) {
            return failed(err, -errno, path, "can't be read");
        }
        if (size == 0) {
            break;
        }
        if (buffer_append(&data, part, (size_t)size) != 0) {
            return error_set(err, DROVER_EMALFORMED,
                             "%s: too large: restore it from a backup", path);
        }
    }
    buffer_done(ret_data);
    *ret_data = data;
    data = (struct buffer){0};
    return 0;
}

static int write_all(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t part = write(fd, data, size);
        if (part < 0 && errno == EINTR) {
            continue;
        }
        if (part < 0) {
            return -errno;
        }
        data += part;
        size -= (size_t)part;
    }
    return fsync(fd) != 0 ? -errno : 0;
}

static int sync_folder(const char *path)
{
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) {
        return -errno;
    }
    return 0;
}

int state_dir_write(const struct state_dir *dir, const char *name, const void *data,
                    size_t size, struct error *err)
{
    char path[FILE_PATH_SIZE], fresh[FILE_PATH_SIZE];
    path_of(dir, name, "", path);
    path_of(dir, name, ".new", fresh);
    CLEANUP(cleanup_fd)
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return failed(err, -errno, fresh, "can't be written");
    }
    int rv = fchmod(fd, 0600) != 0 ? -errno : write_all(fd, data, size);
    if (rv == 0 && rename(fresh, path) != 0) {
        rv = -errno;
    }
    rv = rv != 0 ? rv : sync_folder(dir->path);
    if (rv != 0) {
        (void)unlink(fresh); /* of no use */
        return failed(err, rv, path, "can't be written");
    }
    return 0;
}

int state_dir_remove(const struct state_dir *dir, const char *name, struct error *err)
{
    char path[FILE_PATH_SIZE];
    path_of(dir, name, "", path);
    if (unlink(path) != 0 && errno != ENOENT) {
        return failed(err, -errno, path, "can't be removed");
    }
    int rv = sync_folder(dir->path);
    return rv == 0 ? 0 : failed(err, rv, dir->path, "can't be synchronized");
}

int state_dir_make_raft(const struct state_dir *dir, struct error *err)
{
    if (mkdir(dir->raft_path, 0700) != 0 && errno != EEXIST) {
        return failed(err, -errno, dir->raft_path, "can't be made");
    }
    int rv = sync_folder(dir->path);
    return rv == 0 ? 0 : failed(err, rv, dir->path, "can't be synchronized");
}

int state_dir_retire(const struct state_dir *dir, struct error *err)
{
    char folder[FILE_PATH_SIZE];
    path_of(dir, "removed", "", folder);
    for (unsigned i = 1; i < 1000 && mkdir(folder, 0700) != 0; i++) {
        char suffix[16];
        if (errno != EEXIST) {
            return failed(err, -errno, folder, "can't be made");
        }
        (void)snprintf(suffix, sizeof(suffix), ".%u", i);
        path_of(dir, "removed", suffix, folder);
    }
    for (size_t i = 0; i < sizeof(files_of_cluster) / sizeof(files_of_cluster[0]); i++) {
        char path[FILE_PATH_SIZE], aside[FILE_PATH_SIZE + 32];
        path_of(dir, files_of_cluster[i], "", path);
        (void)snprintf(aside, sizeof(aside), "%s/%s", folder, files_of_cluster[i]);
        if (rename(path, aside) != 0 && errno != ENOENT) {
            return failed(err, -errno, path, "can't be set aside");
        }
    }
    int rv = sync_folder(dir->path);
    return rv == 0 ? 0 : failed(err, rv, dir->path, "can't be synchronized");
}

/* ---- identity ---- */

int state_dir_load_identity(const struct state_dir *dir,
                            Drover__HostIdentity **ret_identity, struct error *err)
{
    CLEANUP(buffer_done) struct buffer data = {0};
    int rv = state_dir_read(dir, STATE_DIR_IDENTITY, IDENTITY_SIZE_MAX, &data, err);
    if (rv != 0) {
        return rv;
    }
    const uint8_t *payload = NULL;
    size_t size = 0, frame_size = 0;
    rv = frame_decode(&data, FRAME_KIND_FILE, IDENTITY_SIZE_MAX, &payload, &size,
                      &frame_size);
    Drover__HostIdentity *identity =
        rv == 1 ? drover__host_identity__unpack(NULL, size, payload) : NULL;
    bool whole =
        identity != NULL && identity->host_id != 0 && identity->cluster_id[0] != '\0';
    if (whole && identity->version != IDENTITY_VERSION) {
        drover__host_identity__free_unpacked(identity, NULL);
        return error_set(err, DROVER_EVERSION,
                         "%s/%s: written by another version of droverd: install that one",
                         dir->path, STATE_DIR_IDENTITY);
    }
    if (!whole) {
        drover__host_identity__free_unpacked(identity, NULL);
        return error_set(err, DROVER_EMALFORMED,
                         "%s/%s: damaged: restore it from a backup, or remove this host "
                         "from the cluster and join it anew",
                         dir->path, STATE_DIR_IDENTITY);
    }
    *ret_identity = identity;
    return 0;
}

int state_dir_save_identity(const struct state_dir *dir,
                            const Drover__HostIdentity *given, struct error *err)
{
    Drover__HostIdentity identity = *given;
    identity.version = IDENTITY_VERSION;
    size_t size = drover__host_identity__get_packed_size(&identity);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    CLEANUP(buffer_done) struct buffer frame = {0};
    if (packed == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    CHECK(drover__host_identity__pack(&identity, packed) == size);
    int rv = frame_encode(&frame, FRAME_KIND_FILE, packed, size, IDENTITY_SIZE_MAX);
    if (rv != 0) {
        return error_set(err, rv, "the host's identity does not fit");
    }
    return state_dir_write(dir, STATE_DIR_IDENTITY, frame.data, frame.size, err);
}
