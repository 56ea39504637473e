/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of virtio-blk (virtio 1.2, 5.2.6) and their way through io_uring. */
#include "vmm/virtio/block_io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/event_loop.h"
#include "vmm/vm.h"

#define SUBMIT_TRIES_MAX 100 /* a millisecond each: the host's kernel is out of memory */

/* Header: 0 type u32 | 4 reserved u32 | 8 sector u64. Discard and zeroes: 0 sector u64 | 8 sectors u32 | 12 flags u32. */
#define HEADER_SIZE 16
#define RANGE_SIZE  16

enum {
    TYPE_IN = 0,
    TYPE_OUT = 1,
    TYPE_FLUSH = 4,
    TYPE_GET_ID = 8,
    TYPE_DISCARD = 11,
    TYPE_WRITE_ZEROES = 13,
    RANGE_UNMAP = 1,
};

enum status { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPP = 2 };

static struct virtqueue *ring_of(struct virtio_block *block)
{
    return &block->virtio.queues[0].ring;
}

/* ---- lists and buffers ---------------------------------------------------------------------- */

static void list_add(struct block_list *list, struct block_request *request)
{
    request->next = NULL;
    if (list->last != NULL) {
        list->last->next = request;
    } else {
        list->first = request;
    }
    list->last = request;
}

static struct block_request *list_take(struct block_list *list)
{
    struct block_request *request = list->first;

    if (request != NULL) {
        list->first = request->next;
        if (list->first == NULL) {
            list->last = NULL;
        }
        request->next = NULL;
    }
    return request;
}

static void bounce_release(struct virtio_block *block, struct block_request *request)
{
    struct block_request *waiting;

    if (request->bounce == NULL) {
        return;
    }
    CHECK(block->bounce_free_count < BLOCK_BOUNCES);
    block->bounces[block->bounce_free_count++] = request->bounce;
    request->bounce = NULL;
    waiting = list_take(&block->waiting);
    if (waiting != NULL) {
        list_add(&block->pending, waiting);
    }
}

/* ---- ending a request -------------------------------------------------------------------------- */

/* The request's memory is free again; the guest is told unless it has given the device up. */
static void request_end(struct virtio_block *block, struct block_request *request,
                        enum status status)
{
    struct virtqueue *ring = ring_of(block);
    const struct virtqueue_chain *chain = &request->chain;
    uint64_t data_bytes = chain->writable_bytes - 1;
    uint64_t written = request->kind == BLOCK_READ ? request->done : 0;
    uint8_t byte = (uint8_t)status;

    bounce_release(block, request);
    if (!block->virtio.resetting && !(block->virtio.status & VIRTIO_STATUS_NEEDS_RESET)) {
        int ret = virtqueue_chain_write(ring, chain, data_bytes, &byte, 1);

        CHECK(ret == 0); /* that there is a status byte was judged first of all */
        if (written == data_bytes) {
            written++;
        }
        virtqueue_push(ring, chain->head, (uint32_t)written);
    }
    list_add(&block->free, request);
}

static void log_once(struct virtio_block *block, const struct block_request *request, int ret)
{
    static const char *const names[] = {[BLOCK_READ] = "read",
                                        [BLOCK_WRITE] = "write",
                                        [BLOCK_FLUSH] = "flush",
                                        [BLOCK_DISCARD] = "discard",
                                        [BLOCK_ZEROES] = "write of zeroes"};

    if (!block->error_logged) {
        block->error_logged = true;
        log_error(vm_log(block->virtio.vm),
                  "disk %s: %s of %" PRIu64 " bytes at %" PRIu64
                  " failed: %s (the guest was told; further errors of this disk are not logged)",
                  block->disk.path, names[request->kind], request->size, request->offset,
                  ret == 0 ? "the file has become shorter" : err_text(ret));
    }
}

/* ---- beginning a request ----------------------------------------------------------------------- */

static bool range_valid(const struct virtio_block *block, uint64_t sector, uint64_t size)
{
    uint64_t capacity = block->disk.size_bytes / BLOCK_SECTOR_SIZE;
    uint32_t align = block->disk.direct ? block->disk.offset_align : BLOCK_SECTOR_SIZE;

    return size % align == 0 && sector <= capacity &&
           size / BLOCK_SECTOR_SIZE <= capacity - sector &&
           sector * BLOCK_SECTOR_SIZE % align == 0;
}

static void transfer_begin(struct virtio_block *block, struct block_request *request,
                           uint64_t sector)
{
    if (!range_valid(block, sector, request->size)) {
        request_end(block, request, STATUS_IOERR);
        return;
    }
    request->offset = sector * BLOCK_SECTOR_SIZE;
    if (request->size == 0) {
        request_end(block, request, STATUS_OK);
        return;
    }
    list_add(&block->pending, request);
}

static void range_begin(struct virtio_block *block, struct block_request *request, bool discard)
{
    uint8_t range[RANGE_SIZE];
    uint64_t sector;
    uint32_t count, flags;

    if (request->chain.readable_bytes != HEADER_SIZE + RANGE_SIZE ||
        virtqueue_chain_read(ring_of(block), &request->chain, HEADER_SIZE, range, RANGE_SIZE) < 0) {
        request_end(block, request, STATUS_IOERR);
        return;
    }
    memcpy(&sector, range, 8);
    memcpy(&count, range + 8, 4);
    memcpy(&flags, range + 12, 4);
    if ((flags & ~(uint32_t)RANGE_UNMAP) != 0 || (discard && flags != 0)) {
        request_end(block, request, STATUS_UNSUPP);
        return;
    }
    request->kind = discard ? BLOCK_DISCARD : BLOCK_ZEROES;
    request->fallocate_mode = discard || (flags & RANGE_UNMAP)
                                  ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                                  : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    request->size = count <= BLOCK_RANGE_SECTORS ? (uint64_t)count * BLOCK_SECTOR_SIZE : UINT64_MAX;
    transfer_begin(block, request, sector);
}

static void id_write(struct virtio_block *block, struct block_request *request)
{
    uint64_t room = request->chain.writable_bytes - 1;
    size_t size = room < BLOCK_ID_SIZE ? (size_t)room : BLOCK_ID_SIZE;
    int ret = virtqueue_chain_write(ring_of(block), &request->chain, 0, block->serial, size);

    CHECK(ret == 0); /* fits */
    request->done = size;
    request_end(block, request, STATUS_OK);
}

static void request_begin(struct virtio_block *block, struct block_request *request)
{
    const struct virtqueue_chain *chain = &request->chain;
    uint8_t header[HEADER_SIZE];
    uint32_t type;
    uint64_t sector;

    request->kind = BLOCK_READ;
    request->done = request->size = request->offset = 0;
    request->retries = 0;
    request->bounce = NULL;
    if (chain->writable_bytes < 1 ||
        virtqueue_chain_read(ring_of(block), chain, 0, header, HEADER_SIZE) < 0) {
        virtio_broken(&block->virtio, "a request has no header or no status byte");
        list_add(&block->free, request);
        return;
    }
    memcpy(&type, header, 4);
    memcpy(&sector, header + 8, 8);
    if (block->disk.read_only && (type == TYPE_OUT || type == TYPE_DISCARD || type == TYPE_WRITE_ZEROES)) {
        request_end(block, request, STATUS_IOERR);
        return;
    }
    switch (type) {
    case TYPE_IN:
        request->size = chain->writable_bytes - 1;
        transfer_begin(block, request, sector);
        break;
    case TYPE_OUT:
        request->kind = BLOCK_WRITE;
        request->size = chain->readable_bytes - HEADER_SIZE;
        transfer_begin(block, request, sector);
        break;
    case TYPE_FLUSH:
        request->kind = BLOCK_FLUSH;
        list_add(&block->pending, request);
        break;
    case TYPE_GET_ID:
        id_write(block, request);
        break;
    case TYPE_DISCARD:
    case TYPE_WRITE_ZEROES:
        range_begin(block, request, type == TYPE_DISCARD);
        break;
    default:
        request_end(block, request, STATUS_UNSUPP);
        break;
    }
}

/* ---- submitting -------------------------------------------------------------------------------- */

static bool vectors_aligned(const struct block_disk *disk, const struct iovec *vectors, int count)
{
    uintptr_t bits = 0;

    for (int i = 0; i < count; i++) {
        bits |= (uintptr_t)vectors[i].iov_base & (disk->memory_align - 1);
        bits |= vectors[i].iov_len & (disk->offset_align - 1);
    }
    return bits == 0;
}

/* Direct I/O wants aligned memory; a guest need not have it. False: no buffer is free, wait for one. */
static bool bounce_take(struct virtio_block *block, struct block_request *request)
{
    uint64_t left = request->size - request->done;

    if (request->bounce == NULL) {
        if (block->bounce_free_count == 0) {
            return false;
        }
        request->bounce = block->bounces[--block->bounce_free_count];
    }
    request->submitted_bytes = left < BLOCK_BOUNCE_SIZE ? (size_t)left : BLOCK_BOUNCE_SIZE;
    request->vectors[0] =
        (struct iovec){.iov_base = request->bounce, .iov_len = request->submitted_bytes};
    if (request->kind == BLOCK_WRITE) {
        int ret = virtqueue_chain_read(ring_of(block), &request->chain, HEADER_SIZE + request->done,
                                       request->bounce, request->submitted_bytes);

        CHECK(ret == 0); /* inside the chain by construction */
    }
    return true;
}

static bool transfer_prepare(struct virtio_block *block, struct block_request *request)
{
    bool is_write = request->kind == BLOCK_WRITE;
    uint64_t offset = request->offset + request->done;
    struct io_uring_sqe *sqe;
    int count;

    request->submitted_bytes = request->size - request->done;
    if (request->submitted_bytes > BLOCK_SUBMIT_MAX) {
        request->submitted_bytes = BLOCK_SUBMIT_MAX;
    }
    count = virtqueue_chain_vectors(ring_of(block), &request->chain, !is_write,
                                    (is_write ? HEADER_SIZE : 0) + request->done,
                                    request->submitted_bytes, request->vectors);
    CHECK(count > 0);
    if (block->disk.direct && !vectors_aligned(&block->disk, request->vectors, count)) {
        if (!bounce_take(block, request)) {
            return false;
        }
        count = 1;
    }
    sqe = io_uring_get_sqe(&block->ring);
    CHECK(sqe != NULL); /* the ring is as long as the queue */
    if (is_write) {
        /* Without flush there is no other time at which the guest could learn that it is stable. */
        bool through = !virtio_feature(&block->virtio, BLOCK_FEATURE_FLUSH);

        io_uring_prep_writev2(sqe, block->disk.fd, request->vectors, (unsigned)count, offset,
                              through ? RWF_DSYNC : 0);
    } else {
        io_uring_prep_readv(sqe, block->disk.fd, request->vectors, (unsigned)count, offset);
    }
    io_uring_sqe_set_data(sqe, request);
    return true;
}

static bool request_prepare(struct virtio_block *block, struct block_request *request)
{
    struct io_uring_sqe *sqe;

    if (request->kind == BLOCK_READ || request->kind == BLOCK_WRITE) {
        return transfer_prepare(block, request);
    }
    sqe = io_uring_get_sqe(&block->ring);
    CHECK(sqe != NULL);
    if (request->kind == BLOCK_FLUSH) {
        io_uring_prep_fsync(sqe, block->disk.fd, IORING_FSYNC_DATASYNC);
    } else {
        io_uring_prep_fallocate(sqe, block->disk.fd, request->fallocate_mode, request->offset,
                                request->size);
    }
    io_uring_sqe_set_data(sqe, request);
    return true;
}

static void ring_submit(struct virtio_block *block)
{
    for (unsigned tries = 0; io_uring_sq_ready(&block->ring) > 0; tries++) {
        struct timespec pause = {.tv_nsec = (long)NS_PER_MS};

        if (io_uring_submit(&block->ring) > 0) {
            continue;
        }
        if (tries >= SUBMIT_TRIES_MAX) {
            /* They count as submitted, so that nobody takes the disk for quiet. */
            (void)event_loop_timer_set(block->virtio.retry_timer,
                                       clock_now_ns() + VIRTIO_RETRY_MS * NS_PER_MS);
            return;
        }
        (void)nanosleep(&pause, NULL);
    }
}

static void submit(struct virtio_block *block)
{
    struct block_request *request;

    if (block->pending.first == NULL && io_uring_sq_ready(&block->ring) == 0) {
        return;
    }
    if (!virtio_io_allowed(&block->virtio)) {
        return;
    }
    while ((request = list_take(&block->pending)) != NULL) {
        if (request_prepare(block, request)) {
            block->submitted_count++;
        } else {
            list_add(&block->waiting, request);
        }
    }
    ring_submit(block);
}

/* ---- completing -------------------------------------------------------------------------------- */

static void transfer_complete(struct virtio_block *block, struct block_request *request, int ret)
{
    if (ret > (int64_t)request->submitted_bytes || ret < 0 || ret == 0) {
        log_once(block, request, ret < 0 ? ret : 0);
        request_end(block, request, STATUS_IOERR);
        return;
    }
    if (request->kind == BLOCK_READ && request->bounce != NULL) {
        int written = virtqueue_chain_write(ring_of(block), &request->chain, request->done,
                                            request->bounce, (size_t)ret);

        CHECK(written == 0); /* inside the chain by construction */
    }
    request->done += (uint64_t)ret;
    request->retries = 0;
    if (request->done < request->size) {
        list_add(&block->pending, request);
        return;
    }
    request_end(block, request, STATUS_OK);
}

/* Holes are a wish of the guest; zeroes are not: there the guest falls back to writing them. */
static void range_complete(struct virtio_block *block, struct block_request *request, int ret)
{
    bool unsupported = ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -EINVAL;

    if (ret == 0 || (unsupported && request->kind == BLOCK_DISCARD)) {
        request_end(block, request, STATUS_OK);
    } else if (unsupported && request->kind == BLOCK_ZEROES) {
        request_end(block, request, STATUS_UNSUPP);
    } else {
        log_once(block, request, ret);
        request_end(block, request, STATUS_IOERR);
    }
}

static void request_complete(struct virtio_block *block, struct block_request *request, int ret)
{
    bool is_transfer = request->kind == BLOCK_READ || request->kind == BLOCK_WRITE;

    if (request->kind == BLOCK_READ) {
        /* What has come of it, also if it failed half way, was written by the host's kernel. */
        virtqueue_chain_mark_dirty(ring_of(block), &request->chain, request->done,
                                   request->submitted_bytes);
    }
    if ((ret == -EINTR || ret == -EAGAIN) && request->retries++ < BLOCK_RETRIES_MAX) {
        list_add(&block->pending, request);
    } else if (is_transfer) {
        transfer_complete(block, request, ret);
    } else {
        range_complete(block, request, ret);
    }
}

void block_io_complete(struct virtio_block *block)
{
    struct io_uring_cqe *cqe;

    while (io_uring_peek_cqe(&block->ring, &cqe) == 0) {
        struct block_request *request = io_uring_cqe_get_data(cqe);
        int ret = cqe->res;

        io_uring_cqe_seen(&block->ring, cqe);
        CHECK(block->submitted_count > 0);
        block->submitted_count--;
        request_complete(block, request, ret);
    }
    submit(block);
    if (virtio_running(&block->virtio) || atomic_load(&block->virtio.stopped)) {
        virtio_queue_signal(&block->virtio, 0);
    }
    if (block->submitted_count == 0) {
        virtio_became_idle(&block->virtio);
    }
}

/* ---- taking from the queue -------------------------------------------------------------------- */

static void taken_begin(struct virtio_block *block)
{
    for (unsigned i = 0; i < block->taken_count; i++) {
        struct block_request *request = list_take(&block->free);

        CHECK(request != NULL); /* nothing else has begun yet */
        if (virtqueue_chain_load(ring_of(block), block->taken_heads[i], &request->chain) < 0) {
            list_add(&block->free, request);
            virtio_broken(&block->virtio, ring_of(block)->broken);
            break;
        }
        request_begin(block, request);
    }
    block->taken_count = 0;
}

/* True if the guest may have added more while notifications were being asked for. */
static bool queue_take(struct virtio_block *block)
{
    struct virtqueue *ring = ring_of(block);

    virtqueue_notify_disable(ring);
    for (;;) {
        struct block_request *request = block->free.first;
        int ret;

        if (request == NULL || !virtio_running(&block->virtio)) {
            break;
        }
        ret = virtqueue_pop(ring, &request->chain);
        if (ret < 0) {
            virtio_broken(&block->virtio, ring->broken);
            return false;
        }
        if (ret == 0) {
            break;
        }
        request_begin(block, list_take(&block->free));
    }
    virtqueue_notify_enable(ring);
    return block->free.first != NULL && virtio_running(&block->virtio) &&
           virtqueue_pending(ring);
}

void block_io_run(struct virtio_block *block)
{
    if (virtio_io_allowed(&block->virtio)) {
        taken_begin(block);
        /* Once more at most: a guest that adds for ever waits for its next turn. */
        if (queue_take(block) && queue_take(block)) {
            virtio_queue_kick(&block->virtio, 0);
        }
        virtio_queue_signal(&block->virtio, 0);
    }
    submit(block);
}

void block_io_forget(struct virtio_block *block)
{
    struct block_request *request;

    CHECK(block->submitted_count == 0);
    while ((request = list_take(&block->pending)) != NULL ||
           (request = list_take(&block->waiting)) != NULL) {
        if (request->bounce != NULL) {
            block->bounces[block->bounce_free_count++] = request->bounce;
            request->bounce = NULL;
        }
        list_add(&block->free, request);
    }
    block->taken_count = 0;
}

unsigned block_io_taken(const struct virtio_block *block, uint16_t ret_heads[BLOCK_QUEUE_SIZE])
{
    const struct block_list *lists[] = {&block->pending, &block->waiting};
    unsigned count = 0;

    for (unsigned i = 0; i < block->taken_count; i++) {
        ret_heads[count++] = block->taken_heads[i];
    }
    for (unsigned i = 0; i < 2; i++) {
        for (const struct block_request *request = lists[i]->first; request != NULL;
             request = request->next) {
            CHECK(count < BLOCK_QUEUE_SIZE);
            ret_heads[count++] = request->chain.head;
        }
    }
    return count;
}

/* ---- making and releasing ---------------------------------------------------------------------- */

int block_io_init(struct virtio_block *block, struct error *err)
{
    int ret = io_uring_queue_init(BLOCK_QUEUE_SIZE, &block->ring, 0);

    if (ret < 0) {
        return error_set(err, ret,
                         "no io_uring for disk %s: %s (sysctl kernel.io_uring_disabled must be 0)",
                         block->disk.path, err_text(ret));
    }
    block->ring_ready = true;
    block->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (block->done_fd < 0 || io_uring_register_eventfd(&block->ring, block->done_fd) < 0) {
        return error_set(err, -EMFILE, "no eventfd for disk %s: raise the limit of open files",
                         block->disk.path);
    }
    block->requests = calloc(BLOCK_QUEUE_SIZE, sizeof(block->requests[0]));
    if (block->disk.direct) {
        block->bounce_memory = aligned_alloc(BLOCK_DISK_ALIGN_MAX, (size_t)BLOCK_BOUNCES * BLOCK_BOUNCE_SIZE);
    }
    if (block->requests == NULL || (block->disk.direct && block->bounce_memory == NULL)) {
        return error_set(err, -ENOMEM, "no memory for disk %s", block->disk.path);
    }
    for (unsigned i = 0; i < BLOCK_QUEUE_SIZE; i++) {
        list_add(&block->free, &block->requests[i]);
    }
    for (unsigned i = 0; i < BLOCK_BOUNCES && block->disk.direct; i++) {
        block->bounces[block->bounce_free_count++] =
            block->bounce_memory + (size_t)i * BLOCK_BOUNCE_SIZE;
    }
    return 0;
}

void block_io_done(struct virtio_block *block)
{
    if (block->ring_ready) {
        io_uring_queue_exit(&block->ring);
    }
    if (block->done_fd >= 0) {
        (void)close(block->done_fd);
    }
    free(block->requests);
    free(block->bounce_memory);
}
