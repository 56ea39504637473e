/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by virtio_block.c (the device), block_io.c and block_request.c only. The
 * device's lock guards all of it. */
#ifndef DROVER_VMM_VIRTIO_BLOCK_IO_H
#define DROVER_VMM_VIRTIO_BLOCK_IO_H

#include <liburing.h>

#include "vmm/virtio/block_disk.h"
#include "vmm/virtio/virtio.h"

#define BLOCK_QUEUE_SIZE 256
#define BLOCK_SEGMENTS_MAX                                                               \
    254 /* data segments of one request: header and status take one each */
#define BLOCK_BOUNCES     4
#define BLOCK_BOUNCE_SIZE (256u * 1024u)
#define BLOCK_ID_SIZE     20
#define BLOCK_HEADER_SIZE 16 /* of a request */
#define BLOCK_RETRIES_MAX 16
/* What a guest asks for at once is cut, so that stopping never waits long for what is
 * under way. */
#define BLOCK_SUBMIT_MAX    (4u * 1024u * 1024u)
#define BLOCK_RANGE_SECTORS (1u << 17) /* of one discard or write-zeroes: 64 MiB */

#define BLOCK_FEATURE_SEG_MAX      VIRTIO_FEATURE(2)
#define BLOCK_FEATURE_RO           VIRTIO_FEATURE(5)
#define BLOCK_FEATURE_BLK_SIZE     VIRTIO_FEATURE(6)
#define BLOCK_FEATURE_FLUSH        VIRTIO_FEATURE(9)
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
 *             `-----------'  (short, or larger than the bounce buffer: the rest)
 */
struct block_request {
    struct block_request *next; /* in the list of free, pending or waiting ones */
    enum block_kind kind;
    bool unmap; /* of BLOCK_ZEROES */
    unsigned retries;
    uint64_t offset; /* on the disk, bytes */
    uint64_t size;
    uint64_t done;
    uint8_t *bounce; /* NULL: none */
    size_t submitted_bytes;
    int fallocate_mode;
    struct virtqueue_chain chain;
    struct iovec vectors[VIRTQUEUE_SEGMENTS_MAX];
};

struct block_list {
    struct block_request *first;
    struct block_request *last;
};

struct virtio_block {
    struct virtio_device virtio;
    struct block_disk disk;
    char *path;
    uint8_t serial[BLOCK_ID_SIZE];
    struct io_uring ring;
    bool ring_ready;
    int done_fd; /* eventfd: the ring has completions */
    struct event_source *done_source;
    unsigned submitted_count;
    bool error_logged;
    struct block_list free, pending, waiting;
    uint8_t *bounces[BLOCK_BOUNCES]; /* the free ones first */
    unsigned bounce_free_count;
    uint8_t *bounce_memory;
    struct block_request *requests;
    /* Taken before a migration, to be begun first. */
    uint16_t taken_heads[BLOCK_QUEUE_SIZE];
    unsigned taken_count;
};

int block_io_init(struct virtio_block *block, int lock_fd, struct error *err);
void block_io_done(struct virtio_block *block);
/* Takes what is in the ring, and submits. */
void block_io_run(struct virtio_block *block);
/* Completions are there. */
void block_io_complete(struct virtio_block *block);
/* Drops requests that have not been submitted: the guest has reset the device. */
void block_io_forget(struct virtio_block *block);
/* Heads of the requests that have not been submitted, in `ret_heads`; returns their
 * number. */
unsigned block_io_taken(const struct virtio_block *block,
                        uint16_t ret_heads[BLOCK_QUEUE_SIZE]);

static inline struct virtqueue *block_ring(struct virtio_block *block)
{
    return &block->virtio.queues[0].ring;
}

void block_list_add(struct block_list *list, struct block_request *request);
/* The first, or NULL. */
struct block_request *block_list_take(struct block_list *list);
/* Judges a request whose chain has been taken: ends it, or makes it pending. Takes
 * `request`, which is in no list. */
void block_request_begin(struct virtio_block *block, struct block_request *request);
/* Gives a request back, unless the guest has given the device up; it is free then. */
void block_request_end(struct virtio_block *block, struct block_request *request,
                       enum block_status status);

#endif
