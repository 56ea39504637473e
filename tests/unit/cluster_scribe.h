/* SPDX-License-Identifier: Apache-2.0 */
/* Writes random commands, most of them sensible for the state that it looks at. For
 * tests. */
#ifndef DROVER_TESTS_UNIT_CLUSTER_SCRIBE_H
#define DROVER_TESTS_UNIT_CLUSTER_SCRIBE_H

#include <stdint.h>

#include "proto/cluster.pb-c.h"

#define TEXT_SIZE 64u

/* What the commands are made of; the texts must outlive the command. */
struct scribe {
    uint64_t random;
    char texts[8][TEXT_SIZE];
    Drover__Command command;
    Drover__Proof proof;
    Drover__MigrationFigures figures;
    Drover__Event event;
    Drover__VmSpec spec;
    Drover__DiskSpec disk;
    Drover__DiskSpec *disks[1];
    Drover__NicSpec nic;
    Drover__NicSpec *nics[1];
    uint8_t secret[32];
    union {
        Drover__TokenCreate token_create;
        Drover__HostAdd host_add;
        Drover__HostUp host_up;
        Drover__HostDead host_dead;
        Drover__HostRemove host_remove;
        Drover__HostDrain host_drain;
        Drover__VmCreate vm_create;
        Drover__VmSetWanted vm_set_wanted;
        Drover__VmDelete vm_delete;
        Drover__VmAssign vm_assign;
        Drover__VmStarted vm_started;
        Drover__VmStopped vm_stopped;
        Drover__VmProblem vm_problem;
        Drover__MigrationBegin migration_begin;
        Drover__MigrationReady migration_ready;
        Drover__MigrationCancel migration_cancel;
        Drover__MigrationDone migration_done;
        Drover__MigrationAbort migration_abort;
        Drover__MigrationNotice migration_notice;
        Drover__MigrationComplete migration_complete;
        Drover__MigrationSourceLost migration_source_lost;
        Drover__EventAdd event_add;
    } order;
    const Drover__ClusterState *view;
};

/* All of it comes from `scribe->random`. */
unsigned scribe_below(struct scribe *scribe, unsigned limit);
/* The next command, in scribe->command; valid until the next call and the state's next
 * change. */
void scribe_write(struct scribe *scribe, const Drover__ClusterState *view,
                  uint64_t now_unix_ms);

#endif
