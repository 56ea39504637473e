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
#include "node-agent/peers_private.h"
#include "node-agent/tls_stream.h"

#define REDIAL_MS_FIRST 100u
#define LISTEN_BACKLOG  64

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
        peers_link_free(link);
        return;
    }
    if (opened->kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_JOIN) {
        peers_link_free(link);
        peers->config.ops->join_opened(peers->config.owner, opened);
        return;
    }
    if (!peers->config.ops->admits(peers->config.owner, opened->host_id)) {
        refuse(peers, opened,
               "it is no member of this cluster any more: remove its state folder and "
               "join it anew");
        peers_link_free(link);
        return;
    }
    if (opened->kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_RAFT) {
        peers_link_free(link);
        peers->config.ops->raft_opened(peers->config.owner, opened);
        return;
    }
    if (opened->kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_MOVE) {
        peers_link_free(link);
        peers->config.ops->move_opened(peers->config.owner, opened);
        return;
    }
    peers_link_open(link, opened);
}

static void dial_failed(struct peers *peers, uint64_t host_id, const char *text)
{
    struct peer *peer = peers_host_find(peers, host_id);
    if (peer != NULL) {
        uint32_t next = peer->redial_ms == 0 ? REDIAL_MS_FIRST : peer->redial_ms * 2;
        peer->redial_ms =
            next > peers->config.redial_ms_max ? peers->config.redial_ms_max : next;
        peer->redial_at_ms = clock_now_ms() + peer->redial_ms;
        buffer_consume(&peer->queue, peer->queue.size);
    }
    if (peers_link_find(peers, host_id) == NULL) {
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
    peers_link_free(link);
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
    if (peers_dialling(peers, peer->host_id)) {
        return 0;
    }
    if (clock_now_ms() < peer->redial_at_ms) {
        return DROVER_ECLOSED;
    }
    const char *address = peers->config.ops->address(peers->config.owner, peer->host_id);
    if (address == NULL || address[0] == '\0') {
        return DROVER_ENOTFOUND;
    }
    struct link *link = peers_link_create(peers, peer->host_id);
    if (link == NULL) {
        return -ENOMEM;
    }
    struct peer_channel_config config = channel_config(peers, link);
    int rv =
        peer_channel_dial(&config, address, peer->host_id,
                          DROVER__PEER_CHANNEL__PEER_CHANNEL_AGENT, &link->channel, NULL);
    if (rv != 0) {
        peers_link_free(link);
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
    struct link *link = pending < PEERS_PENDING_MAX ? peers_link_create(peers, 0) : NULL;
    if (link == NULL) {
        discard(peers);
        return;
    }
    struct peer_channel_config config = channel_config(peers, link);
    if (peer_channel_accept(&config, listener, &link->channel, NULL) != 0) {
        peers_link_free(link);
        discard(peers);
    }
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct peers *peers = handle->data;
    peers->listener_closed = true;
    peers_finish_close(peers);
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
    struct peer *peer = peers_host_find(peers, host_id);
    if (peer == NULL) {
        return DROVER_ELIMIT;
    }
    struct link *link = peers_link_find(peers, host_id);
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
    struct peer *peer = peers->closed != NULL ? NULL : peers_host_find(peers, host_id);
    if (peer != NULL && peers_link_find(peers, host_id) == NULL) {
        (void)dial(peers, peer); /* it is asked for again */
    }
}

bool peers_connected(const struct peers *peers, uint64_t host_id)
{
    return peers_link_find(peers, host_id) != NULL;
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
    for (unsigned i = 0; i < PEERS_HOSTS_MAX; i++) {
        buffer_done(&peers->hosts[i].queue);
    }
    free(peers);
}
