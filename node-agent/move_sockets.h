/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes sockets for VMMs of connections that stand: the kernel goes on with their TLS
 * where it can, else a thread here does (move_relay.h). Which it will be is found out in
 * the background. For moves.c; loop thread only.
 */
#ifndef DROVER_NODE_AGENT_MOVE_SOCKETS_H
#define DROVER_NODE_AGENT_MOVE_SOCKETS_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct move_socket;
struct move_sockets;
struct move_wish;
struct tls_stream;

struct move_sockets_config {
    uv_loop_t *loop;
    uint32_t ack_ms; /* as in moves_config */
    bool relay_only;
    /* Worth a line. */
    void (*note)(void *owner, const struct move_wish *wish, const char *text);
    void *owner;
};

int move_sockets_create(const struct move_sockets_config *config,
                        struct move_sockets **ret_sockets);
/* False: it is not known yet whether the kernel can encrypt. */
bool move_sockets_probed(const struct move_sockets *sockets, bool *ret_by_kernel);
/* What the next one would be. */
bool move_sockets_by_kernel(const struct move_sockets *sockets);
/* Whether the kernel will have this connection; it is made ready for that. So what is told of it
 * is true, though a module may have gone since the kernel was tried. */
bool move_sockets_prepare(const struct move_sockets *sockets,
                          const struct tls_stream *stream);
/* Takes the stream in any case; its owner must not mind any more. `by_kernel` only if the
 * kernel can; if it refuses all the same, a relay has it. */
int move_sockets_make(struct move_sockets *sockets, struct tls_stream *stream,
                      const struct move_wish *wish, bool by_kernel,
                      struct move_socket *ret_socket);
/* Cuts all relays. */
void move_sockets_close(struct move_sockets *sockets, void (*closed)(void *owner),
                        void *owner);
/* NULL is fine. */
void move_sockets_free(struct move_sockets *sockets);

#endif
