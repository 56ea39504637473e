/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's link in post-copy when it was lost: a new one by itself or by order, over
 * which the target says what it lacks; and the order to end.
 */
#include "migration/postcopy_source_internal.h"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/wire_postcopy.h"

int postcopy_source_prove(struct migration_source *source)
{
    struct postcopy_source *postcopy = &source->postcopy;
    CHECK(pthread_mutex_lock(&postcopy->orders.lock) == 0);
    postcopy->orders.proven = !postcopy->orders.quit;
    bool proven = postcopy->orders.proven;
    CHECK(pthread_mutex_unlock(&postcopy->orders.lock) == 0);
    if (!proven) {
        return DROVER_ECANCELLED;
    }
    if (!postcopy->done_heard) {
        postcopy->done_heard = true;
        status_board_move(&source->board, MIGRATION_STATE_POSTCOPY, NULL);
    }
    return 0;
}

static void link_drop(struct migration_source *source)
{
    if (source->link == NULL) {
        return;
    }
    stream_out_done(&source->out);
    stream_in_done(&source->in);
    transport_link_close(source->link);
    source->link = NULL;
}

/* Says which move it is, and hears what the target still lacks. */
static int resume_greet(struct migration_source *source)
{
    const struct migration_times *times = &source->config.times;
    struct wire_resume resume = {.vm_id = source->config.vm_id,
                                 .session = source->postcopy.session};
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_resume_encode(&frame, &resume);
    rv = rv != 0 ? rv : stream_out_frames(&source->out, &frame, NULL);
    for (unsigned i = 0; i < source->pages.region_count; i++) {
        memset(source->pages.regions[i].pending, 0,
               postcopy_source_words(&source->pages.regions[i]) * sizeof(uint64_t));
    }
    source->pages.pending_count = 0;
    /* It may not have noticed yet that the old link is gone. */
    uint64_t until_ms = clock_now_ms() + UINT64_C(2) * times->idle_ms;
    while (rv == 0) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        rv = stream_in_message(&source->in, 2 * times->idle_ms, until_ms, &type, &payload,
                               &size);
        if (rv == 0 && type == WIRE_RESUMED) {
            return wire_plain_decode(payload, size);
        }
        if (rv == 0) {
            rv = type == WIRE_MISSING ? postcopy_source_lacks(source, payload, size)
                                      : DROVER_EMALFORMED;
        }
    }
    return rv;
}

/* `link_fd` -1: connects itself. */
static int resume(struct migration_source *source, int link_fd, struct error *err)
{
    const struct migration_source_config *config = &source->config;
    CHECK(link_fd < 0 || config->transport->adopt != NULL);
    int rv = link_fd >= 0
                 ? config->transport->adopt(link_fd, source->address, source->cancel_fd,
                                            config->times.connect_ms,
                                            config->times.idle_ms, &source->link, err)
                 : config->transport->connect(source->address, source->cancel_fd,
                                              config->times.connect_ms,
                                              config->times.idle_ms, &source->link, err);
    if (rv != 0) {
        return rv;
    }
    uint64_t bytes_sent = source->out.bytes_sent;
    rv = stream_out_init(&source->out, source->link, config->times.idle_ms);
    source->out.bytes_sent = bytes_sent;
    rv = rv != 0 ? rv : stream_in_init(&source->in, source->link);
    source->postcopy.pages_sent = source->postcopy.pages_placed = 0;
    source->postcopy.heard_bytes = 0;
    rv = rv != 0 ? rv : resume_greet(source);
    if (rv != 0) {
        (void)error_set(err, rv, "resuming at %s: %s", source->uri, err_text(rv));
        link_drop(source);
        return rv;
    }
    return postcopy_source_prove(source);
}

/* Waits for an order, or for the time to try by itself. DROVER_ECANCELLED: to end. */
static int order_wait(struct migration_source *source, int *ret_link_fd)
{
    struct postcopy_source *postcopy = &source->postcopy;
    for (;;) {
        struct pollfd woken = {.fd = source->cancel_fd, .events = POLLIN};
        int wait_ms = postcopy->connects ? (int)source->config.times.keepalive_ms : -1;
        int events = poll(&woken, 1, wait_ms);
        eventfd_t count;
        (void)eventfd_read(source->cancel_fd, &count); /* nothing is fine */
        CHECK(pthread_mutex_lock(&postcopy->orders.lock) == 0);
        bool quit = postcopy->orders.quit;
        bool ordered = postcopy->orders.resume;
        *ret_link_fd = postcopy->orders.link_fd;
        postcopy->orders.resume = false;
        postcopy->orders.link_fd = -1;
        CHECK(pthread_mutex_unlock(&postcopy->orders.lock) == 0);
        if (quit) {
            cleanup_fd(ret_link_fd);
            return DROVER_ECANCELLED;
        }
        if (ordered || (postcopy->connects && events == 0)) {
            return 0;
        }
    }
}

int postcopy_source_reconnect(struct migration_source *source, int link_error)
{
    struct error err = {0};
    int link_fd = -1;
    (void)error_set(&err, link_error, "the connection to %s is lost: %s", source->uri,
                    err_text(link_error));
    link_drop(source);
    for (;;) {
        postcopy_source_unknown(source, true);
        status_board_interrupt(&source->board, &err);
        int rv = order_wait(source, &link_fd);
        if (rv != 0) {
            return rv;
        }
        rv = resume(source, link_fd, &err);
        if (rv == 0) {
            status_board_interrupt(&source->board, NULL);
            return 0;
        }
    }
}

bool postcopy_source_quit(struct migration_source *source, bool if_unproven)
{
    struct postcopy_source *postcopy = &source->postcopy;
    CHECK(pthread_mutex_lock(&postcopy->orders.lock) == 0);
    bool quits = !(if_unproven && postcopy->orders.proven);
    postcopy->orders.quit = postcopy->orders.quit || quits;
    CHECK(pthread_mutex_unlock(&postcopy->orders.lock) == 0);
    if (quits) {
        (void)eventfd_write(source->cancel_fd, 1); /* full means that it is readable */
    }
    return quits;
}

int migration_source_resume(struct migration_source *source, int link_fd)
{
    struct postcopy_source *postcopy = &source->postcopy;
    struct migration_status status;
    status_board_get(&source->board, &status);
    bool wanted = status.state == MIGRATION_STATE_POSTCOPY ||
                  (status.state == MIGRATION_STATE_UNKNOWN && status.interrupted);
    if (!wanted) {
        cleanup_fd(&link_fd);
        return DROVER_EWRONGSTATE;
    }
    CHECK(pthread_mutex_lock(&postcopy->orders.lock) == 0);
    cleanup_fd(&postcopy->orders.link_fd); /* a later one is better */
    postcopy->orders.link_fd = link_fd;
    postcopy->orders.resume = true;
    CHECK(pthread_mutex_unlock(&postcopy->orders.lock) == 0);
    (void)eventfd_write(source->cancel_fd, 1); /* full means that it is readable */
    return 0;
}
