/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: descriptors, posts from other threads, timers, removal from within. */
#include "tests/unit/unit.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/host/event_loop.h"

struct fixture {
    struct event_loop *loop;
    int pipe[2];
    struct event_source *source;
    struct event_source *timer;
    unsigned handled;
    unsigned order[4];
    uint64_t fired_ns;
};

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){0};
    assert_int_equal(event_loop_create(&fixture.loop), 0);
    assert_int_equal(pipe(fixture.pipe), 0);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    event_loop_free(fixture->loop);
    (void)close(fixture->pipe[0]);
    (void)close(fixture->pipe[1]);
    return 0;
}

static void readable(void *owner, uint32_t epoll_events)
{
    struct fixture *fixture = owner;
    assert_true((epoll_events & EPOLLIN) != 0);
    fixture->handled++;
    event_loop_remove(fixture->source); /* the byte is still there: it would come again */
    fixture->source = NULL;
    event_loop_stop(fixture->loop);
}

static void test_a_handler_may_remove_itself(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(event_loop_add(fixture->loop, fixture->pipe[0], EPOLLIN, readable,
                                    fixture, &fixture->source),
                     0);
    assert_int_equal(write(fixture->pipe[1], "x", 1), 1);
    assert_int_equal(event_loop_run(fixture->loop), 0);
    assert_int_equal(fixture->handled, 1);
}

static void post_one(void *owner)
{
    struct fixture *fixture = owner;
    fixture->order[fixture->handled++] = 1;
}

static void post_two(void *owner)
{
    struct fixture *fixture = owner;
    fixture->order[fixture->handled++] = 2;
    event_loop_stop(fixture->loop);
}

static void *poster(void *argument)
{
    struct fixture *fixture = argument;
    assert_int_equal(event_loop_post(fixture->loop, post_one, fixture), 0);
    assert_int_equal(event_loop_post(fixture->loop, post_two, fixture), 0);
    return NULL;
}

static void test_posts_of_another_thread_run_in_order(void **state)
{
    struct fixture *fixture = *state;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, poster, fixture), 0);
    assert_int_equal(event_loop_run(fixture->loop), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(fixture->order[0], 1);
    assert_int_equal(fixture->order[1], 2);
}

static void fired(void *owner)
{
    struct fixture *fixture = owner;
    fixture->fired_ns = clock_now_ns();
    fixture->handled++;
    event_loop_stop(fixture->loop);
}

static void test_a_timer_fires_once_and_not_early(void **state)
{
    struct fixture *fixture = *state;
    uint64_t at_ns = clock_now_ns() + 20 * NS_PER_MS;
    assert_int_equal(
        event_loop_timer_create(fixture->loop, fired, fixture, &fixture->timer), 0);
    assert_int_equal(event_loop_timer_set(fixture->timer, at_ns - 15 * NS_PER_MS), 0);
    assert_int_equal(event_loop_timer_set(fixture->timer, at_ns), 0); /* moved */
    assert_int_equal(event_loop_run(fixture->loop), 0);
    assert_int_equal(fixture->handled, 1);
    assert_true(fixture->fired_ns >= at_ns);
}

static void test_a_stop_before_the_run_is_not_lost(void **state)
{
    struct fixture *fixture = *state;
    event_loop_stop(fixture->loop);
    assert_int_equal(event_loop_run(fixture->loop), 0);
    event_loop_stop(fixture->loop); /* and it can be run again */
    assert_int_equal(event_loop_run(fixture->loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_handler_may_remove_itself, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_posts_of_another_thread_run_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_timer_fires_once_and_not_early, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_stop_before_the_run_is_not_lost, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
