/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk's requests to a raw file or block device, by io_uring. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "vmm/host/event_loop.h"
#include "vmm/host/ring.h"
#include "vmm/virtio/block_io.h"
#include "vmm/vm.h"

#define SUBMIT_TRIES_MAX                                                                 \
    100 /* a millisecond each: the host's kernel is out of memory                        \
         */

/* ---- preparing ------------------------------------------------------------ */

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
        if (block->uring.bounce_free_count == 0) {
            return false;
        }
        request->bounce = block->uring.bounces[--block->uring.bounce_free_count];
    }
    request->submitted_bytes =
        left < BLOCK_BOUNCE_SIZE ? (size_t)left : BLOCK_BOUNCE_SIZE;
    request->few[0] =
        (struct iovec){.iov_base = request->bounce, .iov_len = request->submitted_bytes};
    if (request->kind == BLOCK_WRITE) {
        int ret = virtqueue_chain_read(block_ring(block, request), &request->chain,
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
    bool is_small =
        request->chain.readable_count + request->chain.writable_count <= BLOCK_FEW;
    struct iovec *vectors = is_small ? request->few : request->vectors;
    struct io_uring_sqe *sqe;
    int count;

    request->submitted_bytes = request->size - request->done;
    if (request->submitted_bytes > BLOCK_SUBMIT_MAX) {
        request->submitted_bytes = BLOCK_SUBMIT_MAX;
    }
    count =
        virtqueue_chain_vectors(block_ring(block, request), &request->chain, !is_write,
                                (is_write ? BLOCK_HEADER_SIZE : 0) + request->done,
                                request->submitted_bytes, vectors);
    CHECK(count > 0);
    if (block->disk.direct && !vectors_aligned(&block->disk, vectors, count)) {
        if (!bounce_take(block, request)) {
            return false;
        }
        vectors = request->few;
        count = 1;
    }
    sqe = io_uring_get_sqe(&block->uring.ring);
    CHECK(sqe != NULL); /* the ring is as long as the queue */
    if (is_write) {
        /* Without flush there is no other time at which the guest could learn that it is
         * stable. */
        bool through = !virtio_feature(&block->virtio, BLOCK_FEATURE_FLUSH);

        io_uring_prep_writev2(sqe, block->disk.fd, vectors, (unsigned)count, offset,
                              through ? RWF_DSYNC : 0);
    } else {
        io_uring_prep_readv(sqe, block->disk.fd, vectors, (unsigned)count, offset);
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
    sqe = io_uring_get_sqe(&block->uring.ring);
    CHECK(sqe != NULL);
    if (request->kind == BLOCK_FLUSH) {
        io_uring_prep_fsync(sqe, block->disk.fd, IORING_FSYNC_DATASYNC);
    } else {
        bool holes = request->kind == BLOCK_DISCARD || request->unmap;

        io_uring_prep_fallocate(sqe, block->disk.fd,
                                FALLOC_FL_KEEP_SIZE |
                                    (holes ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
                                request->offset, request->size);
        request->submitted_bytes = request->size;
    }
    io_uring_sqe_set_data(sqe, request);
    return true;
}

static void ring_submit(struct virtio_block *block)
{
    for (unsigned tries = 0; io_uring_sq_ready(&block->uring.ring) > 0; tries++) {
        struct timespec pause = {.tv_nsec = (long)NS_PER_MS};

        if (io_uring_submit(&block->uring.ring) > 0) {
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

static bool unsent(const struct virtio_block *block)
{
    return io_uring_sq_ready(&block->uring.ring) > 0;
}

static bool ready(struct virtio_block *block)
{
    (void)block; /* the host's kernel is there */
    return true;
}

/* ---- coming back ---------------------------------------------------------- */

static void completed(void *owner, uint32_t epoll_events)
{
    struct virtio_block *block = owner;
    struct io_uring_cqe *cqe;
    uint64_t count;

    (void)epoll_events;
    (void)!read(block->uring.done_fd, &count,
                sizeof(count)); /* empty is fine: then it was spurious */
    pthread_mutex_lock(&block->virtio.lock);
    while (io_uring_peek_cqe(&block->uring.ring, &cqe) == 0) {
        struct block_request *request = io_uring_cqe_get_data(cqe);
        int ret = cqe->res;

        io_uring_cqe_seen(&block->uring.ring, cqe);
        block_io_returned(block, request, ret);
    }
    block_io_continue(block);
    pthread_mutex_unlock(&block->virtio.lock);
}

static void release(struct virtio_block *block, struct block_request *request)
{
    struct block_request *waiting;

    if (request->bounce == NULL) {
        return;
    }
    CHECK(block->uring.bounce_free_count < BLOCK_BOUNCES);
    block->uring.bounces[block->uring.bounce_free_count++] = request->bounce;
    request->bounce = NULL;
    waiting = block_list_take(&block->waiting);
    if (waiting != NULL) {
        block_list_add(&block->pending, waiting);
    }
}

/* ---- making and releasing ------------------------------------------------- */

static int attach(struct virtio_block *block)
{
    return event_loop_add(vm_io_loop(block->virtio.vm), block->uring.done_fd, EPOLLIN,
                          completed, block, &block->uring.done_source);
}

static bool idle(struct virtio_block *block)
{
    return block->submitted_count == 0;
}

static void uring_free(struct virtio_block *block)
{
    struct block_uring *uring = &block->uring;

    event_loop_remove(uring->done_source);
    if (uring->ring_ready) {
        io_uring_queue_exit(&uring->ring);
    }
    if (uring->done_fd >= 0) {
        (void)close(uring->done_fd);
    }
    free(uring->bounce_memory);
}

static const struct block_engine uring_engine = {
    .prepare = request_prepare,
    .submit = ring_submit,
    .unsent = unsent,
    .ready = ready,
    .release = release,
    .attach = attach,
    .idle = idle,
    .free = uring_free,
};

/*
 * A killed process is gone before its requests are: a write that hangs in the host's
 * kernel may still reach the disk. The ring lives as long as they do, and holds this file
 * open, and so the lock by which others know that this VMM is gone.
 */
static int lock_keep(struct virtio_block *block, int lock_fd, struct error *err)
{
    int ret = lock_fd > 0 ? io_uring_register_files(&block->uring.ring, &lock_fd, 1) : 0;

    return ret < 0
               ? error_set(err, ret, "the ring of disk %s can't keep the VM's lock: %s",
                           block->disk.path, err_text(ret))
               : 0;
}

static int bounces_init(struct virtio_block *block, struct error *err)
{
    struct block_uring *uring = &block->uring;

    if (!block->disk.direct) {
        return 0;
    }
    /* Not touched before a guest needs them. */
    uring->bounce_memory =
        aligned_alloc(BLOCK_DISK_ALIGN_MAX, (size_t)BLOCK_BOUNCES * BLOCK_BOUNCE_SIZE);
    if (uring->bounce_memory == NULL) {
        return error_set(err, -ENOMEM, "no memory for disk %s", block->disk.path);
    }
    for (unsigned i = 0; i < BLOCK_BOUNCES; i++) {
        uring->bounces[uring->bounce_free_count++] =
            uring->bounce_memory + (size_t)i * BLOCK_BOUNCE_SIZE;
    }
    return 0;
}

int block_uring_init(struct virtio_block *block, int lock_fd, struct error *err)
{
    struct block_uring *uring = &block->uring;
    int ret;

    uring->done_fd = -1;
    block->engine = &uring_engine;
    ret = ring_open(&uring->ring, BLOCK_QUEUE_SIZE);
    if (ret < 0) {
        return error_set(
            err, ret,
            "no io_uring for disk %s: %s (sysctl kernel.io_uring_disabled must be 0)",
            block->disk.path, err_text(ret));
    }
    uring->ring_ready = true;
    ret = lock_keep(block, lock_fd, err);
    if (ret < 0) {
        return ret;
    }
    uring->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (uring->done_fd < 0 ||
        io_uring_register_eventfd(&uring->ring, uring->done_fd) < 0) {
        return error_set(err, -EMFILE,
                         "no eventfd for disk %s: raise the limit of open files",
                         block->disk.path);
    }
    ret = ring_seal(&uring->ring);
    if (ret < 0) {
        return error_set(err, ret, "can't restrict the io_uring of disk %s: %s",
                         block->disk.path, err_text(ret));
    }
    return bounces_init(block, err);
}
