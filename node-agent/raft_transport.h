/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raft's connections over TLS: each is a RAFT channel between two agents, pumped to and from a socket pair whose other
 * end libraft has. Loop thread only.
 */
#ifndef DROVER_NODE_AGENT_RAFT_TRANSPORT_H
#define DROVER_NODE_AGENT_RAFT_TRANSPORT_H

#include <stdint.h>
#include <uv.h>

#include "consensus/raft_node.h"
#include "node-agent/peer_channel.h"

struct error;
struct raft_transport;

struct raft_transport_config {
    uv_loop_t *loop;
    struct tls_context *context;  /* borrowed */
    const struct peer_self *self; /* borrowed */
    uint32_t open_ms, ack_ms;
};

int raft_transport_create(const struct raft_transport_config *config,
                          struct raft_transport **ret_transport, struct error *err);
/* For raft_node_config.transport; its owner is the raft_transport. */
const struct raft_node_transport *raft_transport_ops(void);
/* A RAFT channel that another host opened: takes its stream. *ret_stream is for raft_node_accept(). */
int raft_transport_accept(struct raft_transport *transport, const struct peer_opened *opened,
                          uv_stream_t **ret_stream);
/* After raft_node_close(). `closed` once, perhaps from inside the call. */
void raft_transport_close(struct raft_transport *transport, void (*closed)(void *owner), void *owner);
void raft_transport_free(struct raft_transport *transport);

#endif
