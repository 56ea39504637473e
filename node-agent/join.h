/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a host becomes a member: the new host shows a one-time token over a connection that it has checked against the CA's
 * fingerprint in the token; the leader uses the token up, signs the host's key and tells it the cluster. Loop thread only.
 */
#ifndef DROVER_NODE_AGENT_JOIN_H
#define DROVER_NODE_AGENT_JOIN_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node-agent/join_token.h"
#include "node-agent/peer_channel.h"

struct apply_result;
struct buffer;
struct cluster_state;
struct error;
struct join_client;
struct join_server;

/* ---- the side of the cluster ---- */

#define JOIN_SERVER_MAX 8 /* at a time */

typedef void (*join_applied)(void *request, int error, const char *text, uint64_t result_id);
struct join_server_ops {
    /* The state as applied here, if this host leads and has applied a barrier of its term; else NULL, and *ret_leader_address
     * is where the leader is ("" : not known). */
    const struct cluster_state *(*leading_state)(void *owner, const char **ret_leader_address);
    /* To raft. `applied` once, later; or an error now. */
    int (*propose)(void *owner, const Drover__Command *command, join_applied applied, void *request);
    void (*note)(void *owner, const char *text);
};

int join_server_create(const struct join_server_ops *ops, void *owner, struct join_server **ret_server);
/* A JOIN channel was opened: takes its stream. */
void join_server_accept(struct join_server *server, const struct peer_opened *opened);
/* `closed` once, perhaps from inside the call. */
void join_server_close(struct join_server *server, void (*closed)(void *owner), void *owner);
void join_server_free(struct join_server *server);

/* ---- the side of the new host ---- */

struct join_wanted {
    const struct join_token *token;
    const char *name, *address, *api_address;
    bool witness;
    const void *csr_pem;
    size_t csr_size;
};
/* error 0: `reply` is what the leader said (borrowed), `leader_id` who it was, `leader_address` where. */
typedef void (*join_done)(void *owner, int error, const char *text, const Drover__JoinReply *reply,
                          uint64_t leader_id, const char *leader_address);

/* Asks the token's addresses in turn, and whomever they name as leader. Copies all. The client ends itself after `done`. */
int join_client_start(uv_loop_t *loop, const struct join_wanted *wanted, join_done done, void *owner,
                      struct join_client **ret_client, struct error *err);
/* `done` comes with DROVER_ECANCELLED. */
void join_client_cancel(struct join_client *client);

#endif
