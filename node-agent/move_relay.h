/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the kernel can't do TLS: a thread that carries bytes between a TLS connection and a
 * socket of a pair, whose other end a VMM gets. Bounded buffers, each side's slowness is
 * passed on to the other, and the end of one is the end of the other. All functions on one
 * thread, the owner's.
 */
#ifndef DROVER_NODE_AGENT_MOVE_RELAY_H
#define DROVER_NODE_AGENT_MOVE_RELAY_H

#include <stdbool.h>
#include <stdint.h>

#include "node-agent/tls_stream.h"

struct move_relay;

struct move_relay_end {
    uint64_t bytes_out, bytes_in;
    int error; /* 0: both sides ended in good order */
};

/* Takes what is in `taken` on success; *ret_fd is then the caller's. `ended` is called once, on the
 * relay's thread, its last act; after it move_relay_ended() is true. */
int move_relay_start(struct tls_taken *taken, void (*ended)(void *owner), void *owner,
                     struct move_relay **ret_relay, int *ret_fd);
bool move_relay_ended(const struct move_relay *relay);
/* Cuts it if it has not ended, waits for the thread, which comes at once. NULL is fine. */
void move_relay_free(struct move_relay *relay, struct move_relay_end *ret_end);

#endif
