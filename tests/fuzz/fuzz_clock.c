/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time that a fuzzer can move on: instead of base/clock.c, with the timers of the event
 * loop told so too. What a device does after ten seconds is reached at once.
 */
#include "tests/fuzz/fuzz_clock.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"

#define TIMERS_MAX 1024 /* descriptors */

static atomic_uint_fast64_t ahead_ns;
static uint64_t due_ns[TIMERS_MAX]; /* by descriptor, as was asked for; 0: not set */

uint64_t clock_now_ns(void)
{
    struct timespec now;

    CHECK(clock_gettime(CLOCK_BOOTTIME, &now) == 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec + ahead_ns;
}

uint64_t clock_now_ms(void)
{
    return clock_now_ns() / NS_PER_MS;
}

uint64_t clock_wall_ms(void)
{
    return clock_now_ms();
}

static int settime(int fd, uint64_t at_ns)
{
    uint64_t real_ns = at_ns == 0 ? 0 : at_ns > ahead_ns + 1 ? at_ns - ahead_ns : 1;
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(real_ns / NS_PER_S),
                                           .tv_nsec = (long)(real_ns % NS_PER_S)}};

    return (int)syscall(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* The C library's, for all of the fuzzer: times are by the clock above. */
int timerfd_settime(int fd, int flags, const struct itimerspec *when,
                    struct itimerspec *ret_before)
{
    uint64_t at_ns =
        (uint64_t)when->it_value.tv_sec * NS_PER_S + (uint64_t)when->it_value.tv_nsec;

    CHECK(fd >= 0 && fd < TIMERS_MAX && flags == TFD_TIMER_ABSTIME && ret_before == NULL);
    due_ns[fd] = at_ns;
    return settime(fd, at_ns);
}

void fuzz_clock_skip_ms(uint32_t ms)
{
    ahead_ns += (uint64_t)ms * NS_PER_MS;
    for (int fd = 0; fd < TIMERS_MAX; fd++) {
        /* What is no timer any more refuses. */
        if (due_ns[fd] != 0 && settime(fd, due_ns[fd]) < 0) {
            due_ns[fd] = 0;
        }
    }
}
