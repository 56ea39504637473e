/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a move is judged by: the working-set curve, the prediction that is made of it, and
 * who is throttled. The guest here writes by the clock alone, each vCPU to memory of its
 * own, so that nothing depends on threads.
 */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "migration/dirty_rate.h"
#include "migration/guest.h"
#include "migration/predict.h"
#include "migration/throttle.h"
#include "tests/unit/unit.h"

#define VCPUS  4u
#define PAGES  65536u
#define MB     UINT64_C(1000000)

struct writer {
    uint64_t first, pages; /* goes round in these */
    uint64_t pages_per_second;
    unsigned percent;      /* throttled */
    double next;           /* page */
    unsigned orders;
};

struct clocked {
    struct migration_guest guest;
    struct writer writers[VCPUS];
    unsigned vcpu_count;
    uint64_t last_ns;
    uint64_t log[PAGES / 64];
    int fetch_error, throttle_error;
};

static struct clocked *of(struct migration_guest *guest)
{
    return (struct clocked *)guest; /* the first member */
}

/* Up to now. */
static void run(struct clocked *clocked)
{
    uint64_t now_ns = clock_now_ns();
    double seconds = (double)(now_ns - clocked->last_ns) / 1e9;
    clocked->last_ns = now_ns;
    for (unsigned i = 0; i < VCPUS; i++) {
        struct writer *writer = &clocked->writers[i];
        double count = (double)writer->pages_per_second * seconds *
                       (100 - writer->percent) / 100;
        double end = writer->next + count;
        if (end - writer->next > (double)writer->pages) {
            writer->next = end - (double)writer->pages;
        }
        for (; writer->next + 1 <= end; writer->next += 1) {
            uint64_t page = writer->first + (uint64_t)writer->next % writer->pages;
            clocked->log[page / 64] |= UINT64_C(1) << (page % 64);
        }
    }
}

static unsigned region_count(struct migration_guest *guest)
{
    return 1;
}

static void region(struct migration_guest *guest, unsigned index,
                   struct migration_region *ret_region)
{
    *ret_region =
        (struct migration_region){.size_bytes = (uint64_t)PAGES * MIGRATION_PAGE_SIZE};
}

static int dirty_fetch(struct migration_guest *guest, unsigned index, uint64_t *bitmap,
                       uint64_t first_page, uint64_t page_count)
{
    struct clocked *clocked = of(guest);
    assert_int_equal(page_count, PAGES);
    run(clocked);
    for (unsigned i = 0; i < PAGES / 64; i++) {
        bitmap[i] |= clocked->log[i];
        clocked->log[i] = 0;
    }
    return clocked->fetch_error;
}

static unsigned vcpu_count(struct migration_guest *guest)
{
    return of(guest)->vcpu_count;
}

static int throttle(struct migration_guest *guest, unsigned vcpu, unsigned percent)
{
    struct clocked *clocked = of(guest);
    assert_true(vcpu < clocked->vcpu_count && percent <= 100);
    run(clocked);
    clocked->writers[vcpu].percent = percent;
    clocked->writers[vcpu].orders++;
    return percent == 0 ? 0 : clocked->throttle_error;
}

static const struct migration_guest_ops ops = {.region_count = region_count,
                                               .region = region,
                                               .dirty_fetch = dirty_fetch,
                                               .vcpu_count = vcpu_count,
                                               .throttle = throttle};

static void clocked_init(struct clocked *clocked, unsigned vcpus)
{
    *clocked = (struct clocked){
        .guest.ops = &ops, .vcpu_count = vcpus, .last_ns = clock_now_ns()};
    for (unsigned i = 0; i < VCPUS; i++) {
        clocked->writers[i] = (struct writer){.first = i * (PAGES / VCPUS), .pages = 1};
    }
}

/* ---- the curve ------------------------------------------------------------------------ */

static void test_a_curve_goes_through_what_was_seen(void **state)
{
    struct dirty_curve curve = {0};
    assert_int_equal(dirty_curve_pages(&curve, 1000), 0);
    dirty_curve_add(&curve, 1000, 100);
    dirty_curve_add(&curve, 4000, 400);
    dirty_curve_add(&curve, 16000, 400);
    assert_int_equal(dirty_curve_pages(&curve, 0), 0);
    assert_int_equal(dirty_curve_pages(&curve, 500), 50);
    assert_int_equal(dirty_curve_pages(&curve, 2000), 200);
    assert_int_equal(dirty_curve_pages(&curve, 8000), 400);
    assert_int_equal(dirty_curve_pages(&curve, 1000000), 400); /* a hot set */
}

static void test_a_curve_goes_on_as_it_ended_but_not_beyond_memory(void **state)
{
    struct dirty_curve curve = {.pages_max = 5000};
    dirty_curve_add(&curve, 1000, 100);
    dirty_curve_add(&curve, 2000, 200);
    assert_int_equal(dirty_curve_pages(&curve, 10000), 1000);
    assert_int_equal(dirty_curve_pages(&curve, UINT64_MAX / 4), 5000);
}

static void test_newer_observations_win_and_the_curve_never_falls(void **state)
{
    struct dirty_curve curve = {0};
    uint64_t seed = 7;
    for (unsigned i = 0; i < 10000; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1;
        dirty_curve_add(&curve, (seed >> 33) % 1000000, (seed >> 40) % 100000);
        assert_in_range(curve.count, 1, DIRTY_CURVE_POINTS);
        for (unsigned at = 1; at < curve.count; at++) {
            assert_true(curve.points[at].us > curve.points[at - 1].us);
            assert_true(curve.points[at].pages >= curve.points[at - 1].pages);
        }
    }
    for (unsigned i = 0; i < 20; i++) {
        dirty_curve_add(&curve, 1000, 10);
    }
    assert_in_range(dirty_curve_pages(&curve, 1000), 8, 12);
}

/* ---- measuring ------------------------------------------------------------------------ */

static void test_pages_that_are_written_again_count_once(void **state)
{
    struct clocked clocked;
    struct dirty_rate rate;
    clocked_init(&clocked, 1);
    clocked.writers[0] = (struct writer){.pages = 500, .pages_per_second = 100000};
    assert_int_equal(
        dirty_rate_measure(&clocked.guest, 60000, NULL, NULL, &rate), 0);
    assert_true(rate.window_us >= 60000);
    /* After 5 ms all of them are dirty, and there are no others. */
    assert_int_equal(dirty_curve_pages(&rate.curve, 1000000), 500);
    assert_int_equal(dirty_curve_pages(&rate.curve, 60000), 500);
    assert_in_range(dirty_curve_pages(&rate.curve, 1000), 60, 350);
    assert_true(rate.pages_per_second <= 500 * 1000 / 60);
}

static void test_a_guest_that_writes_ever_new_pages_has_a_straight_curve(void **state)
{
    struct clocked clocked;
    struct dirty_rate rate;
    clocked_init(&clocked, 1);
    clocked.writers[0] = (struct writer){.pages = PAGES / 2, .pages_per_second = 100000};
    assert_int_equal(
        dirty_rate_measure(&clocked.guest, 60000, NULL, NULL, &rate), 0);
    assert_in_range(rate.pages_per_second, 95000, 105000);
    assert_in_range(dirty_curve_pages(&rate.curve, 10000), 900, 1100);
    assert_in_range(dirty_curve_pages(&rate.curve, 200000), 17000, 23000);
}

static int meanwhile(void *owner, uint64_t us)
{
    unsigned *calls = owner;
    (*calls)++;
    return *calls == 3 ? DROVER_ECANCELLED : 0;
}

static void test_measuring_ends_with_an_error_of_what_is_done_meanwhile(void **state)
{
    struct clocked clocked;
    struct dirty_rate rate;
    unsigned calls = 0;
    clocked_init(&clocked, 1);
    assert_int_equal(
        dirty_rate_measure(&clocked.guest, 60000, meanwhile, &calls, &rate),
        DROVER_ECANCELLED);
    assert_int_equal(calls, 3);
    clocked.fetch_error = -EIO;
    assert_int_equal(dirty_rate_measure(&clocked.guest, 60000, NULL, NULL, &rate), -EIO);
}

/* ---- who writes ----------------------------------------------------------------------- */

static void test_finds_the_vcpu_that_writes(void **state)
{
    struct clocked clocked;
    struct throttle throttle;
    uint64_t keep_bits[PAGES / 64] = {0};
    uint64_t *keep[] = {keep_bits};
    clocked_init(&clocked, VCPUS);
    clocked.writers[2].pages = 8000;
    clocked.writers[2].pages_per_second = 200000;
    clocked.writers[0].pages = 100;
    clocked.writers[0].pages_per_second = 2000;
    throttle_init(&throttle, &clocked.guest);
    assert_int_equal(throttle_measure(&throttle, 200000, keep), 0);
    assert_true(throttle.permille[2] > 900);
    assert_true(throttle.writer[2]);
    assert_false(throttle.writer[0] || throttle.writer[1] || throttle.writer[3]);
    assert_true(throttle.writers_permille > 900);
    /* What was seen dirty is not lost. */
    assert_true(keep_bits[(PAGES / VCPUS * 2) / 64] != 0);
    for (unsigned i = 0; i < VCPUS; i++) {
        assert_int_equal(clocked.writers[i].percent, 0);
        clocked.writers[i].orders = 0;
    }
    assert_int_equal(throttle_set(&throttle, 80), 0);
    assert_int_equal(clocked.writers[2].percent, 80);
    assert_int_equal(throttle_set(&throttle, 0), 0);
    assert_int_equal(clocked.writers[2].percent, 0);
    assert_int_equal(clocked.writers[2].orders, 2);
    assert_int_equal(clocked.writers[0].orders + clocked.writers[1].orders +
                         clocked.writers[3].orders,
                     0);
}

static void test_a_vcpu_that_was_made_to_stand_is_let_go_also_on_errors(void **state)
{
    struct clocked clocked;
    struct throttle throttle;
    clocked_init(&clocked, 2);
    clocked.writers[0].pages_per_second = 1000;
    throttle_init(&throttle, &clocked.guest);
    clocked.throttle_error = -ENOSYS;
    assert_int_equal(throttle_measure(&throttle, 0, NULL), -ENOSYS);
    clocked.throttle_error = 0;
    clocked.fetch_error = -EIO;
    assert_int_equal(throttle_measure(&throttle, 0, NULL), -EIO);
    assert_false(throttle.measured);
}

static void choose(struct throttle *throttle, unsigned a, unsigned b, unsigned c,
                   unsigned d)
{
    *throttle = (struct throttle){.vcpu_count = 4, .permille = {a, b, c, d}};
    throttle_choose(throttle);
}

static void test_chooses_the_fewest_that_make_nearly_all_writes(void **state)
{
    struct throttle throttle;
    choose(&throttle, 20, 950, 20, 10);
    assert_true(throttle.writer[1]);
    assert_false(throttle.writer[0] || throttle.writer[2] || throttle.writer[3]);
    assert_int_equal(throttle.writers_permille, 950);
    choose(&throttle, 500, 0, 480, 20);
    assert_true(throttle.writer[0] && throttle.writer[2]);
    assert_false(throttle.writer[1] || throttle.writer[3]);
    choose(&throttle, 250, 250, 250, 250);
    assert_true(throttle.writer[0] && throttle.writer[1] && throttle.writer[2] &&
                throttle.writer[3]);
    choose(&throttle, 860, 48, 47, 45); /* many that write hardly anything */
    assert_true(throttle.writer[0]);
    assert_false(throttle.writer[1] || throttle.writer[2] || throttle.writer[3]);
    assert_int_equal(throttle.writers_permille, 860);
}

static void test_a_guest_without_vcpus_to_throttle_is_left_alone(void **state)
{
    struct clocked clocked;
    struct throttle throttle;
    static const struct migration_guest_ops nothing = {0};
    clocked_init(&clocked, 1);
    clocked.guest.ops = &nothing;
    throttle_init(&throttle, &clocked.guest);
    assert_int_equal(throttle.vcpu_count, 0);
    assert_int_equal(throttle_set(&throttle, 0), 0);
    clocked.guest.ops = &ops;
    throttle_init(&throttle, &clocked.guest);
    assert_true(throttle.measured && throttle.writer[0]); /* nobody else can it be */
}

/* ---- the prediction ------------------------------------------------------------------- */

static void test_the_pause_is_its_fixed_costs_and_what_is_left(void **state)
{
    struct predict_model model = {
        .costs = {.stop_us = 70,
                  .drain_us = 10,
                  .fetch_us = 20,
                  .save_us = 300,
                  .load_us = 400,
                  .round_trip_us = 100,
                  .enter_us = 50,
                  .state_bytes = 100000},
        .link = {.bytes_per_second = 1000 * MB},
    };
    assert_int_equal(predict_fixed_us(&model.costs), 10 + 20 + 300 + 400 + 150 + 50);
    assert_int_equal(predict_pause_us(&model, 0), 930 + 100);
    assert_int_equal(predict_pause_us(&model, 10 * MB), 930 + 100 + 10000);
}

static void test_what_is_written_until_the_guest_stands_is_sent_too(void **state)
{
    struct dirty_curve curve = {0};
    dirty_curve_add(&curve, 1000, 1000);
    struct predict_model model = {
        .curve = &curve,
        .costs = {.stop_us = 100},
        .link = {.bytes_per_second = MIGRATION_PAGE_SIZE * UINT64_C(1000000)},
        .limit_bytes = 1000 * MB,
    };
    assert_int_equal(predict_pause_us(&model, 0), 100); /* a page a microsecond */
    assert_int_equal(predict_pause_us(&model, 50 * MIGRATION_PAGE_SIZE), 150);
    model.limit_bytes = 20 * MIGRATION_PAGE_SIZE;
    assert_int_equal(predict_pause_us(&model, 10 * MIGRATION_PAGE_SIZE), 30);
}

static void test_rounds_come_to_rest_at_the_hot_set(void **state)
{
    struct dirty_curve curve = {0};
    dirty_curve_add(&curve, 1000, 1000);
    dirty_curve_add(&curve, 5000, 5000);
    dirty_curve_add(&curve, 50000, 5000); /* 20.48 MB are hot */
    struct predict_model model = {.curve = &curve,
                                  .link = {.bytes_per_second = 1000 * MB},
                                  .limit_bytes = 1000 * MB};
    struct predict_way way = {.first_permille = 1000, .permille = 1000,
                              .left_us = UINT64_MAX / 4, .one_round = true};
    struct predict_outcome outcome;
    predict_move(&model, 500 * MB, &way, &outcome);
    assert_int_equal(outcome.rounds, 1);
    assert_int_equal(outcome.pause_us, 20480);
    assert_int_equal(outcome.total_us, 500000 + 20480);
    assert_int_equal(outcome.bytes, 500 * MB + 5000 * MIGRATION_PAGE_SIZE);
    /* At a tenth of its speed it writes 0.4 of what the link takes: that converges. */
    way.first_permille = way.permille = 100;
    predict_move(&model, 500 * MB, &way, &outcome);
    assert_true(outcome.pause_us < 1000);
    assert_true(outcome.rounds > 3);
    /* Good enough is good enough. */
    way.enough_us = 15000;
    predict_move(&model, 500 * MB, &way, &outcome);
    assert_int_equal(outcome.rounds, 2);
    assert_true(outcome.pause_us <= 15000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_curve_goes_through_what_was_seen),
        cmocka_unit_test(test_a_curve_goes_on_as_it_ended_but_not_beyond_memory),
        cmocka_unit_test(test_newer_observations_win_and_the_curve_never_falls),
        cmocka_unit_test(test_pages_that_are_written_again_count_once),
        cmocka_unit_test(test_a_guest_that_writes_ever_new_pages_has_a_straight_curve),
        cmocka_unit_test(test_measuring_ends_with_an_error_of_what_is_done_meanwhile),
        cmocka_unit_test(test_finds_the_vcpu_that_writes),
        cmocka_unit_test(test_a_vcpu_that_was_made_to_stand_is_let_go_also_on_errors),
        cmocka_unit_test(test_chooses_the_fewest_that_make_nearly_all_writes),
        cmocka_unit_test(test_a_guest_without_vcpus_to_throttle_is_left_alone),
        cmocka_unit_test(test_the_pause_is_its_fixed_costs_and_what_is_left),
        cmocka_unit_test(test_what_is_written_until_the_guest_stands_is_sent_too),
        cmocka_unit_test(test_rounds_come_to_rest_at_the_hot_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
