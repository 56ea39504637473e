/* SPDX-License-Identifier: Apache-2.0 */
/* A balloon's numbers, for those who must not wait for the device. */
#include "vmm/virtio/balloon_numbers.h"

#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "vmm/memory/guest_ram.h"

#define STATS_OLD_MS 1000

static void lock(struct balloon_numbers *numbers)
{
    CHECK(pthread_mutex_lock(&numbers->lock) == 0);
}

static void unlock(struct balloon_numbers *numbers)
{
    CHECK(pthread_mutex_unlock(&numbers->lock) == 0);
}

void balloon_numbers_init(struct balloon_numbers *numbers)
{
    CHECK(pthread_mutex_init(&numbers->lock, NULL) == 0);
}

void balloon_numbers_done(struct balloon_numbers *numbers)
{
    (void)pthread_mutex_destroy(&numbers->lock); /* nobody uses it any more */
}

void balloon_numbers_driver(struct balloon_numbers *numbers)
{
    lock(numbers);
    numbers->has_driver = true;
    unlock(numbers);
}

void balloon_numbers_forget(struct balloon_numbers *numbers)
{
    lock(numbers);
    numbers->has_driver = false;
    numbers->actual_pages = 0;
    numbers->stats_known = 0;
    numbers->stats_wanted = false;
    unlock(numbers);
}

void balloon_numbers_target_set(struct balloon_numbers *numbers, uint32_t pages)
{
    lock(numbers);
    numbers->target_pages = pages;
    unlock(numbers);
}

void balloon_numbers_actual_set(struct balloon_numbers *numbers, uint32_t pages)
{
    lock(numbers);
    numbers->actual_pages = pages;
    unlock(numbers);
}

void balloon_numbers_pages(struct balloon_numbers *numbers, uint32_t *ret_target,
                           uint32_t *ret_actual)
{
    lock(numbers);
    *ret_target = numbers->target_pages;
    *ret_actual = numbers->actual_pages;
    unlock(numbers);
}

void balloon_numbers_reported(struct balloon_numbers *numbers, uint64_t bytes)
{
    lock(numbers);
    numbers->reported_bytes += bytes;
    unlock(numbers);
}

void balloon_numbers_stats(struct balloon_numbers *numbers, uint32_t known,
                           const uint64_t stats[VIRTIO_BALLOON_STATS])
{
    lock(numbers);
    memcpy(numbers->stats, stats, sizeof(numbers->stats));
    numbers->stats_known = known;
    numbers->stats_ms = clock_now_ms();
    unlock(numbers);
}

bool balloon_numbers_want(struct balloon_numbers *numbers, bool wanted)
{
    lock(numbers);
    bool before = numbers->stats_wanted;
    numbers->stats_wanted = wanted;
    unlock(numbers);
    return before;
}

bool balloon_numbers_status(struct balloon_numbers *numbers, uint64_t guest_bytes,
                            struct virtio_balloon_status *ret_status)
{
    lock(numbers);
    uint64_t actual = (uint64_t)numbers->actual_pages * GUEST_PAGE_SIZE;
    *ret_status = (struct virtio_balloon_status){
        .has_driver = numbers->has_driver,
        .target_bytes = guest_bytes - (uint64_t)numbers->target_pages * GUEST_PAGE_SIZE,
        .actual_bytes =
            actual < guest_bytes ? guest_bytes - actual : 0, /* the guest's word */
        .reported_bytes = numbers->reported_bytes,
        .stats_age_ms = clock_now_ms() - numbers->stats_ms,
        .stats_known = numbers->stats_known,
    };
    memcpy(ret_status->stats, numbers->stats, sizeof(ret_status->stats));
    bool old = numbers->has_driver && ret_status->stats_age_ms >= STATS_OLD_MS;
    numbers->stats_wanted = numbers->stats_wanted || old;
    unlock(numbers);
    return old;
}
