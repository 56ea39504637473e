/* SPDX-License-Identifier: Apache-2.0 */
/* The table of times: each line's reason is in docs/timing.md, under the same name. */
#include "fencing/timing.h"

#include <stdio.h>

#include "base/check.h"
#include "base/err.h"

#define PPM UINT64_C(1000000)

/* `ms` on the slowest clock that the drift bound allows, rounded up. */
static uint32_t stretched(uint64_t ms)
{
    return (uint32_t)((ms * (PPM + TIMING_DRIFT_PPM) + PPM - 1) / PPM);
}

static uint32_t shrunk(uint64_t ms)
{
    return (uint32_t)(ms * (PPM - TIMING_DRIFT_PPM) / PPM);
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

int timing_from_lease(uint32_t lease_ms, struct timing *ret_timing, struct error *err)
{
    if (lease_ms < TIMING_LEASE_MS_MIN || lease_ms > TIMING_LEASE_MS_MAX) {
        return error_set(err, DROVER_EBADINPUT,
                         "a lease of %u ms makes no sense: give %u to %u ms", lease_ms,
                         TIMING_LEASE_MS_MIN, TIMING_LEASE_MS_MAX);
    }
    uint32_t watchdog_s = lease_ms * 2 / 5 / 1000; /* devices count in whole seconds */
    struct timing timing = {
        .lease_ms = lease_ms,
        .renew_ms = lease_ms / 5,
        .holder_ms = shrunk(lease_ms),
        .grantor_ms = stretched(lease_ms),
        .watchdog_ms = (watchdog_s > 0 ? watchdog_s : 1) * 1000,
        .margin_ms = lease_ms * 3 / 50,
        .heartbeat_ms = lease_ms / 50,
        .election_ms = lease_ms / 10,
        .confirm_retry_ms = lease_ms / 25,
        .suspect_ms = lease_ms * 2 / 5,
        .peer_idle_ms = lease_ms * 2 / 5,
        .migration_idle_ms = lease_ms * 3 / 5,
        .stop_grace_ms = 60000,
        .retry_ms = lease_ms / 5,
    };
    timing.feed_ms = timing.watchdog_ms / 10;
    timing.freeze_grace_ms = timing.watchdog_ms -
                             timing_feed_lead_ms(timing.watchdog_ms, timing.watchdog_ms) -
                             timing.feed_ms;
    /* A lease outlives two lost renewals and the keeper's lead, or every hiccup would end
     * in a freeze. */
    CHECK(timing.holder_ms >
          3 * timing.renew_ms +
              timing_feed_lead_ms(timing.watchdog_ms, timing.watchdog_ms));
    CHECK(timing.holder_ms < timing.grantor_ms);
    *ret_timing = timing;
    return 0;
}

uint32_t timing_feed_lead_ms(uint32_t wanted_watchdog_ms, uint32_t armed_watchdog_ms)
{
    return smaller(wanted_watchdog_ms, armed_watchdog_ms) / 2;
}

uint32_t timing_proof_ms(const struct timing *timing, uint32_t watchdog_ms)
{
    CHECK(watchdog_ms > 0 && watchdog_ms <= timing_watchdog_max_ms(timing));
    uint32_t lead_ms = timing_feed_lead_ms(timing->watchdog_ms, watchdog_ms);
    return timing->grantor_ms + stretched(2 * (uint64_t)watchdog_ms - lead_ms) +
           timing->margin_ms;
}

uint32_t timing_watchdog_max_ms(const struct timing *timing)
{
    return 10 * timing->watchdog_ms;
}

void timing_print(const struct timing *timing, char *text, unsigned size)
{
    const struct {
        const char *name;
        uint32_t value;
    } lines[] = {
        {"lease_ms", timing->lease_ms},
        {"renew_ms", timing->renew_ms},
        {"holder_ms", timing->holder_ms},
        {"grantor_ms", timing->grantor_ms},
        {"watchdog_ms", timing->watchdog_ms},
        {"feed_ms", timing->feed_ms},
        {"feed_lead_ms", timing_feed_lead_ms(timing->watchdog_ms, timing->watchdog_ms)},
        {"freeze_grace_ms", timing->freeze_grace_ms},
        {"margin_ms", timing->margin_ms},
        {"proof_ms", timing_proof_ms(timing, timing->watchdog_ms)},
        {"heartbeat_ms", timing->heartbeat_ms},
        {"election_ms", timing->election_ms},
        {"confirm_retry_ms", timing->confirm_retry_ms},
        {"suspect_ms", timing->suspect_ms},
        {"peer_idle_ms", timing->peer_idle_ms},
        {"migration_idle_ms", timing->migration_idle_ms},
        {"stop_grace_ms", timing->stop_grace_ms},
        {"retry_ms", timing->retry_ms},
    };
    CHECK(size > 0);
    text[0] = '\0';
    unsigned used = 0;
    for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]) && used < size - 1; i++) {
        int written = snprintf(text + used, size - used, "%s = %u\n", lines[i].name,
                               lines[i].value);
        CHECK(written > 0);
        used += (unsigned)written; /* past `size` when it was cut: ends the loop */
    }
}
