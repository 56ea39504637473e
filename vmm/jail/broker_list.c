/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of the broker, carried out. */
#include "vmm/jail/broker_list.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/host/net_guard.h"

#define LOCK_OPEN_TRIES 16

int broker_list_allow(struct broker_list *list, uint32_t kind, const char *path,
                      unsigned *ret_id)
{
    size_t size = strnlen(path, BROKER_PATH_SIZE) + 1;
    if (list->sealed) {
        return DROVER_EWRONGSTATE;
    }
    if (kind < BROKER_UNIX_SOCKET || kind > BROKER_TAP_AT_END) {
        return DROVER_EBADINPUT;
    }
    if (list->count == BROKER_ENTRIES_MAX || size > BROKER_PATH_SIZE) {
        return DROVER_ELIMIT;
    }
    struct broker_entry *entry = malloc(sizeof(*entry) + size);
    if (entry == NULL) {
        return -ENOMEM;
    }
    *entry = (struct broker_entry){.kind = kind, .path = (char *)(entry + 1)};
    memcpy(entry->path, path, size);
    for (unsigned i = 0; i < list->count; i++) {
        entry->storage_index += list->entries[i]->kind == BROKER_STORAGE;
    }
    *ret_id = list->count;
    list->entries[list->count++] = entry;
    return 0;
}

/* A program whose backlog is full refuses: nobody here waits for it. */
static int socket_open(const char *path, int *ret_fd, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        return error_set(err, -ENAMETOOLONG, "socket path %s is too long", path);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    CLEANUP(cleanup_fd)
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int result = -errno;
        return error_set(err, result, "%s: %s", path, err_text(result));
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

static int port_open(const char *path, uint32_t port, int *ret_fd, struct error *err)
{
    char whole[BROKER_PATH_SIZE + 12];
    (void)snprintf(whole, sizeof(whole), "%s_%" PRIu32, path, port); /* fits */
    return socket_open(whole, ret_fd, err);
}

/* Opens the lock file and locks it; again if somebody has removed it meanwhile. */
static int lock_open(const char *path, short type, int *ret_fd)
{
    for (unsigned tries = 0; tries < LOCK_OPEN_TRIES; tries++) {
        struct stat by_fd;
        struct stat by_path;
        struct flock range = {.l_type = type, .l_whence = SEEK_SET};
        CLEANUP(cleanup_fd)
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
            return errno == EACCES ? -EPERM : -errno;
        }
        if (fcntl(fd, F_OFD_SETLK, &range) < 0) {
            return -errno;
        }
        if (fstat(fd, &by_fd) == 0 && stat(path, &by_path) == 0 &&
            by_fd.st_ino == by_path.st_ino) {
            *ret_fd = take_fd(&fd);
            return 0;
        }
    }
    return -EAGAIN;
}

static int lock_file(const char *path, uint32_t what, int *ret_fd)
{
    switch (what) {
    case BROKER_LOCK_READ:
        return lock_open(path, F_RDLCK, ret_fd);
    case BROKER_LOCK_WRITE:
        return lock_open(path, F_WRLCK, ret_fd);
    case BROKER_LOCK_REMOVE:
        return unlink(path) < 0 ? -errno : 0;
    default:
        return DROVER_EBADINPUT;
    }
}

int broker_list_open(struct broker_list *list, unsigned id, uint32_t argument,
                     int *ret_fd, struct error *err)
{
    *ret_fd = -1;
    if (id >= list->count) {
        return error_set(err, DROVER_EBADINPUT, "nothing was allowed by this number");
    }
    const struct broker_entry *entry = list->entries[id];
    switch (entry->kind) {
    case BROKER_UNIX_SOCKET:
        return socket_open(entry->path, ret_fd, err);
    case BROKER_UNIX_SOCKET_PORT:
        return port_open(entry->path, argument, ret_fd, err);
    case BROKER_LOCK_FILE: {
        int result = lock_file(entry->path, argument, ret_fd);
        return result < 0
                   ? error_set(err, result, "%s: %s", entry->path, err_text(result))
                   : 0;
    }
    case BROKER_STORAGE:
        if (list->storage != NULL) {
            return list->storage(list->storage_owner, entry->storage_index, entry->path,
                                 argument, ret_fd, err);
        }
        break;
    case BROKER_REMOVE_AT_END:
    case BROKER_TAP_AT_END:
        break;
    }
    return error_set(err, DROVER_EBADINPUT, "%s is not to be opened", entry->path);
}

void broker_list_done(struct broker_list *list)
{
    if (list->storage_stop != NULL) {
        list->storage_stop(list->storage_owner);
    }
    for (unsigned i = 0; i < list->count; i++) {
        if (list->entries[i]->kind == BROKER_REMOVE_AT_END) {
            (void)unlink(list->entries[i]->path); /* it is only a courtesy */
        } else if (list->entries[i]->kind == BROKER_TAP_AT_END) {
            net_guard_clean(list->entries[i]->path);
        }
        free(list->entries[i]);
    }
    list->count = 0;
}
