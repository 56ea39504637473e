/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a guest dirties its memory. A rate alone says little, for pages that are
 * written again and again count once: what is wanted is how many distinct pages are
 * written within a given time, the working-set curve. The curve is pure; the measuring
 * is the engine's thread's.
 */
#ifndef DROVER_MIGRATION_DIRTY_RATE_H
#define DROVER_MIGRATION_DIRTY_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct migration_guest;

#define DIRTY_CURVE_POINTS 16u

struct dirty_curve {
    unsigned count;
    struct {
        uint64_t us;
        uint64_t pages;
    } points[DIRTY_CURVE_POINTS]; /* both ascending */
    uint64_t pages_max;           /* there are no more; 0: not known */
};

/* What was seen: so many distinct pages within so many microseconds. Newer observations
 * count for more; the curve stays one that never falls. */
void dirty_curve_add(struct dirty_curve *curve, uint64_t us, uint64_t pages);
/* Distinct pages that are dirtied within `us`. Beyond what was seen: on as it ended. */
uint64_t dirty_curve_pages(const struct dirty_curve *curve, uint64_t us);

struct dirty_rate {
    struct dirty_curve curve;
    uint64_t pages_per_second; /* distinct ones, over the whole window */
    uint64_t window_us;
    uint64_t fetch_us; /* what one look at the whole log takes */
};

/* What else is done while the guest is watched, for at most `us`. May be NULL. */
typedef int (*dirty_rate_meanwhile)(void *owner, uint64_t us);

/*
 * Watches the guest for about `window_us`, in windows that double. The dirty log is on,
 * and what it says until the end of this is forgotten: whoever sends memory looks for
 * populated pages after it. What was learned before an error stays in `ret_rate`.
 */
int dirty_rate_measure(struct migration_guest *guest, uint64_t window_us,
                       dirty_rate_meanwhile meanwhile, void *owner,
                       struct dirty_rate *ret_rate);
/* How many pages were dirtied since the log was last looked at; forgets them, or ORs them
 * into keep[region] where that is given. */
int dirty_rate_count(struct migration_guest *guest, uint64_t **keep, uint64_t *ret_pages);

#endif
