/* SPDX-License-Identifier: Apache-2.0 */
/* Starts the program that serves a disk, in its jail or with the rights of who asks. */
#ifndef DROVER_VMM_STORAGE_PROCESS_H
#define DROVER_VMM_STORAGE_PROCESS_H

#include <sys/types.h>

struct error;
struct storage_chain;
struct storage_disk;
struct storage_starter;

#define STORAGE_PROGRAM "/usr/bin/qemu-storage-daemon"

struct storage_process {
    pid_t pid;     /* a child of the calling thread, with which it dies */
    int talk_fd;   /* speaks QMP */
    int folder_fd; /* of its sockets, in its jail; -1 without one */
};

int storage_process_start(const struct storage_disk *disk,
                          const struct storage_chain *files,
                          struct storage_process *ret_process, struct error *err);
/* For all jailed disks of the VM that `disk` is one of. */
int storage_process_starter(const struct storage_disk *disk,
                            struct storage_starter **ret_starter, struct error *err);

#endif
