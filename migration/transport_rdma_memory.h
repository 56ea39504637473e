/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory as RDMA devices see it: registered in chunks when first needed, once for
 * all links of a process that lie on the same device, and forgotten when the last of them
 * is closed. Any thread.
 */
#ifndef DROVER_MIGRATION_TRANSPORT_RDMA_MEMORY_H
#define DROVER_MIGRATION_TRANSPORT_RDMA_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/transport.h"

struct ibv_context;
struct ibv_mr;
struct ibv_pd;
struct rdma_library;
struct rdma_memory;

int rdma_memory_create(const struct rdma_library *library,
                       struct rdma_memory **ret_memory);
void rdma_memory_free(struct rdma_memory *memory); /* NULL is fine; nobody joins any more */

/* One link more, which lies on `device`: the protection domain for it. -EXDEV when the
 * others lie elsewhere. */
int rdma_memory_join(struct rdma_memory *memory, struct ibv_context *device,
                     struct ibv_pd **ret_pd);
void rdma_memory_leave(struct rdma_memory *memory);
/* What may be registered, the same for all links; `writable`: by the peer. DROVER_EINUSE
 * when it was something else before, and a link is still there. */
int rdma_memory_offer(struct rdma_memory *memory, const struct transport_region *regions,
                      unsigned count, bool writable);
/* The chunk's registration, which stays until the last link has left. DROVER_EBADINPUT
 * when there is no such chunk, -errno when the device can't. */
int rdma_memory_chunk(struct rdma_memory *memory, unsigned region, uint32_t chunk,
                      struct ibv_mr **ret_mr);

#endif
