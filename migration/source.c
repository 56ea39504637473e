/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source: how a move begins, and how it ends. In between: source_links.c, rounds.c,
 * handover.c.
 */
#include "migration/source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/placing.h"
#include "migration/source_internal.h"

#define MEGABYTE      UINT64_C(1000000)
#define NS_PER_US     UINT64_C(1000)
#define NO_ROUND_TRIP UINT64_MAX
/* All but a cancel is looked at this often: it takes system calls, and whoever sends asks
 * after each extent. */
#define TICK_MS 1u
/* How long the word that a move has failed may wait for room on a busy link. */
#define SAY_WHY_MS    500u
/* When a data stream has failed: how long the target's reason is waited for on the
 * control stream. The guest runs. */
#define PEER_REASON_MS 100u

/* What the target may have said before it closed. */
static int peer_reason(struct migration_source *source, uint32_t wait_ms)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct wire_refusal refusal;
    if (source->in.data == NULL ||
        stream_in_message(&source->in, wait_ms, clock_now_ms() + wait_ms, &type, &payload,
                          &size) != 0) {
        return 0;
    }
    if (source->answer_due && type == WIRE_ROUND_ACK) {
        return 0; /* says nothing about what went wrong */
    }
    if (type != WIRE_ABORT || wire_refusal_decode(payload, size, &refusal) != 0) {
        return error_set(&source->err, DROVER_EPEER,
                         "the target sent something out of turn: is it another version?");
    }
    source->peer_ended = true;
    return error_set(&source->err, refusal.code, "the target gave up: %s",
                     refusal.reason);
}

uint64_t source_bytes_placed(const struct migration_source *source)
{
    return atomic_load(&source->out.bytes_placed) +
           streams_bytes_placed(&source->streams);
}

uint64_t source_bytes_sent(const struct migration_source *source)
{
    return atomic_load(&source->out.bytes_sent) + streams_bytes_sent(&source->streams);
}

/* UINT32_MAX: there is no deadline, or it does not matter any more. */
static uint32_t left_ms(const struct migration_source *source)
{
    uint32_t deadline_ms = source->config.deadline_ms;
    if (deadline_ms == 0 || source->stopping || source->started_ns == 0) {
        return UINT32_MAX;
    }
    uint64_t until_ms = source->started_ns / NS_PER_MS + deadline_ms;
    uint64_t now_ms = clock_now_ms();
    return now_ms >= until_ms ? 0 : (uint32_t)(until_ms - now_ms);
}

uint32_t source_patience_ms(const struct migration_source *source)
{
    uint32_t left = left_ms(source);
    return left < source->config.times.idle_ms ? left : source->config.times.idle_ms;
}

uint32_t source_send_patience_ms(const struct migration_source *source)
{
    uint32_t patience_ms = source_patience_ms(source);
    return patience_ms > SAY_WHY_MS ? patience_ms : SAY_WHY_MS;
}

static int deadline_error(struct migration_source *source)
{
    return error_set(&source->err, DROVER_ETIMEDOUT2,
                     "the deadline is over and %" PRIu64
                     " MB are left; give it more time (--deadline) or a faster link",
                     source->pages.pending_count * MIGRATION_PAGE_SIZE / MEGABYTE);
}

int source_link_error(struct migration_source *source, int code, const char *doing)
{
    /* A data stream that fails wakes this thread in the same way as a cancel does. */
    int error = gate_get(&source->gate) == GATE_NEVER ? 0 : streams_error(&source->streams);
    if (code == DROVER_ECANCELLED && error == 0) {
        return error_set(&source->err, code, "cancelled");
    }
    code = error != 0 ? error : code;
    if (code == DROVER_ETIMEDOUT2 && left_ms(source) == 0) {
        return deadline_error(source);
    }
    if (error != 0) {
        source->link->ops->set_cancel(source->link, -1);
    }
    int rv = peer_reason(source, error != 0 ? PEER_REASON_MS : 0);
    if (rv != 0) {
        return rv;
    }
    return error_set(&source->err, code, "%s: the connection to %s: %s", doing,
                     source->uri, err_text(code));
}

int source_tick(void *owner)
{
    struct migration_source *source = owner;
    if (gate_get(&source->gate) == GATE_NEVER) {
        return source_link_error(source, DROVER_ECANCELLED, "");
    }
    uint64_t now_ms = clock_now_ms();
    if (now_ms < source->next_tick_ms) {
        return 0;
    }
    source->next_tick_ms = now_ms + TICK_MS;
    if (left_ms(source) == 0) {
        return deadline_error(source);
    }
    if (!source->stopping) {
        source->out.idle_ms = source_send_patience_ms(source);
    }
    int rv = stream_out_keepalive(&source->out, source->config.times.keepalive_ms / 2);
    if (rv != 0) {
        return source_link_error(source, rv, "sending");
    }
    struct migration_status *status = status_board_lock(&source->board);
    status->bytes_remaining = source->pages.pending_count * MIGRATION_PAGE_SIZE;
    if (source->round <= 1 && now_ms > source->round_ms) {
        /* Later ones are measured whole. */
        status->bytes_per_second =
            source_bytes_sent(source) * MS_PER_S / (now_ms - source->round_ms);
    }
    status->figures.bytes_sent = source_bytes_sent(source);
    status->figures.bytes_placed = source_bytes_placed(source);
    status->figures.pages_sent = source->pages.sent_count;
    status->figures.pages_zero = source->pages.zero_count;
    status_board_unlock(&source->board);
    int error = streams_error(&source->streams);
    if (error != 0) {
        return source_link_error(source, error, "sending memory");
    }
    return source->answer_due ? 0 : peer_reason(source, 0);
}

int source_expect(struct migration_source *source, enum wire_type type, uint32_t idle_ms,
                  uint64_t until_ms, const char *doing, const uint8_t **ret_payload,
                  size_t *ret_size)
{
    enum wire_type got;
    int rv;
    do {
        rv = stream_in_message(&source->in, idle_ms, until_ms, &got, ret_payload,
                               ret_size);
    } while (rv == 0 &&
             postcopy_source_hears(source, got, *ret_payload, *ret_size, &rv));
    if (rv != 0) {
        return source_link_error(source, rv, doing);
    }
    if (got == type) {
        return 0;
    }
    struct wire_refusal refusal;
    if ((got == WIRE_ABORT || got == WIRE_REFUSE) &&
        wire_refusal_decode(*ret_payload, *ret_size, &refusal) == 0) {
        source->peer_ended = true;
        return error_set(&source->err, refusal.code,
                         got == WIRE_REFUSE ? "the target refuses: %s"
                                            : "the target gave up: %s",
                         refusal.reason);
    }
    return error_set(&source->err, DROVER_EPEER,
                     "%s: the target sent something out of turn: is it another version?",
                     doing);
}

static int move(struct migration_source *source)
{
    status_board_move(&source->board, MIGRATION_STATE_CONNECTING, NULL);
    source->started_ns = clock_now_ns();
    int rv = source_connect(source);
    if (rv != 0) {
        return rv;
    }
    status_board_move(&source->board, MIGRATION_STATE_PRECOPY, NULL);
    rv = source_rounds(source);
    if (rv != 0) {
        return rv;
    }
    status_board_move(&source->board, MIGRATION_STATE_HANDOVER, NULL);
    return source_handover(source);
}

/* Tells the target why, if it can still understand, and closes. Never waits while the
 * guest stands. */
static void close_link(struct migration_source *source, bool say_why)
{
    if (source->link == NULL) {
        return;
    }
    source->link->ops->set_cancel(source->link, -1);
    /* Before the other streams end: by that alone the target would not know why. */
    if (say_why && !source->out.broken) {
        stream_out_drop(&source->out);
        struct wire_refusal refusal = {.code = source->err.code};
        CLEANUP(buffer_done) struct buffer frame = {0};
        memcpy(refusal.reason, source->err.text, WIRE_REASON_BYTES_MAX);
        source->out.idle_ms = source->stopping ? 0 : SAY_WHY_MS;
        if (wire_refusal_encode(&frame, WIRE_ABORT, &refusal) == 0) {
            (void)stream_out_frames(&source->out, &frame,
                                    NULL); /* it will notice the end anyway */
        }
        if (!source->stopping && !source->out.broken && !source->peer_ended) {
            transport_link_linger(source->link, source->config.times.keepalive_ms);
        }
    }
    streams_stop(&source->streams);
    stream_out_done(&source->out);
    stream_in_done(&source->in);
    transport_link_close(source->link);
    source->link = NULL;
    placing_end(source->config.guest, source->placing);
    source->placing = 0;
}

static void go_on(struct migration_source *source)
{
    struct migration_guest *guest = source->config.guest;
    goals_end(source);
    if (source->stopping) {
        guest->ops->go_on(guest);
        source->stopping = false;
    }
    guest->ops->dirty_stop(guest);
}

static void *source_main(void *owner)
{
    struct migration_source *source = owner;
    if (source->config.begun != NULL) {
        source->config.begun(source->config.owner);
    }
    int rv = move(source);
    CHECK(rv <= 0 && (rv == 0) == (source->err.code == 0));
    enum migration_state end;
    if (rv == 0) {
        end = MIGRATION_STATE_DONE;
        close_link(source, false);
    } else if (source->postcopy.entered) {
        close_link(source, false);
        return NULL; /* how it stands was told */
    } else if (source->handed_over) {
        end = MIGRATION_STATE_UNKNOWN;
        close_link(source, false);
    } else {
        /* From here on the go can't be sent, whoever asks. */
        (void)gate_decide(&source->gate,
                          GATE_NEVER); /* or it stays decided: nobody asks again */
        end =
            rv == DROVER_ECANCELLED ? MIGRATION_STATE_CANCELLED : MIGRATION_STATE_FAILED;
        goals_end(source); /* before anything that waits */
        close_link(source, true);
        go_on(source);
    }
    status_board_move(&source->board, end, rv == 0 ? NULL : &source->err);
    return NULL;
}

int migration_source_create(const struct migration_source_config *config,
                            struct migration_source **ret_source, struct error *err)
{
    const struct transport_ops *transport = NULL;
    const char *address = NULL;
    int rv = transport_find(config->uri, &transport, &address, err);
    if (rv != 0) {
        return rv;
    }
    CHECK(config->link_count <= MIGRATION_STREAMS_MAX);
    const char *rdma_address = config->rdma_address != NULL ? config->rdma_address : "";
    if (strlen(rdma_address) >= TRANSPORT_URI_SIZE) {
        return error_set(err, DROVER_EBADINPUT, "the address for RDMA is too long");
    }
    struct migration_source *source = calloc(1, sizeof(*source));
    if (source == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    source->config = *config;
    memcpy(source->uri, config->uri, strlen(config->uri) + 1);
    source->config.uri = source->uri;
    memcpy(source->rdma_address, rdma_address, strlen(rdma_address) + 1);
    source->config.rdma_address = source->rdma_address;
    source->address = source->uri + (address - config->uri);
    source->config.transport = config->transport != NULL ? config->transport : transport;
    source->round_trip_us = NO_ROUND_TRIP;
    plan_init(&source->plan,
              (struct plan_goals){.max_downtime_ms = config->max_downtime_ms,
                                  .deadline_ms = config->deadline_ms,
                                  .postcopy = config->postcopy});
    source->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (source->cancel_fd < 0) {
        rv = -errno;
        free(source);
        return error_set(err, rv, "can't make an eventfd: %s", err_text(rv));
    }
    rv = streams_init(&source->streams, &source->pages, source->cancel_fd,
                      config->times.keepalive_ms);
    if (rv == 0) {
        rv = pace_init(&source->pace, config->bandwidth_bytes_per_second,
                       source->cancel_fd);
        rv = rv != 0
                 ? rv
                 : status_board_init(&source->board, config->changed, config->owner);
        rv = rv != 0 ? rv : postcopy_source_init(source, config->link_count == 0);
        if (rv != 0) {
            streams_done(&source->streams);
        }
    }
    if (rv != 0) {
        (void)close(source->cancel_fd); /* nothing was written to it */
        free(source);
        return error_set(err, rv, "can't make a lock: %s", err_text(rv));
    }
    if (config->notice != NULL) {
        (void)snprintf(source->board.status.notice, sizeof(source->board.status.notice),
                       "%s", config->notice); /* cut, if it is long */
        source->config.notice = NULL;          /* was borrowed */
    }
    *ret_source = source;
    return 0;
}

int migration_source_start(struct migration_source *source)
{
    CHECK(!source->thread_started);
    int rv = -pthread_create(&source->thread, NULL, source_main, source);
    source->thread_started = rv == 0;
    return rv;
}

int migration_source_cancel(struct migration_source *source)
{
    if (!gate_decide(&source->gate, GATE_NEVER)) {
        return DROVER_EHANDEDOVER;
    }
    (void)eventfd_write(source->cancel_fd, 1); /* full means that it is readable */
    return 0;
}

void migration_source_limit(struct migration_source *source, uint64_t bytes_per_second)
{
    pace_set(&source->pace, bytes_per_second);
}

void migration_source_status(struct migration_source *source,
                             struct migration_status *ret_status)
{
    status_board_get(&source->board, ret_status);
}

static void join(struct migration_source *source)
{
    if (source->thread_started) {
        CHECK(pthread_join(source->thread, NULL) == 0);
        source->thread_started = false;
    }
}

int migration_source_reclaim(struct migration_source *source, const char *reason)
{
    struct migration_status status;
    status_board_get(&source->board, &status);
    if (status.state != MIGRATION_STATE_UNKNOWN || !postcopy_source_quit(source, true)) {
        return DROVER_EWRONGSTATE;
    }
    join(source);
    go_on(source);
    struct error err;
    (void)error_set(&err, DROVER_EPEER, "%s", reason);
    status_board_move(&source->board, MIGRATION_STATE_FAILED, &err);
    return 0;
}

void migration_source_free(struct migration_source *source)
{
    if (source == NULL) {
        return;
    }
    (void)migration_source_cancel(
        source); /* after the go it ends by itself, within done_ms */
    (void)postcopy_source_quit(source, false);
    join(source);
    close_link(source, false);
    streams_done(&source->streams);
    pace_done(&source->pace);
    postcopy_source_done(source);
    compress_cache_free(source->sent);
    pages_done(&source->pages);
    probe_done(&source->goals.probe);
    status_board_done(&source->board);
    (void)close(source->cancel_fd); /* an eventfd */
    for (unsigned i = 0; i < source->config.link_count; i++) {
        cleanup_fd(&source->config.link_fds[i]); /* not used */
    }
    free(source);
}
