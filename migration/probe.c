/* SPDX-License-Identifier: Apache-2.0 */
/* Bursts of growing size, until one takes long enough to tell the link's speed by it. */
#include "migration/probe.h"

#include <errno.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/guest.h"
#include "migration/source_internal.h"

#define NS_PER_US UINT64_C(1000)
#define US_PER_S  UINT64_C(1000000)
/* Two all but empty ones for the round trip, then 1, 2, 4... frames, or 1 and 4; behind the
 * first of these what the target does in the pause is rehearsed. */
#define ROUND_TRIPS     2u
#define REHEARSALS      6u
#define REST_US         300u
#define BURST_MAX       4u   /* frames: half a MiB */
#define BURST_MAX_GOALS 128u /* 16 MiB */
/* Bursts that tell the speed; so many that take so long are enough. All together must not
 * take longer than this: more where somebody has set goals, which a bad measurement would
 * break. */
#define BURST_LONG_US    4000u
#define BURST_LONG_COUNT 8u /* frames: 1 MiB */
#define BURST_SLOW_US    30000u
#define SLOW_BURSTS      2u
#define SPENT_US         10000u
#define SPENT_GOALS_US   600000u
/* Loading takes longer than saving: system calls that set cost more than those that get
 * (measured: 1.1 to 1.3). */
#define LOAD_PERCENT 120u

void probe_done(struct probe *probe)
{
    buffer_done(&probe->frame);
    buffer_done(&probe->last_frame);
    buffer_done(&probe->state_frame);
}

static int begin(struct probe *probe)
{
    size_t state_bytes = probe->state_bytes / sizeof(uint64_t) * sizeof(uint64_t);
    state_bytes = state_bytes < sizeof(uint64_t)   ? sizeof(uint64_t)
                  : state_bytes > WIRE_PROBE_BYTES ? WIRE_PROBE_BYTES
                                                   : state_bytes;
    int rv = wire_probe_encode(&probe->frame, false, WIRE_PROBE_BYTES);
    rv = rv != 0 ? rv : wire_probe_encode(&probe->last_frame, true, 0);
    return rv != 0 ? rv : wire_probe_encode(&probe->state_frame, true, state_bytes);
}

/* Waits for the answer to what was sent from `start_ns` on. `ret_load_us`: the target's
 * part. */
static int answer_wait(struct migration_source *source, uint64_t start_ns,
                       uint64_t *ret_us, uint64_t *ret_load_us)
{
    const uint8_t *payload;
    size_t size;
    uint32_t load_us = 0;
    int rv = source_expect(source, WIRE_COSTS, source_patience_ms(source), 0,
                           "measuring the link", &payload, &size);
    if (rv != 0) {
        return rv;
    }
    if (wire_costs_decode(payload, size, &load_us) != 0) {
        return error_set(&source->err, DROVER_EPEER,
                         "the target answered with something garbled");
    }
    *ret_us = (clock_now_ns() - start_ns) / NS_PER_US;
    *ret_load_us = load_us;
    return 0;
}

/* Sends `count` frames and one that asks, and waits for the answer. */
static int burst(struct migration_source *source, unsigned count, uint64_t *ret_us)
{
    struct probe *probe = &source->goals.probe;
    uint64_t start_ns = clock_now_ns();
    uint64_t told_us = 0;
    int rv = 0;
    for (unsigned i = 0; rv == 0 && i < count; i++) {
        rv = stream_out_frames(&source->out, &probe->frame, NULL);
    }
    rv = rv != 0 ? rv : stream_out_frames(&source->out, &probe->last_frame, NULL);
    rv = rv != 0 ? source_link_error(source, rv, "measuring the link")
                 : answer_wait(source, start_ns, ret_us, &told_us);
    probe->told_us = told_us;
    return rv;
}

/* From the state's leaving to the target's being ready. */
static int rehearse(struct migration_source *source)
{
    struct probe *probe = &source->goals.probe;
    /* So that the target's thread sleeps as it does while a state is saved: one that has just
     * heard something answers ten times as fast. */
    (void)usleep(REST_US); /* a shorter sleep does little harm */
    uint64_t start_ns = clock_now_ns();
    uint64_t us = 0;
    uint64_t load_us = 0;
    int rv = stream_out_frames(&source->out, &probe->state_frame, NULL);
    rv = rv != 0 ? source_link_error(source, rv, "measuring the target")
                 : answer_wait(source, start_ns, &us, &load_us);
    if (rv != 0) {
        return rv;
    }
    recent_add(&probe->load_us, load_us);
    recent_add(&probe->trip_us, us > load_us ? us - load_us : us);
    probe->rehearsals++;
    if (probe->rehearsals != REHEARSALS) {
        return 0;
    }
    rv = burst(source, 0, &us);
    probe->enter_us = probe->told_us > load_us ? probe->told_us - load_us : 0;
    return rv;
}

int probe_step(void *owner, uint64_t left_us)
{
    struct migration_source *source = owner;
    struct probe *probe = &source->goals.probe;
    uint64_t us = 0;
    if (probe->over || left_us == 0) {
        return 0;
    }
    bool first = probe->next_count == 0;
    int rv = first ? begin(probe) : 0;
    if (rv != 0) {
        return error_set(&source->err, rv, "out of memory");
    }
    for (unsigned i = 0; first && i < ROUND_TRIPS; i++) {
        rv = burst(source, 0, &us);
        if (rv != 0) {
            return rv;
        }
        if (probe->round_trip_us == 0 || us < probe->round_trip_us) {
            probe->round_trip_us = us;
        }
    }
    probe->next_count = first ? 1 : probe->next_count;
    if (probe->next_count > 1 && probe->rehearsals < REHEARSALS) {
        rv = rehearse(source);
        return rv != 0 ? rv : 1;
    }
    rv = burst(source, probe->next_count, &us);
    if (rv != 0) {
        return rv;
    }
    /* A round trip that was seen on a busy host may be as long as all of a burst. */
    uint64_t net_us = us > 2 * probe->round_trip_us ? us - probe->round_trip_us : us;
    net_us = net_us == 0 ? 1 : net_us;
    uint64_t bytes = (uint64_t)probe->next_count * probe->frame.size;
    uint64_t speed = bytes * US_PER_S / net_us;
    /* Short ones fit into buffers and limiters' allowances, or wait for a delayed ACK. Of
     * long ones the fastest counts: whoever else wants link or processor makes a burst
     * slower, never faster. */
    bool is_long =
        probe->thorough ? probe->next_count >= BURST_LONG_COUNT : net_us >= BURST_LONG_US;
    bool is_slow = is_long && net_us >= BURST_SLOW_US;
    if (probe->long_count == 0 || speed > probe->bytes_per_second) {
        probe->bytes_per_second = speed;
    }
    probe->long_count += is_long;
    probe->slow_count += is_slow;
    probe->spent_us += us;
    probe->next_count *= is_slow ? 1 : probe->thorough ? 2 : 4;
    probe->over = probe->slow_count == SLOW_BURSTS ||
                  probe->next_count > (probe->thorough ? BURST_MAX_GOALS : BURST_MAX) ||
                  probe->spent_us >= (probe->thorough ? SPENT_GOALS_US : SPENT_US);
    return 1;
}

int probe_finish(struct migration_source *source)
{
    int rv = 1;
    while (rv > 0 && !source->goals.probe.over) {
        rv = probe_step(source, UINT64_MAX);
    }
    return rv < 0 ? rv : 0;
}

int probe_rehearse(struct migration_source *source, unsigned count, bool anew)
{
    struct probe *probe = &source->goals.probe;
    if (anew) {
        probe->load_us = (struct recent){0};
        probe->trip_us = (struct recent){0};
    }
    int rv = 0;
    for (unsigned i = 0; rv == 0 && i < count; i++) {
        rv = rehearse(source);
    }
    return rv;
}

int probe_again(struct migration_source *source)
{
    struct probe *probe = &source->goals.probe;
    probe->thorough = true;
    probe->over = false;
    probe->next_count = probe->next_count == 0 ? 0 : BURST_LONG_COUNT; /* 0: not begun */
    probe->spent_us = 0;
    probe->slow_count = 0;
    return probe_finish(source);
}

static void arrival_rehearse(struct probe_answer *answer, struct migration_guest *guest)
{
    struct migration_rehearsal rehearsal = {0};
    if (guest->ops->rehearse == NULL || guest->ops->rehearse(guest, &rehearsal) != 0) {
        return;
    }
    answer->enter_us = rehearsal.enter_us;
    answer->load_us = rehearsal.load_us != 0
                          ? rehearsal.load_us
                          : rehearsal.save_us * LOAD_PERCENT / 100 + 1;
}

int probe_answer(struct probe_answer *answer, struct migration_guest *guest,
                 struct stream_out *out, const uint8_t *payload, size_t size,
                 struct error *err)
{
    bool asks = false;
    size_t bytes = 0;
    CLEANUP(buffer_done) struct buffer frame = {0};
    if (wire_probe_decode(payload, size, &asks, &bytes) != 0) {
        return error_set(err, DROVER_EMALFORMED, "the source sent a garbled probe");
    }
    if (!asks) {
        return 0;
    }
    if (!answer->tried) {
        answer->tried = true;
        arrival_rehearse(answer, guest);
    }
    if (bytes != 0 && guest->ops->rehearse_load != NULL) {
        uint64_t us = 0;
        if (guest->ops->rehearse_load(guest, &us) == 0) {
            answer->load_us = us;
        }
    }
    uint64_t told_us = answer->load_us + (bytes == 0 ? answer->enter_us : 0);
    int rv = wire_costs_encode(&frame, told_us < UINT32_MAX ? (uint32_t)told_us : 0);
    rv = rv != 0 ? rv : stream_out_frames(out, &frame, NULL);
    return rv != 0 ? error_set(err, rv, "answering a probe: %s", err_text(rv)) : 0;
}
