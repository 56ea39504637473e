/* SPDX-License-Identifier: Apache-2.0 */
/* The decision after each round. */
#include <string.h>

#include "migration/plan.h"
#include "migration/times.h"
#include "tests/unit/unit.h"

#define MB UINT64_C(1000000)

static struct plan_decision decide(struct plan *plan, uint32_t round, uint64_t elapsed_ms,
                                   uint64_t remaining_bytes)
{
    struct plan_measure measure = {.round = round,
                                   .elapsed_ms = elapsed_ms,
                                   .remaining_bytes = remaining_bytes,
                                   .bytes_per_second = 1000 * MB,
                                   .dirty_bytes_per_second = 700 * MB,
                                   .fixed_us = 1000};
    struct plan_decision decision;
    plan_decide(plan, &measure, &decision);
    return decision;
}

static void test_hands_over_at_once_when_hardly_anything_remains(void **state)
{
    struct plan plan;
    plan_init(&plan, (struct plan_goals){0});
    struct plan_decision decision = decide(&plan, 1, 10, 1 * MB);
    assert_int_equal(decision.action, PLAN_HANDOVER);
    assert_int_equal(decision.predicted_downtime_us, 2000);
}

static void test_goes_on_while_rounds_make_the_pause_shorter(void **state)
{
    struct plan plan;
    plan_init(&plan, (struct plan_goals){0});
    assert_int_equal(decide(&plan, 1, 100, 100 * MB).action, PLAN_ROUND);
    assert_int_equal(decide(&plan, 2, 200, 50 * MB).action, PLAN_ROUND);
    assert_int_equal(decide(&plan, 3, 250, 25 * MB).action, PLAN_ROUND);
    assert_int_equal(decide(&plan, 4, 275, 24 * MB).action, PLAN_ROUND);
    struct plan_decision decision = decide(&plan, 5, 300, 25 * MB);
    assert_int_equal(decision.action, PLAN_HANDOVER);
    assert_int_equal(decision.predicted_downtime_us, 26000);
}

static void test_gives_up_with_both_speeds_when_it_never_converges(void **state)
{
    struct plan plan;
    struct plan_decision decision = {.action = PLAN_ROUND};
    plan_init(&plan, (struct plan_goals){.max_downtime_ms = 20,
                                          .postcopy = MIGRATION_POSTCOPY_NEVER});
    uint32_t round = 0;
    while (decision.action == PLAN_ROUND) {
        round++;
        assert_true(round < 100);
        decision = decide(&plan, round, round * 100, 100 * MB);
    }
    assert_int_equal(decision.action, PLAN_GIVE_UP);
    assert_int_equal(round, PLAN_STALE_ROUNDS_GIVE_UP + 1);
    assert_non_null(strstr(decision.reason, "700 MB/s"));
    assert_non_null(strstr(decision.reason, "1000 MB/s"));
    assert_non_null(strstr(decision.reason, "20 ms are allowed"));
}

static void test_with_a_deadline_it_tries_until_then(void **state)
{
    struct plan plan;
    plan_init(&plan, (struct plan_goals){.max_downtime_ms = 20,
                                          .deadline_ms = 10000,
                                          .postcopy = MIGRATION_POSTCOPY_NEVER});
    uint32_t round = 1;
    for (; round * 100 < 9500; round++) {
        assert_int_equal(decide(&plan, round, round * 100, 100 * MB).action, PLAN_ROUND);
    }
    struct plan_decision decision = decide(&plan, round, 9900, 100 * MB);
    assert_int_equal(decision.action, PLAN_GIVE_UP);
    assert_non_null(strstr(decision.reason, "deadline"));
}

static void test_falls_back_to_post_copy_where_it_would_give_up(void **state)
{
    struct plan plan;
    struct plan_decision decision = {.action = PLAN_ROUND};
    plan_init(&plan, (struct plan_goals){.max_downtime_ms = 20});
    uint32_t round = 0;
    while (decision.action == PLAN_ROUND) {
        round++;
        assert_true(round < 100);
        decision = decide(&plan, round, round * 100, 100 * MB);
    }
    assert_int_equal(decision.action, PLAN_POSTCOPY);
    /* The target may not be able to. */
    assert_non_null(strstr(decision.reason, "does not converge"));
}

static void test_post_copy_by_order_comes_after_the_first_round(void **state)
{
    struct plan plan;
    plan_init(&plan, (struct plan_goals){.postcopy = MIGRATION_POSTCOPY_NOW});
    assert_int_equal(decide(&plan, 1, 10, 1 * MB).action, PLAN_POSTCOPY);
}

static void test_hands_over_before_the_deadline_when_the_goal_is_met(void **state)
{
    struct plan plan;
    plan_init(&plan, (struct plan_goals){.max_downtime_ms = 300, .deadline_ms = 1000});
    assert_int_equal(decide(&plan, 1, 400, 200 * MB).action, PLAN_ROUND);
    assert_int_equal(decide(&plan, 2, 850, 90 * MB).action, PLAN_HANDOVER);
}

static void test_a_huge_remainder_does_not_overflow(void **state)
{
    struct plan plan;
    plan_init(&plan, (struct plan_goals){0});
    struct plan_decision decision = decide(&plan, 1, 1, UINT64_C(1) << 62);
    assert_int_equal(decision.action, PLAN_ROUND);
    assert_true(decision.predicted_downtime_us > UINT64_C(1) << 50);
}

static void
test_the_source_stops_sending_the_go_before_the_target_stops_waiting(void **state)
{
    for (uint32_t patience_ms = 0; patience_ms < 100000; patience_ms += 7) {
        struct migration_times times = migration_times_from(patience_ms);
        /* Both clocks drift by 1 %, and the message needs time too. */
        assert_true(times.ready_ms * 101 / 100 + times.standing_ms / 4 <
                    times.go_ms * 99 / 100);
        assert_true(times.keepalive_ms * 3 < times.idle_ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hands_over_at_once_when_hardly_anything_remains),
        cmocka_unit_test(test_goes_on_while_rounds_make_the_pause_shorter),
        cmocka_unit_test(test_gives_up_with_both_speeds_when_it_never_converges),
        cmocka_unit_test(test_with_a_deadline_it_tries_until_then),
        cmocka_unit_test(test_falls_back_to_post_copy_where_it_would_give_up),
        cmocka_unit_test(test_post_copy_by_order_comes_after_the_first_round),
        cmocka_unit_test(test_hands_over_before_the_deadline_when_the_goal_is_met),
        cmocka_unit_test(test_a_huge_remainder_does_not_overflow),
        cmocka_unit_test(
            test_the_source_stops_sending_the_go_before_the_target_stops_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
