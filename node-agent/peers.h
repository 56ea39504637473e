/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections between this agent and those of the other hosts: listens, dials when there is something to say, checks who
 * answers, cuts what is silent. Messages may be lost, never garbled or misattributed; callers have their own time limits.
 * Loop thread only. Callbacks come from the loop, never inside a call.
 */
#ifndef DROVER_NODE_AGENT_PEERS_H
#define DROVER_NODE_AGENT_PEERS_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node-agent/peer_channel.h"

struct error;
struct peers;

#define PEERS_PENDING_MAX     32 /* accepted connections that have not said who they are */
#define PEERS_LINKS_MAX       8  /* with one host */
#define PEERS_QUEUE_BYTES_MAX (4u * 1024u * 1024u) /* for a host that is being dialled */

struct peers_ops {
    /* Where a host's agent is to be found; NULL: not known. */
    const char *(*address)(void *owner, uint64_t host_id);
    /* Whether a host with a good certificate is (still) a member. */
    bool (*admits)(void *owner, uint64_t host_id);
    /* `message` is borrowed; the host is as certified. */
    void (*received)(void *owner, uint64_t host_id, const Drover__PeerMessage *message);
    /* An agents' connection with this host has come up. */
    void (*connected)(void *owner, uint64_t host_id);
    /* None is left. unsent: it could not be reached, nothing of what waited was sent. */
    void (*lost)(void *owner, uint64_t host_id, bool unsent, const char *text);
    /* A connection of the other kinds; the receiver owns the stream. */
    void (*raft_opened)(void *owner, const struct peer_opened *opened);
    void (*join_opened)(void *owner, const struct peer_opened *opened);
    /* A connection for a move, before its MoveOpen. */
    void (*move_opened)(void *owner, const struct peer_opened *opened);
    /* Somebody was turned away: worth a line. */
    void (*refused)(void *owner, const char *text);
};

struct peers_config {
    uv_loop_t *loop;
    struct tls_context *context;  /* borrowed */
    const struct peer_self *self; /* borrowed */
    const char *listen;           /* "IP:PORT" */
    uint32_t open_ms, idle_ms;
    uint32_t redial_ms_max;       /* the longest wait between two tries to reach a host that is asked for */
    const struct peers_ops *ops;
    void *owner;
};

/* Listens. Copies the config. */
int peers_create(const struct peers_config *config, struct peers **ret_peers, struct error *err);
/* 0: sent, or waits for the connection that is being made; DROVER_ENOTFOUND (no address), DROVER_ECLOSED (just failed: try
 * later), DROVER_ELIMIT, -ENOMEM. Not for this host itself. */
int peers_send(struct peers *peers, uint64_t host_id, const Drover__PeerMessage *message);
/* Makes a connection if there is none, and nothing more. */
void peers_touch(struct peers *peers, uint64_t host_id);
bool peers_connected(const struct peers *peers, uint64_t host_id);
/* Cuts what there is with a host that is no member any more. */
void peers_drop(struct peers *peers, uint64_t host_id);
void peers_close(struct peers *peers, void (*closed)(void *owner), void *owner);
void peers_free(struct peers *peers);

#endif
