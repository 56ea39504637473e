/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source: connect, compare, rounds. The handover is in handover.c.
 */
#include "migration/source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "migration/source_internal.h"

#define US_PER_S      UINT64_C(1000000)
#define NS_PER_US     UINT64_C(1000)
#define NO_ROUND_TRIP UINT64_MAX
/* A round that sends less says nothing about the link's speed. */
#define SPEED_BYTES_MIN (1024u * 1024u)
/* What a pause takes beside its pages: stop, state, load; and the round trips of the
 * handover. */
#define HANDOVER_FIXED_US    3000u
#define HANDOVER_ROUND_TRIPS 3u

/* What the target may have said before it closed. */
static int peer_reason(struct migration_source *source)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct wire_refusal refusal;
    if (source->in.data == NULL ||
        stream_in_message(&source->in, 0, 0, &type, &payload, &size) != 0) {
        return 0;
    }
    if (type != WIRE_ABORT || wire_refusal_decode(payload, size, &refusal) != 0) {
        return error_set(&source->err, DROVER_EPEER,
                         "the target sent something out of turn: is it another version?");
    }
    return error_set(&source->err, refusal.code, "the target gave up: %s",
                     refusal.reason);
}

int source_link_error(struct migration_source *source, int code, const char *doing)
{
    if (code == DROVER_ECANCELLED) {
        return error_set(&source->err, code, "cancelled");
    }
    int rv = peer_reason(source);
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
    source->next_tick_ms = now_ms + source->config.times.keepalive_ms / 2;
    int rv = stream_out_keepalive(&source->out, source->config.times.keepalive_ms / 2);
    if (rv != 0) {
        return source_link_error(source, rv, "sending");
    }
    struct migration_status *status = status_board_lock(&source->board);
    status->bytes_remaining = source->pages.pending_count * MIGRATION_PAGE_SIZE;
    status->figures.bytes_sent = source->out.bytes_sent;
    status->figures.pages_sent = source->pages.sent_count;
    status->figures.pages_zero = source->pages.zero_count;
    status_board_unlock(&source->board);
    return peer_reason(source);
}

int source_expect(struct migration_source *source, enum wire_type type, uint32_t idle_ms,
                  uint64_t until_ms, const char *doing, const uint8_t **ret_payload,
                  size_t *ret_size)
{
    enum wire_type got;
    int rv =
        stream_in_message(&source->in, idle_ms, until_ms, &got, ret_payload, ret_size);
    if (rv != 0) {
        return source_link_error(source, rv, doing);
    }
    if (got == type) {
        return 0;
    }
    struct wire_refusal refusal;
    if ((got == WIRE_ABORT || got == WIRE_REFUSE) &&
        wire_refusal_decode(*ret_payload, *ret_size, &refusal) == 0) {
        return error_set(&source->err, refusal.code,
                         got == WIRE_REFUSE ? "the target refuses: %s"
                                            : "the target gave up: %s",
                         refusal.reason);
    }
    return error_set(&source->err, DROVER_EPEER,
                     "%s: the target sent something out of turn: is it another version?",
                     doing);
}

static int hello_send(struct migration_source *source, struct buffer *config)
{
    struct migration_guest *guest = source->config.guest;
    struct wire_hello hello = {
        .version_min = WIRE_VERSION_OLDEST,
        .version_max = WIRE_VERSION,
        .vm_id = source->config.vm_id,
        .epoch = source->config.epoch,
        .region_count = source->pages.region_count,
    };
    int rv = id_random_bytes(&hello.session, sizeof(hello.session));
    rv = rv != 0 ? rv : guest->ops->config_save(guest, config);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't describe the machine: %s",
                         err_text(rv));
    }
    hello.config = config->data;
    hello.config_size = config->size;
    for (unsigned i = 0; i < hello.region_count; i++) {
        hello.regions[i].gpa = source->pages.regions[i].where.gpa;
        hello.regions[i].size_bytes = source->pages.regions[i].where.size_bytes;
    }
    CLEANUP(buffer_done) struct buffer frame = {0};
    rv = wire_hello_encode(&frame, &hello);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't describe the machine: %s",
                         err_text(rv));
    }
    rv = stream_out_frames(&source->out, &frame, NULL);
    return rv != 0 ? source_link_error(source, rv, "saying hello") : 0;
}

static int greet(struct migration_source *source)
{
    CLEANUP(buffer_done) struct buffer config = {0};
    uint64_t sent_ns = clock_now_ns();
    int rv = hello_send(source, &config);
    if (rv != 0) {
        return rv;
    }
    const uint8_t *payload;
    size_t size;
    rv = source_expect(source, WIRE_ACCEPT, source->config.times.idle_ms, 0,
                       "saying hello", &payload, &size);
    if (rv != 0) {
        return rv;
    }
    source->round_trip_us = (clock_now_ns() - sent_ns) / NS_PER_US;
    uint16_t version = 0;
    uint64_t epoch = 0;
    rv = wire_accept_decode(payload, size, &version, &epoch);
    if (rv != 0 || version < WIRE_VERSION_OLDEST || version > WIRE_VERSION) {
        return error_set(&source->err, DROVER_EVERSION,
                         "the target speaks version %u, this side %u to %u", version,
                         WIRE_VERSION_OLDEST, WIRE_VERSION);
    }
    return 0;
}

/* The link's speed, from a round that took `ns` up to the target's word that it has all.
 */
static void measure_speed(struct migration_source *source, uint64_t bytes, uint64_t ns)
{
    if (bytes < SPEED_BYTES_MIN && source->bytes_per_second != 0) {
        return;
    }
    double speed = (double)bytes * (double)NS_PER_S / (double)(ns == 0 ? 1 : ns);
    source->bytes_per_second = speed < 1 ? 1 : (uint64_t)speed;
}

static int round_send(struct migration_source *source)
{
    uint64_t start_ns = clock_now_ns();
    uint64_t start_bytes = source->out.bytes_sent;
    source->round++;
    int rv = pages_send(&source->pages, &source->out, false, source_tick, source);
    if (rv != 0) {
        return source->err.code != 0 ? rv
                                     : source_link_error(source, rv, "sending memory");
    }
    struct wire_round round = {.round = source->round, .bytes = source->out.bytes_sent};
    CLEANUP(buffer_done) struct buffer frame = {0};
    rv = wire_round_encode(&frame, WIRE_ROUND_END, &round);
    rv = rv != 0 ? rv : stream_out_frames(&source->out, &frame, NULL);
    if (rv != 0) {
        return source_link_error(source, rv, "sending memory");
    }
    uint64_t sent_ns = clock_now_ns();
    const uint8_t *payload;
    size_t size;
    rv = source_expect(source, WIRE_ROUND_ACK, source->config.times.idle_ms, 0,
                       "waiting for the target", &payload, &size);
    if (rv != 0) {
        return rv;
    }
    uint64_t end_ns = clock_now_ns();
    if (wire_round_decode(payload, size, &round) != 0 || round.round != source->round) {
        return error_set(&source->err, DROVER_EPEER,
                         "the target confirmed another round");
    }
    uint64_t round_trip_us = (end_ns - sent_ns) / NS_PER_US;
    if (round_trip_us < source->round_trip_us) {
        source->round_trip_us = round_trip_us;
    }
    measure_speed(source, source->out.bytes_sent - start_bytes, end_ns - start_ns);
    return 0;
}

static int dirty_fetch(struct migration_source *source, struct plan_measure *measure)
{
    uint64_t dirty_count = 0;
    int rv = pages_fetch_dirty(&source->pages, &dirty_count);
    if (rv != 0) {
        return error_set(&source->err, rv, "reading the dirty log: %s", err_text(rv));
    }
    uint64_t now_ns = clock_now_ns();
    uint64_t since_ns = now_ns > source->fetched_ns ? now_ns - source->fetched_ns : 1;
    double dirty_bytes = (double)(dirty_count * MIGRATION_PAGE_SIZE);
    source->fetched_ns = now_ns;
    *measure = (struct plan_measure){
        .round = source->round,
        .elapsed_ms = (now_ns - source->started_ns) / NS_PER_MS,
        .remaining_bytes = source->pages.pending_count * MIGRATION_PAGE_SIZE,
        .bytes_per_second = source->bytes_per_second,
        .dirty_bytes_per_second =
            (uint64_t)(dirty_bytes * (double)NS_PER_S / (double)since_ns),
        .fixed_us = HANDOVER_FIXED_US + HANDOVER_ROUND_TRIPS * source->round_trip_us,
    };
    return 0;
}

static void publish(struct migration_source *source, const struct plan_measure *measure)
{
    struct migration_status *status = status_board_lock(&source->board);
    status->round = measure->round;
    status->bytes_remaining = measure->remaining_bytes;
    status->bytes_per_second = measure->bytes_per_second;
    status->dirty_bytes_per_second = measure->dirty_bytes_per_second;
    status->figures.predicted_downtime_us = source->predicted_downtime_us;
    status->figures.bytes_sent = source->out.bytes_sent;
    status->figures.pages_sent = source->pages.sent_count;
    status->figures.pages_zero = source->pages.zero_count;
    status->figures.rounds = measure->round;
    status_board_unlock(&source->board);
}

static int rounds(struct migration_source *source)
{
    struct migration_guest *guest = source->config.guest;
    /* First the log, then what is populated: a page that is touched in between is in the
     * log. */
    int rv = guest->ops->dirty_start(guest);
    source->fetched_ns = clock_now_ns();
    rv = rv != 0 ? rv : pages_mark_populated(&source->pages);
    if (rv != 0) {
        return error_set(&source->err, rv, "starting the dirty log: %s", err_text(rv));
    }
    for (;;) {
        struct plan_measure measure;
        struct plan_decision decision;
        rv = round_send(source);
        rv = rv != 0 ? rv : dirty_fetch(source, &measure);
        if (rv != 0) {
            return rv;
        }
        plan_decide(&source->plan, &measure, &decision);
        source->predicted_downtime_us = decision.predicted_downtime_us;
        publish(source, &measure);
        if (decision.action == PLAN_HANDOVER) {
            return 0;
        }
        if (decision.action == PLAN_GIVE_UP) {
            return error_set(&source->err, DROVER_ETIMEDOUT2, "%s", decision.reason);
        }
    }
}

static int open_streams(struct migration_source *source)
{
    const struct migration_source_config *config = &source->config;
    int rv = config->transport->connect(source->address, source->cancel_fd,
                                        config->times.connect_ms, config->times.idle_ms,
                                        &source->link, &source->err);
    if (rv != 0) {
        return rv;
    }
    rv = stream_out_init(&source->out, source->link, config->times.idle_ms);
    rv = rv != 0 ? rv : stream_in_init(&source->in, source->link);
    rv = rv != 0 ? rv : pages_init(&source->pages, config->guest);
    if (rv != 0) {
        return error_set(&source->err, rv, "out of memory");
    }
    struct migration_status *status = status_board_lock(&source->board);
    status->bytes_total = pages_total_bytes(&source->pages);
    status->bytes_remaining = status->bytes_total;
    status_board_unlock(&source->board);
    return 0;
}

static int move(struct migration_source *source)
{
    status_board_move(&source->board, MIGRATION_STATE_CONNECTING, NULL);
    source->started_ns = clock_now_ns();
    int rv = open_streams(source);
    rv = rv != 0 ? rv : greet(source);
    if (rv != 0) {
        return rv;
    }
    status_board_move(&source->board, MIGRATION_STATE_PRECOPY, NULL);
    rv = rounds(source);
    if (rv != 0) {
        return rv;
    }
    status_board_move(&source->board, MIGRATION_STATE_HANDOVER, NULL);
    return source_handover(source);
}

/* Tells the target why, if it can still understand, and closes. Never waits: the guest
 * may be standing. */
static void close_link(struct migration_source *source, bool say_why)
{
    if (source->link == NULL) {
        return;
    }
    source->link->ops->set_cancel(source->link, -1);
    if (say_why && !source->out.broken) {
        stream_out_drop(&source->out);
        struct wire_refusal refusal = {.code = source->err.code};
        CLEANUP(buffer_done) struct buffer frame = {0};
        memcpy(refusal.reason, source->err.text, WIRE_REASON_BYTES_MAX);
        source->out.idle_ms = 0;
        if (wire_refusal_encode(&frame, WIRE_ABORT, &refusal) == 0) {
            (void)stream_out_frames(&source->out, &frame,
                                    NULL); /* it will notice the end anyway */
        }
    }
    stream_out_done(&source->out);
    stream_in_done(&source->in);
    transport_link_close(source->link);
    source->link = NULL;
}

static void go_on(struct migration_source *source)
{
    struct migration_guest *guest = source->config.guest;
    if (source->stopping) {
        guest->ops->go_on(guest);
        source->stopping = false;
    }
    guest->ops->dirty_stop(guest);
}

static void *source_main(void *owner)
{
    struct migration_source *source = owner;
    int rv = move(source);
    CHECK(rv <= 0 && (rv == 0) == (source->err.code == 0));
    enum migration_state end;
    if (rv == 0) {
        end = MIGRATION_STATE_DONE;
        close_link(source, false);
    } else if (source->handed_over) {
        end = MIGRATION_STATE_UNKNOWN;
        close_link(source, false);
    } else {
        /* From here on the go can't be sent, whoever asks. */
        (void)gate_decide(&source->gate,
                          GATE_NEVER); /* or it stays decided: nobody asks again */
        end =
            rv == DROVER_ECANCELLED ? MIGRATION_STATE_CANCELLED : MIGRATION_STATE_FAILED;
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
    struct migration_source *source = calloc(1, sizeof(*source));
    if (source == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    source->config = *config;
    memcpy(source->uri, config->uri, strlen(config->uri) + 1);
    source->config.uri = source->uri;
    source->address = source->uri + (address - config->uri);
    source->config.transport = config->transport != NULL ? config->transport : transport;
    source->round_trip_us = NO_ROUND_TRIP;
    plan_init(&source->plan,
              (struct plan_goals){.max_downtime_ms = config->max_downtime_ms,
                                  .deadline_ms = config->deadline_ms});
    source->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (source->cancel_fd < 0) {
        rv = -errno;
        free(source);
        return error_set(err, rv, "can't make an eventfd: %s", err_text(rv));
    }
    rv = status_board_init(&source->board, config->changed, config->owner);
    if (rv != 0) {
        (void)close(source->cancel_fd); /* nothing was written to it */
        free(source);
        return error_set(err, rv, "can't make a lock: %s", err_text(rv));
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
    if (status.state != MIGRATION_STATE_UNKNOWN) {
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
    join(source);
    close_link(source, false);
    pages_done(&source->pages);
    status_board_done(&source->board);
    (void)close(source->cancel_fd); /* an eventfd */
    free(source);
}
