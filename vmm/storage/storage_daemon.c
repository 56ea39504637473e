/* SPDX-License-Identifier: Apache-2.0 */
/* Life of a qemu-storage-daemon. */
#include "vmm/storage/storage_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "vmm/storage/block_disk.h"
#include "vmm/storage/storage_chain.h"
#include "vmm/storage/storage_folder.h"
#include "vmm/storage/storage_jail.h"
#include "vmm/storage/storage_node.h"
#include "vmm/storage/storage_process.h"
#include "vmm/storage/storage_qmp.h"

#define SOCKET_NAME STORAGE_FOLDER_SOCKET
#define EXPORT_NAME "export"

struct storage_daemon {
    struct storage_disk disk;
    bool direct;  /* around this host's page cache */
    bool guarded; /* by a lock file of this host's, because the disk is on a network file
                     system; else the daemon locks it */
    bool is_open;
    pid_t pid; /* 0: none stands */
    struct block_disk guard;
    struct storage_qmp qmp;
    int folder_fd;                    /* of the socket, in the daemon's jail; -1: none */
    char folder[STORAGE_FOLDER_SIZE]; /* the same without a jail; "": none */
    struct storage_chain files;       /* that it may open, in its jail */
    char *path;                       /* absolute, as the daemon is told, as the next */
    char *key;
};

/* ---- making --------------------------------------------------------------- */

static int key_judge(const struct storage_disk *disk, struct error *err)
{
    if (disk->key == NULL && disk->format == STORAGE_FORMAT_LUKS) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s is encrypted: give key=FILE with its passphrase",
                         disk->path);
    }
    if (disk->key != NULL && disk->format != STORAGE_FORMAT_LUKS &&
        disk->format != STORAGE_FORMAT_QCOW2) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s: a %s image has no key: leave out key=", disk->path,
                         storage_format_name(disk->format));
    }
    if (disk->key != NULL && access(disk->key, R_OK) < 0) {
        return error_set(err, -errno, "key %s of disk %s can't be read: %s", disk->key,
                         disk->path, err_text(-errno));
    }
    return 0;
}

static int format_judge(const struct storage_disk *disk, struct error *err)
{
    uint8_t data[STORAGE_PROBE_BYTES];
    CLEANUP(cleanup_fd) int fd = open(disk->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t size = fd < 0 ? -1 : pread(fd, data, sizeof(data), 0);
    enum storage_format found;

    if (size < 0) {
        return error_set(err, -errno, "can't open disk %s: %s", disk->path,
                         err_text(-errno));
    }
    found = storage_format_probe(data, (unsigned)size);
    if (found == disk->format) {
        return 0;
    }
    return error_set(err, DROVER_EBADINPUT,
                     "disk %s is no %s image: give format=%s, or correct the path",
                     disk->path, storage_format_name(disk->format),
                     storage_format_name(found));
}

static int place_judge(struct storage_daemon *daemon, struct error *err)
{
    struct stat st;
    int ret;

    if (storage_is_remote(daemon->disk.path)) {
        return 0;
    }
    if (stat(daemon->disk.path, &st) < 0) {
        return error_set(err, -errno, "disk %s: %s: create it, or correct the path",
                         daemon->disk.path, err_text(-errno));
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        return error_set(
            err, DROVER_EBADINPUT,
            "disk %s is neither a file nor a block device: name one of these",
            daemon->disk.path);
    }
    ret = format_judge(&daemon->disk, err);
    if (ret < 0) {
        return ret;
    }
    daemon->guarded = S_ISREG(st.st_mode) && block_disk_is_networked(daemon->disk.path);
    daemon->direct = daemon->disk.direct || daemon->guarded || S_ISBLK(st.st_mode);
    return daemon->guarded ? block_disk_guard(&daemon->guard, daemon->disk.path,
                                              daemon->disk.read_only, err)
                           : 0;
}

static int folder_make(struct storage_daemon *daemon, struct error *err)
{
    int ret = storage_folder_make(daemon->folder);

    return ret == 0 ? 0
                    : error_set(err, ret, "can't make a folder in /run or /tmp: %s",
                                err_text(ret));
}

/* The daemon's own folder is another. */
static int paths_make(struct storage_daemon *daemon, struct error *err)
{
    const char *key = daemon->disk.key;

    daemon->path = storage_path_whole(daemon->disk.path);
    daemon->key = key != NULL ? storage_path_whole(key) : NULL;
    return daemon->path == NULL || (key != NULL && daemon->key == NULL)
               ? error_set(err, -ENOMEM, "no memory for disk %s", daemon->disk.path)
               : 0;
}

int storage_daemon_create(const struct storage_disk *disk,
                          struct storage_daemon **ret_daemon, struct error *err)
{
    struct storage_daemon *daemon = calloc(1, sizeof(*daemon));
    int ret;

    if (daemon == NULL) {
        return error_set(err, -ENOMEM, "no memory for disk %s", disk->path);
    }
    daemon->disk = *disk;
    daemon->qmp.fd = daemon->guard.fd = daemon->guard.lock_fd = daemon->folder_fd = -1;
    ret = key_judge(disk, err);
    ret = ret < 0 ? ret : place_judge(daemon, err);
    ret = ret < 0 ? ret : paths_make(daemon, err);
    ret = ret < 0        ? ret
          : disk->jailed ? storage_chain_find(disk, &daemon->files, err)
                         : folder_make(daemon, err);
    if (ret < 0) {
        storage_daemon_free(daemon);
        return ret;
    }
    *ret_daemon = daemon;
    return 0;
}

void storage_daemon_free(struct storage_daemon *daemon)
{
    if (daemon == NULL) {
        return;
    }
    storage_daemon_kill(daemon);
    if (daemon->folder[0] != '\0') {
        (void)rmdir(daemon->folder); /* empty since the kill; a leftover does no harm */
    }
    block_disk_close(&daemon->guard);
    storage_chain_done(&daemon->files);
    free(daemon->path);
    free(daemon->key);
    free(daemon);
}

/* ---- the process ---------------------------------------------------------- */

int storage_daemon_start(struct storage_daemon *daemon, struct error *err)
{
    struct storage_process process;
    int ret;

    if (daemon->pid != 0) {
        return 0;
    }
    ret = storage_process_start(&daemon->disk, &daemon->files, &process, err);
    if (ret < 0) {
        return ret;
    }
    daemon->pid = process.pid;
    daemon->folder_fd = process.folder_fd;
    ret =
        storage_qmp_open(&daemon->qmp, process.talk_fd, clock_now_ms() + STORAGE_OPEN_MS);
    if (ret < 0) {
        storage_daemon_kill(daemon);
        return error_set(err, ret, "the storage daemon of disk %s does not start: %s",
                         daemon->disk.path, err_text(ret));
    }
    return 0;
}

void storage_daemon_kill(struct storage_daemon *daemon)
{
    char path[sizeof(daemon->folder) + sizeof(SOCKET_NAME) + 1];

    storage_qmp_close(&daemon->qmp);
    if (daemon->pid > 0) {
        (void)kill(daemon->pid, SIGKILL);
        /* It can be waited for only once its last thread is out of the host's kernel, and
         * native AIO is waited for there: no write of it comes after this. */
        while (waitpid(daemon->pid, NULL, 0) < 0 && errno == EINTR) {
        }
        daemon->pid = 0;
    }
    daemon->is_open = false;
    cleanup_fd(&daemon->folder_fd);
    daemon->folder_fd = -1;
    if (daemon->folder[0] != '\0') {
        (void)snprintf(path, sizeof(path), "%s/" SOCKET_NAME, daemon->folder); /* fits */
        (void)unlink(path);
    }
    if (daemon->guarded) {
        (void)block_disk_unlock(&daemon->guard, NULL); /* has nothing to make stable */
    }
}

/* ---- the image ------------------------------------------------------------ */

/* What QEMU's drivers say of an image whose own tables contradict each other. */
static bool sounds_corrupt(const char *reason)
{
    static const char *const words[] = {
        "orrupt",        "L1 table",      "eference count", "efcount",
        "napshot table", "nvalid offset", "offset invalid", "inconsistent"};
    if (strstr(reason, "acking file") != NULL) {
        return false; /* another file's */
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strstr(reason, words[i]) != NULL) {
            return true;
        }
    }
    return false;
}

/* The daemon's words, made into what to do. */
static int refusal_explain(const struct storage_daemon *daemon, int code,
                           const char *reason, struct error *err)
{
    const char *path = daemon->disk.path;

    if (code != DROVER_EWRONGSTATE) {
        return error_set(err, code, "the storage daemon of disk %s does not answer: %s",
                         path, err_text(code));
    }
    if (strstr(reason, "Failed to get") != NULL && strstr(reason, "lock") != NULL) {
        return error_set(err, DROVER_EINUSE,
                         "disk %s is in use by another VM or program: stop that one",
                         path);
    }
    if (strstr(reason, "Invalid password") != NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "key %s does not open disk %s (a line break at its end counts)",
                         daemon->disk.key != NULL ? daemon->disk.key : "", path);
    }
    if (strstr(reason, "key-secret") != NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s is encrypted: give key=FILE with its passphrase", path);
    }
    if (sounds_corrupt(reason)) {
        const char *format = storage_format_name(daemon->disk.format);
        return error_set(
            err, DROVER_EBADINPUT,
            "disk %s is damaged (%s): look with 'qemu-img check -f %s %s', which "
            "repairs some with -r all, or take a copy",
            path, reason, format, path);
    }
    return error_set(err, DROVER_EBADINPUT, "can't open disk %s: %s", path, reason);
}

static int order(struct storage_daemon *daemon, const char *name, json_t *arguments,
                 uint64_t deadline_ms, struct error *err)
{
    char reason[ERROR_TEXT_SIZE];
    int ret = storage_qmp_order(&daemon->qmp, name, arguments, deadline_ms, reason);

    return ret < 0 ? refusal_explain(daemon, ret, reason, err) : 0;
}

static int image_open(struct storage_daemon *daemon, const char *socket_path,
                      uint64_t deadline_ms, struct error *err)
{
    json_t *node = NULL;
    struct storage_disk disk = daemon->disk;
    int ret;

    disk.path = daemon->path;
    ret = storage_node_build(&disk, daemon->direct, !daemon->guarded, &node, err);

    if (ret == 0 && daemon->disk.key != NULL) {
        ret = order(daemon, "object-add",
                    json_pack("{s:s,s:s,s:s}", "qom-type", "secret", "id",
                              STORAGE_KEY_NAME, "file", daemon->key),
                    deadline_ms, err);
    }
    if (ret < 0) {
        json_decref(node);
        return ret;
    }
    ret = order(daemon, "blockdev-add", node, deadline_ms, err);
    return ret < 0
               ? ret
               : order(daemon, "block-export-add",
                       json_pack("{s:s,s:s,s:s,s:b,s:{s:s,s:s}}", "type",
                                 "vhost-user-blk", "id", EXPORT_NAME, "node-name",
                                 STORAGE_NODE_NAME, "writable", !daemon->disk.read_only,
                                 "addr", "type", "unix", "path", socket_path),
                       deadline_ms, err);
}

int storage_daemon_open(struct storage_daemon *daemon, uint64_t deadline_ms, int *ret_fd,
                        struct error *err)
{
    char path[sizeof(daemon->folder) + sizeof(SOCKET_NAME) + 1];
    int ret;

    CHECK(!daemon->is_open);
    (void)snprintf(path, sizeof(path), "%s/" SOCKET_NAME,
                   daemon->disk.jailed ? STORAGE_JAIL_FOLDER : daemon->folder); /* fits */
    ret = daemon->guarded ? block_disk_lock(&daemon->guard, err) : 0;
    ret = ret < 0 ? ret : storage_daemon_start(daemon, err);
    ret = ret < 0 ? ret : image_open(daemon, path, deadline_ms, err);
    if (ret == 0) {
        ret = storage_folder_connect(daemon->folder_fd, daemon->folder, ret_fd);
        (void)error_set(ret < 0 ? err : NULL, ret,
                        "can't reach the storage daemon of disk %s: %s",
                        daemon->disk.path, err_text(ret));
    }
    if (ret < 0) {
        /* Half of it may stand: another try begins with a new one. */
        storage_daemon_kill(daemon);
        return ret;
    }
    daemon->is_open = true;
    return 0;
}

int storage_daemon_close(struct storage_daemon *daemon, uint64_t deadline_ms,
                         struct error *err)
{
    int ret;

    if (!daemon->is_open) {
        return 0;
    }
    daemon->qmp.export_gone = false;
    ret = order(daemon, "block-export-del",
                json_pack("{s:s,s:s}", "id", EXPORT_NAME, "mode", "hard"), deadline_ms,
                err);
    if (ret == 0) {
        ret = storage_qmp_export_gone(&daemon->qmp, deadline_ms);
        (void)error_set(ret < 0 ? err : NULL, ret,
                        "the storage daemon of disk %s does not let go of it: %s",
                        daemon->disk.path, err_text(ret));
    }
    if (ret == 0) {
        ret = order(daemon, "blockdev-del",
                    json_pack("{s:s}", "node-name", STORAGE_NODE_NAME), deadline_ms, err);
    }
    if (ret == 0 && daemon->disk.key != NULL) {
        ret = order(daemon, "object-del", json_pack("{s:s}", "id", STORAGE_KEY_NAME),
                    deadline_ms, err);
    }
    if (ret < 0) {
        storage_daemon_kill(daemon);
        return ret;
    }
    daemon->is_open = false;
    if (daemon->guarded) {
        (void)block_disk_unlock(&daemon->guard, NULL); /* has nothing to make stable */
    }
    return 0;
}
