/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's side of a split ring in memory that is shared with a storage daemon, and
 * with nobody else: the guest's own rings never leave the VMM. Each request has a slot
 * with header, status and a table of descriptors, which point into guest memory. What the
 * daemon writes is judged; what is in flight is remembered here. The device's lock guards
 * it.
 *
 * The file: 0 descriptors | 0x800 available | 0x1000 used | 0x2000 slots of 64 bytes |
 * 0x4000 tables of 4 KiB. A slot: 0 header (16) | 16 range (16) | 32 status (1).
 */
#ifndef DROVER_VMM_VIRTIO_VHOST_RING_H
#define DROVER_VMM_VIRTIO_VHOST_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct virtqueue_segment;

#define VHOST_RING_SIZE         128u
#define VHOST_RING_SEGMENTS_MAX 253u /* beside header, range and status */
/* Where the daemon finds it: no guest memory is there. */
#define VHOST_RING_ADDRESS UINT64_C(0x0000f00000000000)
#define VHOST_RING_DESC    0x0u
#define VHOST_RING_AVAIL   0x800u
#define VHOST_RING_USED    0x1000u
#define VHOST_RING_SLOTS   0x2000u
#define VHOST_RING_TABLES  0x4000u
#define VHOST_RING_BYTES   (VHOST_RING_TABLES + VHOST_RING_SIZE * 4096u)

/* Embedded; private but `fd` and `in_flight_count`. */
struct vhost_ring {
    int fd;
    uint8_t *memory;
    uint16_t avail, used; /* the next ones */
    unsigned in_flight_count;
    bool in_flight[VHOST_RING_SIZE];
};

struct vhost_ring_request {
    uint32_t type; /* virtio 1.2, 5.2.6 */
    uint64_t sector;
    uint32_t range_sectors, range_flags; /* of discard and write-zeroes */
    bool has_range;
    bool to_guest; /* the segments are written */
    const struct virtqueue_segment *segments;
    unsigned segment_count;
};

int vhost_ring_init(struct vhost_ring *ring);
void vhost_ring_done(struct vhost_ring *ring); /* half-built is fine */
/* All is empty again; no daemon has the ring now. */
void vhost_ring_reset(struct vhost_ring *ring);
/* Puts a request into the free slot; the daemon does not see it before
 * vhost_ring_publish(). */
void vhost_ring_add(struct vhost_ring *ring, unsigned slot,
                    const struct vhost_ring_request *request);
void vhost_ring_publish(struct vhost_ring *ring);
/* The next slot that came back, with its status byte: 1; 0: none; DROVER_EPEER when the
 * daemon broke the ring. */
int vhost_ring_take(struct vhost_ring *ring, unsigned *ret_slot, uint8_t *ret_status);

#endif
