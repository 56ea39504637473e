/* SPDX-License-Identifier: Apache-2.0 */
/* raft_uv's view of the agent's connections. */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "consensus/raft_private.h"

static int transport_init(struct raft_uv_transport *transport, raft_id id,
                          const char *address)
{
    return 0;
}

static int transport_listen(struct raft_uv_transport *transport, raft_uv_accept_cb accept)
{
    struct raft_node *node = transport->impl;
    node->accept = accept;
    return 0;
}

static void drop_stream(struct uv_stream_s *stream)
{
    uv_close((uv_handle_t *)stream, (uv_close_cb)free);
}

void raft_node_accept(struct raft_node *node, uint64_t host_id, const char *address,
                      struct uv_stream_s *stream)
{
    if (node->accept == NULL || node->transport_closing || node->halted) {
        drop_stream(stream);
        return;
    }
    node->accept(&node->transport, host_id, address, stream);
}

static void unlink_connecting(struct raft_node *node,
                              const struct raft_connecting *connecting)
{
    struct raft_connecting **at = &node->connecting;
    while (*at != connecting) {
        CHECK(*at != NULL);
        at = &(*at)->next;
    }
    *at = connecting->next;
}

static void maybe_transport_closed(struct raft_node *node)
{
    if (node->transport_closed != NULL && node->connecting == NULL) {
        raft_uv_transport_close_cb closed = node->transport_closed;
        node->transport_closed = NULL;
        closed(&node->transport);
    }
}

static void on_connected(void *raft_side, struct uv_stream_s *stream, int error)
{
    struct raft_connecting *connecting = raft_side;
    struct raft_node *node = connecting->node;
    struct raft_uv_connect *request = connecting->request;
    unlink_connecting(node, connecting);
    free(connecting);
    int status = error != 0 ? RAFT_NOCONNECTION : 0;
    if (node->transport_closing) {
        status = RAFT_CANCELED;
    }
    if (status != 0 && stream != NULL) {
        drop_stream(stream);
        stream = NULL;
    }
    CHECK(status != 0 || stream != NULL);
    request->cb(request, stream, status);
    maybe_transport_closed(node);
}

static int transport_connect(struct raft_uv_transport *transport,
                             struct raft_uv_connect *request, raft_id id,
                             const char *address, raft_uv_connect_cb done)
{
    struct raft_node *node = transport->impl;
    struct raft_connecting *connecting = calloc(1, sizeof(*connecting));
    if (connecting == NULL) {
        return RAFT_NOMEM;
    }
    connecting->node = node;
    connecting->request = request;
    connecting->next = node->connecting;
    node->connecting = connecting;
    request->cb = done;
    int rv = node->config.transport->connect(node->config.transport_owner, id, address,
                                             on_connected, connecting,
                                             &connecting->agent_request);
    if (rv != 0) {
        unlink_connecting(node, connecting);
        free(connecting);
        return RAFT_NOCONNECTION;
    }
    return 0;
}

static void transport_close(struct raft_uv_transport *transport,
                            raft_uv_transport_close_cb closed)
{
    struct raft_node *node = transport->impl;
    node->transport_closing = true;
    node->transport_closed = closed;
    /* A cancelled one may end inside the call, and leave the list. */
    struct raft_connecting *next;
    for (struct raft_connecting *at = node->connecting; at != NULL; at = next) {
        next = at->next;
        node->config.transport->cancel(node->config.transport_owner, at->agent_request);
    }
    maybe_transport_closed(node);
}

void raft_transport_init(struct raft_node *node)
{
    node->transport = (struct raft_uv_transport){
        .version = 1,
        .impl = node,
        .init = transport_init,
        .listen = transport_listen,
        .connect = transport_connect,
        .close = transport_close,
    };
}
