/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM as a guest of the migration engine: leaving this host, or arriving on it. One
 * struct per VM, made by main.c after the devices and before vm_start(); all functions on
 * the main thread.
 */
#ifndef DROVER_VMM_MOVE_MIGRATE_H
#define DROVER_VMM_MOVE_MIGRATE_H

#include <stdint.h>

#include "migration/status.h"
#include "migration/transport.h"
#include "proto/control.pb-c.h"
#include "vmm/move/snapshot.h"

struct error;
struct migrate;
struct migrate_rdma;
struct unix_files;
struct vm;

struct migrate_status {
    struct migration_status engine;
    char uri[TRANSPORT_URI_SIZE];          /* where it goes to; "" for an arrival */
    uint64_t next_epoch;                   /* of a departure, as its order said; or 0 */
    char incoming_uri[TRANSPORT_URI_SIZE]; /* where an arrival is waited for, with the
                                              real port; "" else */
    char incoming_rdma[TRANSPORT_URI_SIZE]; /* and by RDMA, beside "handed:"; "": not */
    struct snapshot_status snapshot;       /* the latest that was taken */
};

/* `rdma` (NULL: moves go over TCP) is taken on success. `patience_ms`: see migration/times.h; 0: the default. */
int migrate_create(struct vm *vm, uint32_t patience_ms, struct migrate_rdma *rdma,
                   struct migrate **ret_migrate);
/*
 * Stops what is under way (an arrival that is not decided never runs), waits for its
 * threads. Before vm_free(). NULL is fine.
 */
void migrate_free(struct migrate *migrate);

/*
 * --incoming: listens for a guest; the VM was made with `incoming`. Before the jail.
 * `rdma` (NULL: not): the address where RDMA is taken beside connections that are handed over.
 */
int migrate_listen(struct migrate *migrate, const char *uri, const char *rdma,
                   struct error *err);
/*
 * Waits for it. When the guest arrives VM_HOLD_INCOMING is cleared; if it never will,
 * vm_end() says why. After vm_start().
 */
int migrate_await(struct migrate *migrate, struct error *err);

/*
 * The orders of the control socket: 0, or an error with one line that says what to do.
 * `files`: sockets that are connected or connecting to the order's URI, one for each
 * stream, the control stream first; taken. None: the engine connects by itself.
 * Leaving goes on after migrate_leave() has returned 0; every change of its state calls
 * vm_state_changed().
 */
int migrate_leave(struct migrate *migrate, const Drover__ControlMigrate *order,
                  struct unix_files *files, struct error *err);
/*
 * Connections for a guest that comes to this VM by --incoming handed, or one for a guest
 * that left by post-copy and whose own is lost; those that can't be
 * used are left in `files`.
 */
int migrate_links(struct migrate *migrate, struct unix_files *files, struct error *err);
/*
 * Before vm_quit(): an arrival that is not decided yet is decided for never, and the VM is FAILED then: who sees that
 * knows that the guest did not arrive, and that the source may be told so. NULL is fine.
 */
void migrate_quit(struct migrate *migrate);
/* Another bandwidth for the move under way. 0: no limit. */
int migrate_limit(struct migrate *migrate, uint64_t bytes_per_second, struct error *err);
/* Of a snapshot, too. Where a guest arrived by post-copy, and the connection is lost: its
 * source is gone for good, and the guest with it. */
int migrate_cancel(struct migrate *migrate, struct error *err);
/*
 * The guest runs here, or did, and some of its memory may never come: who touches that
 * waits, for good perhaps. NULL is fine. Any thread.
 */
bool migrate_memory_missing(struct migrate *migrate);
/* The guest arrived by post-copy, and was lost with its source. NULL is fine. Any thread. */
bool migrate_guest_lost(struct migrate *migrate);
/* A snapshot into `files`, which it takes on success; it and a move exclude one another. */
int migrate_snapshot(struct migrate *migrate, struct unix_files *files,
                     struct error *err);
/* A disk of the VM, in order; see snapshot_disk_add(). */
int migrate_disk_add(struct migrate *migrate, const char *path);
int migrate_reclaim(struct migrate *migrate, struct error *err);
/* Nothing was ever under way: engine.state is MIGRATION_STATE_NONE. */
void migrate_status(struct migrate *migrate, struct migrate_status *ret_status);

#endif
