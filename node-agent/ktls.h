/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TLS 1.3 connection that the kernel goes on with: who has the descriptor reads and
 * writes plain bytes, and no key. Any thread.
 */
#ifndef DROVER_NODE_AGENT_KTLS_H
#define DROVER_NODE_AGENT_KTLS_H

#include "node-agent/tls_stream.h"

/*
 * 0: this connection can be given to the kernel, if it can do with its cipher; nothing else has
 * changed. -ENOTSUP: this kernel can't. Borrows.
 */
int ktls_attach(int fd);
/*
 * 0: the connection at `taken->fd` is the kernel's. -ENOTSUP: this kernel can't, or not with the
 * connection's cipher; nothing has changed. Any other error: the connection is of no use
 * any more. Borrows.
 */
int ktls_install(const struct tls_taken *taken);
/*
 * 0: this kernel can. Tries it on a connection of its own, for which the kernel loads what modules it needs: that
 * can take seconds, so not on a loop's thread. -ENOTSUP or -errno.
 */
int ktls_probe(void);

#endif
