/* SPDX-License-Identifier: Apache-2.0 */
/* A bandwidth limit: each sending moves the time at which the next one may begin. */
#include "migration/pace.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"

/* Time that nobody sent in is worth so much, no more: a limit has to hold over short
 * times too. */
#define BURST_NS (20 * NS_PER_MS)

int pace_init(struct pace *pace, uint64_t bytes_per_second, int cancel_fd)
{
    atomic_init(&pace->waited_ns, 0);
    atomic_init(&pace->bytes_per_second, bytes_per_second);
    pace->cancel_fd = cancel_fd;
    pace->next_ns = 0;
    return -pthread_mutex_init(&pace->lock, NULL);
}

void pace_done(struct pace *pace)
{
    (void)pthread_mutex_destroy(&pace->lock); /* nobody sends any more */
}

void pace_set(struct pace *pace, uint64_t bytes_per_second)
{
    atomic_store(&pace->bytes_per_second, bytes_per_second);
}

static uint64_t next_of(struct pace *pace)
{
    CHECK(pthread_mutex_lock(&pace->lock) == 0);
    uint64_t next_ns = pace->next_ns;
    CHECK(pthread_mutex_unlock(&pace->lock) == 0);
    return next_ns;
}

int pace_wait(struct pace *pace, uint32_t wait_ms)
{
    uint64_t start_ns = clock_now_ns();
    uint64_t until_ns = start_ns + wait_ms * NS_PER_MS;
    for (uint64_t now_ns = start_ns;; now_ns = clock_now_ns()) {
        uint64_t next_ns = atomic_load(&pace->bytes_per_second) == 0 ? 0 : next_of(pace);
        if (next_ns <= now_ns || now_ns >= until_ns) {
            atomic_fetch_add(&pace->waited_ns, now_ns - start_ns);
            return next_ns <= now_ns ? 0 : -EAGAIN;
        }
        uint64_t end_ns = next_ns < until_ns ? next_ns : until_ns;
        struct timespec left = {.tv_sec = (time_t)((end_ns - now_ns) / NS_PER_S),
                                .tv_nsec = (long)((end_ns - now_ns) % NS_PER_S)};
        struct pollfd cancel = {.fd = pace->cancel_fd, .events = POLLIN};
        int rv = ppoll(&cancel, 1, &left, NULL);
        if (rv > 0) {
            return DROVER_ECANCELLED;
        }
        CHECK(rv == 0 || errno == EINTR);
    }
}

uint32_t pace_left_ms(struct pace *pace)
{
    uint64_t now_ns = clock_now_ns();
    uint64_t next_ns = atomic_load(&pace->bytes_per_second) == 0 ? 0 : next_of(pace);
    uint64_t left_ms = next_ns <= now_ns ? 0 : (next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS;
    return left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX;
}

void pace_sent(struct pace *pace, uint64_t bytes)
{
    uint64_t bytes_per_second = atomic_load(&pace->bytes_per_second);
    if (bytes_per_second == 0) {
        return;
    }
    uint64_t cost_ns =
        (uint64_t)((double)bytes * (double)NS_PER_S / (double)bytes_per_second);
    uint64_t now_ns = clock_now_ns();
    CHECK(pthread_mutex_lock(&pace->lock) == 0);
    if (pace->next_ns + BURST_NS < now_ns) {
        pace->next_ns = now_ns - BURST_NS;
    }
    pace->next_ns += cost_ns;
    CHECK(pthread_mutex_unlock(&pace->lock) == 0);
}
