/* SPDX-License-Identifier: Apache-2.0 */
/* What is typical of the last few measurements. */
#include "tests/unit/unit.h"

#include "base/recent.h"

static void test_without_measurements_nothing_is_typical(void **state)
{
    struct recent recent = {0};
    assert_int_equal(recent_typical(&recent), 0);
}

static void test_those_that_were_disturbed_do_not_count(void **state)
{
    struct recent recent = {0};
    recent_add(&recent, 50);
    assert_int_equal(recent_typical(&recent), 50);
    recent_add(&recent, 9000);
    assert_int_equal(recent_typical(&recent), 50);
    recent_add(&recent, 9000);
    recent_add(&recent, 60);
    assert_int_equal(recent_typical(&recent), 50);
    recent_add(&recent, 9000);
    recent_add(&recent, 20);
    recent_add(&recent, 61);
    assert_int_equal(recent_typical(&recent), 50); /* nor does the best */
}

static void test_old_ones_are_forgotten(void **state)
{
    struct recent recent = {0};
    for (unsigned round = 0; round < 5; round++) {
        for (unsigned i = 0; i < RECENT_VALUES; i++) {
            recent_add(&recent, 1000 * round + (i * 5) % RECENT_VALUES);
        }
        assert_int_equal(recent_typical(&recent), 1000 * round + (RECENT_VALUES - 1) / 4);
        assert_int_equal(recent_upper(&recent), 1000 * round + (RECENT_VALUES - 1) * 3 / 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_measurements_nothing_is_typical),
        cmocka_unit_test(test_those_that_were_disturbed_do_not_count),
        cmocka_unit_test(test_old_ones_are_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
