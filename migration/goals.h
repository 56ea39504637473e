/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the source measures for its plan, and does by it but for the rounds themselves:
 * watches the guest before the first byte, foresees the move, throttles. Part of struct
 * migration_source; engine's thread.
 */
#ifndef DROVER_MIGRATION_GOALS_H
#define DROVER_MIGRATION_GOALS_H

#include "migration/dirty_rate.h"
#include "migration/plan.h"
#include "migration/predict.h"
#include "migration/probe.h"
#include "migration/throttle.h"

struct migration_source;

struct goals {
    struct dirty_rate rate; /* its curve is drawn on with each round */
    struct predict_costs costs;
    struct probe probe;
    struct throttle throttle;
    uint64_t predicted_downtime_us; /* 0: not known yet */
    uint64_t predicted_total_ms;
};

/* Right after the dirty log was started, before it is known which pages are populated:
 * what the log says meanwhile is forgotten. Fills source->err. */
int goals_watch(struct migration_source *source);
/* All that round 1 will send is pending now. An error if the goals can't be met. */
int goals_foresee(struct migration_source *source);
/* After a round that took `us`, in which `dirty_pages` were dirtied. */
void goals_measure(struct migration_source *source, uint64_t us, uint64_t dirty_pages,
                   struct plan_measure *ret_measure);
/* The guest is slowed down as far as was decided, and what is expected now is shown. */
int goals_apply(struct migration_source *source, const struct plan_decision *decision);
/* Right before the guest is handed over: what the pause will take is tried once more, where that
 * takes some ms only, and what the guest has written meanwhile is sent. Fills source->err. */
int goals_look_again(struct migration_source *source);
/* However the move ends: the guest is as fast as ever. */
void goals_end(struct migration_source *source);

#endif
