/* SPDX-License-Identifier: Apache-2.0 */
/* The decisions before the first round and after each. */
#include "migration/plan.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"

#define MEGABYTE UINT64_C(1000000)
#define US_PER_S UINT64_C(1000000)
#define US_PER_MS UINT64_C(1000)
#define NO_LIMIT (UINT64_MAX / 4)
/* Assumed after a round as long as nothing could be measured. */
#define UNKNOWN_BYTES_PER_SECOND (10 * MEGABYTE)
/* What was measured in a moment is believed only so far when a move is refused for it. */
#define DOUBT_PARTS 8u
/* A throttle that was not enough is raised by so much at least. */
#define THROTTLE_STEP 15u

static const uint8_t throttles[] = {10, 20, 30, 40, 50, 60, 70, 80, 90, 95, PLAN_THROTTLE_MAX};
#define THROTTLES (sizeof(throttles) / sizeof(throttles[0]))

void plan_init(struct plan *plan, struct plan_goals goals)
{
    *plan = (struct plan){.goals = goals, .best_remaining_bytes = UINT64_MAX,
                           .mark_remaining_bytes = UINT64_MAX};
    if (goals.max_downtime_ms == 0) {
        plan->goals.max_downtime_ms = PLAN_MAX_DOWNTIME_MS;
    }
}

static uint64_t goal_us(const struct plan *plan)
{
    return plan->goals.max_downtime_ms * US_PER_MS;
}

static uint64_t left_us(const struct plan *plan, const struct plan_measure *measure)
{
    if (plan->goals.deadline_ms == 0) {
        return NO_LIMIT;
    }
    return plan->goals.deadline_ms > measure->elapsed_ms
               ? (plan->goals.deadline_ms - measure->elapsed_ms) * US_PER_MS
               : 0;
}

static unsigned guest_permille(const struct plan_measure *measure, unsigned throttle)
{
    unsigned writers =
        measure->writers_permille > 1000 ? 1000 : measure->writers_permille;
    return 1000 - writers * throttle / 100;
}

/* When the guest is slowed down, if it is. */
enum plan_start {
    PLAN_START_NOW,
    PLAN_START_AFTER_ROUND,
};

/* What becomes of the move with this throttle. With `enough_us` 0: at its best. */
static void look_ahead(const struct plan *plan, const struct plan_measure *measure,
                       unsigned throttle, enum plan_start start, uint64_t enough_us,
                       struct predict_outcome *ret_outcome)
{
    struct predict_way way = {
        .first_permille = guest_permille(measure, throttle),
        .permille = guest_permille(measure, throttle),
        .enough_us = enough_us,
        .left_us = left_us(plan, measure),
        .one_round = measure->round == 0,
    };
    if (start == PLAN_START_AFTER_ROUND) {
        way.first_permille = guest_permille(measure, plan->throttle_percent);
    }
    predict_move(&measure->model, measure->remaining_bytes, &way, ret_outcome);
}

static void predict(const struct plan_measure *measure,
                    const struct predict_outcome *outcome,
                    struct plan_decision *decision)
{
    decision->predicted_downtime_us = outcome->pause_us;
    decision->predicted_total_ms =
        measure->elapsed_ms + (outcome->total_us + US_PER_MS - 1) / US_PER_MS;
}

static bool fits(const struct plan *plan, const struct plan_measure *measure,
                 const struct predict_outcome *outcome)
{
    return outcome->pause_us <= goal_us(plan) &&
           outcome->total_us <= left_us(plan, measure);
}

/*
 * The least throttle from `least` on with which the goals are met, with what follows from
 * it; false: none, and then it is that of the greatest.
 */
static bool throttle_find(const struct plan *plan, const struct plan_measure *measure,
                          enum plan_start start, unsigned least, unsigned *ret_throttle,
                          struct predict_outcome *ret_outcome)
{
    for (unsigned i = 0; i < THROTTLES; i++) {
        if (throttles[i] < least && throttles[i] != PLAN_THROTTLE_MAX) {
            continue;
        }
        *ret_throttle = throttles[i];
        look_ahead(plan, measure, throttles[i], start, goal_us(plan), ret_outcome);
        if (fits(plan, measure, ret_outcome)) {
            return true;
        }
    }
    return false;
}

/* ---- giving up ---------------------------------------------------------------------- */

/* Or post-copy, which needs neither convergence nor time. */
static enum plan_action last_resort(const struct plan *plan)
{
    return plan->goals.postcopy == MIGRATION_POSTCOPY_NEVER ? PLAN_GIVE_UP : PLAN_POSTCOPY;
}

static void give_up_pause(const struct plan *plan, const struct plan_measure *measure,
                          const char *why, uint64_t pause_us,
                          struct plan_decision *decision)
{
    uint64_t pause_ms = pause_us / US_PER_MS + 1;
    decision->action = last_resort(plan);
    (void)snprintf(decision->reason, sizeof(decision->reason),
                   "%s: the guest writes %" PRIu64 " MB/s, the link takes %" PRIu64
                   " MB/s, so the pause would be %" PRIu64
                   " ms and %u ms are allowed; allow more (--max-downtime %" PRIu64
                   ") or move it when it is less busy",
                   why, measure->dirty_bytes_per_second / MEGABYTE,
                   measure->model.link.bytes_per_second / MEGABYTE, pause_ms,
                   plan->goals.max_downtime_ms,
                   pause_ms + pause_ms / 4); /* fits, or its end is cut */
}

static void give_up_fixed(const struct plan *plan, uint64_t pause_us,
                          struct plan_decision *decision)
{
    uint64_t pause_ms = pause_us / US_PER_MS + 1;
    decision->action = PLAN_GIVE_UP;
    (void)snprintf(decision->reason, sizeof(decision->reason),
                   "the goal can't be met: stopping, saving and loading the machine take "
                   "%" PRIu64 " ms on these hosts whatever the guest does, and %u ms are "
                   "allowed; allow more (--max-downtime %" PRIu64 ")",
                   pause_ms, plan->goals.max_downtime_ms,
                   pause_ms + pause_ms / 4); /* fits, or its end is cut */
}

static void give_up_deadline(const struct plan *plan, const struct plan_measure *measure,
                             uint64_t total_us, struct plan_decision *decision)
{
    uint64_t needed_ms = measure->elapsed_ms + total_us / US_PER_MS + 1;
    decision->action = PLAN_GIVE_UP;
    (void)snprintf(decision->reason, sizeof(decision->reason),
                   "the deadline can't be kept: %" PRIu64 " MB at %" PRIu64
                   " MB/s take %" PRIu64 ".%" PRIu64 " s in all, and %u.%u s are allowed; "
                   "give it more time (--deadline %" PRIu64 ") or a faster link",
                   measure->remaining_bytes / MEGABYTE,
                   measure->model.link.bytes_per_second / MEGABYTE, needed_ms / 1000,
                   needed_ms % 1000 / 100, plan->goals.deadline_ms / 1000,
                   plan->goals.deadline_ms % 1000 / 100,
                   needed_ms / 800 + 1); /* fits, or its end is cut */
}

/* ---- before the first round --------------------------------------------------------- */

/* What the machine itself takes. Round trips are left out: one that was seen while the
 * connection was made says little. */
static uint64_t machine_us(const struct plan_measure *measure)
{
    struct predict_costs costs = measure->model.costs;
    costs.round_trip_us = 0;
    return predict_fixed_us(&costs);
}

static void foresee_unknown(const struct plan *plan, const struct plan_measure *measure,
                            struct plan_decision *decision)
{
    uint64_t fixed_us = machine_us(measure);
    if (fixed_us - fixed_us / DOUBT_PARTS > goal_us(plan)) {
        give_up_fixed(plan, fixed_us, decision);
    }
}

/* Nothing that is allowed meets the goals, however kindly it is looked at. */
static void foresee_failure(const struct plan *plan, const struct plan_measure *measure,
                            const struct predict_outcome *outcome,
                            struct plan_decision *decision)
{
    uint64_t fixed_us = machine_us(measure);
    uint64_t once_us = predict_send_us(&measure->model.link, measure->remaining_bytes);
    uint64_t left = left_us(plan, measure);
    if (fixed_us - fixed_us / DOUBT_PARTS > goal_us(plan)) {
        give_up_fixed(plan, fixed_us, decision);
    } else if (once_us * 2 / 3 > left) {
        give_up_deadline(plan, measure, once_us + fixed_us, decision);
    } else if (plan->goals.postcopy != MIGRATION_POSTCOPY_NEVER) {
        return; /* what is left after the first round goes afterwards */
    } else if (outcome->pause_us - outcome->pause_us / DOUBT_PARTS > goal_us(plan)) {
        give_up_pause(plan, measure,
                      plan->goals.deadline_ms != 0 && once_us < left
                          ? "the goals can't be met within the deadline"
                          : "the goal can't be met",
                      outcome->pause_us, decision);
    }
}

void plan_foresee(struct plan *plan, const struct plan_measure *measure,
                  struct plan_decision *ret_decision)
{
    struct plan_decision decision = {.action = PLAN_ROUND};
    struct predict_outcome outcome;
    unsigned throttle = 0;
    if (measure->model.link.bytes_per_second == 0) {
        foresee_unknown(plan, measure, &decision);
        *ret_decision = decision;
        return;
    }
    look_ahead(plan, measure, 0, PLAN_START_NOW, 0, &outcome);
    bool met = fits(plan, measure, &outcome);
    if (!met && !plan->goals.never_throttle) {
        met = throttle_find(plan, measure, PLAN_START_AFTER_ROUND, 0, &throttle, &outcome);
        if (!met && throttle_find(plan, measure, PLAN_START_NOW, 0, &throttle, &outcome)) {
            /* The first round is long, and the guest slow in all of it: only for a
             * deadline that can't be kept otherwise. */
            met = true;
            plan->throttle_percent = throttle;
        }
    }
    predict(measure, &outcome, &decision);
    decision.throttle_percent = plan->throttle_percent;
    if (!met) {
        struct plan_measure hopeful = *measure;
        hopeful.model.hopeful = true;
        /* One stream was measured, and several may take more. */
        hopeful.model.link.bytes_per_second += hopeful.model.link.bytes_per_second / 2;
        unsigned most = plan->goals.never_throttle ? 0 : PLAN_THROTTLE_MAX;
        look_ahead(plan, &hopeful, most, PLAN_START_NOW, 0, &outcome);
        if (!fits(plan, measure, &outcome)) {
            foresee_failure(plan, measure, &outcome, &decision);
        }
    }
    *ret_decision = decision;
}

/* ---- after each round --------------------------------------------------------------- */

static void count_stale(struct plan *plan, uint64_t remaining_bytes)
{
    uint64_t mark = plan->mark_remaining_bytes;
    if (remaining_bytes < mark - mark / 8) {
        plan->stale_rounds = 0;
        plan->mark_remaining_bytes = remaining_bytes;
    } else {
        plan->stale_rounds++;
    }
    if (remaining_bytes < plan->best_remaining_bytes) {
        plan->best_remaining_bytes = remaining_bytes;
    }
}

/* The goal is met: whether another round is worth it nevertheless. */
static bool worth_more(const struct plan *plan, const struct plan_measure *measure,
                       uint64_t pause_us, const struct predict_outcome *ahead)
{
    if (plan->throttle_percent > 0 || measure->round >= PLAN_ROUNDS_MAX ||
        plan->stale_rounds >= PLAN_STALE_ROUNDS_ENOUGH) {
        return false;
    }
    if (predict_send_us(&measure->model.link, measure->remaining_bytes) +
            measure->model.link.round_us + pause_us >
        left_us(plan, measure)) {
        return false;
    }
    uint64_t gain_us = pause_us > ahead->pause_us ? pause_us - ahead->pause_us : 0;
    /* An unlucky moment: the guest has had better ones. */
    uint64_t best = plan->best_remaining_bytes;
    bool unlucky = measure->remaining_bytes > best + best / 4;
    return unlucky || (gain_us >= PLAN_GAIN_US && gain_us >= pause_us / PLAN_GAIN_PARTS);
}

/* The goal is not met: slows the guest down if that is what it takes. `ahead` is what
 * comes of it. */
static void throttle_raise(struct plan *plan, const struct plan_measure *measure,
                           struct predict_outcome *ahead)
{
    struct predict_outcome outcome;
    unsigned throttle = 0;
    bool stale = plan->stale_rounds >= PLAN_STALE_ROUNDS_THROTTLE;
    if (plan->goals.never_throttle || (fits(plan, measure, ahead) && !stale)) {
        return;
    }
    unsigned least = plan->throttle_percent == 0 ? 0 : plan->throttle_percent + 1;
    if (stale && plan->throttle_percent != 0) {
        least = plan->throttle_percent + THROTTLE_STEP;
    }
    (void)throttle_find(plan, measure, PLAN_START_NOW, least, &throttle, &outcome);
    if (throttle > plan->throttle_percent) {
        plan->throttle_percent = throttle;
        plan->stale_rounds = 0;
        *ahead = outcome;
    }
}

static void note_speed(struct plan *plan, const struct plan_measure *measure)
{
    if (measure->model.link.bytes_per_second > plan->best_bytes_per_second) {
        plan->best_bytes_per_second = measure->model.link.bytes_per_second;
    }
}

/* With the link as it was once the goal would be met: other moves, or other programs on
 * these hosts, have it or the processors now, and will not for ever. */
static bool bad_moment(const struct plan *plan, const struct plan_measure *measure)
{
    struct predict_model model = measure->model;
    model.link.bytes_per_second = plan->best_bytes_per_second;
    model.link.last_bytes_per_second = 0;
    return measure->elapsed_ms < PLAN_PATIENCE_MS &&
           predict_pause_us(&model, measure->remaining_bytes) <= goal_us(plan);
}

/* The goal is not met and the guest as slow as it may get: whether trying is over. */
static void maybe_give_up(struct plan *plan, const struct plan_measure *measure,
                          uint64_t pause_us, bool last_chance,
                          struct plan_decision *decision)
{
    bool tried = plan->goals.never_throttle ||
                 (plan->throttle_percent == PLAN_THROTTLE_MAX && plan->stale_rounds > 0);
    if (last_chance) {
        give_up_pause(plan, measure, "the deadline can't be kept", pause_us, decision);
    } else if (measure->round >= PLAN_ROUNDS_MAX ||
               (tried && plan->goals.deadline_ms == 0 &&
                plan->stale_rounds >= PLAN_STALE_ROUNDS_GIVE_UP &&
                !bad_moment(plan, measure))) {
        give_up_pause(plan, measure, "the move does not converge", pause_us, decision);
    }
}

void plan_decide(struct plan *plan, const struct plan_measure *unsure,
                 struct plan_decision *ret_decision)
{
    struct plan_measure measure = *unsure;
    CHECK(measure.round > 0);
    if (measure.model.link.bytes_per_second == 0) {
        measure.model.link.bytes_per_second = UNKNOWN_BYTES_PER_SECOND;
    }
    note_speed(plan, &measure);
    struct plan_decision decision = {.action = PLAN_ROUND};
    struct predict_outcome ahead;
    uint64_t pause_us = predict_pause_us(&measure.model, measure.remaining_bytes);
    count_stale(plan, measure.remaining_bytes);
    look_ahead(plan, &measure, plan->throttle_percent, PLAN_START_NOW, 0, &ahead);
    uint64_t left = left_us(plan, &measure);
    bool last_chance = plan->goals.deadline_ms != 0 && 2 * pause_us >= left;
    bool meets = pause_us <= goal_us(plan) && pause_us <= left;
    if (plan->goals.postcopy == MIGRATION_POSTCOPY_NOW) {
        give_up_pause(plan, &measure, "post-copy was ordered", pause_us, &decision);
    } else if (meets && (last_chance || !worth_more(plan, &measure, pause_us, &ahead))) {
        decision.action = PLAN_HANDOVER;
        ahead.pause_us = pause_us;
        ahead.total_us = pause_us;
    } else if (!meets) {
        throttle_raise(plan, &measure, &ahead);
        last_chance = last_chance && !fits(plan, &measure, &ahead);
        maybe_give_up(plan, &measure, pause_us, last_chance, &decision);
    }
    predict(&measure, &ahead, &decision);
    decision.throttle_percent = plan->throttle_percent;
    *ret_decision = decision;
}
