/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a move does next: another round, a slower guest, the handover, or giving up.
 * Decided from the goals and from what was measured. Pure; one struct per move.
 */
#ifndef DROVER_MIGRATION_PLAN_H
#define DROVER_MIGRATION_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "migration/predict.h"

#define PLAN_MAX_DOWNTIME_MS 300u /* when no goal was given */
/* Rounds in a row that leave hardly less than those before. */
#define PLAN_STALE_ROUNDS_ENOUGH                                                         \
    2u /* the goal is met: more rounds would not make the pause shorter */
#define PLAN_STALE_ROUNDS_THROTTLE                                                       \
    2u /* the goal is not met: the guest is slowed down, then once more */
#define PLAN_STALE_ROUNDS_GIVE_UP                                                        \
    16u /* nor with all that is allowed, and no deadline says how long to try */
#define PLAN_ROUNDS_MAX 1000u
/* For so long a move without a deadline waits for the link to be as fast as it was once. */
#define PLAN_PATIENCE_MS 120000u
/* Another round must be worth it: by so much of the pause, and so much at least. */
#define PLAN_GAIN_PARTS 10u
#define PLAN_GAIN_US    200u
/* A guest is never kept out for all of its time. */
#define PLAN_THROTTLE_MAX 99u

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
    bool never_throttle;  /* nobody can: the guest has no such operation */
};

struct plan_measure {
    uint32_t round; /* rounds that are over */
    uint64_t elapsed_ms;
    uint64_t remaining_bytes; /* must be sent if the guest stopped now */
    uint64_t dirty_bytes_per_second;
    struct predict_model model; /* its link's speed may be unknown yet */
    /* The vCPUs that can be throttled make so much of all writes: 1000 as long as nobody
     * knows. */
    unsigned writers_permille;
};

enum plan_action {
    PLAN_ROUND,
    PLAN_HANDOVER,
    PLAN_GIVE_UP,
    PLAN_POSTCOPY, /* hand over now, and send what is left afterwards */
};

struct plan_decision {
    enum plan_action action;
    unsigned throttle_percent; /* of the writers' time, from now on */
    uint64_t predicted_downtime_us; /* 0: not known yet. Of PLAN_HANDOVER: if it stops now */
    uint64_t predicted_total_ms;    /* from the start of the move; 0: not known yet */
    /* Of PLAN_GIVE_UP, and of a PLAN_POSTCOPY that the target can't take: one line that
     * says what to do. */
    char reason[320];
};

struct plan {
    struct plan_goals goals;
    uint64_t best_remaining_bytes;
    uint64_t mark_remaining_bytes; /* what a round must leave clearly less than */
    uint64_t best_bytes_per_second; /* that the link took in a round of this move */
    uint32_t stale_rounds;         /* since one did, or since the throttle was changed */
    unsigned throttle_percent;
};

/* `goals` with max_downtime_ms 0 means PLAN_MAX_DOWNTIME_MS. */
void plan_init(struct plan *plan, struct plan_goals goals);
/*
 * Before the first round: what is to be expected, and PLAN_GIVE_UP if the goals can't be
 * met by any means. remaining_bytes are all that round 1 sends. May be asked again.
 */
void plan_foresee(struct plan *plan, const struct plan_measure *measure,
                  struct plan_decision *ret_decision);
/* Once after each round, the first included. */
void plan_decide(struct plan *plan, const struct plan_measure *measure,
                 struct plan_decision *ret_decision);

#endif
