/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the VMM supervisor share. */
#ifndef DROVER_NODE_AGENT_VMM_SUPERVISOR_INTERNAL_H
#define DROVER_NODE_AGENT_VMM_SUPERVISOR_INTERNAL_H

#include "base/err.h"
#include "base/limits.h"
#include "node-agent/tap.h"
#include "node-agent/vmm_folder.h"
#include "node-agent/vmm_supervisor.h"

/*
 * The life of one VMM, as the supervisor sees it:
 *
 *      start, or found ---> STARTING ---> RUNNING ---+
 *            |                  |                    +--> ENDING ---> closed, freed
 *            +------------------+--------------------+     (waits until the lock is free)
 */
enum vmm_state {
    VMM_STATE_STARTING, /* no word from it yet */
    VMM_STATE_RUNNING,
    VMM_STATE_ENDING, /* its process has ended, or never began: gone() when its lock is
                         free */
    VMM_STATE_CLOSING,
};

/* One VMM. Freed when all of `handles` have been closed. */
struct vmm {
    struct vmm_supervisor *supervisor;
    struct vmm *next;
    uint64_t vm_id, epoch;
    unsigned state; /* enum vmm_state */
    bool found;     /* by the scan: not our child, perhaps */
    bool
        repeat; /* somebody asked to start it again: its status is to be told once more */
    int pid;
    int pidfd; /* -1: not known */
    bool polling;
    uv_poll_t poll; /* of pidfd */
    uv_timer_t timer;
    unsigned handles; /* open: poll, timer, client */
    struct vmm_client *client;
    uint64_t kill_at_ms; /* of a start that says nothing, or a quit that does not end; 0:
                            none */
    const char *kill_why;
    Drover__VmStatus *status; /* last one; NULL: none */
    unsigned tap_count;
    char taps[LIMIT_VM_NICS][TAP_NAME_SIZE];
    char reason[VMM_FOLDER_REASON_SIZE];
    char ended[64]; /* how the process ended */
    bool powered_off;
};

/* An order to a VMM that there is not: told of at the next loop turn. */
struct vmm_lost_order {
    struct vmm_lost_order *next;
    uint64_t vm_id, epoch;
};

struct vmm_supervisor {
    uv_loop_t *loop;
    const struct vmm_supervisor_ops *ops;
    void *owner;
    char run_directory[VMM_FOLDER_PATH_SIZE];
    char vmm_program[LIMIT_PATH_SIZE];
    char default_bridge[TAP_NAME_SIZE];
    char incoming[LIMIT_ADDRESS_SIZE + 16];
    char incoming_rdma[LIMIT_ADDRESS_SIZE + 16];
    bool rdma; /* VMMs are started so that moves may go over it */
    uint32_t migration_patience_ms;
    int lock_fd; /* one droverd per run directory */
    struct vmm *vmms;
    uv_timer_t timer; /* for what must be told later */
    struct vmm_lost_order *lost_orders;
    bool scanning;
    unsigned scan_waits; /* found VMMs that have not said a word yet */
    void (*closed)(void *owner);
    void *closed_owner;
    unsigned handles; /* open: timer, and one per VMM */
};

/* vmm_supervisor.c */
struct vmm *vmm_supervisor_find(const struct vmm_supervisor *supervisor, uint64_t vm_id,
                                uint64_t epoch);
void vmm_supervisor_scan_step(struct vmm_supervisor *supervisor);
/* One of the supervisor's handles is closed. */
void vmm_supervisor_unref(struct vmm_supervisor *supervisor);

/* vmm_supervisor_vmm.c, vmm_supervisor_launch.c: one VMM. Never NULL: without memory,
 * droverd ends (its VMMs run on). */
struct vmm *vmm_new(struct vmm_supervisor *supervisor, uint64_t vm_id, uint64_t epoch);
/* Taps, process, client; what fails comes by gone() later. */
void vmm_launch(struct vmm *vmm, const Drover__VmRecord *record, bool incoming);
/* One that was found in its folder; alive or not. */
void vmm_adopt(struct vmm *vmm, bool alive);
void vmm_kill_in(struct vmm *vmm, unsigned wait_ms, const char *why);
/* Sets the timer for whatever is next. */
void vmm_arm(struct vmm *vmm);
/* Its process has ended, or never began. */
void vmm_ended(struct vmm *vmm);
/* Watches its pidfd; 0 or a negative error of libuv's. */
int vmm_watch(struct vmm *vmm);
/* Connects to its control socket, and kills it if it never says a word. */
int vmm_start_client(struct vmm *vmm);
/* Lets go of it without a word. */
void vmm_close(struct vmm *vmm);

#endif
