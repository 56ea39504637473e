/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-balloon: takes memory from the guest and gives it back to the host, by order
 * (inflate, deflate) and by what the guest reports as free; tells how the guest uses its
 * memory.
 */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_BALLOON_H
#define DROVER_VMM_VIRTIO_VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct vm;

/* The guest's own figures (virtio 1.2, 5.5.6.3), in the order of their tags. */
enum virtio_balloon_stat {
    VIRTIO_BALLOON_SWAP_IN_BYTES,
    VIRTIO_BALLOON_SWAP_OUT_BYTES,
    VIRTIO_BALLOON_MAJOR_FAULTS,
    VIRTIO_BALLOON_MINOR_FAULTS,
    VIRTIO_BALLOON_FREE_BYTES,
    VIRTIO_BALLOON_TOTAL_BYTES,
    VIRTIO_BALLOON_AVAILABLE_BYTES,
    VIRTIO_BALLOON_CACHE_BYTES,
    VIRTIO_BALLOON_STATS, /* how many there are; what other tags mean is not told on */
};

struct virtio_balloon_status {
    bool has_driver;
    uint64_t target_bytes;   /* memory that the guest shall have */
    uint64_t actual_bytes;   /* memory that it has */
    uint64_t reported_bytes; /* given back in this process, because it was free */
    uint64_t stats_age_ms;
    uint32_t stats_known; /* bit n: stats[n] was told */
    uint64_t stats[VIRTIO_BALLOON_STATS];
};

int virtio_balloon_create(struct vm *vm, struct error *err);
/* The guest shall have `memory_bytes`; it is told, and complies or not. Main thread. */
int virtio_balloon_order(struct vm *vm, uint64_t memory_bytes, struct error *err);
/* False if the VM has no balloon. Asks the guest for newer figures besides, which are
 * there a little later. Main thread. */
bool virtio_balloon_status(struct vm *vm, struct virtio_balloon_status *ret_status);

#endif
