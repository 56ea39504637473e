/* SPDX-License-Identifier: Apache-2.0 */
/* The table of times keeps what docs/timing.md claims, for every lease that may be set.
 */
#include <string.h>

#include "base/err.h"
#include "fencing/timing.h"
#include "tests/unit/unit.h"

static struct timing table(uint32_t lease_ms)
{
    struct timing timing;
    assert_int_equal(timing_from_lease(lease_ms, &timing, NULL), 0);
    return timing;
}

static void test_lease_outside_of_its_bounds_is_refused(void **state)
{
    struct timing timing = {.lease_ms = 77};
    struct error err = {0};
    assert_int_equal(timing_from_lease(TIMING_LEASE_MS_MIN - 1, &timing, &err),
                     DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "2000 to 60000"));
    assert_int_equal(timing_from_lease(TIMING_LEASE_MS_MAX + 1, &timing, &err),
                     DROVER_EBADINPUT);
    assert_int_equal(timing.lease_ms, 77);
}

static void test_holder_is_over_before_grantor_under_worst_drift(void **state)
{
    for (uint32_t lease = TIMING_LEASE_MS_MIN; lease <= TIMING_LEASE_MS_MAX; lease += 7) {
        struct timing timing = table(lease);
        /* The host's clock is the slow one: what it counts while the leader counts
         * grantor_ms. */
        assert_true((uint64_t)timing.grantor_ms * 99 > (uint64_t)timing.holder_ms * 100);
    }
}

/* The keeper's worst feed, as in docs/timing.md, with a slow host clock and a slow
 * watchdog. */
static void test_watchdog_fires_before_the_proof(void **state)
{
    for (uint32_t lease = TIMING_LEASE_MS_MIN; lease <= TIMING_LEASE_MS_MAX; lease += 7) {
        struct timing timing = table(lease);
        for (uint32_t watchdog = 1000; watchdog <= timing_watchdog_max_ms(&timing);
             watchdog += 1000) {
            double deadline = timing.holder_ms / 0.99;
            double lead = timing_feed_lead_ms(timing.watchdog_ms, watchdog);
            double reset = deadline + (2.0 * watchdog - lead) / 0.99;
            assert_true(reset < timing_proof_ms(&timing, watchdog));
        }
    }
}

static void test_default_restarts_within_two_leases_also_without_leader(void **state)
{
    for (uint32_t lease = 5000; lease <= TIMING_LEASE_MS_MAX; lease += 100) {
        struct timing timing = table(lease);
        uint32_t elected = 2 * timing.election_ms + timing.heartbeat_ms;
        uint32_t committed = timing.lease_ms / 25; /* barrier, HostDead, VmAssign */
        assert_true(elected + timing_proof_ms(&timing, timing.watchdog_ms) + committed <=
                    2 * lease);
    }
}

static void test_frozen_in_time_means_no_reset(void **state)
{
    for (uint32_t lease = TIMING_LEASE_MS_MIN; lease <= TIMING_LEASE_MS_MAX; lease += 7) {
        struct timing timing = table(lease);
        uint32_t lead = timing_feed_lead_ms(timing.watchdog_ms, timing.watchdog_ms);
        /* Last feed unasked at the earliest lead + feed before the deadline. */
        assert_true(timing.freeze_grace_ms + lead + timing.feed_ms <= timing.watchdog_ms);
        assert_true(timing.freeze_grace_ms >= 3 * timing.feed_ms);
    }
}

static void test_print_shows_each_line_and_is_cut(void **state)
{
    struct timing timing = table(TIMING_LEASE_MS_DEFAULT);
    char text[2048];
    timing_print(&timing, text, sizeof(text));
    assert_non_null(strstr(text, "lease_ms = 5000\n"));
    assert_non_null(strstr(text, "proof_ms = 8380\n"));
    assert_non_null(strstr(text, "retry_ms = 1000\n"));
    char small[20];
    memset(small, 'x', sizeof(small));
    timing_print(&timing, small, sizeof(small) - 1);
    assert_int_equal(strlen(small), sizeof(small) - 2);
    assert_int_equal(small[sizeof(small) - 1], 'x');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lease_outside_of_its_bounds_is_refused),
        cmocka_unit_test(test_holder_is_over_before_grantor_under_worst_drift),
        cmocka_unit_test(test_watchdog_fires_before_the_proof),
        cmocka_unit_test(test_default_restarts_within_two_leases_also_without_leader),
        cmocka_unit_test(test_frozen_in_time_means_no_reset),
        cmocka_unit_test(test_print_shows_each_line_and_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
