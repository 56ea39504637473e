/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's handover: the guest stands from here to the target's first entry, so
 * nothing here may take longer than it must. Up to the go everything can be undone; from
 * right before it, nothing.
 */
#include <errno.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/source_internal.h"

#define NS_PER_US UINT64_C(1000)

/* How long the stage that ends now took. */
static uint64_t stage_us(struct migration_source *source)
{
    uint64_t now_ns = clock_now_ns();
    uint64_t us = now_ns > source->stage_ns ? (now_ns - source->stage_ns) / NS_PER_US : 0;
    source->stage_ns = now_ns;
    return us;
}

static int stop(struct migration_source *source, uint64_t *ret_stopped_ns)
{
    struct migration_guest *guest = source->config.guest;
    uint64_t until_ms = clock_now_ms() + source->config.times.drain_ms;
    source->stopping = true;
    source->out.idle_ms = source->config.times.standing_ms;
    int rv = guest->ops->stop_begin(guest);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't stop the guest: %s", err_text(rv));
    }
    for (;;) {
        rv = guest->ops->stop_wait(guest, source->config.times.keepalive_ms / 2,
                                   ret_stopped_ns);
        if (rv == 0) {
            source->stage_ns = *ret_stopped_ns;
            source->figures.pause.drained_us = stage_us(source);
            return 0;
        }
        if (rv != -EAGAIN) {
            return error_set(&source->err, rv, "can't stop the guest: %s", err_text(rv));
        }
        if (clock_now_ms() >= until_ms) {
            return error_set(&source->err, DROVER_ETIMEDOUT2,
                             "the guest's disk and network I/O did not end within %u ms",
                             source->config.times.drain_ms);
        }
        rv = source_tick(source);
        if (rv != 0) {
            return rv;
        }
    }
}

static int last_pages(struct migration_source *source)
{
    uint64_t dirty_count = 0;
    int rv = pages_peek_dirty(&source->pages, &dirty_count);
    if (rv != 0) {
        return error_set(&source->err, rv, "reading the dirty log: %s", err_text(rv));
    }
    if (source->postcopy.agreed) {
        rv = postcopy_source_missing(source);
        source->figures.pause.pages_us = stage_us(source);
        return rv;
    }
    source->figures.pause.last_pages = source->pages.pending_count;
    rv = pages_send(&source->pages, &source->out, true, source_tick, source);
    if (rv != 0) {
        return source->err.code != 0
                   ? rv
                   : source_link_error(source, rv, "sending the last memory");
    }
    source->figures.pause.pages_us = stage_us(source);
    return 0;
}

/* `ret_sent_ms`: not later than the target can have it. */
static int state_send(struct migration_source *source, uint64_t *ret_sent_ms)
{
    struct migration_guest *guest = source->config.guest;
    CLEANUP(buffer_done) struct buffer state = {.limit_bytes = WIRE_STATE_BYTES_MAX};
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = guest->ops->save(guest, &state);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't save the devices' state: %s",
                         err_text(rv));
    }
    source->figures.pause.saved_us = stage_us(source);
    rv = guest->ops->release(guest, &source->err);
    if (rv != 0) {
        return rv;
    }
    source->figures.pause.released_us = stage_us(source);
    rv = wire_state_encode(&frame, state.data, state.size);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't send the devices' state: %s",
                         err_text(rv));
    }
    *ret_sent_ms = clock_now_ms();
    rv = stream_out_frames(&source->out, &frame, NULL);
    return rv != 0 ? source_link_error(source, rv, "sending the devices' state") : 0;
}

/* All that is looked at between ready and go. */
static int may_go(struct migration_source *source, uint64_t until_ms)
{
    struct migration_guest *guest = source->config.guest;
    int rv = guest->ops->may_hand_over(guest, &source->err);
    if (rv != 0) {
        return rv;
    }
    /* Later the target may have given up already, and then nobody would run the guest for
     * a while. */
    if (clock_now_ms() >= until_ms) {
        return error_set(&source->err, DROVER_ETIMEDOUT2,
                         "the target was ready too late");
    }
    if (!gate_decide(&source->gate, GATE_GO)) {
        return source_link_error(source, DROVER_ECANCELLED, "");
    }
    return 0;
}

static uint64_t since_us(uint64_t start_ns)
{
    uint64_t now_ns = clock_now_ns();
    return now_ns > start_ns ? (now_ns - start_ns) / NS_PER_US : 0;
}

/* Sends the go. On an error source->handed_over says whether it may have left. */
static int go_send(struct migration_source *source, uint64_t stopped_ns,
                   uint64_t *ret_sent_ns)
{
    struct wire_go go = {
        .predicted_downtime_us = source->goals.predicted_downtime_us,
        .one_way_us = source->round_trip_us / 2,
        .bytes_sent = source_bytes_sent(source),
        .pages_sent = source->pages.sent_count,
        .pages_zero = source->pages.zero_count,
        .rounds = source->round + 1, /* the last one was sent while the guest stood */
    };
    go.total_us = since_us(source->started_ns);
    go.standing_us = since_us(stopped_ns);
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_go_encode(&frame, &go);
    if (rv != 0) {
        return error_set(&source->err, rv, "can't send the go: %s", err_text(rv));
    }
    struct migration_guest *guest = source->config.guest;
    source->link->ops->set_cancel(source->link, -1);
    source->handed_over = true;
    guest->ops->handed_over(guest);
    *ret_sent_ns = clock_now_ns();
    size_t accepted = 0;
    rv = stream_out_frames(&source->out, &frame, &accepted);
    if (rv != 0) {
        /* If not one byte was taken, the target can't have got it: then nothing was
         * handed over. */
        source->handed_over = accepted != 0;
        return source_link_error(source, rv, "sending the go");
    }
    return 0;
}

/*
 * The two hosts' clocks differ, so only durations taken on one host are used:
 *
 *     source: stopped ------------- go sent ............................ done received
 *                                      \  way            entered   answer /  way
 *     target:                           go received ------> entered -> done sent
 *
 * A way is half of what the exchange took beyond the target's own part; the error is at
 * most that half.
 */
void source_reckon(struct migration_source *source, uint64_t stopped_ns,
                   uint64_t go_sent_ns, uint64_t done_ns, const struct wire_done *done)
{
    uint64_t exchange_us = (done_ns - go_sent_ns) / NS_PER_US;
    uint64_t answer_us = done->answer_us < exchange_us ? done->answer_us : exchange_us;
    uint64_t entered_us = done->entered_us < answer_us ? done->entered_us : answer_us;
    uint64_t way_us = (exchange_us - answer_us) / 2;
    uint64_t entry_us = way_us + entered_us; /* after the go was sent */
    struct migration_status *status = status_board_lock(&source->board);
    struct migration_figures *figures = &status->figures;
    figures->pause = source->figures.pause;
    figures->pause.entered_us = entry_us;
    figures->downtime_us = (go_sent_ns - stopped_ns) / NS_PER_US + entry_us;
    figures->total_us = (go_sent_ns - source->started_ns) / NS_PER_US + entry_us;
    figures->foreseen = source->figures.foreseen;
    figures->predicted_downtime_us = source->goals.predicted_downtime_us;
    figures->predicted_total_ms = source->goals.predicted_total_ms;
    figures->bytes_sent = source_bytes_sent(source);
    figures->bytes_placed = source_bytes_placed(source);
    figures->pages_sent = source->pages.sent_count;
    figures->pages_zero = source->pages.zero_count;
    figures->rounds = source->round + 1;
    status->bytes_remaining = 0;
    status_board_unlock(&source->board);
}

static void note_foreseen(struct migration_source *source)
{
    const struct predict_costs *costs = &source->goals.costs;
    struct migration_figures *figures = &source->figures;
    figures->foreseen.drained_us = costs->drain_us;
    figures->foreseen.fetched_us = costs->fetch_us;
    figures->foreseen.last_pages = source->pages.pending_count;
    figures->foreseen.saved_us = costs->save_us;
    figures->foreseen.loaded_us = costs->load_us + costs->enter_us;
    figures->foreseen.trip_us = costs->round_trip_us;
}

/* The data streams' threads, on either side, have something to do for it: so they end before
 * the guest stands. */
static int data_streams_end(struct migration_source *source)
{
    uint64_t until_ms = clock_now_ms() + source->config.times.standing_ms;
    streams_end(&source->streams);
    int rv = -EAGAIN;
    while (rv == -EAGAIN) {
        rv = streams_wait(&source->streams, source->config.times.keepalive_ms / 4);
        rv = rv == -EAGAIN && clock_now_ms() >= until_ms ? DROVER_ETIMEDOUT2 : rv;
        if (rv == -EAGAIN) {
            int told = source_tick(source);
            if (told != 0) {
                return told;
            }
        }
    }
    return rv != 0 ? source_link_error(source, rv, "ending the streams") : 0;
}

int source_handover(struct migration_source *source)
{

    const struct migration_times *times = &source->config.times;
    uint64_t stopped_ns = 0;
    uint64_t go_sent_ns = 0;
    uint64_t state_sent_ms = 0;
    const uint8_t *payload;
    size_t size;
    source->out.pace = NULL; /* the pause is not made longer */
    source->out.places_ask = false; /* what is asked for now would be waited for */
    int rv = data_streams_end(source);
    if (rv != 0) {
        return rv;
    }
    rv = goals_look_again(source);
    if (rv != 0) {
        return rv;
    }
    note_foreseen(source);
    rv = stream_out_plain(&source->out, WIRE_HANDOVER);
    if (rv != 0) {
        return source_link_error(source, rv, "beginning the handover");
    }
    rv = stop(source, &stopped_ns);
    rv = rv != 0 ? rv : last_pages(source);
    rv = rv != 0 ? rv : state_send(source, &state_sent_ms);
    if (rv != 0) {
        return rv;
    }
    uint64_t until_ms = state_sent_ms + times->ready_ms;
    rv = source_expect(source, WIRE_READY, times->ready_ms, until_ms,
                       "waiting for the target to be ready", &payload, &size);
    source->figures.pause.ready_us = stage_us(source);
    rv = rv != 0 ? rv : may_go(source, until_ms);
    rv = rv != 0 ? rv : go_send(source, stopped_ns, &go_sent_ns);
    if (source->postcopy.agreed && source->handed_over) {
        return postcopy_source_run(source, stopped_ns, go_sent_ns, rv);
    }
    if (rv != 0) {
        return rv;
    }
    /* The guest never runs here again, unless reclaimed: from here on nothing is undone.
     */
    struct wire_done done;
    rv = source_expect(source, WIRE_DONE, times->done_ms, clock_now_ms() + times->done_ms,
                       "waiting for word that the guest runs", &payload, &size);
    if (rv == 0 && wire_done_decode(payload, size, &done) != 0) {
        rv = error_set(&source->err, DROVER_EPEER,
                       "the target's word that the guest runs is garbled");
    }
    if (rv == 0) {
        source_reckon(source, stopped_ns, go_sent_ns, clock_now_ns(), &done);
    }
    return rv;
}
