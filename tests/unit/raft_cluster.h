/* SPDX-License-Identifier: Apache-2.0 */
/* Several raft nodes in one process, on one loop, with real folders, and socket pairs
 * between them. For tests. */
#ifndef DROVER_TESTS_UNIT_RAFT_CLUSTER_H
#define DROVER_TESTS_UNIT_RAFT_CLUSTER_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "consensus/cluster_state.h"
#include "consensus/raft_node.h"

#define PEERS_MAX 5

struct raft_cluster;

struct raft_peer {
    struct raft_cluster *cluster;
    uint64_t id;
    char address[32];
    char directory[PATH_MAX];
    struct cluster_state *state;
    struct raft_node *node; /* NULL while it is down */
    bool closed;
    unsigned applied_count;
    uint64_t applied_last;
    struct error failure;
};

struct raft_cluster {
    uv_loop_t loop;
    uv_timer_t wake;
    char root[PATH_MAX];
    struct raft_peer peers[PEERS_MAX]; /* peer i has id i + 1 */
    unsigned snapshot_threshold, snapshot_trailing;
};

/* What became of one request. */
struct raft_outcome {
    bool done;
    int error;
    uint64_t index;
    struct apply_result result;
};

void raft_cluster_init(struct raft_cluster *cluster, const char *root);
void raft_cluster_done(struct raft_cluster *cluster);

/* Both fail the test if they can't. */
void raft_peer_up(struct raft_cluster *cluster, uint64_t id, bool bootstrap);
void raft_peer_down(struct raft_cluster *cluster, uint64_t id);
/* Creates and starts; whatever fails comes back. */
int raft_peer_try_up(struct raft_cluster *cluster, uint64_t id, bool bootstrap,
                     struct error *err);
struct raft_peer *raft_peer_of(struct raft_cluster *cluster, uint64_t id);

/* Runs the loop until `holds`; fails the test after `timeout_ms`. */
#define raft_cluster_run_until(cluster, holds, context, timeout_ms)                      \
    raft_cluster_run_until_at(cluster, holds, context, timeout_ms, #holds, __func__)
void raft_cluster_run_until_at(struct raft_cluster *cluster, bool (*holds)(void *context),
                               void *context, unsigned timeout_ms, const char *what,
                               const char *where);
void raft_cluster_run_ms(struct raft_cluster *cluster, unsigned ms);
/* Waits for a leader that `but_id` (0: none) is not. */
struct raft_peer *raft_cluster_leader(struct raft_cluster *cluster, uint64_t but_id);

void raft_outcome_take(void *owner, int error, uint64_t index,
                       const struct apply_result *result);
void raft_cluster_wait(struct raft_cluster *cluster, struct raft_outcome *outcome);
/* A ClusterInit, and an event of `text_size` bytes; they wait, and fail the test
 * unless applied. */
void raft_peer_init_cluster(struct raft_peer *leader);
int raft_peer_propose_event(struct raft_peer *leader, size_t text_size,
                            struct raft_outcome *ret_outcome);
/* They must be acknowledged. */
void raft_peer_propose_events(struct raft_peer *leader, unsigned count);
void raft_cluster_add_voter(struct raft_cluster *cluster, uint64_t id);
/* Hosts 1 to `count` are up and vote; returns the leader. */
struct raft_peer *raft_cluster_make(struct raft_cluster *cluster, unsigned count);
/* Leader and all that are up have applied the same, and are equal byte for byte. */
void raft_cluster_agree(struct raft_cluster *cluster);

#endif
