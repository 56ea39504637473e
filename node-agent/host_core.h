/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host decides: when to ask for its lease, how long its VMMs may run, which VMM to
 * start, stop, move or reclaim, what to state to the cluster. Pure, like controller.h;
 * used by droverd and by the simulation alike. One thread.
 *
 * Rules that keep a VM single (each has a CHECK and a named test):
 *  - nothing is started or extended before this run of the agent is known to the cluster
 * (HostUp applied), a lease is held, and the log is applied here up to the index that
 * came with the lease;
 *  - only VMs whose record says: owner = this host and epoch = the VMM's (or migration
 * target = this host and next epoch = the VMM's) are started or extended; a VMM of any
 * other epoch is quit;
 *  - an epoch that this host has given up (VmStopped, MigrationAbort) is never started
 * here again;
 *  - a source that is HANDED_OVER is reclaimed only when the record says that the
 * migration is over and owner and epoch are still its own: only the target's own word
 * ends a migration that way.
 */
#ifndef DROVER_NODE_AGENT_HOST_CORE_H
#define DROVER_NODE_AGENT_HOST_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/peer.pb-c.h"

struct cluster_state;
struct host_core;
struct timing;

struct host_core_identity {
    uint64_t host_id;
    const char *boot_id; /* borrowed for the core's life */
    const char *incarnation;
    uint64_t memory_bytes;
    uint32_t cpus;
    uint64_t watchdog_ms; /* armed; 0: none */
    const char *version;
    uint64_t move_bandwidth; /* for all VMs that leave, in bytes a second; 0: no limit */
};

/* Called from inside host_core_*(); must not call back into it. All messages are
 * borrowed. */
struct host_core_ops {
    /* Start a VMM process (incoming: waiting for a guest on any port). How it goes comes
     * by vmm_status() or vmm_gone(), later. */
    void (*start_vmm)(void *owner, const Drover__VmRecord *vm, uint64_t epoch,
                      bool incoming);
    /* One order to a VMM (vm_id and epoch are set in the request; the id is the caller's
     * to choose). Failures come back as vmm_order_failed(). */
    void (*order_vmm)(void *owner, uint64_t vm_id, uint64_t epoch,
                      const Drover__ControlRequest *request);
    /* To whoever leads now; dropped if nobody does. */
    void (*send_lease_request)(void *owner, const Drover__LeaseRequest *request);
    /* To the leader, wherever. Its end comes by proposal_done() with the same id, later;
     * DROVER_ENOLEADER and the like mean: unknown. */
    void (*propose)(void *owner, uint64_t proposal_id, const Drover__Command *command);
    /* The watchdog's keeper may feed until `deadline_ns` (CLOCK_BOOTTIME) without asking
     * the VMMs; later only when all are frozen. */
    void (*lease_changed)(void *owner, uint64_t deadline_ns);
    void (*note)(void *owner, const char *text);
};

int host_core_create(const struct timing *timing,
                     const struct host_core_identity *identity,
                     const struct host_core_ops *ops, void *owner,
                     struct host_core **ret_core);
void host_core_free(struct host_core *core);

/* A VMM that the agent found running at its own start, or whose state changed, or that
 * answered an order. */
void host_core_vmm_status(struct host_core *core, const Drover__VmStatus *status,
                          uint64_t now_ms);
/* The process of that VMM has ended, for certain (reaped, or its lock is free). `reason`
 * for people. */
void host_core_vmm_gone(struct host_core *core, uint64_t vm_id, uint64_t epoch,
                        const char *reason, bool guest_powered_off, uint64_t now_ms);
/* An order did not reach the VMM, or was refused. */
void host_core_vmm_order_failed(struct host_core *core, uint64_t vm_id, uint64_t epoch,
                                int error, const char *text, uint64_t now_ms);
/* The agent never gave the order to send (to move under `next_epoch`), and never will. */
void host_core_move_unsent(struct host_core *core, uint64_t vm_id, uint64_t next_epoch,
                           const char *reason, uint64_t now_ms);
/* A connection over which the VMM gets its guest, and who encrypts its two ends. */
void host_core_move_encrypted(struct host_core *core, uint64_t vm_id, uint64_t epoch,
                              Drover__MoveEncryption source,
                              Drover__MoveEncryption target);
/* All VMMs that ran before this start of the agent have been reported: before that,
 * nothing is started. */
void host_core_scan_done(struct host_core *core, uint64_t now_ms);

void host_core_lease_reply(struct host_core *core, const Drover__LeaseReply *reply,
                           uint64_t now_ms);
void host_core_proposal_done(struct host_core *core, uint64_t proposal_id, int error,
                             const char *text, uint64_t now_ms);
/* After each applied command, each event above, and when the last call said so. Returns
 * ms until it wants to be called again. */
uint32_t host_core_tick(struct host_core *core, const struct cluster_state *state,
                        uint64_t now_ms);

/* The deadline in force, CLOCK_BOOTTIME ms; 0: no lease. */
uint64_t host_core_lease_deadline_ms(const struct host_core *core);

#endif
