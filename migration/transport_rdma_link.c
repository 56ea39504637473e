/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue pair as a byte stream. Messages go out of a ring of registered buffers and come
 * into another; credits see to it that the peer always has a buffer for what is sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/transport_rdma_internal.h"
#include "migration/transport_rdma_memory.h"

#define BUFFERS_SIZE  ((size_t)(RDMA_SEND_BUFFERS + RDMA_BUFFERS) * RDMA_BUFFER_BYTES)
#define WORK_RECEIVE  (UINT64_C(1) << 63) /* in a work request's number: and the buffer */
#define ENTRIES       ((int)(RDMA_SEND_DEPTH + RDMA_BUFFERS + 1))

static uint8_t *receive_buffer(const struct rdma_link *link, unsigned buffer)
{
    return link->buffers + (size_t)(RDMA_SEND_BUFFERS + buffer) * RDMA_BUFFER_BYTES;
}

int rdma_link_fail(struct rdma_link *link, int error)
{
    link->error = link->error != 0 ? link->error : error;
    return link->error;
}

/* ---- posting ----------------------------------------------------------------------- */

static int receive_post(struct rdma_link *link, unsigned buffer)
{
    if (link->error != 0) {
        return link->error; /* there may be no queue pair any more */
    }
    struct ibv_sge place = {.addr = (uintptr_t)receive_buffer(link, buffer),
                            .length = RDMA_BUFFER_BYTES,
                            .lkey = link->buffers_mr->lkey};
    struct ibv_recv_wr work = {
        .wr_id = WORK_RECEIVE | buffer, .sg_list = &place, .num_sge = 1};
    struct ibv_recv_wr *bad = NULL;
    int rv = ibv_post_recv(link->id->qp, &work, &bad);
    return rv != 0 ? rdma_link_fail(link, DROVER_ECLOSED) : 0;
}

/* A buffer whose message is consumed. */
static int receive_again(struct rdma_link *link, unsigned buffer)
{
    link->credits.owed++;
    return receive_post(link, buffer);
}

int rdma_link_post_chain(struct rdma_link *link, struct ibv_send_wr *first,
                         unsigned count)
{
    struct ibv_send_wr *bad = NULL;
    struct ibv_send_wr *last = first;
    CHECK(count > 0 && link->posted - link->completed + count <= RDMA_SEND_DEPTH);
    for (unsigned i = 1; i < count; i++) {
        last = last->next;
    }
    CHECK(last->next == NULL);
    last->wr_id = link->posted + count;
    last->send_flags |= IBV_SEND_SIGNALED;
    int rv = ibv_post_send(link->id->qp, first, &bad);
    if (rv != 0) {
        return rdma_link_fail(link, DROVER_ECLOSED);
    }
    link->posted += count;
    link->written_at[link->posted % RDMA_SEND_DEPTH] = link->written_posted;
    return 0;
}

uint8_t *rdma_link_payload(struct rdma_link *link)
{
    return link->buffers + (size_t)link->send_next * RDMA_BUFFER_BYTES + RDMA_HEADER_SIZE;
}

int rdma_link_post(struct rdma_link *link, enum rdma_message type, uint32_t size)
{
    uint8_t *message = rdma_link_payload(link) - RDMA_HEADER_SIZE;
    struct rdma_header header = {
        .type = type, .credits = rdma_credits_send(&link->credits), .size = size};
    rdma_header_encode(message, &header);
    struct ibv_sge part = {.addr = (uintptr_t)message,
                           .length = RDMA_HEADER_SIZE + size,
                           .lkey = link->buffers_mr->lkey};
    struct ibv_send_wr work = {.sg_list = &part, .num_sge = 1, .opcode = IBV_WR_SEND};
    int rv = rdma_link_post_chain(link, &work, 1);
    if (rv == 0) {
        link->send_busy_until[link->send_next] = link->posted;
        link->send_next = (link->send_next + 1) % RDMA_SEND_BUFFERS;
    }
    return rv;
}

static bool has_room(const struct rdma_link *link, enum rdma_message type)
{
    return link->error == 0 && rdma_credits_may_send(&link->credits, type) &&
           link->send_busy_until[link->send_next] <= link->completed &&
           link->posted - link->completed < RDMA_SEND_DEPTH;
}

int rdma_link_room(struct rdma_link *link, enum rdma_message type, uint32_t idle_ms)
{
    uint64_t until_ms = clock_now_ms() + idle_ms;
    while (!has_room(link, type)) {
        int rv = rdma_link_progress(link, until_ms);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

/* Small things that became due and can be said now. */
static int tell(struct rdma_link *link)
{
    int rv = 0;
    if (link->ask_count > 0 && link->error == 0) {
        rv = rdma_place_answer(link);
    }
    if (rv == 0 && rdma_credits_must_tell(&link->credits) &&
        has_room(link, RDMA_CREDIT)) {
        rv = rdma_link_post(link, RDMA_CREDIT, 0);
    }
    return rv;
}

/* ---- completions ------------------------------------------------------------------- */

static int data_came(struct rdma_link *link, unsigned buffer, uint32_t size)
{
    CHECK(link->filled_count < RDMA_BUFFERS);
    unsigned at = (link->filled_first + link->filled_count++) % RDMA_BUFFERS;
    link->filled[at].buffer = (uint16_t)buffer;
    link->filled[at].offset = RDMA_HEADER_SIZE;
    link->filled[at].size = size;
    return 0;
}

static int message_came(struct rdma_link *link, unsigned buffer, uint32_t size)
{
    const uint8_t *message = receive_buffer(link, buffer);
    struct rdma_header header;
    int rv = rdma_header_decode(message, size, &header);
    rv = rv != 0 ? rv : rdma_credits_take(&link->credits, header.credits);
    if (rv == 0 && header.type == RDMA_DATA) {
        return data_came(link, buffer, header.size);
    }
    if (rv == 0 && header.type != RDMA_CREDIT) {
        rv = rdma_place_message(link, &header, message + RDMA_HEADER_SIZE);
    }
    return rv != 0 ? rdma_link_fail(link, rv) : receive_again(link, buffer);
}

static int completed(struct rdma_link *link, const struct ibv_wc *done)
{
    if (done->status != IBV_WC_SUCCESS) {
        return rdma_link_fail(link, DROVER_ECLOSED);
    }
    if ((done->wr_id & WORK_RECEIVE) == 0) {
        CHECK(done->wr_id > link->completed && done->wr_id <= link->posted);
        link->completed = done->wr_id;
        link->written_done = link->written_at[done->wr_id % RDMA_SEND_DEPTH];
        return 0;
    }
    unsigned buffer = (unsigned)(done->wr_id & ~WORK_RECEIVE);
    CHECK(buffer < RDMA_BUFFERS);
    if (done->opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
        link->marked = be32toh(done->imm_data);
        return receive_again(link, buffer);
    }
    return message_came(link, buffer, done->byte_len);
}

/* How many there were; errors stay in the link. */
static unsigned pump(struct rdma_link *link)
{
    struct ibv_wc done[RDMA_COMPLETIONS];
    unsigned handled = 0;
    for (int count = RDMA_COMPLETIONS; count == (int)RDMA_COMPLETIONS;) {
        count = ibv_poll_cq(link->queue, RDMA_COMPLETIONS, done);
        if (count < 0) {
            (void)rdma_link_fail(link, -EIO);
        }
        /* After the first error only flushed ones follow. */
        for (int i = 0; i < count && link->error == 0; i++) {
            handled++;
            (void)completed(link, &done[i]); /* stays in the link */
        }
    }
    (void)tell(link); /* stays in the link */
    return handled;
}

/* ---- waiting ----------------------------------------------------------------------- */

static void completion_event(struct rdma_link *link)
{
    struct ibv_cq *queue = NULL;
    void *context = NULL;
    if (link->library->verbs.get_cq_event(link->completions, &queue, &context) == 0) {
        link->library->verbs.ack_cq_events(queue, 1);
        link->armed = false;
    }
}

/* After the connection stands every event but its confirmation is its end. */
static void manager_event(struct rdma_link *link)
{
    struct rdma_cm_event *event = NULL;
    if (link->library->manager.get_cm_event(link->channel, &event) != 0) {
        return;
    }
    bool ends = event->event != RDMA_CM_EVENT_ESTABLISHED;
    (void)link->library->manager.ack_cm_event(event); /* it can't fail with an event */
    if (ends) {
        (void)pump(link); /* what came before it */
        (void)rdma_link_fail(link, DROVER_ECLOSED);
    }
}

int rdma_link_progress(struct rdma_link *link, uint64_t until_ms)
{
    for (;;) {
        if (pump(link) > 0) {
            return 0;
        }
        if (link->error != 0) {
            return link->error;
        }
        if (!link->armed) {
            if (ibv_req_notify_cq(link->queue, 0) != 0) {
                return rdma_link_fail(link, -EIO);
            }
            link->armed = true; /* and look once more: one may have come in between */
            continue;
        }
        struct pollfd fds[] = {{.fd = link->completions->fd, .events = POLLIN},
                               {.fd = link->channel->fd, .events = POLLIN},
                               {.fd = link->cancel_fd, .events = POLLIN}};
        uint64_t now_ms = clock_now_ms();
        int left_ms = now_ms >= until_ms ? 0 : (int)(until_ms - now_ms);
        int rv = poll(fds, 3, left_ms);
        if (rv < 0 && errno != EINTR) {
            return rdma_link_fail(link, -errno);
        }
        if (rv > 0 && fds[2].revents != 0) {
            return DROVER_ECANCELLED;
        }
        if (rv > 0 && fds[0].revents != 0) {
            completion_event(link);
        }
        if (rv > 0 && fds[1].revents != 0) {
            manager_event(link);
            return 0;
        }
        if (rv == 0 && left_ms == 0) {
            return DROVER_ETIMEDOUT2;
        }
    }
}

/* ---- the stream -------------------------------------------------------------------- */

static int link_send(struct transport_link *base, struct iovec *iov, unsigned count,
                     uint32_t idle_ms, size_t *ret_accepted)
{
    struct rdma_link *link = (struct rdma_link *)base;
    size_t accepted = 0;
    int rv = 0;
    CHECK(count <= TRANSPORT_IOV_MAX);
    while (rv == 0 && count > 0) {
        rv = rdma_link_room(link, RDMA_DATA, idle_ms);
        uint8_t *payload = rdma_link_payload(link);
        size_t size = 0;
        while (rv == 0 && count > 0 && size < RDMA_PAYLOAD_MAX) {
            size_t part = RDMA_PAYLOAD_MAX - size;
            part = part < iov->iov_len ? part : iov->iov_len;
            memcpy(payload + size, iov->iov_base, part);
            size += part;
            iov->iov_base = (uint8_t *)iov->iov_base + part;
            iov->iov_len -= part;
            if (iov->iov_len == 0) {
                iov++;
                count--;
            }
        }
        if (rv == 0 && size > 0) {
            rv = rdma_link_post(link, RDMA_DATA, (uint32_t)size);
            accepted += rv == 0 ? size : 0;
        }
    }
    if (ret_accepted != NULL) {
        *ret_accepted = accepted;
    }
    return rv;
}

/* Copies what is there; how much that was. */
static size_t consume(struct rdma_link *link, const struct iovec *iov, unsigned count)
{
    size_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t done = 0;
        while (done < iov[i].iov_len && link->filled_count > 0) {
            unsigned at = link->filled_first;
            unsigned buffer = link->filled[at].buffer;
            size_t part = iov[i].iov_len - done;
            part = part < link->filled[at].size ? part : link->filled[at].size;
            memcpy((uint8_t *)iov[i].iov_base + done,
                   receive_buffer(link, buffer) + link->filled[at].offset, part);
            done += part;
            link->filled[at].offset += (uint32_t)part;
            link->filled[at].size -= (uint32_t)part;
            if (link->filled[at].size == 0) {
                link->filled_first = (at + 1) % RDMA_BUFFERS;
                link->filled_count--;
                (void)receive_again(link, buffer); /* stays in the link */
            }
        }
        size += done;
    }
    return size;
}

static int link_recv(struct transport_link *base, const struct iovec *iov, unsigned count,
                     uint32_t wait_ms, size_t *ret_size)
{
    struct rdma_link *link = (struct rdma_link *)base;
    uint64_t until_ms = clock_now_ms() + wait_ms;
    CHECK(count > 0 && count <= TRANSPORT_IOV_MAX);
    while (link->filled_count == 0) {
        int rv = rdma_link_progress(link, until_ms);
        if (rv != 0 && link->filled_count == 0) {
            return rv;
        }
    }
    *ret_size = consume(link, iov, count);
    (void)tell(link); /* stays in the link: what came is delivered first */
    return 0;
}

static void link_set_cancel(struct transport_link *base, int cancel_fd)
{
    ((struct rdma_link *)base)->cancel_fd = cancel_fd;
}

/* ---- begin and end ----------------------------------------------------------------- */

static int buffers_make(struct rdma_link *link)
{
    void *buffers = mmap(NULL, BUFFERS_SIZE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffers == MAP_FAILED) {
        return -errno;
    }
    link->buffers = buffers;
    link->buffers_mr = link->library->verbs.reg_mr(link->pd, buffers, BUFFERS_SIZE,
                                                   IBV_ACCESS_LOCAL_WRITE);
    return link->buffers_mr == NULL ? -errno : 0;
}

int rdma_link_open(struct rdma_link *link)
{
    struct ibv_context *device = link->id->verbs;
    int rv = rdma_memory_join(link->memory, device, &link->pd);
    if (rv != 0) {
        return rv;
    }
    link->joined = true;
    link->completions = link->library->verbs.create_comp_channel(device);
    if (link->completions == NULL) {
        return -errno;
    }
    int flags = fcntl(link->completions->fd, F_GETFL);
    if (flags < 0 || fcntl(link->completions->fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        return -errno;
    }
    link->queue =
        link->library->verbs.create_cq(device, ENTRIES, NULL, link->completions, 0);
    if (link->queue == NULL) {
        return -errno;
    }
    rv = buffers_make(link);
    if (rv != 0) {
        return rv;
    }
    struct ibv_qp_init_attr attributes = {
        .send_cq = link->queue,
        .recv_cq = link->queue,
        .cap = {.max_send_wr = RDMA_SEND_DEPTH,
                .max_recv_wr = RDMA_BUFFERS,
                .max_send_sge = 1,
                .max_recv_sge = 1},
        .qp_type = IBV_QPT_RC,
    };
    if (link->library->manager.create_qp(link->id, link->pd, &attributes) != 0) {
        return -errno;
    }
    link->credits.there = RDMA_BUFFERS;
    for (unsigned i = 0; rv == 0 && i < RDMA_BUFFERS; i++) {
        rv = receive_post(link, i);
    }
    return rv;
}

/* What was posted gets a moment to arrive: ending a queue pair forgets it. */
static void linger(struct rdma_link *link)
{
    uint64_t until_ms =
        clock_now_ms() + (link->passive ? RDMA_LINGER_MS : RDMA_LINGER_LEAVE_MS);
    link->cancel_fd = -1;
    while (link->error == 0 && link->completed < link->posted) {
        if (rdma_link_progress(link, until_ms) != 0) {
            return;
        }
    }
}

void rdma_link_free(struct rdma_link *link)
{
    if (link == NULL) {
        return;
    }
    const struct rdma_library *library = link->library;
    if (link->id != NULL && link->id->qp != NULL) {
        linger(link);
        (void)library->manager.disconnect(link->id); /* there may be no connection */
        library->manager.destroy_qp(link->id);
    }
    if (link->queue != NULL) {
        CHECK(library->verbs.destroy_cq(link->queue) == 0);
    }
    if (link->completions != NULL) {
        CHECK(library->verbs.destroy_comp_channel(link->completions) == 0);
    }
    if (link->buffers_mr != NULL) {
        CHECK(library->verbs.dereg_mr(link->buffers_mr) == 0);
    }
    if (link->buffers != NULL) {
        CHECK(munmap(link->buffers, BUFFERS_SIZE) == 0);
    }
    rdma_place_done(link);
    if (link->joined) {
        rdma_memory_leave(link->memory);
    }
    if (link->id != NULL) {
        (void)library->manager.destroy_id(link->id); /* nothing is left to do about it */
    }
    if (link->channel != NULL) {
        rdma_channel_give(link->rdma, link->channel);
    }
    free(link);
}

static void link_close(struct transport_link *base)
{
    rdma_link_free((struct rdma_link *)base);
}

const struct transport_link_ops *rdma_link_ops(void)
{
    static const struct transport_link_ops ops = {
        .send = link_send,
        .recv = link_recv,
        .set_cancel = link_set_cancel,
        .close = link_close,
        .offer = rdma_place_offer,
        .place = rdma_place_place,
        .mark = rdma_place_mark,
        .marked = rdma_place_marked,
        .seal = rdma_place_seal,
    };
    return &ops;
}
