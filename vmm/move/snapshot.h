/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots of this VM while it runs, into files that a control client has opened. One at
 * a time; a thread of its own writes. Main thread, but for the status.
 */
#ifndef DROVER_VMM_MOVE_SNAPSHOT_H
#define DROVER_VMM_MOVE_SNAPSHOT_H

#include <stdbool.h>

#include "base/err.h"
#include "migration/snapshot_save.h"

struct snapshot;
struct snapshot_manifest;
struct unix_files;
struct vm;

/* The numbers are those of VmSnapshotState (proto/control.proto). */
enum snapshot_state {
    SNAPSHOT_STATE_NONE = 0,
    SNAPSHOT_STATE_RUNS = 1,
    SNAPSHOT_STATE_DONE = 2,
    SNAPSHOT_STATE_FAILED = 3,
};

struct snapshot_status {
    enum snapshot_state state;
    uint64_t bytes_total;
    uint64_t bytes_remaining;
    struct snapshot_figures figures;
    struct error error;
};

int snapshot_create(struct vm *vm, struct snapshot **ret_snapshot);
/* Cancels what runs, and waits for it. NULL is fine. */
void snapshot_free(struct snapshot *snapshot);
/* A disk of the VM, in order: how it stands is noted in each snapshot. Before the jail. */
int snapshot_disk_add(struct snapshot *snapshot, const char *path);

/* 0 if the disks are as the manifest has them. */
int snapshot_disks_compare(const struct snapshot *snapshot,
                           const struct snapshot_manifest *manifest, struct error *err);

/* Takes the SNAPSHOT_FILES files on success. Each change calls vm_state_changed(). */
int snapshot_begin(struct snapshot *snapshot, struct unix_files *files,
                   struct error *err);
bool snapshot_runs(struct snapshot *snapshot);
void snapshot_cancel(struct snapshot *snapshot);
/* Any thread. */
void snapshot_status(struct snapshot *snapshot, struct snapshot_status *ret_status);

#endif
