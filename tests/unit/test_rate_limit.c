/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/unit.h"

#include "base/clock.h"
#include "vmm/virtio/rate_limit.h"

#define START_NS (1000 * NS_PER_S)

/* Units that pass in `seconds` when requests of `size` come as fast as they may. */
static uint64_t passed(struct rate_limit *limit, uint64_t size, unsigned seconds)
{
    uint64_t now_ns = START_NS, units = 0;

    while (now_ns < START_NS + seconds * NS_PER_S) {
        uint64_t wait_ns = rate_limit_wait_ns(limit, now_ns);

        if (wait_ns == 0) {
            rate_limit_take(limit, size);
            units += size;
        } else {
            now_ns += wait_ns;
        }
    }
    return units;
}

static void assert_rate(uint64_t units_per_s, uint64_t size)
{
    struct rate_limit limit;
    uint64_t units, most = units_per_s * 10 + units_per_s / 10 + size + 1;

    rate_limit_init(&limit, units_per_s, START_NS);
    units = passed(&limit, size, 10);
    assert_in_range(units, units_per_s * 10 - size, most);
}

static void test_rate_is_kept_whatever_the_size_of_a_request(void **state)
{
    (void)state;
    assert_rate(1000000, 1);
    assert_rate(1000000, 1500);
    assert_rate(1000000, 3000000); /* more than the bucket holds */
    assert_rate(3, 1);
    assert_rate(UINT64_C(10) << 30, 65536);
}

static void test_without_a_rate_nothing_waits(void **state)
{
    struct rate_limit limit = {0};

    (void)state;
    rate_limit_take(&limit, UINT64_MAX);
    assert_int_equal(rate_limit_wait_ns(&limit, START_NS), 0);
    rate_limit_init(&limit, 0, START_NS);
    rate_limit_take(&limit, UINT64_MAX);
    assert_int_equal(rate_limit_wait_ns(&limit, START_NS), 0);
}

static void test_idle_time_saves_a_tenth_of_a_second_and_no_more(void **state)
{
    struct rate_limit limit;
    uint64_t later_ns = START_NS + 3600 * NS_PER_S;

    (void)state;
    rate_limit_init(&limit, 1000, START_NS);
    assert_int_equal(rate_limit_wait_ns(&limit, later_ns), 0);
    rate_limit_take(&limit, 101);
    assert_true(rate_limit_wait_ns(&limit, later_ns) > 0);
}

static void test_time_that_goes_back_gives_nothing(void **state)
{
    struct rate_limit limit;

    (void)state;
    rate_limit_init(&limit, 1000, START_NS);
    rate_limit_take(&limit, 1101);
    assert_in_range(rate_limit_wait_ns(&limit, START_NS - NS_PER_S), 1000 * NS_PER_MS,
                    1002 * NS_PER_MS);
    assert_in_range(rate_limit_wait_ns(&limit, START_NS), 1000 * NS_PER_MS,
                    1002 * NS_PER_MS);
}

static void test_absurd_requests_do_not_overflow(void **state)
{
    struct rate_limit limit;

    (void)state;
    rate_limit_init(&limit, UINT64_MAX, START_NS);
    for (unsigned i = 0; i < 100; i++) {
        rate_limit_take(&limit, UINT64_MAX);
    }
    assert_in_range(rate_limit_wait_ns(&limit, START_NS), 1, 2 * NS_PER_S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate_is_kept_whatever_the_size_of_a_request),
        cmocka_unit_test(test_without_a_rate_nothing_waits),
        cmocka_unit_test(test_idle_time_saves_a_tenth_of_a_second_and_no_more),
        cmocka_unit_test(test_time_that_goes_back_gives_nothing),
        cmocka_unit_test(test_absurd_requests_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
