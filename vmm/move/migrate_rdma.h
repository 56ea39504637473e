/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RDMA of a VM that was started with --rdma or --incoming rdma:. What it needs of the
 * host is taken before the jail closes; what is missing there is no error, but a notice,
 * and TCP is used instead. Main thread, but for migrate_rdma_transport()'s links.
 */
#ifndef DROVER_VMM_MOVE_MIGRATE_RDMA_H
#define DROVER_VMM_MOVE_MIGRATE_RDMA_H

#include <stdbool.h>

#include "migration/transport.h"

struct log;
struct migrate_rdma;
struct transport_rdma;

int migrate_rdma_create(const struct log *log, const char *name,
                        struct migrate_rdma **ret_rdma);
void migrate_rdma_free(struct migrate_rdma *rdma); /* NULL is fine */
/* For an arrival, before settling: at "HOST:PORT", by both. */
int migrate_rdma_listen(struct migrate_rdma *rdma, const char *address,
                        struct transport_listener **ret_listener, struct error *err);
/* The same beside connections that are handed over ("handed:HOST:PORT"); without RDMA, those
 * only. */
int migrate_rdma_listen_beside(struct migrate_rdma *rdma, const char *address,
                               const char *handed_uri,
                               struct transport_listener **ret_listener,
                               struct error *err);
/* Where such an arrival takes RDMA, once it is settled; "": it does not. */
void migrate_rdma_incoming(const struct migrate_rdma *rdma,
                           char ret_address[TRANSPORT_URI_SIZE]);
/* See transport_rdma_settle(); always 0, so that the VM runs without it. */
int migrate_rdma_settle(void *rdma, struct error *err);
/* NULL: it does not work here, for the reason of migrate_rdma_notice(). */
struct transport_rdma *migrate_rdma_transport(struct migrate_rdma *rdma);
const char *migrate_rdma_notice(const struct migrate_rdma *rdma); /* "": nothing */

#endif
