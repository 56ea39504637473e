/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The drover-vmm processes of one host: starts them so that they outlive droverd, finds
 * them again after its restart, carries orders to them and their reports back, and knows
 * for certain when one is gone.
 *
 * Each has a folder RUN/vms/<vm_id>.<epoch>/ with control.sock, serial.sock, vmm.log,
 * record (VmmRecord) and lock, an flock that the VMM's process inherits: the lock is free
 * if and only if no process of it is left. They run in a session of their own; droverd's
 * systemd unit needs KillMode=process and OOMPolicy=continue. Loop thread only.
 */
#ifndef DROVER_NODE_AGENT_VMM_SUPERVISOR_H
#define DROVER_NODE_AGENT_VMM_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "proto/control.pb-c.h"

struct error;
struct unix_files;
struct vmm_supervisor;

/* All from the loop, never from inside vmm_supervisor_*(). Messages are borrowed. Fit
 * host_core's calls of like names. */
struct vmm_supervisor_ops {
    /* First word of a VMM (started or found), each change, each answer to an order. */
    void (*status)(void *owner, const Drover__VmStatus *status);
    /* No process of this VMM is left; its folder, sockets and taps are gone. `reason`:
     * one line for people (its last words, if it died). Also called when it could not be
     * started at all. Exactly once per start or found VMM. */
    void (*gone)(void *owner, uint64_t vm_id, uint64_t epoch, const char *reason,
                 bool guest_powered_off);
    /* An order did not reach the VMM, was refused by it, or was not answered in time
     * (then it may have been done). */
    void (*order_failed)(void *owner, uint64_t vm_id, uint64_t epoch, int error,
                         const char *text);
    /* Every VMM that ran before vmm_supervisor_scan() has had its first status(), or its
     * gone(). */
    void (*scan_done)(void *owner);
    /* Worth a log line. */
    void (*note)(void *owner, const char *text);
};

struct vmm_supervisor_config {
    uv_loop_t *loop;
    const char *run_directory; /* "/run/drover"; made if missing, 0700 below it */
    const char
        *vmm_program; /* path of drover-vmm; NULL: beside this program, then in PATH */
    const char *default_bridge; /* for NICs that name none; may be NULL */
    const char *incoming;       /* where guests come in: --incoming of VMMs that wait */
    const char *incoming_rdma;  /* "HOST:0" where they take RDMA, if that is allowed */
    uint32_t migration_patience_ms; /* 0: the VMM's own default */
    const struct vmm_supervisor_ops *ops;
    void *owner;
};

/* Copies the config (but for `ops`). */
int vmm_supervisor_create(const struct vmm_supervisor_config *config,
                          struct vmm_supervisor **ret_supervisor, struct error *err);
/* Lets go of all VMMs, which run on; `closed` once, later, then free. No other callback
 * after this call. */
void vmm_supervisor_close(struct vmm_supervisor *supervisor, void (*closed)(void *owner),
                          void *owner);
void vmm_supervisor_free(struct vmm_supervisor *supervisor);

/* Once, before anything is started: finds what runs, clears away what is dead (folders,
 * taps). Ends with scan_done(). */
int vmm_supervisor_scan(struct vmm_supervisor *supervisor, struct error *err);

/* Of VMMs that are started from now on: whether moves may go over RDMA, which nobody encrypts. */
void vmm_supervisor_allow_rdma(struct vmm_supervisor *supervisor, bool allow);
/* For `incoming`, it waits for a guest at the config's `incoming`; where exactly is told by its
 * status. All failures come by gone(). A VMM that is there already is not started again:
 * its status is reported. Borrows `vm`. */
void vmm_supervisor_start(struct vmm_supervisor *supervisor, const Drover__VmRecord *vm,
                          uint64_t epoch, bool incoming);
/* Borrows `request`; vm_id, epoch and request_id are filled in by the supervisor. A
 * process that does not end after a quit order is killed. */
void vmm_supervisor_order(struct vmm_supervisor *supervisor, uint64_t vm_id,
                          uint64_t epoch, const Drover__ControlRequest *request);
/* The same with files that go with it (vmm_client.h), which are closed here. */
void vmm_supervisor_order_with(struct vmm_supervisor *supervisor, uint64_t vm_id,
                               uint64_t epoch, const Drover__ControlRequest *request,
                               struct unix_files *files);

/* How many VMMs there are (started, running, or not yet certainly gone). */
size_t vmm_supervisor_count(const struct vmm_supervisor *supervisor);
/* Last status that was reported; NULL: none yet, or no such VMM. Valid until the next
 * loop turn. */
const Drover__VmStatus *vmm_supervisor_status(const struct vmm_supervisor *supervisor,
                                              uint64_t vm_id, uint64_t epoch);
/* Path of the serial port's unix socket; DROVER_ENOTFOUND or DROVER_ELIMIT. */
int vmm_supervisor_serial_path(const struct vmm_supervisor *supervisor, uint64_t vm_id,
                               uint64_t epoch, char *ret_path, size_t size);
#endif
