/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One qemu-storage-daemon that serves one disk: started, talked to, ended. It dies with
 * the thread that started it, by SIGKILL: a daemon that ends in order would write what it
 * holds back, when another host may have the disk already. All functions block; one
 * thread owns a daemon.
 */
#ifndef DROVER_VMM_STORAGE_STORAGE_DAEMON_H
#define DROVER_VMM_STORAGE_STORAGE_DAEMON_H

#include "vmm/storage/storage.h"

struct error;
struct storage_daemon;

/* Judges what needs no daemon (format, key). `disk` is copied, its strings are borrowed.
 */
int storage_daemon_create(const struct storage_disk *disk,
                          struct storage_daemon **ret_daemon, struct error *err);
void storage_daemon_free(struct storage_daemon *daemon); /* kills it; NULL is fine */

/* As in struct storage_ops. */
int storage_daemon_start(struct storage_daemon *daemon, struct error *err);
int storage_daemon_open(struct storage_daemon *daemon, uint64_t deadline_ms, int *ret_fd,
                        struct error *err);
int storage_daemon_close(struct storage_daemon *daemon, uint64_t deadline_ms,
                         struct error *err);
void storage_daemon_kill(struct storage_daemon *daemon);

#endif
