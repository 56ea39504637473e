/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the raft adapter share. Nothing of libraft calls into the agent, nor
 * back into libraft, from inside a step of libraft: what a step brings about is kept, and
 * told by raft_node_tell() in the loop's next phase. Loop thread.
 */
#ifndef DROVER_CONSENSUS_RAFT_PRIVATE_H
#define DROVER_CONSENSUS_RAFT_PRIVATE_H

#include <raft.h>
#include <raft/uv.h>

#include "base/err.h"
#include "consensus/cluster_state.h"
#include "consensus/raft_node.h"

/* A command that was applied and is not told yet. */
struct raft_applied {
    struct raft_applied *next;
    uint64_t index;
    struct apply_result result;
};

enum raft_request_kind {
    RAFT_REQUEST_PROPOSE,
    RAFT_REQUEST_BARRIER,
    RAFT_REQUEST_ADD,     /* to the configuration, as a spare */
    RAFT_REQUEST_PROMOTE, /* to a voter, after it has caught up */
    RAFT_REQUEST_REMOVE,
    RAFT_REQUEST_TRANSFER,
};

/* Something that the agent waits for. In node->requests until it is told. */
struct raft_request {
    struct raft_request *next;
    struct raft_node *node;
    enum raft_request_kind kind;
    raft_node_done done;
    void *owner;
    uint64_t host_id; /* whom a change is about */
    char *address;
    bool applied;  /* a proposal: the state has it, and `result` is its word */
    bool answered; /* `error` stands, and `done` is due */
    int error;
    struct apply_result result; /* of PROPOSE */
    union {
        struct raft_apply apply;
        struct raft_barrier barrier;
        struct raft_change change;
        struct raft_transfer transfer;
    };
};

/* A connection that libraft waits for. */
struct raft_connecting {
    struct raft_connecting *next;
    struct raft_node *node;
    struct raft_uv_connect *request;
    void *agent_request;
};

/* A request of libraft to its backend that is never carried out, since the node has
 * halted. */
struct raft_held {
    struct raft_held *next;
    struct raft_io_send *send;
    struct raft_io_append *append;
    struct raft_io_snapshot_put *put;
};

/* An append that the disk has not answered yet. */
struct raft_appending {
    struct raft_appending *next;
    struct raft_node *node;
    struct raft_io_append append;
    struct raft_io_append *theirs;
};

struct raft_node {
    struct raft_node_config config; /* strings are our own */
    int lock_fd;

    struct raft raft;
    struct raft_io io;
    struct raft_io backend; /* raft_uv's own functions, behind our guards */
    struct raft_uv_transport transport;
    struct raft_fsm fsm;

    raft_uv_accept_cb accept;
    struct raft_connecting *connecting;
    bool transport_closing;
    raft_uv_transport_close_cb transport_closed;

    struct raft_applied *applied_first, **applied_end;
    struct raft_request *requests;
    bool changing; /* a change of the configuration is under way */
    struct raft_held *held;
    struct raft_appending *appending;
    uv_timer_t *prepare_retry,
        *append_retry; /* the backend's; NULL if it is another one than we know */

    /* What was last told by `changed`. */
    enum raft_node_role role;
    uint64_t term;
    uint64_t leader_id;

    bool started;
    bool telling;
    bool halted; /* something failed that must not be tried again: silent from then on */
    bool failure_told;
    struct error failure;
    uint64_t short_of_disk_since_ms; /* uv_now(); 0: not short */
    bool short_of_disk_told;

    uv_prepare_t prepare;
    uv_check_t check;
    unsigned handles_open;
    bool raft_initialized;
    bool raft_closing;
    bool raft_closed;
    bool closing;
    void (*closed)(void *owner);
    void *closed_owner;
};

/* libraft's code as ours. */
int raft_error_from(int status);

/* Stops this node for good; told by raft_node_tell(). Safe inside a step of libraft. */
void raft_node_halt(struct raft_node *node, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Tells the agent what is due. Never call it from inside a step of libraft. */
void raft_node_tell(struct raft_node *node);

/* raft_fsm.c */
void raft_fsm_init(struct raft_node *node);
/* The entry for raft_apply(), in memory of raft_malloc(); 0, -ENOMEM or DROVER_ELIMIT. */
int raft_entry_encode(const void *command, size_t size, struct raft_buffer *ret_entry);
void raft_fsm_tell_applied(struct raft_node *node);
void raft_fsm_drop_applied(struct raft_node *node);

/* raft_guard.c: between libraft and its backend. */
void raft_guard_init(struct raft_node *node);
/* Once, after raft_init(). */
void raft_guard_find_timers(struct raft_node *node);
/* Halts the node if a write has failed. */
void raft_guard_look(struct raft_node *node);
/* After raft_close() was called: libraft may have back what the guards held. */
void raft_guard_release(struct raft_node *node);

/* raft_transport.c */
void raft_transport_init(struct raft_node *node);

/* raft_request.c */
void raft_request_applied(struct raft_node *node, uint64_t index,
                          const struct apply_result *result);
void raft_request_tell(struct raft_node *node);

#endif
