/* SPDX-License-Identifier: Apache-2.0 */
/* The open connections with other agents: which one is used, and what comes in. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "node-agent/peers_private.h"
#include "node-agent/tls_stream.h"

void peers_finish_close(struct peers *peers)
{
    if (peers->closed != NULL && peers->listener_closed && peers->links == NULL) {
        void (*closed)(void *owner) = peers->closed;
        peers->closed = NULL;
        closed(peers->closed_owner);
    }
}

/* ---- hosts and links ---- */

struct peer *peers_host_find(struct peers *peers, uint64_t host_id)
{
    struct peer *unused = NULL;
    for (unsigned i = 0; i < PEERS_HOSTS_MAX; i++) {
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
struct link *peers_link_find(const struct peers *peers, uint64_t host_id)
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

bool peers_dialling(const struct peers *peers, uint64_t host_id)
{
    for (const struct link *link = peers->links; link != NULL; link = link->next) {
        if (link->host_id == host_id && link->dialled && link->stream == NULL) {
            return true;
        }
    }
    return false;
}

struct link *peers_link_create(struct peers *peers, uint64_t host_id)
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

void peers_link_free(struct link *link)
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
    peers_finish_close(peers);
}

/* ---- an open link ---- */

static void on_closed(void *owner, struct tls_stream *stream, int error, const char *text)
{
    struct link *link = owner;
    struct peers *peers = link->peers;
    uint64_t host_id = link->host_id;
    link->stream = NULL;
    link->dialled = false;
    if (peers->closed == NULL && peers_link_find(peers, host_id) == NULL &&
        !peers_dialling(peers, host_id)) {
        peers->config.ops->lost(peers->config.owner, host_id, false, text);
    }
    peers_link_free(link);
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

void peers_link_open(struct link *link, const struct peer_opened *opened)
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
    struct peer *peer = peers_host_find(peers, link->host_id);
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
