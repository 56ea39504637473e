/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The encrypted connections over which guests move: made between two agents, each with the
 * certificates of the cluster, and then handed to the two VMMs as plain sockets. What
 * encrypts them from then on is the kernel where it can, else a thread here
 * (move_relay.h). Loop thread only; callbacks come from the loop, never inside a call.
 */
#ifndef DROVER_NODE_AGENT_MOVES_H
#define DROVER_NODE_AGENT_MOVES_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "node-agent/peer_channel.h"

struct error;
struct move_dial;
struct moves;

#define MOVES_ACCEPTING_MAX 32  /* connections that are not handed over yet */
#define MOVES_RELAYS_MAX    128 /* threads */

/* What the other side is told first: MoveOpen. */
struct move_wish {
    uint64_t vm_id;
    uint64_t epoch; /* of the VMM that waits at the target */
    unsigned stream;
    Drover__MoveEncryption encryption; /* at the source; moves_dial() fills it in */
};

/* One that stands. */
struct move_socket {
    int fd;            /* the receiver's */
    bool by_kernel;    /* else by a relay */
    const char *cipher;
};

struct moves_ops {
    /* Target: 0, or a refusal whose text the source gets. */
    int (*judge)(void *owner, uint64_t host_id, const struct move_wish *wish,
                 struct error *err);
    /* Target: the source has its answer. Takes socket->fd. */
    void (*arrived)(void *owner, uint64_t host_id, const struct move_wish *wish,
                    const struct move_socket *socket);
    /* Worth a line. */
    void (*note)(void *owner, const char *text);
};

struct moves_config {
    uv_loop_t *loop;
    struct tls_context *context;  /* borrowed */
    const struct peer_self *self; /* borrowed */
    uint32_t open_ms;             /* for all of it, up to the handing over */
    uint32_t ack_ms;              /* a peer without power is noticed by then */
    bool relay_only;              /* leave the kernel's TLS alone */
    const struct moves_ops *ops;
    void *owner;
};

/* Whether the kernel can encrypt is found out in the background: until then, relays do. */
int moves_create(const struct moves_config *config, struct moves **ret_moves);
/* False: it is not known yet. */
bool moves_probed(const struct moves *moves, bool *ret_by_kernel);
/* Cuts what is under way, and all relays. */
void moves_close(struct moves *moves, void (*closed)(void *owner), void *owner);
void moves_free(struct moves *moves);

/* Source. Exactly one of the two, once; the dial is gone then. */
struct move_dial_ops {
    /* Takes socket->fd. */
    void (*opened)(void *owner, const struct move_socket *socket);
    void (*failed)(void *owner, int error, const char *text);
};
/* `address` is of host `host_id`, and nobody else may answer there. */
int moves_dial(struct moves *moves, uint64_t host_id, const char *address,
               const struct move_wish *wish, const struct move_dial_ops *ops, void *owner,
               struct move_dial **ret_dial, struct error *err);
/* Neither is called any more. */
void moves_dial_cancel(struct move_dial *dial);

/* Target: of a member, right after its hello. Takes the stream. */
void moves_accept(struct moves *moves, const struct peer_opened *opened);

#endif
