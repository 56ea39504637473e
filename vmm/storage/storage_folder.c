/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of a storage daemon's socket. */
#include "vmm/storage/storage_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

#define PREFIX "drover-storage-"

/* Whose launcher is gone. Names without a process are of an earlier version, or not ours.
 */
static bool is_left_over(const char *name)
{
    char *end = NULL;
    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0) {
        return false;
    }
    const char *number = name + strlen(PREFIX);
    long pid = number[0] >= '1' && number[0] <= '9' ? strtol(number, &end, 10) : 0;
    return pid > 0 && pid <= INT32_MAX && *end == '-' && kill((pid_t)pid, 0) < 0 &&
           errno == ESRCH;
}

/* Only what such a folder can hold, and only of this user: nothing is followed. */
static void sweep(const char *parent)
{
    DIR *dir = opendir(parent);
    if (dir == NULL) {
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        char path[sizeof(entry->d_name) + sizeof(STORAGE_FOLDER_SOCKET) + 1];
        struct stat status;
        if (!is_left_over(entry->d_name) ||
            fstatat(dirfd(dir), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISDIR(status.st_mode) || status.st_uid != geteuid()) {
            continue;
        }
        (void)snprintf(path, sizeof(path), "%s/" STORAGE_FOLDER_SOCKET, entry->d_name);
        (void)unlinkat(dirfd(dir), path, 0);                     /* it may be there */
        (void)unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR); /* else the next time */
    }
    (void)closedir(dir);
}

int storage_folder_make(char ret_path[STORAGE_FOLDER_SIZE])
{
    static const char *const parents[] = {"/run", "/tmp"};
    char path[STORAGE_FOLDER_SIZE];
    for (unsigned i = 0; i < sizeof(parents) / sizeof(parents[0]); i++) {
        sweep(parents[i]);
        (void)snprintf(path, sizeof(path), "%s/" PREFIX "%d-XXXXXX", parents[i],
                       (int)getpid()); /* fits */
        if (mkdtemp(path) != NULL) {
            memcpy(ret_path, path, sizeof(path));
            return 0;
        }
    }
    return -errno;
}

static int place_find(int folder_fd, int *ret_place)
{
    struct stat status;
    CLEANUP(cleanup_fd)
    int place = openat(folder_fd, STORAGE_FOLDER_SOCKET, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (place < 0 || fstat(place, &status) < 0) {
        return -errno;
    }
    if (!S_ISSOCK(status.st_mode)) {
        return DROVER_EMALFORMED;
    }
    *ret_place = take_fd(&place);
    return 0;
}

int storage_folder_connect(int folder_fd, const char *folder, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP(cleanup_fd)
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CLEANUP(cleanup_fd) int place = -1;
    if (fd < 0) {
        return -errno;
    }
    if (folder_fd >= 0) {
        int ret = place_find(folder_fd, &place);
        if (ret < 0) {
            return ret;
        }
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d",
                       place); /* fits */
    } else {
        (void)snprintf(address.sun_path, sizeof(address.sun_path),
                       "%s/" STORAGE_FOLDER_SOCKET, folder); /* fits */
    }
    /* It listens already: one whose backlog is full has filled it itself. */
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        fcntl(fd, F_SETFL, 0) < 0) {
        return -errno;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}
