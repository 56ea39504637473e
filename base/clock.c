/* SPDX-License-Identifier: Apache-2.0 */
/* The host's clocks. */
#include "base/clock.h"

#include <time.h>

#include "base/check.h"

static uint64_t read_ns(clockid_t id)
{
    struct timespec now;
    CHECK(clock_gettime(id, &now) == 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t clock_now_ns(void)
{
    return read_ns(CLOCK_BOOTTIME);
}

uint64_t clock_now_ms(void)
{
    return clock_now_ns() / NS_PER_MS;
}

uint64_t clock_wall_ms(void)
{
    return read_ns(CLOCK_REALTIME) / NS_PER_MS;
}
