/* SPDX-License-Identifier: Apache-2.0 */
/* The source's rounds: memory is sent again and again while the guest writes to it, until
 * the plan says otherwise. */
#include <errno.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/source_internal.h"

#define NS_PER_US UINT64_C(1000)
/* A round that sends less says nothing about the link's speed. */
#define SPEED_BYTES_MIN (1024u * 1024u)

/* How often it is looked in the first round what the guest has written again already. */
#define LOOK_MS 100u

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

/*
 * The first round sends all that the guest ever touched, and takes long where the link is slow:
 * what has been written since it began, before its turn has come, is most likely written all the
 * time. It stays for a later round, in which it goes in any case.
 */
static int round_tick(void *owner)
{
    struct migration_source *source = owner;
    int rv = source_tick(source);
    uint64_t now_ms = clock_now_ms();
    if (rv != 0 || source->round != 1 || now_ms < source->look_ms) {
        return rv;
    }
    source->look_ms = now_ms + LOOK_MS;
    rv = pages_defer_dirty(&source->pages);
    return rv != 0
               ? error_set(&source->err, rv, "reading the dirty log: %s", err_text(rv))
               : 0;
}

/* Over all streams: what is pending, and the end of the round on each. */
static int round_send(struct migration_source *source)
{
    source->out.idle_ms = source_send_patience_ms(source);
    pages_deal_begin(&source->pages);
    streams_round(&source->streams, source->round, source->out.idle_ms);
    int rv = pages_deal(&source->pages, &source->out, false, round_tick, source);
    struct wire_round round = {.round = source->round};
    CLEANUP(buffer_done) struct buffer frame = {0};
    if (rv == 0) {
        rv = stream_out_flush(&source->out);
        round.bytes = source->out.bytes_sent;
        rv = rv != 0 ? rv : stream_out_mark(&source->out, source->round);
        rv = rv != 0 ? rv : wire_round_encode(&frame, WIRE_ROUND_END, &round);
        rv = rv != 0 ? rv : stream_out_frames(&source->out, &frame, NULL);
    }
    /* The target may confirm the round before the last thread has told that it is over. */
    source->answer_due = true;
    while (rv == 0) {
        rv = streams_wait(&source->streams, source->config.times.keepalive_ms / 4);
        if (rv == 0) {
            return 0;
        }
        rv = rv == -EAGAIN ? round_tick(source) : rv;
    }
    return source->err.code != 0 ? rv : source_link_error(source, rv, "sending memory");
}

static int round_run(struct migration_source *source, struct migration_round *ret_round)
{
    uint64_t start_ns = clock_now_ns();
    uint64_t start_bytes = source_bytes_sent(source);
    uint64_t start_pages = atomic_load(&source->pages.sent_count);
    uint64_t start_waited_ns = atomic_load(&source->pace.waited_ns);
    source->round++;
    source->round_ms = start_ns / NS_PER_MS;
    source->look_ms = source->round_ms + LOOK_MS;
    int rv = round_send(source);
    if (rv != 0) {
        return rv;
    }
    uint64_t sent_ns = clock_now_ns();
    const uint8_t *payload;
    size_t size;
    struct wire_round round;
    rv = source_expect(source, WIRE_ROUND_ACK, source_patience_ms(source), 0,
                       "waiting for the target", &payload, &size);
    source->answer_due = false;
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
    /* A limit says nothing about the link, which the pause will have to itself. */
    uint64_t waited_ns = (atomic_load(&source->pace.waited_ns) - start_waited_ns) /
                         (source->streams.count + 1);
    uint64_t took_ns = end_ns - start_ns;
    /* In bytes of memory, which may be more than those that went over the link. */
    uint64_t sent = source_bytes_sent(source) - start_bytes;
    uint64_t memory =
        (atomic_load(&source->pages.sent_count) - start_pages) * MIGRATION_PAGE_SIZE;
    measure_speed(source, sent > memory ? sent : memory,
                  took_ns > waited_ns ? took_ns - waited_ns : 1);
    *ret_round = (struct migration_round){
        .number = source->round,
        .took_us = took_ns / NS_PER_US,
        .answered_us = round_trip_us,
        .limited_us = waited_ns / NS_PER_US,
        .bytes_sent = sent,
        .pages_sent = memory / MIGRATION_PAGE_SIZE,
    };
    return 0;
}

static int dirty_fetch(struct migration_source *source, struct plan_measure *measure)
{
    uint64_t dirty_count = 0;
    uint64_t start_ns = clock_now_ns();
    int rv = pages_peek_dirty(&source->pages, &dirty_count);
    if (rv != 0) {
        return error_set(&source->err, rv, "reading the dirty log: %s", err_text(rv));
    }
    uint64_t now_ns = clock_now_ns();
    source->goals.costs.fetch_us = (now_ns - start_ns) / NS_PER_US;
    uint64_t since_ns = now_ns > source->fetched_ns ? now_ns - source->fetched_ns : 1;
    source->fetched_ns = now_ns;
    goals_measure(source, since_ns / NS_PER_US, dirty_count, measure);
    return 0;
}

static void publish(struct migration_source *source, const struct plan_measure *measure)
{
    struct migration_status *status = status_board_lock(&source->board);
    status->round = measure->round;
    status->bytes_remaining = measure->remaining_bytes;
    status->bytes_per_second = measure->model.link.bytes_per_second;
    status->dirty_bytes_per_second = measure->dirty_bytes_per_second;
    status->figures.bytes_sent = source_bytes_sent(source);
    status->figures.pages_sent = source->pages.sent_count;
    status->figures.pages_zero = source->pages.zero_count;
    status->figures.rounds = measure->round;
    status_board_unlock(&source->board);
}

static void tell(struct migration_source *source, const struct plan_measure *measure,
                 const struct plan_decision *decision, struct migration_round *round)
{
    round->limit_bytes_per_second = atomic_load(&source->pace.bytes_per_second);
    round->link_bytes_per_second = source->bytes_per_second;
    round->dirty_bytes_per_second = measure->dirty_bytes_per_second;
    round->remaining_bytes = measure->remaining_bytes;
    round->predicted_downtime_us = decision->predicted_downtime_us;
    round->throttle_percent = decision->throttle_percent;
    if (source->config.round_done != NULL) {
        source->config.round_done(source->config.owner, round);
    }
}

/* Hands over now if the target can do with what it has; else there is nothing left to
 * try. */
static int postcopy_begin(struct migration_source *source,
                          const struct plan_decision *decision)
{
    struct error why = {0};
    int rv = postcopy_source_ask(source, &why);
    if (rv != 0) {
        return rv;
    }
    if (!source->postcopy.agreed) {
        return error_set(&source->err, DROVER_ETIMEDOUT2,
                         "%s; post-copy is not possible: %s", decision->reason, why.text);
    }
    return 0;
}

int source_rounds(struct migration_source *source)
{
    struct migration_guest *guest = source->config.guest;
    /* First the log, then what is populated: a page that is touched in between is in the
     * log. */
    int rv = guest->ops->dirty_start(guest);
    if (rv == 0 && (rv = goals_watch(source)) != 0) {
        return rv;
    }
    source->fetched_ns = clock_now_ns();
    rv = rv != 0 ? rv : pages_mark_populated(&source->pages);
    if (rv != 0) {
        return error_set(&source->err, rv, "starting the dirty log: %s", err_text(rv));
    }
    rv = goals_foresee(source);
    if (rv != 0) {
        return rv;
    }
    for (;;) {
        struct plan_measure measure;
        struct plan_decision decision;
        struct migration_round round;
        rv = round_run(source, &round);
        rv = rv != 0 ? rv : dirty_fetch(source, &measure);
        if (rv != 0) {
            return rv;
        }
        plan_decide(&source->plan, &measure, &decision);
        publish(source, &measure);
        tell(source, &measure, &decision, &round);
        rv = goals_apply(source, &decision);
        if (rv != 0) {
            return rv;
        }
        if (decision.action == PLAN_HANDOVER) {
            return 0;
        }
        if (decision.action == PLAN_POSTCOPY) {
            return postcopy_begin(source, &decision);
        }
        if (decision.action == PLAN_GIVE_UP) {
            return error_set(&source->err, DROVER_ETIMEDOUT2, "%s", decision.reason);
        }
    }
}
