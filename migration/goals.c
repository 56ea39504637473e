/* SPDX-License-Identifier: Apache-2.0 */
/* The source's measurements, and what follows from the plan but for rounds. */
#include "migration/goals.h"

#include <inttypes.h>

#include "base/clock.h"
#include "migration/source_internal.h"

#define NS_PER_US UINT64_C(1000)
#define US_PER_S  UINT64_C(1000000)
#define MEGABYTE  UINT64_C(1000000)
/* The guest is watched for so long; longer where somebody has set goals to judge by. */
#define WATCH_US       15000u
#define WATCH_GOALS_US 120000u
/* Costs of the pause that nobody has measured: so little that no move is refused for
 * them. */
#define STOP_US     50u
#define DRAIN_US    50u
#define SAVE_US     100u
#define STATE_BYTES 16384u
#define ENTER_US    100u
/* Devices' state that a rehearsal leaves out, and I/O that is drained. */
#define DEVICES_US 60u
#define TRIP_TIMES_MAX 6u
/* Before the handover it is rehearsed so often once more, and where a round trip takes no
 * longer. */
#define LOOKS_AGAIN        3u
#define LOOK_AGAIN_TRIP_US 1000u
/* What no rehearsal goes through: the queues' end and the vCPUs' notes of it; the last look
 * before the go, and that from then on a guest wants processors where the answer is awaited
 * (measured: the first entry comes some 110 us later than its parts would make it). */
#define NOTICE_US 20u
#define GO_US     110u

static void rehearse(struct migration_source *source)
{
    struct migration_guest *guest = source->config.guest;
    struct migration_rehearsal rehearsal;
    struct predict_costs *costs = &source->goals.costs;
    *costs = (struct predict_costs){
        .stop_us = STOP_US,
        .drain_us = DRAIN_US,
        .save_us = SAVE_US,
        .state_bytes = STATE_BYTES,
        .load_us = SAVE_US,
        .enter_us = ENTER_US,
    };
    if (guest->ops->rehearse != NULL && guest->ops->rehearse(guest, &rehearsal) == 0) {
        costs->stop_us = rehearsal.stop_us;
        costs->drain_us = rehearsal.drain_us + NOTICE_US;
        costs->save_us = rehearsal.save_us + DEVICES_US;
        if (rehearsal.early_us > costs->drain_us) {
            costs->save_us += rehearsal.early_us - costs->drain_us; /* is waited for */
        }
        costs->load_us = rehearsal.early_us + rehearsal.save_us; /* as long as the target has not said */
        costs->state_bytes = rehearsal.state_bytes;
    }
}

static bool has_goals(const struct migration_source *source)
{
    return source->config.max_downtime_ms != 0 || source->config.deadline_ms != 0;
}

/* Where data is placed in the target's memory, other bytes tell nothing; older targets
 * know no probes. */
static bool may_probe(const struct migration_source *source)
{
    return source->version >= WIRE_VERSION_STREAMS && !source->out.places;
}

static void rehearsed_take(struct goals *goals)
{
    goals->costs.load_us = recent_typical(&goals->probe.load_us) + DEVICES_US;
    goals->costs.enter_us = goals->probe.enter_us + GO_US;
    goals->costs.state_bytes = 0; /* went with the round trips */
}

int goals_watch(struct migration_source *source)
{
    struct migration_guest *guest = source->config.guest;
    struct goals *goals = &source->goals;
    throttle_init(&goals->throttle, guest);
    source->plan.goals.never_throttle = goals->throttle.vcpu_count == 0;
    bool probes = may_probe(source);
    bool judged = has_goals(source) || source->config.predict_only;
    goals->probe.thorough = judged;
    rehearse(source);
    goals->probe.state_bytes = goals->costs.state_bytes;
    int rv = dirty_rate_measure(guest, judged ? WATCH_GOALS_US : WATCH_US,
                                probes ? probe_step : NULL, source, &goals->rate);
    if (rv != 0) {
        return source->err.code != 0
                   ? rv
                   : error_set(&source->err, rv, "reading the dirty log: %s",
                               err_text(rv));
    }
    goals->costs.fetch_us = goals->rate.fetch_us;
    rv = probes && judged ? probe_finish(source) : 0;
    if (rv != 0) {
        return rv;
    }
    if (goals->probe.round_trip_us != 0) {
        source->round_trip_us = goals->probe.round_trip_us;
    }
    if (recent_typical(&goals->probe.load_us) != 0) {
        rehearsed_take(goals);
    } else if (goals->probe.told_us != 0) { /* the link is too slow for rehearsals */
        goals->costs.load_us = goals->probe.told_us;
    }
    source->bytes_per_second = goals->probe.bytes_per_second;
    return source_tick(source);
}

/* All streams together are at most so many times as fast as one, and at least as fast:
 * where between, the probe has told, which went over one. */
static uint64_t one_stream(const struct migration_source *source, uint64_t speed)
{
    uint64_t streams = source->streams.count == 0 ? 1 : source->streams.count + 1;
    uint64_t one = source->goals.probe.bytes_per_second;
    if (source->goals.probe.long_count == 0) {
        return speed; /* too short to tell */
    }
    one = one < speed / streams ? speed / streams : one;
    return one < speed ? one : speed;
}

/* Where both sides' threads happen to be on one processor they answer at once; in the pause
 * they sleep, and on others. */
static uint64_t trip(const struct probe *probe)
{
    uint64_t most = TRIP_TIMES_MAX * recent_typical(&probe->trip_us);
    uint64_t upper = recent_upper(&probe->trip_us);
    return upper < most ? upper : most; /* beyond that somebody was in the way */
}

static void fill(struct migration_source *source, struct plan_measure *ret_measure)
{
    struct goals *goals = &source->goals;
    uint64_t now_ns = clock_now_ns();
    uint64_t speed = source->bytes_per_second;
    uint64_t limit = atomic_load(&source->pace.bytes_per_second); /* it may be changed */
    speed = limit != 0 && limit < speed ? limit : speed;
    uint64_t trip_us = trip(&goals->probe);
    goals->costs.round_trip_us = trip_us != 0 ? trip_us : source->round_trip_us;
    *ret_measure = (struct plan_measure){
        .round = source->round,
        .elapsed_ms = (now_ns - source->started_ns) / NS_PER_MS,
        .remaining_bytes = source->pages.pending_count * MIGRATION_PAGE_SIZE,
        .dirty_bytes_per_second = goals->rate.pages_per_second * MIGRATION_PAGE_SIZE,
        .model =
            {
                .curve = &goals->rate.curve,
                .costs = goals->costs,
                .link = {.bytes_per_second = speed,
                         .last_bytes_per_second = one_stream(source, speed),
                         .round_us = source->round_trip_us + goals->costs.fetch_us},
                .limit_bytes = pages_total_bytes(&source->pages),
            },
        .writers_permille = goals->throttle.writers_permille,
    };
}

static void show(struct migration_source *source, const struct plan_decision *decision,
                 const struct plan_measure *measure)
{
    source->goals.predicted_downtime_us = decision->predicted_downtime_us;
    source->goals.predicted_total_ms = decision->predicted_total_ms;
    struct migration_status *status = status_board_lock(&source->board);
    if (measure != NULL) {
        status->dirty_bytes_per_second = measure->dirty_bytes_per_second;
    }
    status->throttle_percent = source->goals.throttle.percent;
    status->figures.predicted_downtime_us = decision->predicted_downtime_us;
    status->figures.predicted_total_ms = decision->predicted_total_ms;
    status_board_unlock(&source->board);
}

/* Nothing is moved: what was found out is all that was wanted. */
static int foretell(struct migration_source *source, const struct plan_measure *measure,
                    const struct plan_decision *decision)
{
    if (measure->model.link.bytes_per_second == 0) {
        return error_set(&source->err, DROVER_EVERSION,
                         "the link's speed can't be measured with this target (it is "
                         "older, or RDMA): nothing can be predicted before a move");
    }
    return error_set(&source->err, DROVER_ECANCELLED,
                     "predicted only: a pause of %.1f ms, %.1f s in all for %" PRIu64
                     " MB at %" PRIu64 " MB/s, while the guest dirties %" PRIu64 " MB/s",
                     (double)decision->predicted_downtime_us / 1e3,
                     (double)decision->predicted_total_ms / 1e3,
                     measure->remaining_bytes / MEGABYTE,
                     measure->model.link.bytes_per_second / MEGABYTE,
                     measure->dirty_bytes_per_second / MEGABYTE);
}

/* Without goals the link was probed for a moment only, in which somebody else may have
 * had the processor: no move is refused for that. */
static int foresee_again(struct migration_source *source,
                         struct plan_measure *ret_measure,
                         struct plan_decision *ret_decision)
{
    struct probe *probe = &source->goals.probe;
    int rv = probe_again(source);
    if (rv != 0) {
        return rv;
    }
    source->bytes_per_second = probe->bytes_per_second;
    if (probe->round_trip_us != 0) {
        source->round_trip_us = probe->round_trip_us;
    }
    fill(source, ret_measure);
    plan_foresee(&source->plan, ret_measure, ret_decision);
    return 0;
}

int goals_foresee(struct migration_source *source)
{
    struct plan_measure measure;
    struct plan_decision decision;
    fill(source, &measure);
    plan_foresee(&source->plan, &measure, &decision);
    if (decision.action == PLAN_GIVE_UP && !source->goals.probe.thorough &&
        may_probe(source)) {
        int rv = foresee_again(source, &measure, &decision);
        if (rv != 0) {
            return rv;
        }
    }
    show(source, &decision, &measure);
    if (decision.action == PLAN_GIVE_UP) {
        return error_set(&source->err, DROVER_ETIMEDOUT2, "%s", decision.reason);
    }
    if (source->config.predict_only) {
        return foretell(source, &measure, &decision);
    }
    return goals_apply(source, &decision);
}

/* What was written since the last round, while the guest still runs. */
static int written_send(struct migration_source *source)
{
    uint64_t dirty_count = 0;
    int rv = pages_peek_dirty(&source->pages, &dirty_count);
    if (rv != 0) {
        return error_set(&source->err, rv, "reading the dirty log: %s", err_text(rv));
    }
    rv = pages_send(&source->pages, &source->out, false, source_tick, source);
    return rv == 0 || source->err.code != 0
               ? rv
               : source_link_error(source, rv, "sending memory");
}

int goals_look_again(struct migration_source *source)
{
    struct goals *goals = &source->goals;
    struct plan_measure measure;
    bool quick = goals->probe.rehearsals != 0 && goals->throttle.percent == 0 &&
                 source->round_trip_us <= LOOK_AGAIN_TRIP_US;
    if (!may_probe(source) || source->postcopy.agreed || !quick) {
        return 0;
    }
    const struct predict_costs before = goals->costs;
    rehearse(source);
    goals->costs.fetch_us = before.fetch_us;
    /* All looks may be made longer, by whoever else wants the processors, but none shorter. */
    if (before.drain_us < goals->costs.drain_us) {
        goals->costs.drain_us = before.drain_us;
    }
    int rv = probe_rehearse(source, LOOKS_AGAIN, true);
    rv = rv != 0 ? rv : written_send(source);
    /* Once more: then the target has taken what was sent. */
    rv = rv != 0 ? rv : probe_rehearse(source, 1, false);
    if (rv != 0) {
        return rv;
    }
    rehearsed_take(goals);
    fill(source, &measure);
    goals->predicted_downtime_us =
        predict_pause_us(&measure.model, measure.remaining_bytes);
    return 0;
}

void goals_measure(struct migration_source *source, uint64_t us, uint64_t dirty_pages,
                   struct plan_measure *ret_measure)
{
    struct goals *goals = &source->goals;
    const struct throttle *throttle = &goals->throttle;
    /* The curve is that of the guest as it is when nobody slows it down. */
    uint64_t guest_us =
        us * (1000 - throttle->writers_permille * throttle->percent / 100) / 1000;
    dirty_curve_add(&goals->rate.curve, guest_us, dirty_pages);
    goals->rate.pages_per_second =
        (uint64_t)((double)dirty_pages * (double)US_PER_S / (double)(us == 0 ? 1 : us));
    fill(source, ret_measure);
}

/* Who writes must be known before anybody is slowed down. */
static int writers_find(struct migration_source *source)
{
    uint64_t *keep[MIGRATION_REGIONS_MAX];
    for (unsigned i = 0; i < source->pages.region_count; i++) {
        keep[i] = source->pages.regions[i].pending;
    }
    int rv = throttle_measure(&source->goals.throttle,
                              source->goals.rate.pages_per_second, keep);
    pages_count_pending(&source->pages);
    return rv;
}

int goals_apply(struct migration_source *source, const struct plan_decision *decision)
{
    struct throttle *throttle = &source->goals.throttle;
    int rv = 0;
    if (decision->throttle_percent > 0 && !throttle->measured) {
        rv = writers_find(source);
    }
    rv = rv != 0 ? rv : throttle_set(throttle, decision->throttle_percent);
    show(source, decision, NULL);
    return rv != 0
               ? error_set(&source->err, rv, "slowing the guest down: %s", err_text(rv))
               : 0;
}

void goals_end(struct migration_source *source)
{
    (void)throttle_set(&source->goals.throttle, 0); /* who was throttled has a timer */
    struct migration_status *status = status_board_lock(&source->board);
    status->throttle_percent = 0;
    status_board_unlock(&source->board);
}
