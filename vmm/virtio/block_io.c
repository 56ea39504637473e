/* SPDX-License-Identifier: Apache-2.0 */
/* The way of virtio-blk's requests from the queue to an engine and back. What they
 * say: block_request.c. */
#include "vmm/virtio/block_io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/host/event_loop.h"
#include "vmm/vm.h"

/* ---- submitting ----------------------------------------------------------- */

/* False: it has to wait; the timer will look again. */
static bool limits_allow(struct virtio_block *block, struct block_request *request)
{
    bool is_transfer = request->kind == BLOCK_READ || request->kind == BLOCK_WRITE;
    uint64_t now_ns, wait_ns, bytes_ns;

    if (!is_transfer || request->charged ||
        (block->request_limit.units_per_s == 0 && block->byte_limit.units_per_s == 0)) {
        return true;
    }
    now_ns = clock_now_ns();
    wait_ns = rate_limit_wait_ns(&block->request_limit, now_ns);
    bytes_ns = rate_limit_wait_ns(&block->byte_limit, now_ns);
    wait_ns = wait_ns > bytes_ns ? wait_ns : bytes_ns;
    if (wait_ns > 0) {
        (void)event_loop_timer_set(block->limit_timer, now_ns + wait_ns);
        return false;
    }
    rate_limit_take(&block->request_limit, 1);
    rate_limit_take(&block->byte_limit, request->size);
    request->charged = true;
    return true;
}

static void submit(struct virtio_block *block)
{
    struct block_request *request;

    if (block->pending.first == NULL && !block->engine->unsent(block)) {
        return;
    }
    if (!virtio_io_allowed(&block->virtio) || !block->engine->ready(block)) {
        return;
    }
    while ((request = block->pending.first) != NULL && limits_allow(block, request)) {
        (void)block_list_take(&block->pending);
        if (block->engine->prepare(block, request)) {
            block->submitted_count++;
        } else {
            block_list_add(&block->waiting, request);
        }
    }
    block->engine->submit(block);
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
                              int64_t ret)
{
    if (ret > (int64_t)request->submitted_bytes || ret < 0 || ret == 0) {
        log_once(block, request, ret < 0 ? (int)ret : 0);
        block_request_end(block, request, BLOCK_STATUS_IOERR);
        return;
    }
    if (request->kind == BLOCK_READ && request->bounce != NULL) {
        int written = virtqueue_chain_write(block_ring(block, request), &request->chain,
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

    if (ret == 0) {
        request->done += request->submitted_bytes;
        if (request->done < request->size) {
            block_list_add(&block->pending, request);
            return;
        }
    }
    if (ret == 0 || (unsupported && request->kind == BLOCK_DISCARD)) {
        block_request_end(block, request, BLOCK_STATUS_OK);
    } else if (unsupported && request->kind == BLOCK_ZEROES) {
        block_request_end(block, request, BLOCK_STATUS_UNSUPP);
    } else {
        log_once(block, request, ret);
        block_request_end(block, request, BLOCK_STATUS_IOERR);
    }
}

void block_io_returned(struct virtio_block *block, struct block_request *request,
                       int64_t ret)
{
    bool is_transfer = request->kind == BLOCK_READ || request->kind == BLOCK_WRITE;

    CHECK(block->submitted_count > 0);
    block->submitted_count--;
    if (request->kind == BLOCK_READ) {
        /* What has come of it, also if it failed half way, was written behind our back.
         */
        virtqueue_chain_mark_dirty(block_ring(block, request), &request->chain,
                                   request->done, request->submitted_bytes);
    }
    if ((ret == -EINTR || ret == -EAGAIN) && request->retries++ < BLOCK_RETRIES_MAX) {
        block_list_add(&block->pending, request);
    } else if (is_transfer) {
        transfer_complete(block, request, ret);
    } else {
        range_complete(block, request, (int)ret);
    }
}

static bool requests_left(const struct virtio_block *block)
{
    return block->free != NULL || block->request_begun < block->request_count;
}

static void signal_all(struct virtio_block *block)
{
    if (virtio_running(&block->virtio) || atomic_load(&block->virtio.stopped)) {
        for (unsigned i = 0; i < block->virtio.queue_count; i++) {
            virtio_queue_signal(&block->virtio, i);
        }
    }
}

void block_io_continue(struct virtio_block *block)
{
    submit(block);
    signal_all(block);
    if (block->starved && requests_left(block)) {
        block->starved = false;
        for (unsigned i = 0; i < block->virtio.queue_count; i++) {
            virtio_queue_kick(&block->virtio, i);
        }
    }
    if (block->submitted_count == 0) {
        virtio_became_idle(&block->virtio);
    }
}

/* ---- taking from the queue ------------------------------------------------ */

static void taken_begin(struct virtio_block *block)
{
    for (unsigned i = 0; i < block->taken_count; i++) {
        struct block_request *request = block_request_take(block);

        if (request == NULL) {
            /* Another engine than where it comes from: the rest has its turn later. */
            block->taken_count -= i;
            memmove(block->taken_heads, block->taken_heads + i,
                    block->taken_count * sizeof(block->taken_heads[0]));
            block->starved = true;
            return;
        }
        request->queue_index = block->taken_heads[i] >> 16;
        if (virtqueue_chain_load(block_ring(block, request),
                                 (uint16_t)block->taken_heads[i], &request->chain) < 0) {
            block_request_put(block, request);
            virtio_broken(&block->virtio, block_ring(block, request)->broken);
            break;
        }
        block_request_begin(block, request);
    }
    block->taken_count = 0;
}

/* True if the guest may have added more while notifications were being asked for. */
static bool queue_take(struct virtio_block *block, unsigned queue_index)
{
    struct virtqueue *ring = &block->virtio.queues[queue_index].ring;

    virtqueue_notify_disable(ring);
    while (virtio_running(&block->virtio)) {
        struct block_request *request = block_request_take(block);
        int ret;

        if (request == NULL) {
            block->starved = true;
            break;
        }
        ret = virtqueue_pop(ring, &request->chain);
        if (ret <= 0) {
            block_request_put(block, request);
        }
        if (ret < 0) {
            virtio_broken(&block->virtio, ring->broken);
            return false;
        }
        if (ret == 0) {
            break;
        }
        request->queue_index = queue_index;
        block_request_begin(block, request);
    }
    virtqueue_notify_enable(ring);
    return requests_left(block) && virtio_running(&block->virtio) &&
           virtqueue_pending(ring);
}

void block_io_run(struct virtio_block *block, unsigned queue_index)
{
    if (virtio_io_allowed(&block->virtio)) {
        taken_begin(block);
        /* Once more at most: a guest that adds for ever waits for its next turn. */
        if (queue_take(block, queue_index) && queue_take(block, queue_index)) {
            virtio_queue_kick(&block->virtio, queue_index);
        }
    }
    submit(block);
    signal_all(block);
}

void block_io_forget(struct virtio_block *block)
{
    struct block_request *request;

    CHECK(block->submitted_count == 0);
    while ((request = block_list_take(&block->pending)) != NULL ||
           (request = block_list_take(&block->waiting)) != NULL) {
        block->engine->release(block, request);
        block_request_put(block, request);
    }
    block->taken_count = 0;
}

unsigned block_io_taken(const struct virtio_block *block,
                        uint32_t ret_heads[BLOCK_QUEUE_SIZE])
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
            ret_heads[count++] = request->queue_index << 16 | request->chain.head;
        }
    }
    return count;
}

/* ---- making and releasing ------------------------------------------------- */

int block_io_init(struct virtio_block *block, unsigned request_count, struct error *err)
{
    CHECK(request_count <= BLOCK_QUEUE_SIZE);
    /* So large that it is untouched memory: only what is in use at once is ever paid. */
    block->requests = calloc(request_count, sizeof(block->requests[0]));
    block->request_count = request_count;
    return block->requests == NULL
               ? error_set(err, -ENOMEM, "no memory for disk %s", block->disk.path)
               : 0;
}

static void limit_over(void *owner)
{
    struct virtio_block *block = owner;

    pthread_mutex_lock(&block->virtio.lock);
    block_io_continue(block);
    pthread_mutex_unlock(&block->virtio.lock);
}

int block_io_attach(struct virtio_block *block)
{
    int ret = event_loop_timer_create(vm_io_loop(block->virtio.vm), limit_over, block,
                                      &block->limit_timer);

    return ret < 0 ? ret : block->engine->attach(block);
}

void block_io_done(struct virtio_block *block)
{
    event_loop_remove(block->limit_timer);
    if (block->engine != NULL) {
        block->engine->free(block);
    }
    free(block->requests);
}
