/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place that knows libraft: a raft server on a libuv loop with libraft's own disk
 * and network backend (raft_uv), its connections carried by a transport that the agent
 * gives (TLS). Loop thread only. The program must ignore SIGPIPE.
 */
#ifndef DROVER_CONSENSUS_RAFT_NODE_H
#define DROVER_CONSENSUS_RAFT_NODE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct apply_result;
struct cluster_state;
struct error;
struct raft_node;

/* A connection for raft: a stream of plain bytes (one end of a socket pair whose other
 * end the agent pumps through TLS). Who gets the stream closes it with uv_close() and
 * frees it with free(). */
typedef void (*raft_node_connected)(void *raft_side, struct uv_stream_s *stream,
                                    int error);

struct raft_node_transport {
    /* Connects to a host's agent. `connected` is called once, later; `*ret_request` is
     * for cancel. */
    int (*connect)(void *owner, uint64_t host_id, const char *address,
                   raft_node_connected connected, void *raft_side, void **ret_request);
    /* `connected` is still called, with DROVER_ECANCELLED. */
    void (*cancel)(void *owner, void *request);
};

enum raft_node_role {
    RAFT_NODE_ROLE_UNAVAILABLE,
    RAFT_NODE_ROLE_FOLLOWER,
    RAFT_NODE_ROLE_CANDIDATE,
    RAFT_NODE_ROLE_LEADER,
};

struct raft_node_config {
    uv_loop_t *loop;
    const char *directory; /* must exist, 0700 */
    uint64_t host_id;
    const char *address;
    unsigned heartbeat_ms, election_ms;
    /* A snapshot is taken each so many entries, and so many are kept behind it for
     * hosts that lag; 0: the defaults. */
    unsigned snapshot_threshold, snapshot_trailing;
    const struct raft_node_transport *transport;
    void *transport_owner;
    struct cluster_state *state; /* borrowed; applied to by this node only */
    /* All on the loop thread, never inside a call. `applied` once for each applied
     * command, in order (the state may be further on by then); `changed` when role,
     * term or leader changed; `failed` when raft can't go on (text says what to do;
     * nothing acknowledged is lost): with DROVER_ENOSPACE it goes on by itself when
     * there is room again, and tells the next such incident anew; with any other error
     * it has stopped, keeps silent to all others, and only raft_node_close() is left. */
    void (*applied)(void *owner, uint64_t index, const struct apply_result *result);
    void (*changed)(void *owner);
    void (*failed)(void *owner, int error, const char *text);
    void *owner;
};

/* Copies the config. Fails with one line in `err` (folder missing, not writable, full,
 * in use by another droverd, foreign format). */
int raft_node_create(const struct raft_node_config *config, struct raft_node **ret_node,
                     struct error *err);
/* First host of a new cluster: a configuration of this one voter. Before start;
 * DROVER_EEXISTS if the folder has a cluster already. */
int raft_node_bootstrap(struct raft_node *node, struct error *err);
int raft_node_start(struct raft_node *node, struct error *err);
/* `closed` is called once, when nothing of the node is in use any more; then free. */
void raft_node_close(struct raft_node *node, void (*closed)(void *owner), void *owner);
void raft_node_free(struct raft_node *node);

/* An accepted connection from `host_id`, after the agent has checked its certificate.
 * Takes `stream`. */
void raft_node_accept(struct raft_node *node, uint64_t host_id, const char *address,
                      struct uv_stream_s *stream);

enum raft_node_role raft_node_role(const struct raft_node *node);
uint64_t raft_node_term(const struct raft_node *node);
/* 0 if there is none known. `*ret_address` is valid until the next loop turn; may be
 * NULL. */
uint64_t raft_node_leader(const struct raft_node *node, const char **ret_address);
/* Fills at most `size` ids of voters, returns how many there are. */
unsigned raft_node_voters(const struct raft_node *node, uint64_t *ret_ids, unsigned size);

typedef void (*raft_node_done)(void *owner, int error, uint64_t index,
                               const struct apply_result *result);
/* Leader only (DROVER_ENOTLEADER at once else). `done` once, later: applied (error 0,
 * see result), or lost leadership (DROVER_ENOTLEADER: it may yet be committed, ask the
 * state). Copies `data`. */
int raft_node_propose(struct raft_node *node, const void *data, size_t size,
                      raft_node_done done, void *owner);
/* `done` when everything committed before, and an entry of this term, is applied here. */
int raft_node_barrier(struct raft_node *node, raft_node_done done, void *owner);
/* Leader only: adds the host (catching up first) and makes it a voter; or takes it
 * out. Only one change at a time (-EBUSY). */
int raft_node_add_voter(struct raft_node *node, uint64_t host_id, const char *address,
                        raft_node_done done, void *owner);
int raft_node_remove(struct raft_node *node, uint64_t host_id, raft_node_done done,
                     void *owner);
/* Leader only: hands leadership to another voter (0: any). */
int raft_node_transfer(struct raft_node *node, uint64_t host_id, raft_node_done done,
                       void *owner);

#endif
