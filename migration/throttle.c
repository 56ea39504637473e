/* SPDX-License-Identifier: Apache-2.0 */
/* Who writes most, and the throttle of those. */
#include "migration/throttle.h"

#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "migration/dirty_rate.h"
#include "migration/guest.h"

#define NS_PER_US UINT64_C(1000)
/* A vCPU is watched for so long while all others stand; twice if there are few. */
#define WINDOW_US      4000u
#define WINDOW_MANY_US 2000u
#define SETTLE_US      300u
#define PASSES         2u
#define PASSES_MAX     8u
#define FEW            4u /* vCPUs */
#define MANY           8u
/* The writers make so much of all writes together, unless the rest is of many that write
 * hardly anything. */
#define WRITERS_PERMILLE 900u
#define WRITER_PERMILLE  50u

void throttle_init(struct throttle *throttle, struct migration_guest *guest)
{
    unsigned count = guest->ops->vcpu_count != NULL && guest->ops->throttle != NULL
                         ? guest->ops->vcpu_count(guest)
                         : 0;
    *throttle = (struct throttle){.guest = guest,
                                  .vcpu_count = count > LIMIT_VCPUS ? 0 : count,
                                  .writers_permille = 1000};
    if (throttle->vcpu_count == 1) {
        throttle->measured = true;
        throttle->permille[0] = 1000;
        throttle->writer[0] = true;
    }
}

/* Dirtied pages in a second, by those who run. */
static int window(struct throttle *throttle, uint64_t **keep, double *ret_rate)
{
    uint64_t pages = 0;
    int rv = dirty_rate_count(throttle->guest, keep, &pages);
    uint64_t from_ns = clock_now_ns();
    if (rv != 0) {
        return rv;
    }
    /* A shorter sleep does no harm: it is measured. */
    (void)usleep(throttle->vcpu_count <= MANY ? WINDOW_US : WINDOW_MANY_US);
    rv = dirty_rate_count(throttle->guest, keep, &pages);
    uint64_t ns = clock_now_ns() - from_ns;
    *ret_rate = (double)pages * (double)NS_PER_S / (double)(ns == 0 ? 1 : ns);
    return rv;
}

static int order(struct throttle *throttle, unsigned vcpu, unsigned percent)
{
    return throttle->guest->ops->throttle(throttle->guest, vcpu, percent);
}

/* What this one dirties while it alone runs. */
static int look(struct throttle *throttle, unsigned vcpu, uint64_t **keep, double *sum)
{
    double rate = 0;
    int rv = order(throttle, vcpu, 0);
    if (rv != 0) {
        return rv;
    }
    (void)usleep(SETTLE_US);
    rv = window(throttle, keep, &rate);
    int stood = order(throttle, vcpu, 100);
    (void)usleep(SETTLE_US);
    *sum += rate;
    return rv != 0 ? rv : stood;
}

/* On a busy host a vCPU may not have come to run in its window: then what all of them
 * dirtied is far less than what the guest is known to dirty, and they get another. */
static bool seen_enough(const struct throttle *throttle, const double *rates,
                        unsigned passes, uint64_t pages_per_second)
{
    double sum = 0;
    for (unsigned i = 0; i < throttle->vcpu_count; i++) {
        sum += rates[i] / passes;
    }
    return sum >= (double)pages_per_second / 2;
}

static int look_at_all(struct throttle *throttle, uint64_t **keep,
                       uint64_t pages_per_second, double *rates)
{
    int rv = 0;
    for (unsigned i = 0; rv == 0 && i < throttle->vcpu_count; i++) {
        rv = order(throttle, i, 100);
    }
    unsigned passes = throttle->vcpu_count <= FEW ? PASSES : 1;
    for (unsigned pass = 0;
         rv == 0 && (pass < passes ||
                     (pass < PASSES_MAX &&
                      !seen_enough(throttle, rates, pass, pages_per_second)));
         pass++) {
        for (unsigned i = 0; rv == 0 && i < throttle->vcpu_count; i++) {
            rv = look(throttle, i, keep, &rates[i]);
        }
    }
    for (unsigned i = 0; i < throttle->vcpu_count; i++) {
        int lifted = order(throttle, i, 0);
        rv = rv != 0 ? rv : lifted;
    }
    return rv;
}

int throttle_measure(struct throttle *throttle, uint64_t pages_per_second,
                     uint64_t **keep)
{
    CHECK(throttle->vcpu_count > 0 && throttle->percent == 0);
    double rates[LIMIT_VCPUS] = {0};
    double total = 0;
    int rv = look_at_all(throttle, keep, pages_per_second, rates);
    if (rv != 0) {
        return rv;
    }
    for (unsigned i = 0; i < throttle->vcpu_count; i++) {
        total += rates[i];
    }
    for (unsigned i = 0; i < throttle->vcpu_count; i++) {
        throttle->permille[i] = total > 0 ? (unsigned)(rates[i] * 1000 / total)
                                          : 1000 / throttle->vcpu_count;
    }
    throttle_choose(throttle);
    throttle->measured = true;
    return 0;
}

void throttle_choose(struct throttle *throttle)
{
    unsigned sum = 0;
    unsigned all = 0;
    for (unsigned i = 0; i < throttle->vcpu_count; i++) {
        throttle->writer[i] = false;
        all += throttle->permille[i];
    }
    for (unsigned taken = 0; taken < throttle->vcpu_count; taken++) {
        unsigned next = throttle->vcpu_count;
        for (unsigned i = 0; i < throttle->vcpu_count; i++) {
            if (!throttle->writer[i] &&
                (next == throttle->vcpu_count ||
                 throttle->permille[i] > throttle->permille[next])) {
                next = i;
            }
        }
        bool enough = sum >= all * WRITERS_PERMILLE / 1000;
        if (taken > 0 && (enough || throttle->permille[next] < WRITER_PERMILLE)) {
            break;
        }
        throttle->writer[next] = true;
        sum += throttle->permille[next];
    }
    throttle->writers_permille = all == 0 ? 1000 : sum * 1000 / all;
}

int throttle_set(struct throttle *throttle, unsigned percent)
{
    CHECK(percent < 100);
    int result = 0;
    if (percent == throttle->percent) {
        return 0;
    }
    for (unsigned i = 0; i < throttle->vcpu_count; i++) {
        if (throttle->writer[i]) {
            int rv = throttle->guest->ops->throttle(throttle->guest, i, percent);
            result = result != 0 ? result : rv;
        }
    }
    throttle->percent = percent;
    return result;
}
