/* SPDX-License-Identifier: Apache-2.0 */
/* The process's share of RDMA: what transport_rdma.c and transport_rdma_connect.c share. */
#ifndef DROVER_MIGRATION_TRANSPORT_RDMA_SETUP_H
#define DROVER_MIGRATION_TRANSPORT_RDMA_SETUP_H

#include <pthread.h>
#include <stdbool.h>

#include "migration/transport_rdma.h"
#include "migration/transport_rdma_library.h"

struct rdma_memory;

#define RDMA_CHANNELS 24u /* links at a time: one move's, and strangers */

struct transport_rdma {
    struct rdma_library library;
    struct rdma_memory *memory;
    struct ibv_context **devices; /* open as long as this is */
    bool settled;
    struct rdma_event_channel *nursery; /* of `ids` */
    struct rdma_event_channel *left;    /* mostly NULL: see ids_move() */
    struct rdma_listener *listener;     /* NULL: nobody listens */
    pthread_mutex_t lock;               /* of what follows */
    struct rdma_cm_id *ids[TRANSPORT_RDMA_CONNECTS_MAX];
    unsigned id_count;
    struct rdma_event_channel *channels[RDMA_CHANNELS];
    unsigned channel_count;
};

/* The listener's part of settling: to a channel of its own, then to its address. */
int rdma_listener_move(struct transport_rdma *rdma);
int rdma_listener_begin(struct transport_rdma *rdma, struct error *err);
struct rdma_cm_id *rdma_id_take(struct transport_rdma *rdma); /* NULL: none is left */

#endif
