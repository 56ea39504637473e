/* SPDX-License-Identifier: Apache-2.0 */
/* TCP with one fault. */
#include "tests/unit/fault_transport.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"

/* One thread may send while another receives: what one cuts off, the last one closes. */
struct fault_link {
    struct transport_link link;
    struct transport_link *inner; /* NULL: cut, and nobody is in a call */
    enum fault_side side;
    atomic_bool silent;
    pthread_mutex_t lock;
    bool broken;
    unsigned calls; /* under way */
};

#define SLICE_MS 20u

struct fault_listener {
    struct transport_listener listener;
    struct transport_listener *inner;
};

/* Transports carry no context of their own, and a test runs one move at a time. */
static struct fault_plan *current_plan;

static void lock(struct fault_link *link)
{
    CHECK(pthread_mutex_lock(&link->lock) == 0);
}

static void unlock(struct fault_link *link)
{
    CHECK(pthread_mutex_unlock(&link->lock) == 0);
}

static void cut(struct fault_link *link)
{
    lock(link);
    link->broken = true;
    unlock(link);
}

static bool is_cut(struct fault_link *link)
{
    lock(link);
    bool broken = link->broken;
    unlock(link);
    return broken;
}

static void enter(struct fault_link *link)
{
    lock(link);
    link->calls++;
    unlock(link);
}

static int leave(struct fault_link *link, int rv)
{
    lock(link);
    link->calls--;
    if (link->broken && link->calls == 0) {
        transport_link_close(link->inner);
        link->inner = NULL;
    }
    unlock(link);
    return rv;
}

/* What goes wrong with this call, if anything. */
static enum fault_mode next_fault(struct fault_link *link, bool is_send)
{
    struct fault_plan *plan = current_plan;
    if (plan->mode == FAULT_NONE || plan->side != link->side ||
        plan->on_send != is_send || atomic_fetch_sub(&plan->countdown, 1) != 0) {
        return FAULT_NONE;
    }
    atomic_store(&plan->fired, true);
    if (plan->mode == FAULT_CALL) {
        plan->call(plan->owner);
        return FAULT_NONE;
    }
    return plan->mode;
}

static size_t sum(const struct iovec *iov, unsigned count)
{
    size_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        size += iov[i].iov_len;
    }
    return size;
}

/* Shortens `iov` to its first `size` bytes. */
static unsigned shorten(struct iovec *iov, unsigned count, size_t size)
{
    for (unsigned i = 0; i < count; i++) {
        if (iov[i].iov_len >= size) {
            iov[i].iov_len = size;
            return i + 1;
        }
        size -= iov[i].iov_len;
    }
    return count;
}

static int send_half(struct fault_link *link, struct iovec *iov, unsigned count,
                     uint32_t idle_ms, size_t *ret_accepted)
{
    count = shorten(iov, count, sum(iov, count) / 2);
    (void)link->inner->ops->send(link->inner, iov, count, idle_ms, ret_accepted);
    cut(link);
    return DROVER_ECLOSED;
}

static int send_or_fail(struct fault_link *link, struct iovec *iov, unsigned count,
                        uint32_t idle_ms, size_t *ret_accepted)
{
    size_t size = sum(iov, count);
    enum fault_mode mode = next_fault(link, true);
    *ret_accepted = 0;
    if (mode == FAULT_SILENCE) {
        link->silent = true;
    }
    if (link->silent) {
        *ret_accepted = size; /* taken by a kernel that never gets to send it */
        return 0;
    }
    if (mode == FAULT_CUT_BEFORE) {
        cut(link);
    }
    if (is_cut(link)) {
        return DROVER_ECLOSED;
    }
    if (mode == FAULT_CUT_HALF) {
        return send_half(link, iov, count, idle_ms, ret_accepted);
    }
    int rv = link->inner->ops->send(link->inner, iov, count, idle_ms, ret_accepted);
    if (mode == FAULT_CUT_AFTER) {
        cut(link);
    }
    return rv;
}

static int link_send(struct transport_link *base, struct iovec *iov, unsigned count,
                     uint32_t idle_ms, size_t *ret_accepted)
{
    struct fault_link *link = (struct fault_link *)base;
    if (current_plan->sends != NULL) {
        current_plan->sends(current_plan->owner, link->side, idle_ms);
    }
    enter(link);
    return leave(link, send_or_fail(link, iov, count, idle_ms, ret_accepted));
}

/* In slices, so that a cut by the thread that sends is seen. */
static int recv_sliced(struct fault_link *link, const struct iovec *iov, unsigned count,
                       uint32_t wait_ms, size_t *ret_size)
{
    for (uint32_t left_ms = wait_ms;;) {
        uint32_t slice_ms = left_ms < SLICE_MS ? left_ms : SLICE_MS;
        int rv = is_cut(link) ? DROVER_ECLOSED
                              : link->inner->ops->recv(link->inner, iov, count, slice_ms,
                                                       ret_size);
        if (rv != DROVER_ETIMEDOUT2 || slice_ms == left_ms) {
            return rv;
        }
        left_ms -= slice_ms;
    }
}

static int recv_or_fail(struct fault_link *link, const struct iovec *iov, unsigned count,
                        uint32_t wait_ms, size_t *ret_size)
{
    /* Looks without waiting are not calls that a test could count on. */
    enum fault_mode mode = wait_ms == 0 ? FAULT_NONE : next_fault(link, false);
    if (mode == FAULT_SILENCE) {
        link->silent = true;
    }
    if (link->silent) {
        (void)poll(NULL, 0, (int)wait_ms); /* a shorter wait does no harm */
        return DROVER_ETIMEDOUT2;
    }
    if (mode == FAULT_CUT_BEFORE || mode == FAULT_CUT_HALF) {
        cut(link);
    }
    int rv = recv_sliced(link, iov, count, wait_ms, ret_size);
    if (mode == FAULT_CUT_AFTER) {
        cut(link);
    }
    return rv;
}

static int link_recv(struct transport_link *base, const struct iovec *iov, unsigned count,
                     uint32_t wait_ms, size_t *ret_size)
{
    struct fault_link *link = (struct fault_link *)base;
    enter(link);
    return leave(link, recv_or_fail(link, iov, count, wait_ms, ret_size));
}

static void link_set_cancel(struct transport_link *base, int cancel_fd)
{
    struct fault_link *link = (struct fault_link *)base;
    enter(link);
    if (link->inner != NULL) {
        link->inner->ops->set_cancel(link->inner, cancel_fd);
    }
    (void)leave(link, 0);
}

static void link_close(struct transport_link *base)
{
    struct fault_link *link = (struct fault_link *)base;
    enter(link);
    cut(link);
    (void)leave(link, 0);
    CHECK(link->inner == NULL && pthread_mutex_destroy(&link->lock) == 0);
    free(link);
}

static const struct transport_link_ops link_ops = {
    .send = link_send,
    .recv = link_recv,
    .set_cancel = link_set_cancel,
    .close = link_close,
};

static struct transport_link *wrap(struct transport_link *inner, enum fault_side side)
{
    struct fault_link *link = calloc(1, sizeof(*link));
    CHECK(link != NULL);
    *link = (struct fault_link){.link.ops = &link_ops, .inner = inner, .side = side};
    CHECK(pthread_mutex_init(&link->lock, NULL) == 0);
    return &link->link;
}

static int fault_connect(const char *address, int cancel_fd, uint32_t wait_ms,
                         uint32_t idle_ms, struct transport_link **ret_link,
                         struct error *err)
{
    struct transport_link *inner = NULL;
    int rv = transport_tcp()->connect(address, cancel_fd, wait_ms, idle_ms, &inner, err);
    if (rv == 0) {
        *ret_link = wrap(inner, FAULT_SOURCE);
    }
    return rv;
}

static int listener_accept(struct transport_listener *base, int cancel_fd,
                           uint32_t wait_ms, uint32_t idle_ms,
                           struct transport_link **ret_link)
{
    struct fault_listener *listener = (struct fault_listener *)base;
    struct transport_link *inner = NULL;
    int rv = listener->inner->ops->accept(listener->inner, cancel_fd, wait_ms, idle_ms,
                                          &inner);
    if (rv == 0) {
        *ret_link = wrap(inner, FAULT_TARGET);
    }
    return rv;
}

static void listener_uri(struct transport_listener *base,
                         char ret_uri[TRANSPORT_URI_SIZE])
{
    struct fault_listener *listener = (struct fault_listener *)base;
    listener->inner->ops->uri(listener->inner, ret_uri);
}

static void listener_close(struct transport_listener *base)
{
    transport_listener_close(((struct fault_listener *)base)->inner);
    free(base);
}

static const struct transport_listener_ops listener_ops = {
    .accept = listener_accept,
    .uri = listener_uri,
    .close = listener_close,
};

static int fault_listen(const char *address, struct transport_listener **ret_listener,
                        struct error *err)
{
    struct fault_listener *listener = calloc(1, sizeof(*listener));
    CHECK(listener != NULL);
    listener->listener.ops = &listener_ops;
    int rv = transport_tcp()->listen(address, &listener->inner, err);
    if (rv != 0) {
        free(listener);
        return rv;
    }
    *ret_listener = &listener->listener;
    return 0;
}

const struct transport_ops *fault_transport(struct fault_plan *plan)
{
    static const struct transport_ops ops = {
        .scheme = "tcp",
        .connect = fault_connect,
        .listen = fault_listen,
    };
    current_plan = plan;
    return &ops;
}
