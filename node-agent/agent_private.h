/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the agent, for agent*.c only. Owner of everything: the loop thread. */
#ifndef DROVER_NODE_AGENT_AGENT_PRIVATE_H
#define DROVER_NODE_AGENT_AGENT_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/log.h"
#include "consensus/raft_node.h"
#include "fencing/timing.h"
#include "node-agent/agent.h"
#include "node-agent/api.h"
#include "node-agent/config.h"
#include "node-agent/controller.h"
#include "node-agent/host_core.h"
#include "node-agent/join.h"
#include "node-agent/keeper.h"
#include "node-agent/moves.h"
#include "node-agent/peers.h"
#include "node-agent/propose.h"
#include "node-agent/raft_transport.h"
#include "node-agent/state_dir.h"
#include "node-agent/tls_stream.h"
#include "node-agent/vmm_supervisor.h"

#define AGENT_SILENT_MAX      (2 * LIMIT_HOSTS)
#define AGENT_RETRY_MS        5000u  /* before what failed is started again */
#define AGENT_FORM_MS         60000u /* for a new member to be up */
#define AGENT_REMOVE_MS       30000u /* for raft to drop a removed host */
#define AGENT_KEEPER_WAIT_MS  5000u  /* for the watchdog's keeper to say what it has */
#define AGENT_FORWARD_MS      30000u /* for an API request at the leader */
#define AGENT_MEMBER_RETRY_MS 2000u  /* between tries to add or remove a voter */

/* Something that must not happen inside the call that caused it. */
struct agent_deferred {
    struct agent_deferred *next;
    void (*run)(struct agent *agent, struct agent_deferred *deferred); /* frees it */
};

/* One init, join or removal that the API waits for. */
struct agent_waiter {
    api_done done; /* NULL: nobody waits */
    void *request;
    uint64_t deadline_ms;
    uint64_t host_id; /* of a removal */
};

/* All that exists only while this host is in a cluster; made and unmade as a whole (agent_member.c). */
struct agent_member {
    struct timing timing;
    struct cluster_state *state;
    struct tls_context *tls;
    struct raft_transport *transport;
    struct raft_node *raft;
    struct peers *peers;
    struct moves *moves;
    struct agent_move *waiting_moves;   /* orders that wait for their connections (agent_move.c) */
    struct join_server *joins;
    struct controller *controller;
    struct propose *propose;
    struct keeper_client *keeper;       /* NULL at a witness */
    struct vmm_supervisor *supervisor;  /* NULL at a witness */
    struct host_core *core;             /* NULL until the keeper has said what watchdog there is */
    char incarnation[ID_TEXT_SIZE];
    struct peer_self self;
    uint64_t core_at_ms;     /* made then even without a word of the keeper */
    uint64_t watchdog_told;  /* what the core was made with */
    uint64_t keeper_lost_at_ms; /* 0: it is there */
    uint64_t barrier_term;   /* of the barrier under way or done */
    uint64_t touch_at_ms;    /* when known hosts are dialled again for want of a leader */
    bool barrier_done;
    bool leads;              /* the controller does */
    bool voter_change;       /* one is under way */
    uint64_t voter_retry_at_ms;
    uint64_t surplus_since_ms; /* raft has a voter that the state has not; 0: no */
    uint64_t gone_since_ms;  /* the state has no record of this host any more since then; 0: it has */
    bool init_proposed;
    uint64_t leader_logged;
    uint64_t silent[AGENT_SILENT_MAX]; /* hosts that were told to be out of reach; 0: unused */
    unsigned closing;        /* parts that are not closed yet */
};

struct agent {
    uv_loop_t *loop;
    const struct agent_config *config;
    const struct log *log;
    enum agent_phase phase;
    char failure[ERROR_TEXT_SIZE];
    struct state_dir dir;
    int run_lock_fd; /* one droverd per run directory, in a cluster or not */
    char boot_id[ID_TEXT_SIZE];
    char watchdog_text[ERROR_TEXT_SIZE];
    uint32_t watchdog_ms;
    Drover__HostIdentity *identity;     /* NULL: in no cluster */
    struct cluster_state *empty_state;  /* what the API sees meanwhile */
    struct agent_member *member;        /* NULL: in no cluster, or stopped for a retry */
    struct api *api;
    bool api_tls;
    struct join_client *join;
    struct agent_waiter forming;
    struct agent_waiter removal;
    struct buffer *join_key; /* the key for which a certificate is asked */
    uv_timer_t turn;         /* the next turn: agent_turn.c */
    bool in_turn, woken, state_changed;
    struct agent_deferred *deferred, **deferred_end;
    uint64_t retry_at_ms;    /* start the member again then; 0: no */
    uint64_t refused_since_ms; /* refused connections are logged sparingly */
    unsigned refused_count;
    bool retire;             /* once stopped, put the cluster's files aside */
    void (*member_stopped)(struct agent *agent);
    void (*closed)(void *owner);
    void *closed_owner;
    unsigned closing;
};

/* ---- agent_turn.c: everything that waits is done in turns of the loop ---- */
void agent_turn_start(struct agent *agent);
/* A turn comes soon. */
void agent_wake(struct agent *agent);
/* Takes `deferred`, to be run in the next turn. */
void agent_defer(struct agent *agent, struct agent_deferred *deferred);
void agent_deferred_drop(struct agent *agent);

/* ---- agent_member.c: made and unmade as a whole ---- */
int agent_member_start(struct agent *agent, bool bootstrap, struct error *err);
/* Before anything is made of it: can others reach this host at `address`, and can it listen there? May block. */
int agent_member_check_address(const struct agent *agent, const char *address, struct error *err);
/* `stopped` later. The VMMs and the keeper live on. */
void agent_member_stop(struct agent *agent, void (*stopped)(struct agent *agent));
/* Stops it, and starts it again after AGENT_RETRY_MS. */
void agent_member_fail(struct agent *agent, const char *text);

/* ---- agent_raft.c: raft's callbacks, leadership, voters ---- */
void agent_raft_config(struct agent *agent, struct raft_node_config *ret_config);
typedef void (*agent_committed)(void *owner, int error, const char *text, uint64_t index,
                                uint64_t result_id);
/* Stamps the wall clock and proposes here: DROVER_ENOTLEADER at once unless this host leads. */
int agent_raft_propose(struct agent *agent, const Drover__Command *command, agent_committed done,
                       void *owner);
/* What the state and raft's configuration want done: voters, the first command, this host's own removal. */
uint32_t agent_raft_tick(struct agent *agent, uint64_t now_ms);
uint64_t agent_raft_leader(const struct agent *agent);

/* ---- agent_message.c: messages between agents ---- */
const struct peers_ops *agent_peers_ops(void);
const struct propose_ops *agent_propose_ops(void);
const struct join_server_ops *agent_join_ops(void);
const struct controller_ops *agent_controller_ops(void);
/* Also to this host itself, then as if received in the next turn. */
int agent_send(struct agent *agent, uint64_t host_id, const Drover__PeerMessage *message);

/* ---- agent_host.c: this host's VMMs, lease and watchdog ---- */
int agent_host_start(struct agent *agent, struct error *err);
/* Makes the core when its time has come; ms until it wants to be called again. */
uint32_t agent_host_tick(struct agent *agent, uint64_t now_ms);

/* ---- agent_move.c: encrypted connections for moves ---- */
/* An order to a VMM of this host, that goes to it with fresh connections to another host. */
struct agent_move_order {
    uint64_t vm_id, epoch;   /* the VMM here */
    uint64_t next_epoch;     /* the one there, which waits, or is in post-copy */
    uint64_t host_id;
    const char *address;     /* of that host's agent */
    unsigned stream_count;
    bool resumes; /* a post-copy that lost its connection: nothing is said of a failure */
    const Drover__ControlRequest *request; /* MIGRATE or MIGRATE_LINKS */
};
int agent_move_start(struct agent *agent);
void agent_move_stop(struct agent *agent, void (*closed)(void *owner), void *owner);
/* If the connections can't be had the order is never given, and host_core_move_unsent() called, unless it `resumes`. */
void agent_move_order(struct agent *agent, const struct agent_move_order *order);
/* What waits for connections is not given any more. */
void agent_move_drop(struct agent *agent, uint64_t vm_id, uint64_t epoch);
/* Each order comes by here first: true if it was one to move, and goes to the VMM once its connections stand. */
bool agent_move_take_order(struct agent *agent, uint64_t vm_id, uint64_t epoch,
                           const Drover__ControlRequest *request);

/* ---- agent_cluster.c: into a cluster ---- */
int agent_cluster_init(struct agent *agent, const struct api_init *init, api_done done, void *request,
                       struct error *err);
int agent_cluster_join(struct agent *agent, const struct api_join *join, api_done done, void *request,
                       struct error *err);
int agent_cluster_remove(struct agent *agent, const struct api_removal *order, api_done done, void *request,
                         struct error *err);
/* The first command of a new cluster, when this host leads and there is none yet. */
void agent_cluster_propose_init(struct agent *agent);
/* ms until it wants to be called again. */
uint32_t agent_remove_tick(struct agent *agent, uint64_t now_ms);
uint32_t agent_cluster_tick(struct agent *agent, uint64_t now_ms);
/* Ends what the API waits for, if anything. */
void agent_waiter_end(struct agent_waiter *waiter, int error, const char *text, uint64_t result_id);

/* ---- agent_api.c ---- */
const struct api_backend *agent_api_backend(void);
/* TLS comes up once there is a certificate. */
void agent_api_listen(struct agent *agent);

const char *agent_phase_text(enum agent_phase phase);
const struct cluster_state *agent_state(const struct agent *agent);

#endif
