/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One host of the cluster: joins raft, peers, the decisions (controller, host_core), the VMMs, the watchdog's keeper
 * and the API on one libuv loop. This header is what main() may ask of it; the API reaches it by struct api_backend.
 * Loop thread only.
 */
#ifndef DROVER_NODE_AGENT_AGENT_H
#define DROVER_NODE_AGENT_AGENT_H

#include <uv.h>

struct agent;
struct agent_config; /* node-agent/config.h */
struct error;
struct log;

/*
 *   ALONE --init, join--> FORMING --own HostUp applied--> MEMBER --removed--> ALONE
 *                            ^                              |
 *                            '--- restart --- FAILED <------'  raft can't go on (full disk, ...)
 */
enum agent_phase {
    AGENT_PHASE_ALONE,   /* no cluster yet: only init, join and status are served */
    AGENT_PHASE_FORMING, /* init or join is under way */
    AGENT_PHASE_MEMBER,
    AGENT_PHASE_FAILED,  /* is tried again by itself */
};

/* Borrows `config` and `log` for the agent's life. */
int agent_create(uv_loop_t *loop, const struct agent_config *config, const struct log *log,
                 struct agent **ret_agent, struct error *err);
/* The start order of the whole daemon is written out in this function. */
int agent_start(struct agent *agent, struct error *err);
/* Leaves the VMMs running: those with HA until their lease's deadline. `closed` is called once, when the loop holds nothing of the
 * agent any more; then free. */
void agent_close(struct agent *agent, void (*closed)(void *owner), void *owner);
void agent_free(struct agent *agent);

#endif
