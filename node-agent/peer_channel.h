/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The opening of a connection between agents: TLS, then a PeerHello each way, checked against the certificate. After it the
 * stream belongs to whoever wants a channel of that kind. Loop thread only.
 */
#ifndef DROVER_NODE_AGENT_PEER_CHANNEL_H
#define DROVER_NODE_AGENT_PEER_CHANNEL_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "proto/peer.pb-c.h"

struct buffer;
struct error;
struct peer_channel;
struct tls_context;
struct tls_stream;

#define PEER_CHANNEL_VERSION         1
#define PEER_CHANNEL_HELLO_BYTES_MAX 4096u
#define PEER_CHANNEL_JOIN_BYTES_MAX  65536u

/* Who this host is. All borrowed for the life of what uses it. */
struct peer_self {
    const char *cluster_id; /* "" while joining */
    uint64_t host_id;
    const char *boot_id, *incarnation;
    const char *address; /* where others reach its agent */
};

/* An open channel. The receiver must set the stream's ops at once. */
struct peer_opened {
    struct tls_stream *stream;
    Drover__PeerChannel kind;
    uint64_t host_id; /* as certified; 0 on a JOIN channel's serving side */
    const char *incarnation;
    const char *address; /* as it says itself: where it is reached, not where this came from */
    const uint8_t *rest; /* bytes that came after the hello */
    size_t rest_size;
};

/* Exactly one of the two, once, later; the channel is gone then. */
struct peer_channel_ops {
    void (*opened)(void *owner, struct peer_channel *channel, const struct peer_opened *opened);
    void (*failed)(void *owner, struct peer_channel *channel, int error, const char *text);
};

struct peer_channel_config {
    uv_loop_t *loop;
    struct tls_context *context;
    const struct peer_self *self;
    uint32_t open_ms; /* for all of it */
    const struct peer_channel_ops *ops;
    void *owner;
};

/* `host_id`: who must answer; 0: anybody of the cluster (a joining host does not know). */
int peer_channel_dial(const struct peer_channel_config *config, const char *address, uint64_t host_id,
                      Drover__PeerChannel kind, struct peer_channel **ret_channel, struct error *err);
int peer_channel_accept(const struct peer_channel_config *config, uv_stream_t *listener,
                        struct peer_channel **ret_channel, struct error *err);
/* `failed` comes with DROVER_ECANCELLED. */
void peer_channel_cancel(struct peer_channel *channel);

/* One frame of kind PEER, appended; 0, -ENOMEM or DROVER_ELIMIT. */
int peer_message_encode(const Drover__PeerMessage *message, size_t limit_bytes, struct buffer *out);
/* Takes the next message off `in`: 1 with *ret_message (to be freed with drover__peer_message__free_unpacked), 0 when more
 * bytes are needed, or DROVER_EMALFORMED, DROVER_EVERSION, DROVER_ELIMIT, -ENOMEM. */
int peer_message_decode(struct buffer *in, size_t limit_bytes, Drover__PeerMessage **ret_message);

#endif
