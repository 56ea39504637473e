/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by virtio_block.c (the device), block_io.c, block_request.c and the two engines,
 * block_uring.c and block_vhost.c. The device's lock guards all of it. */
#ifndef DROVER_VMM_VIRTIO_BLOCK_IO_H
#define DROVER_VMM_VIRTIO_BLOCK_IO_H

#include <liburing.h>

#include "vmm/storage/block_disk.h"
#include "vmm/virtio/rate_limit.h"
#include "vmm/virtio/virtio.h"

#define BLOCK_QUEUE_SIZE 256
#define BLOCK_SEGMENTS_MAX                                                               \
    253 /* data segments of one request: header, range and status take one each */
#define BLOCK_BOUNCES     4
#define BLOCK_BOUNCE_SIZE (256u * 1024u)
#define BLOCK_ID_SIZE     20
#define BLOCK_HEADER_SIZE 16 /* of a request */
#define BLOCK_RETRIES_MAX 16
#define BLOCK_FEW         8 /* segments of a small request, which touches less memory */
/* What a guest asks for at once is cut, so that stopping never waits long for what is
 * under way. */
#define BLOCK_SUBMIT_MAX    (4u * 1024u * 1024u)
#define BLOCK_RANGE_SECTORS (1u << 17) /* of one discard or write-zeroes: 64 MiB */

#define BLOCK_FEATURE_SEG_MAX      VIRTIO_FEATURE(2)
#define BLOCK_FEATURE_RO           VIRTIO_FEATURE(5)
#define BLOCK_FEATURE_BLK_SIZE     VIRTIO_FEATURE(6)
#define BLOCK_FEATURE_FLUSH        VIRTIO_FEATURE(9)
#define BLOCK_FEATURE_MQ           VIRTIO_FEATURE(12)
#define BLOCK_FEATURE_DISCARD      VIRTIO_FEATURE(13)
#define BLOCK_FEATURE_WRITE_ZEROES VIRTIO_FEATURE(14)

enum block_status {
    BLOCK_STATUS_OK = 0,
    BLOCK_STATUS_IOERR = 1,
    BLOCK_STATUS_UNSUPP = 2
};

enum block_kind { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_ZEROES };

/*
 * The way of a request:
 *
 *   free -> pending -> submitted -> free (given back)
 *             ^  \        |
 *             |   `-> waiting for a bounce buffer
 *             `-----------'  (short, or larger than one piece: the rest; or the storage
 *                             daemon has died, and another one gets it)
 */
struct block_request {
    struct block_request *next; /* in the list of free, pending or waiting ones */
    enum block_kind kind;
    bool unmap;    /* of BLOCK_ZEROES */
    bool charged;  /* against the limits */
    bool flushing; /* a write whose data is with the daemon, and not stable yet */
    unsigned queue_index;
    unsigned retries;
    uint64_t offset; /* on the disk, bytes */
    uint64_t size;
    uint64_t done;
    uint64_t flush_mark; /* of BLOCK_FLUSH: the writes that it covers */
    uint8_t *bounce;     /* NULL: none */
    size_t submitted_bytes;
    struct iovec few[BLOCK_FEW]; /* instead of `vectors` where they do */
    struct virtqueue_chain chain;
    struct iovec vectors[VIRTQUEUE_SEGMENTS_MAX];
};

struct block_list {
    struct block_request *first;
    struct block_request *last;
};

struct virtio_block;

/* Where requests go: the host's kernel, or a storage daemon. */
struct block_engine {
    /* Prepares the next piece of a request; false: something is not free that it needs,
     * and it waits. */
    bool (*prepare)(struct virtio_block *block, struct block_request *request);
    /* Hands on all that was prepared, also what an earlier call could not. */
    void (*submit)(struct virtio_block *block);
    /* True if something was prepared that is not handed on yet. */
    bool (*unsent)(const struct virtio_block *block);
    /* True if it takes requests now. */
    bool (*ready)(struct virtio_block *block);
    /* The request gives up what it holds of the engine. */
    void (*release)(struct virtio_block *block, struct block_request *request);
    /* On the I/O loop, once. */
    int (*attach)(struct virtio_block *block);
    /* True if nothing that was handed on can reach the disk any more. Main thread. */
    bool (*idle)(struct virtio_block *block);
    void (*free)(struct virtio_block *block); /* half-built is fine */
};

struct block_uring {
    struct io_uring ring;
    bool ring_ready;
    int done_fd; /* eventfd: the ring has completions */
    struct event_source *done_source;
    uint8_t *bounces[BLOCK_BOUNCES]; /* the free ones first */
    unsigned bounce_free_count;
    uint8_t *bounce_memory;
};

struct virtio_block {
    struct virtio_device virtio;
    struct block_disk disk;
    char *path;
    uint8_t serial[BLOCK_ID_SIZE];
    const struct block_engine *engine;
    struct block_uring uring;
    struct block_vhost *vhost; /* NULL: none */
    unsigned submitted_count;
    bool error_logged;
    bool starved; /* a queue has more requests than there are structs for */
    struct rate_limit request_limit, byte_limit;
    struct event_source *limit_timer;
    struct block_list pending, waiting;
    struct block_request *free; /* used last, taken first */
    struct block_request *requests;
    unsigned request_count; /* that there may be */
    unsigned request_begun; /* from here on none was ever touched */
    /* Taken before a migration, to be begun first: queue << 16 | head. */
    uint32_t taken_heads[BLOCK_QUEUE_SIZE];
    unsigned taken_count;
};

int block_uring_init(struct virtio_block *block, int lock_fd, struct error *err);

int block_io_init(struct virtio_block *block, unsigned request_count, struct error *err);
void block_io_done(struct virtio_block *block);
/* On the I/O loop, once. */
int block_io_attach(struct virtio_block *block);
/* Takes what is in a queue's ring, and submits. */
void block_io_run(struct virtio_block *block, unsigned queue_index);
/* Submits what is pending, and tells the guest what came back. */
void block_io_continue(struct virtio_block *block);
/* Drops requests that have not been submitted: the guest has reset the device. */
void block_io_forget(struct virtio_block *block);
/* The requests that have not been submitted, as queue << 16 | head; returns their number.
 */
unsigned block_io_taken(const struct virtio_block *block,
                        uint32_t ret_heads[BLOCK_QUEUE_SIZE]);
/* For engines: a piece is back, with its bytes or 0 (what is no transfer), or -errno. */
void block_io_returned(struct virtio_block *block, struct block_request *request,
                       int64_t ret);

static inline struct virtqueue *block_ring(struct virtio_block *block,
                                           const struct block_request *request)
{
    return &block->virtio.queues[request->queue_index].ring;
}

void block_list_add(struct block_list *list, struct block_request *request);
/* The first, or NULL. */
struct block_request *block_list_take(struct block_list *list);
/* A free request, or NULL. */
struct block_request *block_request_take(struct virtio_block *block);
void block_request_put(struct virtio_block *block, struct block_request *request);
/* Judges a request whose chain has been taken: ends it, or makes it pending. Takes
 * `request`, which is in no list. */
void block_request_begin(struct virtio_block *block, struct block_request *request);
/* Gives a request back, unless the guest has given the device up; it is free then. */
void block_request_end(struct virtio_block *block, struct block_request *request,
                       enum block_status status);

#endif
