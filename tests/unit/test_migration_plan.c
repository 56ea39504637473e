/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decisions of a move: single ones, and whole moves of a model guest over a model
 * link, of which is known what can be met and what can't.
 */
#include <stdio.h>
#include <string.h>

#include "migration/guest.h"
#include "migration/plan.h"
#include "migration/times.h"
#include "tests/unit/unit.h"

#define MB       UINT64_C(1000000)
#define US_PER_S UINT64_C(1000000)
#define FIXED_US 1000u

/* ---- a model guest and its move ----------------------------------------------------- */

/* Writes `rate` pages a second, going round in `hot` pages. */
struct model {
    uint64_t used_bytes;
    uint64_t hot_bytes;
    uint64_t dirty_bytes_per_second;
    uint64_t link_bytes_per_second;
    struct plan_goals goals;
    unsigned writers_permille; /* 0: 1000 */
};

struct outcome {
    enum plan_action action;
    bool refused; /* before the first byte */
    uint64_t pause_us;
    uint64_t total_us;
    uint64_t predicted_us;
    unsigned throttle_percent;
    uint32_t rounds;
    char reason[320];
};

static uint64_t model_dirtied(const struct model *model, double us, double speed)
{
    double bytes = (double)model->dirty_bytes_per_second * us * speed / 1e6;
    uint64_t whole = bytes > (double)model->hot_bytes ? model->hot_bytes : (uint64_t)bytes;
    return whole / MIGRATION_PAGE_SIZE * MIGRATION_PAGE_SIZE;
}

static struct plan_measure model_measure(const struct model *model,
                                         struct dirty_curve *curve)
{
    for (uint64_t us = 1000; us <= 128000; us *= 2) {
        dirty_curve_add(curve, us,
                        model_dirtied(model, (double)us, 1) / MIGRATION_PAGE_SIZE);
    }
    curve->pages_max = model->used_bytes / MIGRATION_PAGE_SIZE;
    return (struct plan_measure){
        .remaining_bytes = model->used_bytes,
        .dirty_bytes_per_second = model->dirty_bytes_per_second,
        .model = {.curve = curve,
                  .costs = {.save_us = FIXED_US},
                  .link = {.bytes_per_second = model->link_bytes_per_second,
                           .round_us = 200},
                  .limit_bytes = model->used_bytes},
        .writers_permille = model->writers_permille == 0 ? 1000 : model->writers_permille,
    };
}

static struct outcome model_move(const struct model *model)
{
    struct dirty_curve curve = {0};
    struct plan plan;
    struct plan_decision decision;
    struct plan_measure measure = model_measure(model, &curve);
    double now_us = 0;
    plan_init(&plan, model->goals);
    plan_foresee(&plan, &measure, &decision);
    struct outcome outcome = {.action = decision.action, .refused = true};
    if (decision.action == PLAN_ROUND) {
        outcome.refused = false;
        outcome.throttle_percent = decision.throttle_percent;
    }
    while (decision.action == PLAN_ROUND) {
        double us = (double)measure.remaining_bytes * 1e6 /
                        (double)model->link_bytes_per_second +
                    200;
        double speed =
            1 - (double)measure.writers_permille * decision.throttle_percent / 100000.0;
        measure.remaining_bytes = model_dirtied(model, us, speed);
        now_us += us;
        measure.elapsed_ms = (uint64_t)(now_us / 1000);
        measure.round++;
        assert_true(measure.round <= PLAN_ROUNDS_MAX);
        plan_decide(&plan, &measure, &decision);
        assert_true(decision.throttle_percent >= outcome.throttle_percent);
        assert_true(decision.throttle_percent <= PLAN_THROTTLE_MAX);
        outcome.throttle_percent = decision.throttle_percent;
    }
    outcome.action = decision.action;
    outcome.rounds = measure.round;
    outcome.predicted_us = decision.predicted_downtime_us;
    outcome.pause_us = FIXED_US + measure.remaining_bytes * US_PER_S /
                                      model->link_bytes_per_second;
    outcome.total_us = (uint64_t)now_us + outcome.pause_us;
    memcpy(outcome.reason, decision.reason, sizeof(outcome.reason));
    return outcome;
}

/* ---- single decisions --------------------------------------------------------------- */

static const struct model busy = {
    .used_bytes = 1000 * MB,
    .hot_bytes = 100 * MB,
    .dirty_bytes_per_second = 5000 * MB,
    .link_bytes_per_second = 1000 * MB,
};

/* After rounds that left `remaining_bytes` each, for a guest that writes all of its hot
 * set in a moment. */
static struct plan_decision decide(struct plan *plan, uint32_t round, uint64_t elapsed_ms,
                                   uint64_t remaining_bytes)
{
    struct dirty_curve curve = {0};
    struct plan_measure measure = model_measure(&busy, &curve);
    struct plan_decision decision;
    measure.round = round;
    measure.elapsed_ms = elapsed_ms;
    measure.remaining_bytes = remaining_bytes;
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
    assert_int_equal(decision.predicted_total_ms, 12);
}

static void test_goes_on_as_long_as_rounds_make_the_pause_shorter(void **state)
{
    /* 800 of 1000 MB/s: each round leaves four fifths. 300 ms are allowed, and met after
     * the first one already. */
    struct model model = busy;
    model.dirty_bytes_per_second = 800 * MB;
    struct outcome outcome = model_move(&model);
    assert_int_equal(outcome.action, PLAN_HANDOVER);
    assert_true(outcome.rounds > 5);
    assert_true(outcome.pause_us < 5000);
    assert_int_equal(outcome.throttle_percent, 0);
}

static void test_a_hot_set_is_recognised_at_once(void **state)
{
    /* 100 MB that are written over and over: 101 ms, and no round makes it less. */
    struct outcome outcome = model_move(&busy);
    assert_int_equal(outcome.action, PLAN_HANDOVER);
    assert_int_equal(outcome.rounds, 1);
    assert_int_equal(outcome.throttle_percent, 0);
}

static void test_throttles_no_more_than_the_goal_needs(void **state)
{
    struct model model = busy;
    model.goals = (struct plan_goals){.max_downtime_ms = 50,
                                      .postcopy = MIGRATION_POSTCOPY_NEVER};
    struct outcome outcome = model_move(&model);
    assert_int_equal(outcome.action, PLAN_HANDOVER);
    assert_true(outcome.pause_us <= 50000);
    /* 100 ms of writing, at 5000 MB/s, must leave less than 50 MB: nine tenths and more
     * of the guest's time have to go. */
    assert_in_range(outcome.throttle_percent, 90, 95);
    model.dirty_bytes_per_second = 1200 * MB;
    outcome = model_move(&model);
    assert_int_equal(outcome.action, PLAN_HANDOVER);
    assert_in_range(outcome.throttle_percent, 10, 40);
}

static void test_a_throttle_that_does_not_help_is_raised_and_then_given_up(void **state)
{
    struct plan plan;
    struct plan_decision decision = {.action = PLAN_ROUND};
    plan_init(&plan, (struct plan_goals){.max_downtime_ms = 20,
                                         .postcopy = MIGRATION_POSTCOPY_NEVER});
    uint32_t round = 0;
    unsigned last = 0;
    while (decision.action == PLAN_ROUND) {
        round++;
        assert_true(round < 200);
        decision = decide(&plan, round, round * 100, 100 * MB);
        assert_true(decision.throttle_percent >= last);
        last = decision.throttle_percent;
    }
    assert_int_equal(decision.action, PLAN_GIVE_UP);
    assert_int_equal(last, PLAN_THROTTLE_MAX);
    assert_non_null(strstr(decision.reason, "5000 MB/s"));
    assert_non_null(strstr(decision.reason, "1000 MB/s"));
    assert_non_null(strstr(decision.reason, "20 ms are allowed"));
}

static void test_without_a_throttle_it_gives_up_after_rounds_that_did_not_help(void **state)
{
    struct plan plan;
    struct plan_decision decision = {.action = PLAN_ROUND};
    plan_init(&plan, (struct plan_goals){.max_downtime_ms = 20,
                                         .postcopy = MIGRATION_POSTCOPY_NEVER,
                                         .never_throttle = true});
    uint32_t round = 0;
    while (decision.action == PLAN_ROUND) {
        round++;
        assert_true(round < 100);
        decision = decide(&plan, round, round * 100, 100 * MB);
        assert_int_equal(decision.throttle_percent, 0);
    }
    assert_int_equal(decision.action, PLAN_GIVE_UP);
    assert_int_equal(round, PLAN_STALE_ROUNDS_GIVE_UP + 1);
}

/* Several moves at once, or hosts without a moment to spare: what is left would have gone
 * in time before. */
static void test_waits_for_a_link_that_was_faster_before(void **state)
{
    struct plan plan;
    struct dirty_curve curve = {0};
    struct plan_decision decision;
    struct plan_measure measure = model_measure(&busy, &curve);
    plan_init(&plan, (struct plan_goals){.max_downtime_ms = 20,
                                         .postcopy = MIGRATION_POSTCOPY_NEVER});
    measure.round = 1;
    measure.remaining_bytes = 100 * MB;
    plan_decide(&plan, &measure, &decision);
    assert_int_equal(decision.action, PLAN_ROUND);
    measure.remaining_bytes = 1 * MB;
    measure.model.link.bytes_per_second = 10 * MB; /* 100 ms */
    while (measure.elapsed_ms < PLAN_PATIENCE_MS - 1000) {
        measure.round++;
        measure.elapsed_ms += 500;
        plan_decide(&plan, &measure, &decision);
        assert_int_equal(decision.action, PLAN_ROUND);
    }
    struct plan patient = plan;
    measure.elapsed_ms = PLAN_PATIENCE_MS;
    plan_decide(&plan, &measure, &decision);
    assert_int_equal(decision.action, PLAN_GIVE_UP);
    assert_non_null(strstr(decision.reason, "does not converge"));
    measure.model.link.bytes_per_second = busy.link_bytes_per_second;
    plan_decide(&patient, &measure, &decision);
    assert_int_equal(decision.action, PLAN_HANDOVER);
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
    struct model model = busy;
    model.dirty_bytes_per_second = 990 * MB; /* would go on for long */
    model.goals.deadline_ms = 1300;
    struct outcome outcome = model_move(&model);
    assert_int_equal(outcome.action, PLAN_HANDOVER);
    assert_in_range(outcome.total_us, 1000000, 1300000);
}

static void test_a_huge_remainder_does_not_overflow(void **state)
{
    struct plan plan;
    plan_init(&plan, (struct plan_goals){.postcopy = MIGRATION_POSTCOPY_NEVER});
    struct plan_decision decision = decide(&plan, 1, 1, UINT64_C(1) << 62);
    assert_int_equal(decision.action, PLAN_ROUND);
}

static void test_a_link_of_unknown_speed_is_no_reason_to_refuse(void **state)
{
    struct dirty_curve curve = {0};
    struct plan_measure measure = model_measure(&busy, &curve);
    struct plan plan;
    struct plan_decision decision;
    measure.model.link.bytes_per_second = 0;
    plan_init(&plan, (struct plan_goals){.max_downtime_ms = 5});
    plan_foresee(&plan, &measure, &decision);
    assert_int_equal(decision.action, PLAN_ROUND);
    assert_int_equal(decision.predicted_downtime_us, 0);
    /* But what the machine itself takes is known. */
    measure.model.costs.load_us = 7000;
    plan_foresee(&plan, &measure, &decision);
    assert_int_equal(decision.action, PLAN_GIVE_UP);
    assert_non_null(strstr(decision.reason, "--max-downtime"));
}

/* ---- what is foreseen, in a table ----------------------------------------------------- */

static const struct foreseen {
    const char *name;
    struct model model;
    bool refused;
    const char *reason; /* a part of it */
} table[] = {
    {"idle, fast link", {1000 * MB, 0, 0, 1000 * MB, {0}, 0}, false, NULL},
    {"idle, slow link, no deadline", {1000 * MB, 0, 0, 10 * MB, {0}, 0}, false, NULL},
    {"idle, slow link, deadline",
     {1000 * MB, 0, 0, 10 * MB, {.deadline_ms = 10000, .postcopy = 1}, 0},
     true,
     "--deadline 12"},
    {"idle, just fast enough",
     {1000 * MB, 0, 0, 101 * MB, {.deadline_ms = 10000, .postcopy = 1}, 0},
     false,
     NULL},
    {"hot, default goal",
     {1000 * MB, 100 * MB, 5000 * MB, 1000 * MB, {.postcopy = 1}, 0},
     false,
     NULL},
    {"hot, throttled",
     {1000 * MB, 100 * MB, 5000 * MB, 1000 * MB, {50, 0, 1, false}, 0},
     false,
     NULL},
    {"hot, may not be throttled",
     {1000 * MB, 100 * MB, 5000 * MB, 1000 * MB, {50, 0, 1, true}, 0},
     true,
     "50 ms are allowed"},
    {"hot, may go on afterwards",
     {1000 * MB, 100 * MB, 5000 * MB, 1000 * MB, {50, 0, 0, true}, 0},
     false,
     NULL},
    {"most writes are of vCPUs that can't be throttled",
     {1000 * MB, 100 * MB, 5000 * MB, 1000 * MB, {50, 0, 1, false}, 300},
     true,
     "--max-downtime"},
    {"less than the machine takes",
     {1000 * MB, 0, 0, 1000 * MB, {.max_downtime_ms = 0}, 0},
     false,
     NULL},
};

static void test_foresees_what_can_be_met(void **state)
{
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct outcome outcome = model_move(&table[i].model);
        if (outcome.refused != table[i].refused) {
            fail_msg("%s: refused %d: %s", table[i].name, outcome.refused,
                     outcome.reason);
        }
        if (table[i].reason != NULL && strstr(outcome.reason, table[i].reason) == NULL) {
            fail_msg("%s: says \"%s\"", table[i].name, outcome.reason);
        }
    }
}

/* ---- and in general ------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *seed >> 33;
}

static uint64_t random_between(uint64_t *seed, uint64_t low, uint64_t high)
{
    return low + next_random(seed) % (high - low + 1);
}

static struct model random_model(uint64_t *seed)
{
    struct model model = {.used_bytes = random_between(seed, 1, 4000) * MB};
    model.hot_bytes = model.used_bytes * random_between(seed, 0, 100) / 100;
    model.dirty_bytes_per_second = random_between(seed, 0, 6000) * MB;
    model.link_bytes_per_second = random_between(seed, 10, 3000) * MB;
    model.goals.max_downtime_ms = (uint32_t)random_between(seed, 2, 500);
    model.goals.postcopy = MIGRATION_POSTCOPY_NEVER;
    model.goals.never_throttle = next_random(seed) % 2 == 0;
    if (next_random(seed) % 2 == 0) {
        model.goals.deadline_ms = (uint32_t)random_between(seed, 100, 20000);
    }
    return model;
}

/* Whether a mover that knew everything could meet the goals: it throttles as much as is
 * allowed from the first moment on. */
static bool can_be_met(const struct model *model)
{
    double speed = model->goals.never_throttle ? 1 : 1 - PLAN_THROTTLE_MAX / 100.0;
    double now_us = 0;
    uint64_t remaining = model->used_bytes;
    for (unsigned round = 0; round < 500; round++) {
        double us =
            (double)remaining * 1e6 / (double)model->link_bytes_per_second + 200;
        now_us += us;
        remaining = model_dirtied(model, us, speed);
        double pause_us = FIXED_US + (double)remaining * 1e6 /
                                         (double)model->link_bytes_per_second;
        if (model->goals.deadline_ms != 0 &&
            now_us + pause_us > model->goals.deadline_ms * 1e3) {
            return false;
        }
        if (pause_us <= model->goals.max_downtime_ms * 1e3) {
            return true;
        }
    }
    return false;
}

#define MOVES 20000u

static void test_never_refuses_what_can_be_met(void **state)
{
    uint64_t seed = 1;
    unsigned refused = 0;
    unsigned met = 0;
    for (unsigned i = 0; i < MOVES; i++) {
        struct model model = random_model(&seed);
        struct outcome outcome = model_move(&model);
        met += outcome.action == PLAN_HANDOVER;
        if (outcome.refused) {
            refused++;
            if (can_be_met(&model)) {
                fail_msg("move %u was refused, and could be made: %s", i, outcome.reason);
            }
        }
    }
    assert_true(refused > MOVES / 20 && met > MOVES / 5); /* it is a test of both */
}

static void test_never_promises_what_cannot_be_met(void **state)
{
    uint64_t seed = 2;
    for (unsigned i = 0; i < MOVES; i++) {
        struct model model = random_model(&seed);
        struct outcome outcome = model_move(&model);
        if (outcome.action == PLAN_HANDOVER) {
            assert_true(outcome.pause_us <= model.goals.max_downtime_ms * 1000);
            assert_true(model.goals.deadline_ms == 0 ||
                        outcome.total_us <= model.goals.deadline_ms * 1000);
            assert_in_range(outcome.predicted_us, outcome.pause_us - 1,
                            outcome.pause_us + 1);
        }
        if (model.goals.never_throttle) {
            assert_int_equal(outcome.throttle_percent, 0);
        }
    }
}

/* With a quarter to spare: the curve is drawn through eight points, and bends between. */
static void test_what_is_foreseen_comes_true_in_the_model(void **state)
{
    uint64_t seed = 3;
    for (unsigned i = 0; i < MOVES; i++) {
        struct model model = random_model(&seed);
        struct dirty_curve curve = {0};
        struct plan_measure measure = model_measure(&model, &curve);
        struct plan plan;
        struct plan_decision decision;
        plan_init(&plan, model.goals);
        plan_foresee(&plan, &measure, &decision);
        bool promised =
            decision.action == PLAN_ROUND &&
            decision.predicted_downtime_us <= model.goals.max_downtime_ms * 750 &&
            (model.goals.deadline_ms == 0 ||
             decision.predicted_total_ms <= model.goals.deadline_ms * 3 / 4);
        struct outcome outcome = model_move(&model);
        if (promised && outcome.action != PLAN_HANDOVER) {
            fail_msg("move %u was promised within %llu us and %llu ms, and ended: %s", i,
                     (unsigned long long)decision.predicted_downtime_us,
                     (unsigned long long)decision.predicted_total_ms, outcome.reason);
        }
    }
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
        cmocka_unit_test(test_goes_on_as_long_as_rounds_make_the_pause_shorter),
        cmocka_unit_test(test_a_hot_set_is_recognised_at_once),
        cmocka_unit_test(test_throttles_no_more_than_the_goal_needs),
        cmocka_unit_test(test_a_throttle_that_does_not_help_is_raised_and_then_given_up),
        cmocka_unit_test(
            test_without_a_throttle_it_gives_up_after_rounds_that_did_not_help),
        cmocka_unit_test(test_waits_for_a_link_that_was_faster_before),
        cmocka_unit_test(test_with_a_deadline_it_tries_until_then),
        cmocka_unit_test(test_falls_back_to_post_copy_where_it_would_give_up),
        cmocka_unit_test(test_post_copy_by_order_comes_after_the_first_round),
        cmocka_unit_test(test_hands_over_before_the_deadline_when_the_goal_is_met),
        cmocka_unit_test(test_a_huge_remainder_does_not_overflow),
        cmocka_unit_test(test_a_link_of_unknown_speed_is_no_reason_to_refuse),
        cmocka_unit_test(test_foresees_what_can_be_met),
        cmocka_unit_test(test_never_refuses_what_can_be_met),
        cmocka_unit_test(test_never_promises_what_cannot_be_met),
        cmocka_unit_test(test_what_is_foreseen_comes_true_in_the_model),
        cmocka_unit_test(
            test_the_source_stops_sending_the_go_before_the_target_stops_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
