/* SPDX-License-Identifier: Apache-2.0 */
/* The working-set curve, and how it is measured. */
#include "migration/dirty_rate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "migration/guest.h"

#define NS_PER_US UINT64_C(1000)
#define US_PER_S  UINT64_C(1000000)
/* The first window; each further one is twice as long. */
#define WINDOW_FIRST_US 1000u
#define WINDOWS_MAX     16u
/* Two observations of times that differ by less than a quarter are one point. */
#define NEAR_PARTS 4u

/* ---- the curve ---------------------------------------------------------------------- */

static void point_insert(struct dirty_curve *curve, unsigned at, uint64_t us,
                         uint64_t pages)
{
    if (curve->count == DIRTY_CURVE_POINTS) {
        /* The longest time is worth least: pauses are short. */
        curve->count--;
        if (at >= curve->count) {
            at = curve->count;
        }
    }
    memmove(&curve->points[at + 1], &curve->points[at],
            (curve->count - at) * sizeof(curve->points[0]));
    curve->points[at].us = us;
    curve->points[at].pages = pages;
    curve->count++;
}

/* Where the new observation contradicts older ones, they give way. */
static void neighbours_yield(struct dirty_curve *curve, unsigned at)
{
    for (unsigned i = 0; i < at; i++) {
        if (curve->points[i].pages > curve->points[at].pages) {
            curve->points[i].pages = curve->points[at].pages;
        }
    }
    for (unsigned i = at + 1; i < curve->count; i++) {
        if (curve->points[i].pages < curve->points[at].pages) {
            curve->points[i].pages = curve->points[at].pages;
        }
    }
}

void dirty_curve_add(struct dirty_curve *curve, uint64_t us, uint64_t pages)
{
    unsigned at = 0;
    us = us == 0 ? 1 : us;
    while (at < curve->count && curve->points[at].us + curve->points[at].us / NEAR_PARTS < us) {
        at++;
    }
    if (at < curve->count && us + us / NEAR_PARTS >= curve->points[at].us) {
        curve->points[at].us = (curve->points[at].us + us) / 2;
        curve->points[at].pages = (curve->points[at].pages + pages + 1) / 2;
        if (at + 1 < curve->count && curve->points[at + 1].us <= curve->points[at].us) {
            curve->count--; /* it has come up with the next one */
            memmove(&curve->points[at + 1], &curve->points[at + 2],
                    (curve->count - at - 1) * sizeof(curve->points[0]));
        }
    } else {
        point_insert(curve, at, us, pages);
        at = at < curve->count ? at : curve->count - 1;
    }
    neighbours_yield(curve, at);
}

static uint64_t scaled(uint64_t pages, uint64_t us, uint64_t whole_us)
{
    return (uint64_t)((double)pages * (double)us / (double)(whole_us == 0 ? 1 : whole_us));
}

uint64_t dirty_curve_pages(const struct dirty_curve *curve, uint64_t us)
{
    if (curve->count == 0) {
        return 0;
    }
    uint64_t from_us = 0;
    uint64_t from_pages = 0;
    uint64_t pages = 0;
    unsigned i = 0;
    while (i < curve->count - 1 && curve->points[i].us < us) {
        from_us = curve->points[i].us;
        from_pages = curve->points[i].pages;
        i++;
    }
    /* On the segment that ends at point i, or beyond the last one. */
    CHECK(curve->points[i].us > from_us && curve->points[i].pages >= from_pages);
    pages = from_pages + scaled(curve->points[i].pages - from_pages, us - from_us,
                                curve->points[i].us - from_us);
    return curve->pages_max != 0 && pages > curve->pages_max ? curve->pages_max : pages;
}

/* ---- measuring ---------------------------------------------------------------------- */

/* A page that is dirty in two windows is counted once in their union. */
struct watch {
    struct migration_guest *guest;
    unsigned region_count;
    uint64_t page_counts[MIGRATION_REGIONS_MAX];
    uint64_t *window[MIGRATION_REGIONS_MAX];
    uint64_t *all[MIGRATION_REGIONS_MAX];
};

static uint64_t words_of(uint64_t pages)
{
    return (pages + 63) / 64;
}

static void watch_done(struct watch *watch)
{
    for (unsigned i = 0; i < MIGRATION_REGIONS_MAX; i++) {
        free(watch->window[i]);
        free(watch->all[i]);
    }
}

static int watch_init(struct watch *watch, struct migration_guest *guest)
{
    *watch = (struct watch){.guest = guest,
                            .region_count = guest->ops->region_count(guest)};
    CHECK(watch->region_count <= MIGRATION_REGIONS_MAX);
    for (unsigned i = 0; i < watch->region_count; i++) {
        struct migration_region region;
        guest->ops->region(guest, i, &region);
        watch->page_counts[i] = region.size_bytes / MIGRATION_PAGE_SIZE;
        watch->window[i] = calloc(words_of(watch->page_counts[i]) + 1, sizeof(uint64_t));
        watch->all[i] = calloc(words_of(watch->page_counts[i]) + 1, sizeof(uint64_t));
        if (watch->window[i] == NULL || watch->all[i] == NULL) {
            watch_done(watch);
            return -ENOMEM;
        }
    }
    return 0;
}

/* Pages of this window, and moves them to `all`. */
static int watch_look(struct watch *watch, uint64_t *ret_pages)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < watch->region_count; i++) {
        int rv = watch->guest->ops->dirty_fetch(watch->guest, i, watch->window[i], 0,
                                                watch->page_counts[i]);
        if (rv != 0) {
            return rv;
        }
        for (uint64_t word = 0; word < words_of(watch->page_counts[i]); word++) {
            pages += (unsigned)__builtin_popcountll(watch->window[i][word]);
            watch->all[i][word] |= watch->window[i][word];
            watch->window[i][word] = 0;
        }
    }
    *ret_pages = pages;
    return 0;
}

static uint64_t watch_all(const struct watch *watch)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < watch->region_count; i++) {
        for (uint64_t word = 0; word < words_of(watch->page_counts[i]); word++) {
            pages += (unsigned)__builtin_popcountll(watch->all[i][word]);
        }
    }
    return pages;
}

static int window_pass(uint64_t until_ns, dirty_rate_meanwhile meanwhile, void *owner)
{
    uint64_t now_ns = clock_now_ns();
    while (now_ns < until_ns) {
        uint64_t left_us = (until_ns - now_ns) / NS_PER_US + 1;
        int rv = meanwhile != NULL ? meanwhile(owner, left_us) : 0;
        if (rv < 0) {
            return rv;
        }
        if (rv == 0) {
            now_ns = clock_now_ns();
            if (now_ns < until_ns) {
                (void)usleep((useconds_t)((until_ns - now_ns) / NS_PER_US + 1));
            }
        }
        now_ns = clock_now_ns();
    }
    return 0;
}

int dirty_rate_measure(struct migration_guest *guest, uint64_t window_us,
                       dirty_rate_meanwhile meanwhile, void *owner,
                       struct dirty_rate *ret_rate)
{
    struct watch watch;
    uint64_t pages = 0;
    int rv = watch_init(&watch, guest);
    if (rv != 0) {
        return rv;
    }
    *ret_rate = (struct dirty_rate){0};
    uint64_t looked_ns = clock_now_ns();
    rv = watch_look(&watch, &pages); /* of the time before */
    uint64_t start_ns = clock_now_ns();
    ret_rate->fetch_us = (start_ns - looked_ns) / NS_PER_US;
    for (unsigned i = 0; i < watch.region_count; i++) {
        memset(watch.all[i], 0, words_of(watch.page_counts[i]) * sizeof(uint64_t));
        ret_rate->curve.pages_max += watch.page_counts[i];
    }
    uint64_t us = WINDOW_FIRST_US;
    uint64_t from_ns = start_ns;
    for (unsigned i = 0; rv == 0 && i < WINDOWS_MAX && ret_rate->window_us < window_us;
         i++) {
        rv = window_pass(from_ns + us * NS_PER_US, meanwhile, owner);
        rv = rv != 0 ? rv : watch_look(&watch, &pages);
        uint64_t now_ns = clock_now_ns();
        if (rv == 0) {
            dirty_curve_add(&ret_rate->curve, (now_ns - from_ns) / NS_PER_US, pages);
            ret_rate->window_us = (now_ns - start_ns) / NS_PER_US;
        }
        from_ns = now_ns;
        us *= 2;
    }
    uint64_t all = watch_all(&watch);
    if (ret_rate->window_us > 0) {
        dirty_curve_add(&ret_rate->curve, ret_rate->window_us, all);
        ret_rate->pages_per_second =
            (uint64_t)((double)all * (double)US_PER_S / (double)ret_rate->window_us);
    }
    watch_done(&watch);
    return rv;
}

int dirty_rate_count(struct migration_guest *guest, uint64_t **keep, uint64_t *ret_pages)
{
    struct watch watch;
    int rv = watch_init(&watch, guest);
    if (rv != 0) {
        return rv;
    }
    rv = watch_look(&watch, ret_pages);
    for (unsigned i = 0; rv == 0 && keep != NULL && i < watch.region_count; i++) {
        for (uint64_t word = 0; word < words_of(watch.page_counts[i]); word++) {
            keep[i][word] |= watch.all[i][word];
        }
    }
    watch_done(&watch);
    return rv;
}
