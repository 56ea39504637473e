/* SPDX-License-Identifier: Apache-2.0 */
/* The way of virtio-blk's requests from the queue through io_uring and back. What they
 * say: block_request.c. */
#include "vmm/virtio/block_io.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

#define SUBMIT_TRIES_MAX                                                                 \
    100 /* a millisecond each: the host's kernel is out of memory                        \
         */

/* ---- submitting ----------------------------------------------------------- */

static bool vectors_aligned(const struct block_disk *disk, const struct iovec *vectors,
                            int count)
{
    uintptr_t bits = 0;

    for (int i = 0; i < count; i++) {
        bits |= (uintptr_t)vectors[i].iov_base & (disk->memory_align - 1);
        bits |= vectors[i].iov_len & (disk->offset_align - 1);
    }
    return bits == 0;
}

/* Direct I/O wants aligned memory; a guest need not have it. False: no buffer is free,
 * wait for one. */
static bool bounce_take(struct virtio_block *block, struct block_request *request)
{
    uint64_t left = request->size - request->done;

    if (request->bounce == NULL) {
        if (block->bounce_free_count == 0) {
            return false;
        }
        request->bounce = block->bounces[--block->bounce_free_count];
    }
    request->submitted_bytes =
        left < BLOCK_BOUNCE_SIZE ? (size_t)left : BLOCK_BOUNCE_SIZE;
    request->vectors[0] =
        (struct iovec){.iov_base = request->bounce, .iov_len = request->submitted_bytes};
    if (request->kind == BLOCK_WRITE) {
        int ret = virtqueue_chain_read(block_ring(block), &request->chain,
                                       BLOCK_HEADER_SIZE + request->done, request->bounce,
                                       request->submitted_bytes);

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
    count = virtqueue_chain_vectors(block_ring(block), &request->chain, !is_write,
                                    (is_write ? BLOCK_HEADER_SIZE : 0) + request->done,
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
        /* Without flush there is no other time at which the guest could learn that it is
         * stable. */
        bool through = !virtio_feature(&block->virtio, BLOCK_FEATURE_FLUSH);

        io_uring_prep_writev2(sqe, block->disk.fd, request->vectors, (unsigned)count,
                              offset, through ? RWF_DSYNC : 0);
    } else {
        io_uring_prep_readv(sqe, block->disk.fd, request->vectors, (unsigned)count,
                            offset);
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
        io_uring_prep_fallocate(sqe, block->disk.fd, request->fallocate_mode,
                                request->offset, request->size);
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
    while ((request = block_list_take(&block->pending)) != NULL) {
        if (request_prepare(block, request)) {
            block->submitted_count++;
        } else {
            block_list_add(&block->waiting, request);
        }
    }
    ring_submit(block);
}

/* ---- completing ----------------------------------------------------------- */

static void log_once(struct virtio_block *block, const struct block_request *request,
                     int ret)
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
                  " failed: %s (the guest was told; further errors of this disk are not "
                  "logged)",
                  block->disk.path, names[request->kind], request->size, request->offset,
                  ret == 0 ? "the file has become shorter" : err_text(ret));
    }
}

static void transfer_complete(struct virtio_block *block, struct block_request *request,
                              int ret)
{
    if (ret > (int64_t)request->submitted_bytes || ret < 0 || ret == 0) {
        log_once(block, request, ret < 0 ? ret : 0);
        block_request_end(block, request, BLOCK_STATUS_IOERR);
        return;
    }
    if (request->kind == BLOCK_READ && request->bounce != NULL) {
        int written = virtqueue_chain_write(block_ring(block), &request->chain,
                                            request->done, request->bounce, (size_t)ret);

        CHECK(written == 0); /* inside the chain by construction */
    }
    request->done += (uint64_t)ret;
    request->retries = 0;
    if (request->done < request->size) {
        block_list_add(&block->pending, request);
        return;
    }
    block_request_end(block, request, BLOCK_STATUS_OK);
}

/* Holes are a wish of the guest; zeroes are not: there the guest falls back to writing
 * them. */
static void range_complete(struct virtio_block *block, struct block_request *request,
                           int ret)
{
    bool unsupported = ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -EINVAL;

    if (ret == 0 || (unsupported && request->kind == BLOCK_DISCARD)) {
        block_request_end(block, request, BLOCK_STATUS_OK);
    } else if (unsupported && request->kind == BLOCK_ZEROES) {
        block_request_end(block, request, BLOCK_STATUS_UNSUPP);
    } else {
        log_once(block, request, ret);
        block_request_end(block, request, BLOCK_STATUS_IOERR);
    }
}

static void request_complete(struct virtio_block *block, struct block_request *request,
                             int ret)
{
    bool is_transfer = request->kind == BLOCK_READ || request->kind == BLOCK_WRITE;

    if (request->kind == BLOCK_READ) {
        /* What has come of it, also if it failed half way, was written by the host's
         * kernel. */
        virtqueue_chain_mark_dirty(block_ring(block), &request->chain, request->done,
                                   request->submitted_bytes);
    }
    if ((ret == -EINTR || ret == -EAGAIN) && request->retries++ < BLOCK_RETRIES_MAX) {
        block_list_add(&block->pending, request);
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

/* ---- taking from the queue ------------------------------------------------ */

static void taken_begin(struct virtio_block *block)
{
    for (unsigned i = 0; i < block->taken_count; i++) {
        struct block_request *request = block_list_take(&block->free);

        CHECK(request != NULL); /* nothing else has begun yet */
        if (virtqueue_chain_load(block_ring(block), block->taken_heads[i],
                                 &request->chain) < 0) {
            block_list_add(&block->free, request);
            virtio_broken(&block->virtio, block_ring(block)->broken);
            break;
        }
        block_request_begin(block, request);
    }
    block->taken_count = 0;
}

/* True if the guest may have added more while notifications were being asked for. */
static bool queue_take(struct virtio_block *block)
{
    struct virtqueue *ring = block_ring(block);

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
        block_request_begin(block, block_list_take(&block->free));
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
    while ((request = block_list_take(&block->pending)) != NULL ||
           (request = block_list_take(&block->waiting)) != NULL) {
        if (request->bounce != NULL) {
            block->bounces[block->bounce_free_count++] = request->bounce;
            request->bounce = NULL;
        }
        block_list_add(&block->free, request);
    }
    block->taken_count = 0;
}

unsigned block_io_taken(const struct virtio_block *block,
                        uint16_t ret_heads[BLOCK_QUEUE_SIZE])
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

/* ---- making and releasing ------------------------------------------------- */

/*
 * A killed process is gone before its requests are: a write that hangs in the host's
 * kernel may still reach the disk. The ring lives as long as they do, and holds this file
 * open, and so the lock by which others know that this VMM is gone.
 */
static int lock_keep(struct virtio_block *block, int lock_fd, struct error *err)
{
    int ret = lock_fd > 0 ? io_uring_register_files(&block->ring, &lock_fd, 1) : 0;

    return ret < 0
               ? error_set(err, ret, "the ring of disk %s can't keep the VM's lock: %s",
                           block->disk.path, err_text(ret))
               : 0;
}

int block_io_init(struct virtio_block *block, int lock_fd, struct error *err)
{
    int ret = io_uring_queue_init(BLOCK_QUEUE_SIZE, &block->ring, 0);

    if (ret < 0) {
        return error_set(
            err, ret,
            "no io_uring for disk %s: %s (sysctl kernel.io_uring_disabled must be 0)",
            block->disk.path, err_text(ret));
    }
    block->ring_ready = true;
    ret = lock_keep(block, lock_fd, err);
    if (ret < 0) {
        return ret;
    }
    block->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (block->done_fd < 0 ||
        io_uring_register_eventfd(&block->ring, block->done_fd) < 0) {
        return error_set(err, -EMFILE,
                         "no eventfd for disk %s: raise the limit of open files",
                         block->disk.path);
    }
    block->requests = calloc(BLOCK_QUEUE_SIZE, sizeof(block->requests[0]));
    if (block->disk.direct) {
        block->bounce_memory = aligned_alloc(BLOCK_DISK_ALIGN_MAX,
                                             (size_t)BLOCK_BOUNCES * BLOCK_BOUNCE_SIZE);
    }
    if (block->requests == NULL || (block->disk.direct && block->bounce_memory == NULL)) {
        return error_set(err, -ENOMEM, "no memory for disk %s", block->disk.path);
    }
    for (unsigned i = 0; i < BLOCK_QUEUE_SIZE; i++) {
        block_list_add(&block->free, &block->requests[i]);
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
