/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the agents' connections, for peers.c and peers_link.c only. */
#ifndef DROVER_NODE_AGENT_PEERS_PRIVATE_H
#define DROVER_NODE_AGENT_PEERS_PRIVATE_H

#include "base/buffer.h"
#include "base/id.h"
#include "base/limits.h"
#include "node-agent/peers.h"

#define PEERS_HOSTS_MAX (4u * LIMIT_HOSTS) /* removed ones are forgotten when room is needed */

/* One connection, from dial or accept until its stream is closed. */
struct link {
    struct link *next;
    struct peers *peers;
    struct peer_channel *channel; /* while opening */
    struct tls_stream *stream;    /* once open */
    uint64_t host_id;             /* 0: accepted, not known yet */
    bool dialled;
    char incarnation[ID_TEXT_SIZE];
    struct buffer in;
};

/* What is remembered of a host beyond its connections. */
struct peer {
    uint64_t host_id; /* 0: unused */
    uint64_t redial_at_ms;
    uint32_t redial_ms;
    struct buffer queue; /* waits for the connection that is being made */
};

struct peers {
    struct peers_config config;
    uv_tcp_t listener;
    bool listener_closed;
    struct link *links;
    struct peer hosts[PEERS_HOSTS_MAX];
    void (*closed)(void *owner); /* set once closing */
    void *closed_owner;
};

/* What is kept of a host; NULL when there are too many. */
struct peer *peers_host_find(struct peers *peers, uint64_t host_id);
/* The open connection to send on; NULL: none. */
struct link *peers_link_find(const struct peers *peers, uint64_t host_id);
bool peers_dialling(const struct peers *peers, uint64_t host_id);
/* host_id 0: accepted. */
struct link *peers_link_create(struct peers *peers, uint64_t host_id);
void peers_link_free(struct link *link);
/* Its hello is checked: from now on it carries messages. */
void peers_link_open(struct link *link, const struct peer_opened *opened);
void peers_finish_close(struct peers *peers);

#endif
