/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk's requests to a storage daemon. The daemon sees a ring of ours, never the
 * guest's: what reaches it was judged here, is known here until it comes back, and is
 * handed on only while the VM may do I/O. So a dead daemon's requests go to the next one,
 * whatever order they were finished in, and pages that it writes are known to be dirty.
 */
#include "vmm/virtio/block_vhost.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "vmm/host/event_loop.h"
#include "vmm/vm.h"

/* virtio 1.2, 5.2.6. */
enum { TYPE_IN = 0, TYPE_OUT = 1, TYPE_FLUSH = 4, TYPE_DISCARD = 11, TYPE_ZEROES = 13 };
enum { RANGE_UNMAP = 1 };

static void reopen_when_due(struct block_vhost *vhost);

/* ---- requests ------------------------------------------------------------- */

static unsigned slot_of(const struct virtio_block *block,
                        const struct block_request *request)
{
    return (unsigned)(request - block->requests);
}

static void transfer_describe(struct virtio_block *block, struct block_request *request,
                              struct virtqueue_segment *segments,
                              struct vhost_ring_request *out)
{
    bool is_write = request->kind == BLOCK_WRITE;
    uint64_t left = request->size - request->done;

    out->type = is_write ? TYPE_OUT : TYPE_IN;
    out->sector = (request->offset + request->done) / BLOCK_SECTOR_SIZE;
    out->to_guest = !is_write;
    out->segments = segments;
    out->segment_count = virtqueue_chain_segments(
        &request->chain, !is_write,
        (struct virtqueue_range){(is_write ? BLOCK_HEADER_SIZE : 0) + request->done,
                                 left < BLOCK_SUBMIT_MAX ? left : BLOCK_SUBMIT_MAX},
        VHOST_RING_SEGMENTS_MAX, segments, &request->submitted_bytes);
}

/* False: the daemon has no such request. */
static bool range_describe(const struct block_vhost *vhost, struct block_request *request,
                           struct vhost_ring_request *out)
{
    bool discard = request->kind == BLOCK_DISCARD;
    uint64_t left = (request->size - request->done) / BLOCK_SECTOR_SIZE;
    uint32_t most =
        discard ? vhost->like.discard_sectors_max : vhost->like.zeroes_sectors_max;

    out->type = discard ? TYPE_DISCARD : TYPE_ZEROES;
    out->has_range = true;
    out->sector = (request->offset + request->done) / BLOCK_SECTOR_SIZE;
    out->range_sectors = left < most ? (uint32_t)left : most;
    out->range_flags = !discard && request->unmap ? RANGE_UNMAP : 0;
    request->submitted_bytes = (size_t)out->range_sectors * BLOCK_SECTOR_SIZE;
    return most != 0;
}

static bool prepare(struct virtio_block *block, struct block_request *request)
{
    struct block_vhost *vhost = block->vhost;
    struct virtqueue_segment segments[VHOST_RING_SEGMENTS_MAX];
    struct vhost_ring_request out = {.type = TYPE_FLUSH};

    if (request->kind == BLOCK_FLUSH || request->flushing) {
        request->flush_mark = vhost->written;
    } else if (request->kind == BLOCK_READ || request->kind == BLOCK_WRITE) {
        transfer_describe(block, request, segments, &out);
    } else if (!range_describe(vhost, request, &out)) {
        out = (struct vhost_ring_request){.type = UINT32_MAX}; /* it says so itself */
    }
    vhost_ring_add(&vhost->ring, slot_of(block, request), &out);
    return true;
}

static void submit(struct virtio_block *block)
{
    uint64_t one = 1;

    vhost_ring_publish(&block->vhost->ring);
    (void)!write(block->vhost->kick_fd, &one, sizeof(one)); /* full: is set anyway */
}

static bool unsent(const struct virtio_block *block)
{
    (void)block; /* submit() never leaves anything */
    return false;
}

static void release(struct virtio_block *block, struct block_request *request)
{
    (void)block;
    (void)request;
}

static bool ready(struct virtio_block *block)
{
    if (!block->vhost->up) {
        /* The guest runs here: whatever became of a move, the disk is ours. */
        block->vhost->wanted = true;
        reopen_when_due(block->vhost);
    }
    return block->vhost->up;
}

/* ---- coming back ---------------------------------------------------------- */

/* Without flush there is no other time at which the guest could learn that it is stable.
 */
static bool flush_follows(const struct virtio_block *block,
                          const struct block_request *request)
{
    return request->kind == BLOCK_WRITE && !request->flushing &&
           !virtio_feature(&block->virtio, BLOCK_FEATURE_FLUSH) &&
           request->done + request->submitted_bytes == request->size;
}

static void answer_take(struct virtio_block *block, struct block_request *request,
                        uint8_t status)
{
    struct block_vhost *vhost = block->vhost;
    bool is_transfer = request->kind == BLOCK_READ || request->kind == BLOCK_WRITE;
    int64_t ret = status == BLOCK_STATUS_OK       ? 0
                  : status == BLOCK_STATUS_UNSUPP ? -EOPNOTSUPP
                                                  : -EIO;

    if (ret == 0 && (request->kind == BLOCK_FLUSH || request->flushing)) {
        if (request->flush_mark > vhost->flushed) {
            vhost->flushed = request->flush_mark;
        }
    } else if (ret == 0 && request->kind != BLOCK_READ) {
        vhost->written++;
    }
    if (ret == 0 && flush_follows(block, request)) {
        request->flushing = true;
        block->submitted_count--;
        block_list_add(&block->pending, request);
        return;
    }
    if (ret == 0 && is_transfer) {
        ret = (int64_t)request->submitted_bytes;
    }
    block_io_returned(block, request, ret);
}

void block_vhost_socket_retire(struct block_vhost *vhost)
{
    event_loop_remove(vhost->socket_source);
    vhost->socket_source = NULL;
    if (vhost->socket_fd >= 0) {
        (void)close(vhost->socket_fd);
        vhost->socket_fd = -1;
    }
}

/* How long to wait before the next try; a line in the log, but not for each. */
static void failure_count(struct block_vhost *vhost, const char *why)
{
    const struct log *log = vm_log(vhost->block->virtio.vm);
    const char *path = vhost->block->disk.path;
    uint64_t now_ms = clock_now_ms();
    uint64_t *oldest =
        &vhost->failures_ms[vhost->failure_count % BLOCK_VHOST_FAILURES_MAX];
    bool often = vhost->failure_count >= BLOCK_VHOST_FAILURES_MAX &&
                 now_ms - *oldest < BLOCK_VHOST_FAILURE_WINDOW_MS;

    *oldest = now_ms;
    vhost->failure_count++;
    vhost->retry_at_ms =
        now_ms + (often ? BLOCK_VHOST_RETRY_LONG_MS : BLOCK_VHOST_RETRY_MS);
    if (!often) {
        log_warn(log, "disk %s: %s; %u requests are sent again", path, why,
                 vhost->ring.in_flight_count);
    } else if (!vhost->trouble) {
        log_error(log,
                  "disk %s: I/O stands: %s, %d times within a minute (tried again each "
                  "%u s)",
                  path, why, BLOCK_VHOST_FAILURES_MAX, BLOCK_VHOST_RETRY_LONG_MS / 1000);
        vhost->trouble = true;
        vm_state_changed(vhost->block->virtio.vm);
    }
}

/* On the I/O loop. What is in flight stays so until the daemon was seen dead. */
static void daemon_lost(struct block_vhost *vhost, const char *why)
{
    vhost->up = false;
    block_vhost_socket_retire(vhost);
    (void)snprintf(vhost->why, sizeof(vhost->why), "%s", why);
    failure_count(vhost, why);
    if (!vhost->busy) {
        block_vhost_job_post(vhost, BLOCK_VHOST_JOB_KILL);
    }
}

static void called(void *owner, uint32_t epoll_events)
{
    struct block_vhost *vhost = owner;
    struct virtio_block *block = vhost->block;
    uint64_t count;
    uint8_t status = 0;
    unsigned slot = 0;
    int ret = 0;

    (void)epoll_events;
    (void)!read(vhost->call_fd, &count, sizeof(count)); /* empty is fine */
    pthread_mutex_lock(&block->virtio.lock);
    while (vhost->up && (ret = vhost_ring_take(&vhost->ring, &slot, &status)) > 0) {
        answer_take(block, &block->requests[slot], status);
    }
    if (vhost->up && ret < 0) {
        daemon_lost(vhost, "its storage daemon broke the ring");
    }
    block_io_continue(block);
    pthread_mutex_unlock(&block->virtio.lock);
}

/* It never says anything by itself: the end, or nonsense. */
static void socket_event(void *owner, uint32_t epoll_events)
{
    struct block_vhost *vhost = owner;

    (void)epoll_events;
    pthread_mutex_lock(&vhost->block->virtio.lock);
    if (vhost->up) {
        daemon_lost(vhost, "its storage daemon has died");
    } else {
        block_vhost_socket_retire(vhost); /* it was told to close the image */
    }
    pthread_mutex_unlock(&vhost->block->virtio.lock);
}

/* ---- up and down ---------------------------------------------------------- */

static void reopen_when_due(struct block_vhost *vhost)
{
    uint64_t now_ms = clock_now_ms();

    if (!vhost->wanted || vhost->up || vhost->busy || vhost->next_fd >= 0 ||
        vhost->ring.in_flight_count > 0) {
        return;
    }
    if (now_ms < vhost->retry_at_ms) {
        (void)event_loop_timer_set(vhost->retry_timer,
                                   clock_now_ns() +
                                       (vhost->retry_at_ms - now_ms) * NS_PER_MS);
        return;
    }
    block_vhost_job_post(vhost, BLOCK_VHOST_JOB_OPEN);
}

/* The daemon is gone: its requests are for the next one. */
static void dead_handle(struct block_vhost *vhost)
{
    struct virtio_block *block = vhost->block;
    bool lost = vhost->caches && vhost->written != vhost->flushed;

    for (unsigned slot = 0; slot < VHOST_RING_SIZE; slot++) {
        if (vhost->ring.in_flight[slot]) {
            block->submitted_count--;
            block_list_add(&block->pending, &block->requests[slot]);
        }
    }
    vhost_ring_reset(&vhost->ring);
    vhost->flushed = vhost->written;
    if (lost) {
        /* They are lost as in a power failure, which no running guest expects. */
        log_error(vm_log(block->virtio.vm),
                  "disk %s: its storage daemon died before it had flushed all writes: "
                  "the guest is reset",
                  block->disk.path);
        vm_request_reset(block->virtio.vm);
    }
}

static void connection_take(struct block_vhost *vhost)
{
    int ret;

    block_vhost_socket_retire(vhost);
    vhost->socket_fd = vhost->next_fd;
    vhost->next_fd = -1;
    vhost->up = vhost->wanted;
    ret = event_loop_add(vm_io_loop(vhost->block->virtio.vm), vhost->socket_fd, EPOLLIN,
                         socket_event, vhost, &vhost->socket_source);
    if (ret < 0) {
        daemon_lost(vhost, "no memory to listen to its storage daemon");
        return;
    }
    if (vhost->failure_count > 0) {
        log_notice(vm_log(vhost->block->virtio.vm), "disk %s: its storage daemon is back",
                   vhost->block->disk.path);
    }
    if (vhost->trouble) {
        vhost->trouble = false;
        vm_state_changed(vhost->block->virtio.vm);
    }
}

/* The worker has done something, or somebody wants the I/O loop to look. */
static void worker_event(void *owner, uint32_t epoll_events)
{
    struct block_vhost *vhost = owner;
    struct virtio_block *block = vhost->block;
    uint64_t count;

    (void)epoll_events;
    (void)!read(vhost->worker_fd, &count, sizeof(count)); /* empty is fine */
    pthread_mutex_lock(&block->virtio.lock);
    if (!vhost->wanted) {
        vhost->up = false;
        block_vhost_socket_retire(vhost);
    }
    if (vhost->dead) {
        vhost->dead = false;
        dead_handle(vhost);
    }
    if (vhost->open_failed) {
        vhost->open_failed = false;
        failure_count(vhost, vhost->why);
    }
    if (vhost->next_fd >= 0) {
        connection_take(vhost);
    }
    if (vhost->down_asked) {
        vhost->down_asked = false;
        if (vhost->up) {
            daemon_lost(vhost, "the lease is over, and its storage daemon still has "
                               "requests: it is killed");
        }
    }
    /* A request that waits for a daemon that died while another job was under way. */
    if (!vhost->up && !vhost->busy && vhost->ring.in_flight_count > 0) {
        block_vhost_job_post(vhost, BLOCK_VHOST_JOB_KILL);
    }
    if (virtio_io_allowed(&block->virtio)) {
        reopen_when_due(vhost);
    }
    block_io_continue(block);
    pthread_mutex_unlock(&block->virtio.lock);
}

static void retry_due(void *owner)
{
    worker_event(owner, 0);
}

bool block_vhost_lease_over(struct virtio_block *block, uint64_t since_ns)
{
    struct vm *vm = block->virtio.vm;

    return vm_config(vm)->ha && clock_now_ns() >= vm_lease_deadline_ns(vm) + since_ns;
}

/*
 * What the daemon has must come back before the VM counts as frozen. If it does not, the
 * daemon is killed: a process that is gone writes nothing any more.
 */
static bool idle(struct virtio_block *block)
{
    struct block_vhost *vhost = block->vhost;

    if (block->submitted_count == 0 && !vhost->busy) {
        return true;
    }
    if (vhost->up && !vhost->down_asked &&
        block_vhost_lease_over(block, BLOCK_VHOST_DRAIN_MS * NS_PER_MS)) {
        vhost->down_asked = true;
        block_vhost_loop_wake(vhost);
    }
    return false;
}

/* ---- the engine ----------------------------------------------------------- */

static int attach(struct virtio_block *block)
{
    struct block_vhost *vhost = block->vhost;
    struct event_loop *loop = vm_io_loop(block->virtio.vm);
    int ret = event_loop_timer_create(loop, retry_due, vhost, &vhost->retry_timer);

    ret = ret < 0 ? ret
                  : event_loop_add(loop, vhost->call_fd, EPOLLIN, called, vhost,
                                   &vhost->call_source);
    return ret < 0 ? ret
                   : event_loop_add(loop, vhost->worker_fd, EPOLLIN, worker_event, vhost,
                                    &vhost->worker_source);
}

static const struct block_engine vhost_engine = {
    .prepare = prepare,
    .submit = submit,
    .unsent = unsent,
    .ready = ready,
    .release = release,
    .attach = attach,
    .idle = idle,
    .free = block_vhost_free,
};

const struct block_engine *block_vhost_engine(void)
{
    return &vhost_engine;
}
