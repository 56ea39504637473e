/* SPDX-License-Identifier: Apache-2.0 */
/* A token bucket. */
#include "vmm/virtio/rate_limit.h"

#include "base/clock.h"

#define BURST_PART      10u /* of a second's units */
#define UNITS_PER_S_MAX (UINT64_C(1) << 40)
#define DEBT_MAX        (INT64_C(1) << 40)

/* Nanoseconds times units do not fit 64 bits. */
__extension__ typedef __int128 wide;

static int64_t burst(const struct rate_limit *limit)
{
    return (int64_t)(limit->units_per_s / BURST_PART) + 1;
}

void rate_limit_init(struct rate_limit *limit, uint64_t units_per_s, uint64_t now_ns)
{
    *limit = (struct rate_limit){
        .units_per_s = units_per_s < UNITS_PER_S_MAX ? units_per_s : UNITS_PER_S_MAX,
        .filled_ns = now_ns,
    };
    limit->tokens = burst(limit);
}

static void fill(struct rate_limit *limit, uint64_t now_ns)
{
    uint64_t elapsed_ns = now_ns > limit->filled_ns ? now_ns - limit->filled_ns : 0;
    wide units = (wide)elapsed_ns * limit->units_per_s / NS_PER_S;

    if (units == 0) {
        return; /* the time counts on */
    }
    if (limit->tokens + units >= burst(limit)) {
        limit->tokens = burst(limit);
        limit->filled_ns = now_ns;
        return;
    }
    limit->tokens += (int64_t)units;
    /* Only as far as whole units were given; never less, or time would count twice. */
    limit->filled_ns +=
        (uint64_t)((units * NS_PER_S + limit->units_per_s - 1) / limit->units_per_s);
}

uint64_t rate_limit_wait_ns(struct rate_limit *limit, uint64_t now_ns)
{
    if (limit->units_per_s == 0) {
        return 0;
    }
    fill(limit, now_ns);
    if (limit->tokens > 0) {
        return 0;
    }
    return (uint64_t)((wide)(1 - limit->tokens) * NS_PER_S / limit->units_per_s) + 1;
}

void rate_limit_take(struct rate_limit *limit, uint64_t units)
{
    if (limit->units_per_s == 0) {
        return;
    }
    if (units > (uint64_t)DEBT_MAX) {
        units = DEBT_MAX;
    }
    limit->tokens -= (int64_t)units;
    if (limit->tokens < -DEBT_MAX) {
        limit->tokens = -DEBT_MAX;
    }
}
