/* SPDX-License-Identifier: Apache-2.0 */
/* What the orders of the control socket do, and how a VM stands. Main thread. */
#ifndef DROVER_VMM_CONTROL_CONTROL_ORDERS_H
#define DROVER_VMM_CONTROL_CONTROL_ORDERS_H

#include <stdbool.h>

#include "base/err.h"
#include "migration/status.h"
#include "migration/transport.h"
#include "proto/control.pb-c.h"
#include "vmm/vm.h"

struct migrate;
struct unix_files;

/* A VmStatus with all that it points to. */
struct control_status {
    Drover__VmStatus status;
    Drover__VmMigrationStatus migration;
    Drover__MigrationFigures figures;
    Drover__VmBalloonStatus balloon;
    Drover__VmSnapshotStatus snapshot;
    char reason[256];
    char uri[TRANSPORT_URI_SIZE];
    char incoming_uri[TRANSPORT_URI_SIZE];
    char incoming_rdma[TRANSPORT_URI_SIZE];
    char notice[MIGRATION_NOTICE_SIZE];
    char error[ERROR_TEXT_SIZE];
    char snapshot_error[ERROR_TEXT_SIZE];
    char storage_trouble[ERROR_TEXT_SIZE];
};

void control_status_fill(struct vm *vm, struct migrate *migrate,
                         struct control_status *ret_status);

/*
 * Carries out an order; takes of `files`, which came with it, what it needs. Returns 0 or
 * an error with one line; `*ret_wait` is set when the answer is due only once the VM is
 * quiet: then `quiet` was handed to vm_hold_set() and will run.
 */
int control_order(struct vm *vm, struct migrate *migrate,
                  const Drover__ControlRequest *request, struct unix_files *files,
                  vm_quiet_handler quiet, void *owner, bool *ret_wait, struct error *err);

#endif
