/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What orders and status need of a balloon. It has a lock of its own: the device's may be
 * held for as long as a page of the guest's is missing, and the main thread waits for
 * none such. For virtio_balloon.c only; any thread.
 */
#ifndef DROVER_VMM_VIRTIO_BALLOON_NUMBERS_H
#define DROVER_VMM_VIRTIO_BALLOON_NUMBERS_H

#include <pthread.h>

#include "vmm/virtio/virtio_balloon.h"

struct balloon_numbers {
    pthread_mutex_t lock; /* taken after the device's, and shortly */
    bool has_driver;
    uint32_t target_pages; /* that the balloon shall have */
    uint32_t actual_pages; /* that it has, as the driver says */
    uint64_t reported_bytes;
    bool stats_wanted; /* the guest's buffer is to be given back, so that it fills it */
    uint64_t stats_ms; /* when they came */
    uint32_t stats_known;
    uint64_t stats[VIRTIO_BALLOON_STATS];
};

void balloon_numbers_init(struct balloon_numbers *numbers);
void balloon_numbers_done(struct balloon_numbers *numbers);
/* A driver is ready. */
void balloon_numbers_driver(struct balloon_numbers *numbers);
/* It is gone, and what it said; the order stands. */
void balloon_numbers_forget(struct balloon_numbers *numbers);
void balloon_numbers_target_set(struct balloon_numbers *numbers, uint32_t pages);
void balloon_numbers_actual_set(struct balloon_numbers *numbers, uint32_t pages);
void balloon_numbers_pages(struct balloon_numbers *numbers, uint32_t *ret_target,
                           uint32_t *ret_actual);
void balloon_numbers_reported(struct balloon_numbers *numbers, uint64_t bytes);
/* Bit n of `known`: stats[n] is set. */
void balloon_numbers_stats(struct balloon_numbers *numbers, uint32_t known,
                           const uint64_t stats[VIRTIO_BALLOON_STATS]);
/* Whether newer ones were wanted up to now. */
bool balloon_numbers_want(struct balloon_numbers *numbers, bool wanted);
/* True when the statistics are old, and newer ones are wanted now. */
bool balloon_numbers_status(struct balloon_numbers *numbers, uint64_t guest_bytes,
                            struct virtio_balloon_status *ret_status);

#endif
