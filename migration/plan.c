/* SPDX-License-Identifier: Apache-2.0 */
/* The decision after each round. */
#include "migration/plan.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/check.h"

#define MEGABYTE UINT64_C(1000000)
#define US_PER_S UINT64_C(1000000)
/* Assumed as long as nothing could be measured. */
#define UNKNOWN_BYTES_PER_SECOND (10 * MEGABYTE)

void plan_init(struct plan *plan, struct plan_goals goals)
{
    *plan = (struct plan){.goals = goals, .best_remaining_bytes = UINT64_MAX};
    if (goals.max_downtime_ms == 0) {
        plan->goals.max_downtime_ms = PLAN_MAX_DOWNTIME_MS;
    }
}

static void count_stale(struct plan *plan, uint64_t remaining_bytes)
{
    if (remaining_bytes < plan->best_remaining_bytes - plan->best_remaining_bytes / 8) {
        plan->stale_rounds = 0;
    } else {
        plan->stale_rounds++;
    }
    if (remaining_bytes < plan->best_remaining_bytes) {
        plan->best_remaining_bytes = remaining_bytes;
    }
}

/* Or post-copy, which needs neither convergence nor time. */
static void give_up(const struct plan *plan, const struct plan_measure *measure,
                    const char *why, struct plan_decision *decision)
{
    decision->action = plan->goals.postcopy == MIGRATION_POSTCOPY_NEVER ? PLAN_GIVE_UP
                                                                       : PLAN_POSTCOPY;
    uint64_t pause_ms = decision->predicted_downtime_us / 1000 + 1;
    (void)snprintf(decision->reason, sizeof(decision->reason),
                   "%s: the guest writes %" PRIu64 " MB/s, the link takes %" PRIu64
                   " MB/s, so the pause would be %" PRIu64
                   " ms and %u ms are allowed; allow more (--max-downtime %" PRIu64
                   ") or move it when it is less busy",
                   why, measure->dirty_bytes_per_second / MEGABYTE,
                   measure->bytes_per_second / MEGABYTE, pause_ms,
                   plan->goals.max_downtime_ms,
                   pause_ms + pause_ms / 4); /* fits, or its end is cut */
}

void plan_decide(struct plan *plan, const struct plan_measure *measure,
                 struct plan_decision *ret_decision)
{
    CHECK(measure->round > 0);
    uint64_t speed = measure->bytes_per_second == 0 ? UNKNOWN_BYTES_PER_SECOND
                                                    : measure->bytes_per_second;
    /* In parts, so that no product overflows: the rest of the division counts less than 1
     * us per byte/us. */
    uint64_t rest_us =
        measure->remaining_bytes / speed * US_PER_S +
        (uint64_t)((double)(measure->remaining_bytes % speed) * 1e6 / (double)speed);
    struct plan_decision decision = {
        .action = PLAN_ROUND, .predicted_downtime_us = measure->fixed_us + rest_us};
    count_stale(plan, measure->remaining_bytes);

    bool meets =
        decision.predicted_downtime_us <= plan->goals.max_downtime_ms * UINT64_C(1000);
    bool last_chance =
        plan->goals.deadline_ms != 0 &&
        measure->elapsed_ms + 2 * (decision.predicted_downtime_us / 1000) >=
            plan->goals.deadline_ms;
    bool enough = rest_us <= PLAN_SMALL_US ||
                  plan->stale_rounds >= PLAN_STALE_ROUNDS_ENOUGH ||
                  measure->round >= PLAN_ROUNDS_MAX;
    if (plan->goals.postcopy == MIGRATION_POSTCOPY_NOW) {
        give_up(plan, measure, "post-copy was ordered", &decision);
    } else if (meets && (enough || last_chance)) {
        decision.action = PLAN_HANDOVER;
    } else if (last_chance) {
        give_up(plan, measure, "the deadline can't be kept", &decision);
    } else if (!meets && (measure->round >= PLAN_ROUNDS_MAX ||
                          (plan->goals.deadline_ms == 0 &&
                           plan->stale_rounds >= PLAN_STALE_ROUNDS_GIVE_UP))) {
        give_up(plan, measure, "the move does not converge", &decision);
    }
    *ret_decision = decision;
}
