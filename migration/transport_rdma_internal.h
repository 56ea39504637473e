/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the RDMA transport share. */
#ifndef DROVER_MIGRATION_TRANSPORT_RDMA_INTERNAL_H
#define DROVER_MIGRATION_TRANSPORT_RDMA_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration/transport.h"
#include "migration/transport_rdma_library.h"
#include "migration/transport_rdma_wire.h"

struct rdma_memory;
struct transport_rdma;

#define RDMA_SEND_BUFFERS 16u
#define RDMA_SEND_DEPTH   256u /* work requests under way */
#define RDMA_BATCH        16u  /* work requests of one call */
/* What is under way in writes: more would only make a cancel, and a time-out, late. */
#define RDMA_WRITE_BYTES    (256u * 1024)      /* of one */
#define RDMA_WRITES_BYTES   (4u * 1024 * 1024) /* of all */
#define RDMA_COMPLETIONS    16u
#define RDMA_LINGER_MS      1000u /* target: for what was sent last to arrive */
#define RDMA_LINGER_LEAVE_MS 50u  /* source: the guest may be standing */

/* Where the peer lets us place a chunk. */
enum rdma_place_state {
    RDMA_PLACE_UNKNOWN,
    RDMA_PLACE_ASKED,
    RDMA_PLACE_GRANTED,
    RDMA_PLACE_REFUSED,
};

struct rdma_place {
    uint64_t address;
    uint32_t key;
    enum rdma_place_state state;
};

/* One queue pair. Its owner's thread. */
struct rdma_link {
    struct transport_link link; /* first */
    struct transport_rdma *rdma;
    const struct rdma_library *library;
    struct rdma_memory *memory;
    bool passive; /* the target's */
    bool joined;  /* the memory's */
    bool armed;   /* the next completion makes `completions` readable */
    int cancel_fd;
    int error; /* the first one; what came before it is still delivered */

    struct rdma_event_channel *channel; /* of this link alone */
    struct rdma_cm_id *id;
    struct ibv_pd *pd;
    struct ibv_comp_channel *completions;
    struct ibv_cq *queue;
    uint8_t *buffers; /* to send from, then to receive into */
    struct ibv_mr *buffers_mr;

    struct rdma_credits credits;
    /* Work requests, counted: those posted, and those that are done. */
    uint64_t posted, completed;
    uint64_t send_busy_until[RDMA_SEND_BUFFERS]; /* free once so many are done */
    unsigned send_next;
    /* Bytes of writes, up to each work request. */
    uint64_t written_posted, written_done;
    uint64_t written_at[RDMA_SEND_DEPTH];

    struct {
        uint16_t buffer;
        uint32_t offset, size; /* of what is not consumed */
    } filled[RDMA_BUFFERS];
    unsigned filled_first, filled_count;

    struct rdma_key asks[RDMA_BUFFERS]; /* target: not answered yet */
    unsigned ask_first, ask_count;

    struct rdma_place *places[TRANSPORT_REGIONS_MAX]; /* source: by chunk */
    uint32_t place_count[TRANSPORT_REGIONS_MAX];
    bool offered;
    uint32_t marked;
};

/* Queue pair, buffers and what else a link needs; `id` has a device. -errno. */
int rdma_link_open(struct rdma_link *link);
/* Ends whatever there is of it, and frees it. */
void rdma_link_free(struct rdma_link *link);
const struct transport_link_ops *rdma_link_ops(void);

/* Keeps the first error. */
int rdma_link_fail(struct rdma_link *link, int error);
/* The next completions or events; 0 when there were any. As transport.h says. */
int rdma_link_progress(struct rdma_link *link, uint64_t until_ms);
/* Until a message of this kind can leave. */
int rdma_link_room(struct rdma_link *link, enum rdma_message type, uint32_t idle_ms);
/* The message's payload lies at rdma_link_payload(). There is room. */
uint8_t *rdma_link_payload(struct rdma_link *link);
int rdma_link_post(struct rdma_link *link, enum rdma_message type, uint32_t size);
/* Posts `count` work requests that are chained; the last one tells when all are done. */
int rdma_link_post_chain(struct rdma_link *link, struct ibv_send_wr *first,
                         unsigned count);

/* transport_rdma_place.c */
int rdma_place_offer(struct transport_link *link, const struct transport_region *regions,
                     unsigned count, bool writable);
int rdma_place_place(struct transport_link *link, unsigned region,
                     const struct transport_piece *pieces, unsigned count, bool ask,
                     uint32_t idle_ms);
int rdma_place_mark(struct transport_link *link, uint32_t value, uint32_t idle_ms);
uint32_t rdma_place_marked(struct transport_link *link);
void rdma_place_seal(struct transport_link *link);
/* What came: an ASK or a KEY. */
int rdma_place_message(struct rdma_link *link, const struct rdma_header *header,
                       const uint8_t *payload);
/* Answers what can be answered now. */
int rdma_place_answer(struct rdma_link *link);
void rdma_place_done(struct rdma_link *link);

/* transport_rdma.c: event channels for links; NULL: none is left. */
struct rdma_event_channel *rdma_channel_take(struct transport_rdma *rdma);
void rdma_channel_give(struct transport_rdma *rdma, struct rdma_event_channel *channel);

#endif
