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
#include <sys/stat.h>
#include <unistd.h>

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
