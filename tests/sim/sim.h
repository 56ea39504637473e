/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole cluster on one virtual clock: libraft's fixture, the real cluster state,
 * controller, host core, lease, keeper policy and timing; models of hosts, clocks,
 * network, VMMs and watchdogs around them. A seed decides everything. One thread.
 */
#ifndef DROVER_TESTS_SIM_SIM_H
#define DROVER_TESTS_SIM_SIM_H

#include <raft.h>
#include <raft/fixture.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "consensus/cluster_state.h"
#include "fencing/keeper_policy.h"
#include "fencing/timing.h"
#include "node-agent/controller.h"
#include "node-agent/host_core.h"

#define SIM_HOSTS_MAX   5
#define SIM_VMS_MAX     6
#define SIM_VMMS_MAX    64
#define SIM_PENDING_MAX 256
#define SIM_PPM         4900 /* of a clock: two of them differ by less than 1 % */
#define SIM_NEVER       UINT64_MAX
#define SIM_UNIX_MS     UINT64_C(1700000000000)

struct sim;
struct sim_event;
typedef void (*sim_event_run)(struct sim *sim, struct sim_event *event);

struct sim_event {
    uint64_t at_ms, order;
    sim_event_run run;
    unsigned host;      /* whose time it takes; SIM_HOSTS_MAX: nobody's */
    uint64_t agent_run; /* not 0: for this run of the host's agent only */
    uint64_t boot;      /* not 0: for this boot of the host only */
    uint64_t a, b, c;
    void *data; /* malloc'ed, freed with the event */
    size_t size;
};

#define SIM_USER_REPEATED 100u /* as sim_user_propose()'s `user` */

struct sim_pending {
    uint64_t id; /* 0: free */
    uint64_t proposal_id;
    bool controller;
    uint64_t user; /* of a user's command: its number; else 0 */
};

struct sim_migration {
    Drover__VmMigrationState state;
    char uri[64];
    uint64_t next_epoch; /* as its order said */
    unsigned peer;       /* index of the other VMM in sim.vmms */
    uint64_t peer_life;  /* its life, so that a reused slot is another */
    uint64_t heard_ms;   /* global time of the peer's last word */
    uint64_t attempt;
    bool go_sent;
    uint64_t precopy_until_ms;
    bool target;
    bool postcopy;      /* shall be; then `state` says whether it is */
    bool interrupted;   /* in post-copy: no stream */
    uint64_t link;      /* the number of its stream: a new one after each interruption */
    uint64_t needed_ms; /* target: so long a stream is still needed */
};

enum sim_vmm_state {
    SIM_VMM_STARTING,
    SIM_VMM_INCOMING,
    SIM_VMM_GUEST, /* has the guest: runs unless something holds it */
    SIM_VMM_HANDED_OVER,
    SIM_VMM_STOPPED,
    SIM_VMM_FAILED,
};

struct sim_vmm {
    uint64_t life; /* 0: free slot */
    uint64_t vm_id, epoch;
    unsigned host;
    enum sim_vmm_state state;
    bool ha, paused,
        handover;         /* handover: vCPUs stopped for it, still the source's guest */
    uint64_t deadline_ms; /* local; 0: never had one */
    uint64_t freeze_ms;   /* from the deadline until it confirms, this time */
    uint64_t mem;         /* which memory it holds; 0: none */
    uint64_t
        mem_parent; /* it came by migration out of this one and did not run yet; 0: no */
    bool powered_off, quitting;
    struct sim_migration move;
};

/* What truly happened to a VM. */
struct sim_vm {
    uint64_t vm_id; /* 0: free */
    uint64_t mem;   /* the memory that ran last */
    bool powered_off;
    Drover__VmWanted wanted; /* last acknowledged */
    uint64_t wanted_ms;      /* when that changed */
    bool deleted;
    uint64_t excused_epoch; /* went to a target that had been called dead: its source may
                               have forgotten it */
};

struct sim_host {
    unsigned index;
    uint64_t base_ms;
    int ppm, watchdog_ppm;
    bool powered, agent_alive, soft_watchdog;
    uint64_t boot, agent_run;
    char boot_id[40], incarnation[40];
    uint64_t stalled_until_ms, agent_stalled_until_ms;
    uint64_t stall_began_ms; /* last stall of the whole host */
    uint64_t view_applied;   /* log entries applied by the agent's state */
    uint64_t raft_applied;   /* by raft */
    struct cluster_state *view;
    struct host_core *core;
    struct controller *controller;
    bool replaying; /* the agent's state is still behind what raft had applied at its
                       start */
    uint64_t led_term, ready_term, barrier_term;
    uint64_t turn_ms; /* when its next turn is planned; SIM_NEVER: not */
    uint64_t turn_id;
    struct keeper_policy keeper;
    uint64_t keeper_plan;
    uint64_t fed_ms; /* global; 0: not armed */
    uint64_t fed_order;
    uint64_t keeper_hurt_ms; /* last time that the keeper was stalled (so a reset is no
                                reproach) */
    struct sim_pending pending[SIM_PENDING_MAX];
    struct raft_fsm fsm;
    struct sim *sim;
};

struct sim_entry {
    uint64_t index;
    void *data;
    size_t size;
    int error; /* how the state judged it */
    uint64_t result_id;
};

enum sim_mutation {
    SIM_MUTATION_NONE,
    SIM_MUTATION_NO_CONFIRM,
    SIM_MUTATION_NO_REQUIRED_INDEX,
    SIM_MUTATION_NO_NEW_LEADER_WAIT,
    SIM_MUTATION_SHORT_GRANT,
    SIM_MUTATION_NO_WATCHDOG_WAIT,
    SIM_MUTATION_KEEPER_FEEDS,
    SIM_MUTATION_LONG_HOLD,
    SIM_MUTATION_DRIFT,
    SIM_MUTATION_SURE_TARGET,
    SIM_MUTATION_NO_FREEZE,
    SIM_MUTATION_NO_LEAD_TIME,
    SIM_MUTATION_NO_DEPENDENCE,
    SIM_MUTATION_COUNT,
};

struct sim {
    uint64_t seed;
    uint64_t random;
    unsigned host_count;
    enum sim_mutation mutation;
    bool trace;
    uint64_t trace_hash, trace_lines;
    uint64_t now_ms;
    struct timing timing, controller_timing, host_timing;
    struct raft_fixture fixture;
    struct sim_host hosts[SIM_HOSTS_MAX + 1];
    bool cut[SIM_HOSTS_MAX][SIM_HOSTS_MAX]; /* [from][to] */
    unsigned loss_percent;
    unsigned delay_max_ms;
    struct sim_event **heap;
    size_t heap_count, heap_capacity;
    uint64_t last_order, last_id;
    struct sim_entry *log; /* what was applied, in order: the same on every host */
    size_t log_count, log_capacity;
    struct cluster_state *truth; /* all of the log */
    struct sim_vmm vmms[SIM_VMMS_MAX];
    struct sim_vm vms[SIM_VMS_MAX];
    unsigned creating; /* VMs that users asked for, answered or not */
    bool healed;
    bool failed;
    char failure[512];
    /* What a run saw, for its last line. */
    unsigned deaths, resets, freezes, thaws, moves, aborts, restarts, acknowledged,
        postcopies, resumed, lost;
};

/* sim_core.c: random, trace, events, clocks */
uint64_t sim_random(struct sim *sim, uint64_t below);
bool sim_chance(struct sim *sim, unsigned percent);
void sim_trace(struct sim *sim, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void sim_fail(struct sim *sim, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Plans an event; the caller fills its members. */
struct sim_event *sim_at(struct sim *sim, uint64_t at_ms, sim_event_run run);
struct sim_event *sim_at_host(struct sim *sim, uint64_t at_ms, sim_event_run run,
                              unsigned host);
void sim_event_data(struct sim_event *event, void *data, size_t size);
/* Runs all that is due. */
void sim_run_due(struct sim *sim);
void sim_events_free(struct sim *sim);
uint64_t sim_local_ms(const struct sim *sim, unsigned host);
/* Global ms that pass while the host's clock counts `local_ms`, rounded up. */
uint64_t sim_global_span_ms(const struct sim *sim, unsigned host, uint64_t local_ms);
bool sim_host_stalled(const struct sim *sim, unsigned host);
bool sim_agent_runs(const struct sim *sim, unsigned host);

/* sim_raft.c */
void sim_raft_start(struct sim *sim);
void sim_raft_step(struct sim *sim);
void sim_raft_sync(struct sim *sim,
                   unsigned host); /* alive or not, as its host and agent are */
void sim_raft_links(struct sim *sim);
/* Local propose at a leader; 0 or DROVER_E*. The end comes by sim_proposal_done(). */
int sim_raft_propose(struct sim *sim, unsigned host, const void *data, size_t size,
                     uint64_t pending_id, unsigned origin, uint64_t origin_run);
void sim_raft_barrier(struct sim *sim, unsigned host);
unsigned sim_raft_leader(struct sim *sim, unsigned host); /* SIM_HOSTS_MAX: none */

/* sim_agent.c */
void sim_agent_start(struct sim *sim, unsigned host);
void sim_agent_stop(struct sim *sim, unsigned host);
void sim_agent_turn(struct sim *sim, unsigned host);
void sim_agent_wake(struct sim *sim, unsigned host, uint64_t at_ms);
void sim_proposal_done(struct sim *sim, unsigned host, uint64_t pending_id, int error,
                       const char *text, uint64_t index, uint64_t result_id);
/* A user's command, by this host's agent. */
void sim_user_propose(struct sim *sim, unsigned host, const Drover__Command *command,
                      uint64_t user);
void sim_leads(struct sim *sim, unsigned host, uint64_t term);

/* sim_vmm.c */
void sim_vmm_start(struct sim *sim, unsigned host, const Drover__VmRecord *vm,
                   uint64_t epoch, bool incoming);
void sim_vmm_order(struct sim *sim, unsigned host, uint64_t vm_id, uint64_t epoch,
                   const Drover__ControlRequest *request);
/* It may execute guest instructions, or have I/O in flight, at this instant. */
bool sim_vmm_active(const struct sim *sim, const struct sim_vmm *vmm);
bool sim_vmm_executes(const struct sim *sim, const struct sim_vmm *vmm);
Drover__VmRunState sim_vmm_run_state(const struct sim *sim, const struct sim_vmm *vmm);
void sim_vmm_send_status(struct sim *sim, struct sim_vmm *vmm);
void sim_vmm_gone(struct sim *sim, struct sim_vmm *vmm, const char *reason);
uint64_t sim_vmm_deadline_ns(const struct sim_vmm *vmm);

/* sim_move.c: the two VMMs of a migration and their stream */
void sim_move_start(struct sim *sim, struct sim_vmm *vmm,
                    const Drover__ControlMigrate *order);
/* A new stream for a source whose post-copy is interrupted. */
bool sim_move_resume(struct sim *sim, struct sim_vmm *vmm);
/* A target whose post-copy is interrupted is told that its source is gone. */
bool sim_move_lost(struct sim *sim, struct sim_vmm *vmm);
bool sim_move_cancel(struct sim *sim, struct sim_vmm *vmm);
void sim_move_end(struct sim *sim, struct sim_vmm *vmm,
                  const char *why); /* its VMM ends */

/* sim_keeper.c */
void sim_keeper_start(struct sim *sim, unsigned host);
void sim_keeper_lease(struct sim *sim, unsigned host, uint64_t deadline_ns);

/* sim_world.c */
void sim_power_off(struct sim *sim, unsigned host, const char *why);
void sim_power_on(struct sim *sim, unsigned host);
void sim_fault(struct sim *sim);
/* A VMM is killed, or its agent, some ms from now: for the narrow moments of a move. */
void sim_fault_near(struct sim *sim, const struct sim_vmm *vmm);
void sim_user_action(struct sim *sim);
void sim_user_done(struct sim *sim, uint64_t user, int error, uint64_t index,
                   uint64_t result_id);
void sim_heal(struct sim *sim);
struct sim_vm *sim_vm_find(struct sim *sim, uint64_t vm_id);

/* sim_check.c */
void sim_check(struct sim *sim);
/* Applies the log's last command to the truth; looks before and after. */
void sim_check_command(struct sim *sim, const Drover__Command *command);
/* How the command at this index was judged. */
void sim_check_result(const struct sim *sim, uint64_t index, int *ret_error,
                      uint64_t *ret_result_id);
void sim_check_reset(struct sim *sim, unsigned host);
/* A quit order that reaches a VMM: not to one that has the only good memory of a wanted
 * VM. */
void sim_check_quit(struct sim *sim, const struct sim_vmm *vmm);
bool sim_settled(struct sim *sim, char *ret_why, size_t size);

/* One run; returns 0 when nothing was broken. */
int sim_run(struct sim *sim, uint64_t seed, unsigned steps, enum sim_mutation mutation,
            bool trace);

#endif
