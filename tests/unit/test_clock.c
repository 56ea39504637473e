/* SPDX-License-Identifier: Apache-2.0 */
/* The clocks: which they are, and their units. */
#include "tests/unit/unit.h"

#include <time.h>

#include "base/clock.h"

static uint64_t kernel_ns(clockid_t id)
{
    struct timespec now;
    assert_int_equal(clock_gettime(id, &now), 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void test_now_is_boottime(void **state)
{
    uint64_t before = kernel_ns(CLOCK_BOOTTIME);
    uint64_t now = clock_now_ns();
    uint64_t now_ms = clock_now_ms();
    uint64_t after = kernel_ns(CLOCK_BOOTTIME);
    assert_in_range(now, before, after);
    assert_in_range(now_ms, before / NS_PER_MS, after / NS_PER_MS);
}

static void test_wall_is_ms_since_1970(void **state)
{
    uint64_t before = kernel_ns(CLOCK_REALTIME) / NS_PER_MS;
    uint64_t wall = clock_wall_ms();
    assert_in_range(wall, before, kernel_ns(CLOCK_REALTIME) / NS_PER_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_now_is_boottime),
        cmocka_unit_test(test_wall_is_ms_since_1970),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
