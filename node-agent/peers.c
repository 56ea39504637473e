/* SPDX-License-Identifier: Apache-2.0 */
/* The connections between this agent and those of the other hosts. */
#include "node-agent/peers.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/id.h"
#include "base/limits.h"
#include "node-agent/config.h"
#include "node-agent/tls_stream.h"

#define REDIAL_MS_FIRST 100u
#define LISTEN_BACKLOG  64
#define PEER_COUNT_MAX                                                                   \
    (4u * LIMIT_HOSTS) /* removed ones are forgotten when room is needed */

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
    struct peer hosts[PEER_COUNT_MAX];
    void (*closed)(void *owner); /* set once closing */
    void *closed_owner;
};

static void finish_close(struct peers *peers)
{
    if (peers->closed != NULL && peers->listener_closed && peers->links == NULL) {
        void (*closed)(void *owner) = peers->closed;
        peers->closed = NULL;
        closed(peers->closed_owner);
    }
}

/* ---- hosts and links ---- */

static struct peer *peer_find(struct peers *peers, uint64_t host_id)
{
    struct peer *unused = NULL;
    for (unsigned i = 0; i < PEER_COUNT_MAX; i++) {
        struct peer *peer = &peers->hosts[i];
        if (peer->host_id == host_id) {
            return peer;
        }
        bool spare = peer->host_id == 0 ||
                     !peers->config.ops->admits(peers->config.owner, peer->host_id);
        if (spare && unused == NULL) {
            unused = peer;
        }
    }
    if (unused != NULL) {
        buffer_done(&unused->queue);
        *unused = (struct peer){.host_id = host_id};
        buffer_init(&unused->queue, PEERS_QUEUE_BYTES_MAX);
    }
    return unused;
}

/* Both sides send on the one that the host with the lower id dialled, if there are
 * several: so no connection is one-way. */
static struct link *link_find(const struct peers *peers, uint64_t host_id)
{
    bool prefer_dialled = peers->config.self->host_id < host_id;
    struct link *found = NULL;
    for (struct link *link = peers->links; link != NULL; link = link->next) {
        if (link->host_id == host_id && link->stream != NULL &&
            (found == NULL ||
             (found->dialled != prefer_dialled && link->dialled == prefer_dialled))) {
            found = link; /* the list starts with the newest */
        }
    }
    return found;
}

static bool dialling(const struct peers *peers, uint64_t host_id)
{
    for (const struct link *link = peers->links; link != NULL; link = link->next) {
        if (link->host_id == host_id && link->dialled && link->stream == NULL) {
            return true;
        }
    }
    return false;
}

static struct link *link_create(struct peers *peers, uint64_t host_id)
{
    struct link *link = calloc(1, sizeof(*link));
    if (link != NULL) {
        link->peers = peers;
        link->host_id = host_id;
        link->dialled = host_id != 0;
        link->next = peers->links;
        peers->links = link;
        buffer_init(&link->in, LIMIT_FRAME_BYTES + 2 * 65536u);
    }
    return link;
}

static void link_free(struct link *link)
{
    struct peers *peers = link->peers;
    for (struct link **at = &peers->links; *at != NULL; at = &(*at)->next) {
        if (*at == link) {
            *at = link->next;
            break;
        }
    }
    buffer_done(&link->in);
    free(link);
    finish_close(peers);
}

/* ---- an open link ---- */

static void on_closed(void *owner, struct tls_stream *stream, int error, const char *text)
{
    struct link *link = owner;
    struct peers *peers = link->peers;
    uint64_t host_id = link->host_id;
    link->stream = NULL;
    link->dialled = false;
    if (peers->closed == NULL && link_find(peers, host_id) == NULL &&
        !dialling(peers, host_id)) {
        peers->config.ops->lost(peers->config.owner, host_id, false, text);
    }
    link_free(link);
}

/* A message may end the link (peers_drop, peers_close): the stream's state says so by its
 * own checks. */
static void consume(struct link *link, struct tls_stream *stream)
{
    struct peers *peers = link->peers;
    for (;;) {
        Drover__PeerMessage *message = NULL;
        int rv = peer_message_decode(&link->in, LIMIT_FRAME_BYTES, &message);
        if (rv == 0) {
            return;
        }
        if (rv < 0) {
            tls_stream_close(stream, rv, "malformed message");
            return;
        }
        if (peers->closed == NULL) {
            peers->config.ops->received(peers->config.owner, link->host_id, message);
        }
        drover__peer_message__free_unpacked(message, NULL);
    }
}

static void on_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                        size_t size)
{
    struct link *link = owner;
    int rv = buffer_append(&link->in, data, size);
    if (rv != 0) {
        tls_stream_close(stream, rv, NULL);
        return;
    }
    consume(link, stream);
}

static const struct tls_stream_ops link_ops = {.received = on_received,
                                               .closed = on_closed};

/* A host whose agent was started anew has no use for the connections of its former run.
 */
static void cut_former_runs(struct peers *peers, const struct link *fresh)
{
    unsigned count = 0;
    for (struct link *link = peers->links; link != NULL; link = link->next) {
        if (link != fresh && link->host_id == fresh->host_id && link->stream != NULL) {
            count++;
            if (strcmp(link->incarnation, fresh->incarnation) != 0 ||
                count >= PEERS_LINKS_MAX) {
                tls_stream_close(link->stream, DROVER_ECLOSED,
                                 "replaced by a newer connection");
            }
        }
    }
}

static void send_queued(struct peers *peers, struct peer *peer, struct link *link)
{
    if (peer->queue.size > 0) {
        /* If it fails, the stream closes, and that is told. */
        (void)tls_stream_write(link->stream, peer->queue.data, peer->queue.size);
        buffer_consume(&peer->queue, peer->queue.size);
    }
}

static void link_open(struct link *link, const struct peer_opened *opened)
{
    struct peers *peers = link->peers;
    link->channel = NULL;
    link->stream = opened->stream;
    link->host_id = opened->host_id;
    (void)snprintf(link->incarnation, sizeof(link->incarnation), "%.39s",
                   opened->incarnation);
    tls_stream_set_ops(opened->stream, &link_ops, link);
    tls_stream_set_limits(opened->stream, peers->config.idle_ms, peers->config.idle_ms);
    cut_former_runs(peers, link);
    struct peer *peer = peer_find(peers, link->host_id);
    if (peer != NULL) {
        peer->redial_ms = 0;
        peer->redial_at_ms = 0;
        send_queued(peers, peer, link);
    }
    int rv = buffer_append(&link->in, opened->rest, opened->rest_size);
    if (rv != 0) {
        tls_stream_close(opened->stream, rv, NULL);
        return;
    }
    peers->config.ops->connected(peers->config.owner, link->host_id);
    consume(link, opened->stream);
}

/* ---- opening ---- */

static void refuse(struct peers *peers, const struct peer_opened *opened, const char *why)
{
    char text[ERROR_TEXT_SIZE];
    (void)snprintf(text, sizeof(text), "connection from %s, host %" PRIu64 " refused: %s",
                   tls_stream_peer_text(opened->stream), opened->host_id, why);
    tls_stream_close(opened->stream, DROVER_EPEER, why);
    peers->config.ops->refused(peers->config.owner, text);
}

static void on_channel_opened(void *owner, struct peer_channel *channel,
                              const struct peer_opened *opened)
{
    struct link *link = owner;
    struct peers *peers = link->peers;
    if (peers->closed != NULL) {
        tls_stream_close(opened->stream, DROVER_ECANCELLED, NULL);
        link_free(link);
        return;
    }
    if (opened->kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_JOIN) {
        link_free(link);
        peers->config.ops->join_opened(peers->config.owner, opened);
        return;
    }
    if (!peers->config.ops->admits(peers->config.owner, opened->host_id)) {
        refuse(peers, opened,
               "it is no member of this cluster any more: remove its state folder and "
               "join it anew");
        link_free(link);
        return;
    }
    if (opened->kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_RAFT) {
        link_free(link);
        peers->config.ops->raft_opened(peers->config.owner, opened);
        return;
    }
    link_open(link, opened);
}

static void dial_failed(struct peers *peers, uint64_t host_id, const char *text)
{
    struct peer *peer = peer_find(peers, host_id);
    if (peer != NULL) {
        uint32_t next = peer->redial_ms == 0 ? REDIAL_MS_FIRST : peer->redial_ms * 2;
        peer->redial_ms =
            next > peers->config.redial_ms_max ? peers->config.redial_ms_max : next;
        peer->redial_at_ms = clock_now_ms() + peer->redial_ms;
        buffer_consume(&peer->queue, peer->queue.size);
    }
    if (link_find(peers, host_id) == NULL) {
        peers->config.ops->lost(peers->config.owner, host_id, true, text);
    }
}

static void on_channel_failed(void *owner, struct peer_channel *channel, int error,
                              const char *text)
{
    struct link *link = owner;
    struct peers *peers = link->peers;
    bool dialled = link->dialled;
    uint64_t host_id = link->host_id;
    link->channel = NULL;
    link->dialled = false;
    if (peers->closed == NULL && dialled) {
        dial_failed(peers, host_id, text);
    } else if (peers->closed == NULL && error != DROVER_ECLOSED) {
        char line[ERROR_TEXT_SIZE];
        (void)snprintf(line, sizeof(line), "a connection was refused: %s", text);
        peers->config.ops->refused(peers->config.owner, line);
    }
    link_free(link);
}

static const struct peer_channel_ops channel_ops = {
    .opened = on_channel_opened,
    .failed = on_channel_failed,
};

static struct peer_channel_config channel_config(struct peers *peers, struct link *link)
{
    return (struct peer_channel_config){.loop = peers->config.loop,
                                        .context = peers->config.context,
                                        .self = peers->config.self,
                                        .open_ms = peers->config.open_ms,
                                        .ops = &channel_ops,
                                        .owner = link};
}

static int dial(struct peers *peers, struct peer *peer)
{
    if (dialling(peers, peer->host_id)) {
        return 0;
    }
    if (clock_now_ms() < peer->redial_at_ms) {
        return DROVER_ECLOSED;
    }
    const char *address = peers->config.ops->address(peers->config.owner, peer->host_id);
    if (address == NULL || address[0] == '\0') {
        return DROVER_ENOTFOUND;
    }
    struct link *link = link_create(peers, peer->host_id);
    if (link == NULL) {
        return -ENOMEM;
    }
    struct peer_channel_config config = channel_config(peers, link);
    int rv =
        peer_channel_dial(&config, address, peer->host_id,
                          DROVER__PEER_CHANNEL__PEER_CHANNEL_AGENT, &link->channel, NULL);
    if (rv != 0) {
        link_free(link);
    }
    return rv;
}

static void on_discarded(uv_handle_t *handle)
{
    free(handle);
}

/* libuv stops accepting unless each connection is taken. */
static void discard(struct peers *peers)
{
    uv_tcp_t *tcp = malloc(sizeof(*tcp));
    if (tcp == NULL) {
        return; /* it waits in the backlog */
    }
    CHECK(uv_tcp_init(peers->config.loop, tcp) == 0);
    (void)uv_accept((uv_stream_t *)&peers->listener,
                    (uv_stream_t *)tcp); /* closed in any case */
    uv_close((uv_handle_t *)tcp, on_discarded);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct peers *peers = listener->data;
    if (status < 0 || peers->closed != NULL) {
        return; /* out of descriptors: libuv drops it and goes on */
    }
    unsigned pending = 0;
    for (const struct link *link = peers->links; link != NULL; link = link->next) {
        pending += link->channel != NULL && !link->dialled;
    }
    struct link *link = pending < PEERS_PENDING_MAX ? link_create(peers, 0) : NULL;
    if (link == NULL) {
        discard(peers);
        return;
    }
    struct peer_channel_config config = channel_config(peers, link);
    if (peer_channel_accept(&config, listener, &link->channel, NULL) != 0) {
        link_free(link);
        discard(peers);
    }
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct peers *peers = handle->data;
    peers->listener_closed = true;
    finish_close(peers);
}

static int listen_at(struct peers *peers, const char *text, struct error *err)
{
    char host[LIMIT_ADDRESS_SIZE];
    unsigned port = 0;
    int rv = config_split_address(text, CONFIG_PEER_PORT_DEFAULT, host, &port, err);
    if (rv != 0) {
        return rv;
    }
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
    const struct sockaddr *address = NULL;
    if (uv_ip4_addr(host, (int)port, &in4) == 0) {
        address = (const struct sockaddr *)&in4;
    } else if (uv_ip6_addr(host, (int)port, &in6) == 0) {
        address = (const struct sockaddr *)&in6;
    } else {
        return error_set(err, DROVER_EBADINPUT,
                         "can't listen at '%s': give an IP address with --listen", text);
    }
    rv = uv_tcp_bind(&peers->listener, address, 0);
    rv = rv != 0
             ? rv
             : uv_listen((uv_stream_t *)&peers->listener, LISTEN_BACKLOG, on_connection);
    if (rv == UV_EADDRINUSE) {
        return error_set(
            err, rv, "can't listen at %s: another program does (another droverd?)", text);
    }
    if (rv != 0) {
        return error_set(err, rv,
                         "can't listen at %s: %s: is it an address of this host?", text,
                         uv_strerror(rv));
    }
    return 0;
}

static void on_failed_listener_closed(uv_handle_t *handle)
{
    free(handle->data);
}

int peers_create(const struct peers_config *config, struct peers **ret_peers,
                 struct error *err)
{
    struct peers *peers = calloc(1, sizeof(*peers));
    if (peers == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    peers->config = *config;
    CHECK(uv_tcp_init(config->loop, &peers->listener) == 0);
    peers->listener.data = peers;
    int rv = listen_at(peers, config->listen, err);
    if (rv != 0) {
        uv_close((uv_handle_t *)&peers->listener, on_failed_listener_closed);
        return rv;
    }
    *ret_peers = peers;
    return 0;
}

/* ---- use ---- */

int peers_send(struct peers *peers, uint64_t host_id, const Drover__PeerMessage *message)
{
    CHECK(host_id != 0 && host_id != peers->config.self->host_id);
    if (peers->closed != NULL) {
        return DROVER_ECLOSED;
    }
    struct peer *peer = peer_find(peers, host_id);
    if (peer == NULL) {
        return DROVER_ELIMIT;
    }
    struct link *link = link_find(peers, host_id);
    if (link != NULL) {
        struct buffer out = {0};
        int rv = peer_message_encode(message, LIMIT_FRAME_BYTES, &out);
        rv = rv != 0 ? rv : tls_stream_write(link->stream, out.data, out.size);
        buffer_done(&out);
        return rv;
    }
    int rv = dial(peers, peer);
    return rv != 0 ? rv : peer_message_encode(message, LIMIT_FRAME_BYTES, &peer->queue);
}

void peers_touch(struct peers *peers, uint64_t host_id)
{
    struct peer *peer = peers->closed != NULL ? NULL : peer_find(peers, host_id);
    if (peer != NULL && link_find(peers, host_id) == NULL) {
        (void)dial(peers, peer); /* it is asked for again */
    }
}

bool peers_connected(const struct peers *peers, uint64_t host_id)
{
    return link_find(peers, host_id) != NULL;
}

void peers_drop(struct peers *peers, uint64_t host_id)
{
    for (struct link *link = peers->links; link != NULL; link = link->next) {
        if (link->host_id == host_id && link->stream != NULL) {
            tls_stream_close(link->stream, DROVER_EPEER, "the host was removed");
        } else if (link->host_id == host_id && link->channel != NULL) {
            peer_channel_cancel(link->channel);
        }
    }
}

void peers_close(struct peers *peers, void (*closed)(void *owner), void *owner)
{
    CHECK(peers->closed == NULL);
    peers->closed = closed;
    peers->closed_owner = owner;
    uv_close((uv_handle_t *)&peers->listener, on_listener_closed);
    for (struct link *link = peers->links; link != NULL; link = link->next) {
        if (link->stream != NULL) {
            tls_stream_close(link->stream, DROVER_ECANCELLED, NULL);
        } else if (link->channel != NULL) {
            peer_channel_cancel(link->channel);
        }
    }
}

void peers_free(struct peers *peers)
{
    if (peers == NULL) {
        return;
    }
    CHECK(peers->links == NULL && peers->listener_closed);
    for (unsigned i = 0; i < PEER_COUNT_MAX; i++) {
        buffer_done(&peers->hosts[i].queue);
    }
    free(peers);
}
