/* SPDX-License-Identifier: Apache-2.0 */
/* A limit over several threads, its end, and a cancel in the middle of a wait. */
#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "migration/pace.h"
#include "tests/unit/unit.h"

#define MEGABYTE UINT64_C(1000000)

struct sender {
    struct pace *pace;
    unsigned count;
};

static void *send_all(void *owner)
{
    struct sender *sender = owner;
    for (unsigned i = 0; i < sender->count; i++) {
        int rv;
        do {
            rv = pace_wait(sender->pace, 1000);
        } while (rv == -EAGAIN);
        assert_int_equal(rv, 0);
        pace_sent(sender->pace, MEGABYTE / 4);
    }
    return NULL;
}

static void test_the_limit_holds_over_all_threads(void **state)
{
    struct pace pace;
    struct sender sender = {.pace = &pace, .count = 10};
    pthread_t threads[3];
    assert_int_equal(pace_init(&pace, 25 * MEGABYTE, -1), 0);
    uint64_t start_ns = clock_now_ns();
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, send_all, &sender), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    /* 7.5 MB at 25 MB/s are 300 ms; the first of each thread, and a burst, are free. */
    assert_in_range((clock_now_ns() - start_ns) / NS_PER_MS, 230, 2000);
    assert_true(atomic_load(&pace.waited_ns) > 0);
    pace_done(&pace);
}

static void test_how_long_it_may_not_be_yet(void **state)
{
    struct pace pace;
    assert_int_equal(pace_init(&pace, 10 * MEGABYTE, -1), 0);
    assert_int_equal(pace_left_ms(&pace), 0);
    pace_sent(&pace, 2 * MEGABYTE); /* 200 ms, of which a burst is free */
    assert_in_range(pace_left_ms(&pace), 100, 200);
    pace_set(&pace, 0);
    assert_int_equal(pace_left_ms(&pace), 0);
    pace_done(&pace);
}

static void test_without_a_limit_nobody_waits(void **state)
{
    struct pace pace;
    assert_int_equal(pace_init(&pace, 0, -1), 0);
    pace_sent(&pace, 1000 * MEGABYTE);
    assert_int_equal(pace_wait(&pace, 0), 0);
    pace_set(&pace, MEGABYTE);
    pace_sent(&pace, MEGABYTE);
    assert_int_equal(pace_wait(&pace, 1), -EAGAIN);
    pace_set(&pace, 0); /* the limit is lifted while somebody waits */
    assert_int_equal(pace_wait(&pace, 0), 0);
    pace_done(&pace);
}

static void test_a_cancel_ends_the_wait(void **state)
{
    struct pace pace;
    int fd = eventfd(1, EFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pace_init(&pace, 1, fd), 0);
    pace_sent(&pace, MEGABYTE); /* would take days */
    assert_int_equal(pace_wait(&pace, 60000), DROVER_ECANCELLED);
    pace_done(&pace);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_limit_holds_over_all_threads),
        cmocka_unit_test(test_how_long_it_may_not_be_yet),
        cmocka_unit_test(test_without_a_limit_nobody_waits),
        cmocka_unit_test(test_a_cancel_ends_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
