/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder of a storage daemon's socket: root's own, under /run or /tmp, named after the launcher whose it is. What a
 * launcher that was killed has left behind is removed when the next one makes its own.
 */
#ifndef DROVER_VMM_STORAGE_STORAGE_FOLDER_H
#define DROVER_VMM_STORAGE_STORAGE_FOLDER_H

#include <stddef.h>

#define STORAGE_FOLDER_SIZE   64
#define STORAGE_FOLDER_SOCKET "disk.sock"

/* A new one, empty. -errno. */
int storage_folder_make(char ret_path[STORAGE_FOLDER_SIZE]);
/*
 * Connects to the daemon's socket, and never waits: in `folder_fd`, or, if that is -1, in
 * `folder`. A daemon that was taken over may have put anything there: only a socket of its
 * folder is connected to, nothing that a link leads to. -errno, DROVER_EMALFORMED.
 */
int storage_folder_connect(int folder_fd, const char *folder, int *ret_fd);

#endif
