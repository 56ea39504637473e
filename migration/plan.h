/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another round, the handover, or giving up: decided from what was measured, and from the
 * goals. Pure; one struct per move.
 */
#ifndef DROVER_MIGRATION_PLAN_H
#define DROVER_MIGRATION_PLAN_H

#include <stdint.h>

#define PLAN_MAX_DOWNTIME_MS 300u /* when no goal was given */
/* Rounds that leave hardly less than the best one before. */
#define PLAN_STALE_ROUNDS_ENOUGH                                                         \
    2u /* the goal is met: more rounds would not make the pause shorter */
#define PLAN_STALE_ROUNDS_GIVE_UP                                                        \
    16u /* the goal is not met, and no deadline says how long to try */
#define PLAN_ROUNDS_MAX 1000u
#define PLAN_SMALL_US                                                                    \
    2000u /* sending the rest takes no longer: more rounds gain nothing */

/* Whether the guest may run on the target before all of its memory is there. The numbers
 * are those of MigratePostcopy (proto/control.proto). */
enum migration_postcopy {
    MIGRATION_POSTCOPY_AUTO = 0, /* when the goals can't be met otherwise */
    MIGRATION_POSTCOPY_NEVER = 1,
    MIGRATION_POSTCOPY_NOW = 2, /* after the first round */
};

struct plan_goals {
    uint32_t max_downtime_ms;
    uint32_t deadline_ms; /* from the start of the move; 0: none */
    enum migration_postcopy postcopy;
};

struct plan_measure {
    uint32_t round; /* rounds that are over */
    uint64_t elapsed_ms;
    uint64_t remaining_bytes;  /* must be sent if the guest stopped now */
    uint64_t bytes_per_second; /* how fast they go; 0: not known */
    uint64_t dirty_bytes_per_second;
    uint64_t fixed_us; /* of the pause, whatever remains */
};

enum plan_action {
    PLAN_ROUND,
    PLAN_HANDOVER,
    PLAN_GIVE_UP,
    PLAN_POSTCOPY, /* hand over now, and send what is left afterwards */
};

struct plan_decision {
    enum plan_action action;
    uint64_t predicted_downtime_us;
    /* Of PLAN_GIVE_UP, and of a PLAN_POSTCOPY that the target can't take: one line that
     * says what to do. */
    char reason[320];
};

struct plan {
    struct plan_goals goals;
    uint64_t best_remaining_bytes;
    uint32_t stale_rounds;
};

/* `goals` with max_downtime_ms 0 means PLAN_MAX_DOWNTIME_MS. */
void plan_init(struct plan *plan, struct plan_goals goals);
/* Once after each round, the first included. */
void plan_decide(struct plan *plan, const struct plan_measure *measure,
                 struct plan_decision *ret_decision);

#endif
