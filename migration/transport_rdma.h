/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RDMA as a transport: links between two queue pairs, set up by rdma_cm. Nothing on the
 * way is encrypted. All that has a name on the host is opened by open() and settle(); a
 * process that gives up its rights in between (a jail) can still connect and accept, for
 * a bounded number of links.
 */
#ifndef DROVER_MIGRATION_TRANSPORT_RDMA_H
#define DROVER_MIGRATION_TRANSPORT_RDMA_H

#include <stdint.h>

#include "migration/transport.h"

struct transport_rdma;

/* Links that a process that was settled in a jail can still connect, in all. */
#define TRANSPORT_RDMA_CONNECTS_MAX 64u

/* An error says what is missing. */
int transport_rdma_open(struct transport_rdma **ret_rdma, struct error *err);
/*
 * Before settle(), from which on it listens: "HOST:PORT", of an address that a device
 * has. Beside that it takes plain TCP there, at once; or, with `handed` (not NULL: as
 * "handed:" has it), only connections that are handed to it. The listener belongs to the
 * caller and is closed before `rdma`.
 */
int transport_rdma_listen(struct transport_rdma *rdma, const char *address,
                          const char *handed, struct transport_listener **ret_listener,
                          struct error *err);
/* Of such a listener beside `handed`, by number and with the real port and the key that only
 * those know who are told: "IP:PORT#KEY"; "": by RDMA nothing can come. */
void transport_rdma_listener_address(const struct transport_listener *listener,
                                     char ret_address[TRANSPORT_URI_SIZE]);
/*
 * Once, with the user and the rights that links will be used with, for the kernel takes
 * orders only from those who opened a device; and with the host's files still in sight.
 * After an error there is no RDMA, but the listener takes TCP.
 */
int transport_rdma_settle(struct transport_rdma *rdma, struct error *err);
/* Any thread. `address` ("HOST:PORT" or "HOST:PORT#KEY") by number, once the process is in a
 * jail. As transport_ops. */
int transport_rdma_connect(struct transport_rdma *rdma, const char *address,
                           int cancel_fd, uint32_t wait_ms, uint32_t idle_ms,
                           struct transport_link **ret_link, struct error *err);
/* No link and no listener is left. NULL is fine. */
void transport_rdma_close(struct transport_rdma *rdma);

#endif
