/* SPDX-License-Identifier: Apache-2.0 */
/* The source's part of post-copy: the agreement before the go, and what is said after it.
 * One thread: what the target asks for is looked at between two blocks of the background.
 */
#include "migration/postcopy_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/postcopy_source_internal.h"
#include "migration/wire_postcopy.h"

#define WORD_PAGES 64u
/* Pages that may be on their way in the background: what is asked for waits behind them.
 */
#define WINDOW_PAGES 256u
#define PUBLISH_MS   100u
#define NS_PER_US    UINT64_C(1000)

int postcopy_source_init(struct migration_source *source, bool connects)
{
    struct postcopy_source *postcopy = &source->postcopy;
    postcopy->connects = connects;
    postcopy->is_zero = zero_page_pick();
    postcopy->crc32c = crc32c_pick();
    postcopy->orders.link_fd = -1;
    return -pthread_mutex_init(&postcopy->orders.lock, NULL);
}

void postcopy_source_done(struct migration_source *source)
{
    struct postcopy_source *postcopy = &source->postcopy;
    for (unsigned i = 0; i < MIGRATION_REGIONS_MAX; i++) {
        free(postcopy->told[i]);
    }
    cleanup_fd(&postcopy->orders.link_fd);
    (void)pthread_mutex_destroy(&postcopy->orders.lock); /* nobody uses it any more */
}

/* ---- before the go ---- */

static int told_make(struct migration_source *source)
{
    for (unsigned i = 0; i < source->pages.region_count; i++) {
        uint64_t words = postcopy_source_words(&source->pages.regions[i]);
        source->postcopy.told[i] = calloc(words, sizeof(uint64_t));
        if (source->postcopy.told[i] == NULL) {
            return error_set(&source->err, -ENOMEM, "out of memory");
        }
    }
    return 0;
}

int postcopy_source_ask(struct migration_source *source, struct error *ret_why)
{
    const uint8_t *payload;
    size_t size;
    struct wire_answer answer;
    int rv = stream_out_plain(&source->out, WIRE_POSTCOPY_ASK);
    if (rv != 0) {
        return source_link_error(source, rv, "asking for post-copy");
    }
    rv = source_expect(source, WIRE_POSTCOPY_ANSWER, source_patience_ms(source), 0,
                       "asking for post-copy", &payload, &size);
    if (rv != 0) {
        return rv;
    }
    if (wire_answer_decode(payload, size, &answer) != 0) {
        return error_set(&source->err, DROVER_EPEER,
                         "asking for post-copy: the answer is garbled");
    }
    if (answer.code != 0) {
        (void)error_set(ret_why, answer.code, "%s", answer.reason);
        return 0;
    }
    rv = told_make(source);
    rv = rv != 0 ? rv : postcopy_source_missing(source);
    source->postcopy.agreed = rv == 0;
    return rv;
}

/* Tells of words [first, first + count) of a region, and notes that. */
static int missing_send(struct migration_source *source, unsigned index, uint64_t first,
                        uint32_t count)
{
    uint64_t *told = source->postcopy.told[index] + first;
    const uint64_t *pending = source->pages.regions[index].pending + first;
    memcpy(told, pending, count * sizeof(uint64_t));
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv =
        wire_missing_encode(&frame, (uint16_t)index, first * WORD_PAGES, told, count);
    rv = rv != 0 ? rv : stream_out_frames(&source->out, &frame, NULL);
    return rv != 0 ? source_link_error(source, rv, "telling what is missing") : 0;
}

int postcopy_source_missing(struct migration_source *source)
{
    for (unsigned i = 0; i < source->pages.region_count; i++) {
        const struct pages_region *region = &source->pages.regions[i];
        const uint64_t *told = source->postcopy.told[i];
        uint64_t words = postcopy_source_words(region);
        for (uint64_t at = 0; at < words; at += WIRE_MISSING_WORDS_MAX) {
            uint64_t first = at;
            uint64_t end = at + WIRE_MISSING_WORDS_MAX;
            end = end < words ? end : words;
            while (first < end && (region->pending[first] & ~told[first]) == 0) {
                first++;
            }
            while (end > first && (region->pending[end - 1] & ~told[end - 1]) == 0) {
                end--;
            }
            int rv = end == first
                         ? 0
                         : missing_send(source, i, first, (uint32_t)(end - first));
            if (rv != 0) {
                return rv;
            }
        }
    }
    return 0;
}

/* ---- after it ---- */

static void publish(struct migration_source *source, bool now)
{
    struct postcopy_source *postcopy = &source->postcopy;
    uint64_t now_ms = clock_now_ms();
    if (!now && now_ms < postcopy->published_ms + PUBLISH_MS) {
        return;
    }
    postcopy->published_ms = now_ms;
    struct migration_status *status = status_board_lock(&source->board);
    status->bytes_remaining = source->pages.pending_count * MIGRATION_PAGE_SIZE;
    status->figures.bytes_sent = source_bytes_sent(source);
    status->figures.pages_sent = source->pages.sent_count;
    status->figures.pages_zero = source->pages.zero_count;
    status->figures.postcopy_pages = postcopy->pages_after;
    status->figures.total_us = (clock_now_ns() - source->started_ns) / NS_PER_US;
    status_board_unlock(&source->board);
}

/* A message of the target. 1: it has all. */
static int message_take(struct migration_source *source, enum wire_type type,
                        const uint8_t *payload, size_t size)
{
    struct wire_done done;
    int rv = 0;
    if (postcopy_source_hears(source, type, payload, size, &rv)) {
        return rv;
    }
    if (type == WIRE_DONE && !source->postcopy.done_heard &&
        wire_done_decode(payload, size, &done) == 0) {
        source_reckon(source, source->postcopy.stopped_ns, source->postcopy.go_sent_ns,
                      clock_now_ns(), &done);
        publish(source, true);
        return postcopy_source_prove(source);
    }
    if (type == WIRE_COMPLETE && wire_plain_decode(payload, size) == 0) {
        rv = postcopy_source_prove(source);
        (void)stream_out_plain(&source->out, WIRE_COMPLETE); /* it has all anyway */
        return rv != 0 ? rv : 1;
    }
    return DROVER_EMALFORMED; /* an ABORT too: the target never runs the guest */
}

/* Looks at what the target says: 1 when it has all, 0 when nothing more came in time. */
static int listen(struct migration_source *source, uint32_t wait_ms)
{
    struct postcopy_source *postcopy = &source->postcopy;
    for (;;) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        int rv = stream_in_message(&source->in, wait_ms, 0, &type, &payload, &size);
        uint64_t now_ms = clock_now_ms();
        if (source->in.bytes_received != postcopy->heard_bytes) {
            postcopy->heard_bytes = source->in.bytes_received;
            postcopy->heard_ms = now_ms;
        }
        if (rv == DROVER_ETIMEDOUT2) {
            bool silent = now_ms >= postcopy->heard_ms + source->config.times.idle_ms;
            return silent ? rv : 0;
        }
        rv = rv != 0 ? rv : message_take(source, type, payload, size);
        if (rv != 0) {
            return rv;
        }
        wait_ms = 0;
    }
}

void postcopy_source_unknown(struct migration_source *source, bool lost)
{
    struct postcopy_source *postcopy = &source->postcopy;
    struct migration_status status;
    status_board_get(&source->board, &status);
    if (postcopy->done_heard || status.state == MIGRATION_STATE_UNKNOWN ||
        (!lost && clock_now_ns() <
                      postcopy->go_sent_ns + source->config.times.done_ms * NS_PER_MS)) {
        return;
    }
    struct error err;
    (void)error_set(&err, DROVER_ETIMEDOUT2,
                    "waiting for word that the guest runs: no answer in time");
    status_board_move(&source->board, MIGRATION_STATE_UNKNOWN, &err);
}

static bool background_wants(const struct migration_source *source)
{
    const struct postcopy_source *postcopy = &source->postcopy;
    /* Before it is known that the target runs, only what it asks for. */
    return source->pages.pending_count > 0 && postcopy->done_heard &&
           postcopy->pages_sent < postcopy->pages_placed + WINDOW_PAGES;
}

/* Until the background's next block may be sent, at most `most_ms`. What is asked for
 * waits for no limit, but counts. */
static uint32_t background_wait_ms(struct migration_source *source, uint32_t most_ms)
{
    uint32_t left_ms = background_wants(source) ? pace_left_ms(&source->pace) : most_ms;
    return left_ms < most_ms ? left_ms : most_ms;
}

/* As long as the link holds. 1: the target has all. */
static int serve(struct migration_source *source)
{
    struct postcopy_source *postcopy = &source->postcopy;
    uint32_t keepalive_ms = source->config.times.keepalive_ms;
    source->out.idle_ms = source->config.times.idle_ms;
    postcopy->heard_ms = clock_now_ms();
    for (;;) {
        int rv = listen(source, background_wait_ms(source, keepalive_ms / 2));
        if (rv == 0 && background_wait_ms(source, 1) == 0) {
            rv = postcopy_source_background(source);
        } else if (rv == 0) {
            rv = stream_out_keepalive(&source->out, keepalive_ms / 2);
        }
        if (rv != 0) {
            return rv;
        }
        publish(source, false);
        postcopy_source_unknown(source, false);
    }
}

int postcopy_source_run(struct migration_source *source, uint64_t stopped_ns,
                        uint64_t go_sent_ns, int link_error)
{
    struct postcopy_source *postcopy = &source->postcopy;
    postcopy->entered = true;
    postcopy->stopped_ns = stopped_ns;
    postcopy->go_sent_ns = go_sent_ns;
    /* From here on it only wakes: nobody can cancel any more. */
    source->link->ops->set_cancel(source->link, source->cancel_fd);
    int rv = link_error;
    for (;;) {
        rv = rv != 0 ? rv : serve(source);
        if (rv == 1) {
            publish(source, true);
            source->err = (struct error){0};
            return 0;
        }
        rv = postcopy_source_reconnect(source, rv);
        if (rv != 0) {
            return error_set(&source->err, rv, "ended by order");
        }
    }
}
