/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --incoming file:DIR: a guest arrives from a snapshot's folder. Never by itself: a person orders it, and answers for it that
 * the guest runs nowhere else. Main thread.
 */
#ifndef DROVER_VMM_MOVE_SNAPSHOT_RESTORE_H
#define DROVER_VMM_MOVE_SNAPSHOT_RESTORE_H

#include <stdbool.h>

struct error;
struct migration_guest;
struct snapshot;
struct snapshot_restore;
struct vm;

/* The argument names a snapshot. */
bool snapshot_restore_wanted(const char *incoming);
/*
 * Opens and judges "file:DIR[,force]": all but the memory itself. Before the jail. Takes
 * nothing.
 */
int snapshot_restore_open(struct vm *vm, const char *incoming,
                          struct snapshot_restore **ret_restore, struct error *err);
/*
 * After vm_start(): memory on its way, state loaded, disks locked and compared with those
 * that `snapshot` knows; the guest runs then. After an error it must not.
 */
int snapshot_restore_run(struct snapshot_restore *restore, struct migration_guest *guest,
                         struct snapshot *snapshot, struct error *err);
/* NULL is fine. */
void snapshot_restore_free(struct snapshot_restore *restore);

#endif
