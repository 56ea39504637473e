/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the controller share. Not for others. */
#ifndef DROVER_NODE_AGENT_CONTROLLER_PRIVATE_H
#define DROVER_NODE_AGENT_CONTROLLER_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "fencing/lease_grantor.h"
#include "fencing/timing.h"
#include "node-agent/controller.h"

#define CONTROLLER_TRIES_MAX                                                             \
    256 /* VMs that are being given a host, or wait for another try */
#define CONTROLLER_FLIGHTS_MAX                                                           \
    4 /* at once: each sees the room that the ones before it left */
/* Moves off a draining host, and moves to one host, at once. */
#define CONTROLLER_MOVES_PER_HOST 4
#define CONTROLLER_BACKOFF_MAX 5 /* doublings of retry_ms: 32 times */

/* One host, as this leader sees it in this term. */
struct controller_host {
    uint64_t host_id;
    Drover__LeaseRequest *report; /* its last one, or NULL */
    uint64_t
        death_proposal; /* HostDead is out: no lease until its fate is known; 0: none */
    uint64_t judge_again_ms; /* a refused HostDead: not before */
    char incarnation[ID_TEXT_SIZE]; /* of the run of its agent that is up; empty: none */
    uint64_t up_ms;                 /* when this leader first saw that run up: a sign of life */
    bool suspect;
    bool unprovable_told;
};

/* One attempt to give a VM a host, or to move it off a draining one. */
struct controller_try {
    uint64_t vm_id;
    uint64_t proposal_id; /* 0: waits until next_ms */
    bool move; /* off a draining host */
    unsigned failures;
    uint64_t next_ms;
};

struct controller {
    struct timing timing;
    uint64_t own_host_id;
    const struct controller_ops *ops;
    void *owner;
    uint64_t last_proposal; /* never the same twice in a process */
    bool elected_told;
    struct lease_grantor grantor; /* its term is 0 when this host does not lead */
    struct controller_host hosts[LIMIT_HOSTS];
    unsigned host_count;
    struct controller_try tries[CONTROLLER_TRIES_MAX];
    unsigned try_count;
};

struct controller_host *controller_host_get(struct controller *controller,
                                            uint64_t host_id);
/* Hands a command to raft; returns the proposal's id. */
uint64_t controller_propose(struct controller *controller,
                            const Drover__Command *command);
void controller_event(struct controller *controller, const Drover__Event *event);

/* controller_death.c: hosts suspect, silent, dead. Returns ms until it wants to look
 * again. */
uint32_t controller_judge(struct controller *controller,
                          const struct cluster_state *state, uint64_t now_ms);
/* A HostDead's fate; false: the proposal is none of these. */
bool controller_death_done(struct controller *controller, uint64_t proposal_id, int error,
                           uint64_t now_ms);

/* controller_assign.c: VMs without a host. Returns ms until it wants to look again. */
uint32_t controller_assign(struct controller *controller,
                           const struct cluster_state *state, uint64_t now_ms);
bool controller_assign_done(struct controller *controller, uint64_t proposal_id,
                            int error, uint64_t now_ms);

bool controller_wants_host(const Drover__VmRecord *vm);
struct controller_try *controller_try_find(struct controller *controller, uint64_t vm_id);

/* controller_evacuate.c. A running VM whose host is being drained, and that is not on its
 * way yet. */
bool controller_must_move(const struct controller *controller,
                          const struct cluster_state *state, const Drover__VmRecord *vm);
/* The one of these that shall begin now; NULL: none. `wait_ms` is lowered to when one that
 * was put off is due. */
const Drover__VmRecord *controller_evacuate_next(struct controller *controller,
                                                 const struct cluster_state *state,
                                                 uint64_t now_ms, uint32_t *wait_ms);
uint64_t controller_propose_move(struct controller *controller,
                                 const Drover__VmRecord *vm, uint64_t host_id);
/* How many are on their way to a host. */
unsigned controller_moves_to(const struct cluster_state *state, uint64_t host_id);
/* About what its move has to send, in bytes; what the guest writes meanwhile included.
 * `status` may be NULL. Pure. */
uint64_t controller_move_cost(const Drover__VmRecord *vm, const Drover__VmStatus *status);

/* controller_report.c: what hosts tell about their VMs. Keeps a copy; tells of VMs that
 * froze or thawed. */
void controller_report(struct controller *controller, struct controller_host *host,
                       const Drover__LeaseRequest *request);

#endif
