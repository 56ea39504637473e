/* SPDX-License-Identifier: Apache-2.0 */
/* A ring shared with a storage daemon (virtio 1.2, 2.7), the driver's side. */
#include "vmm/virtio/vhost_ring.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/virtio/virtqueue.h"

#define DESC_SIZE    16u
#define SLOT_SIZE    64u
#define SLOT_RANGE   16u
#define SLOT_STATUS  32u
#define TABLE_SIZE   4096u
#define STATUS_UNSET 0xffu
#define HEADER_BYTES 16u
#define RANGE_BYTES  16u

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

static_assert(VHOST_RING_DESC + VHOST_RING_SIZE * DESC_SIZE <= VHOST_RING_AVAIL,
              "descriptors fit");
static_assert(VHOST_RING_AVAIL + 6 + 2 * VHOST_RING_SIZE <= VHOST_RING_USED,
              "so does avail");
static_assert(VHOST_RING_USED + 6 + 8 * VHOST_RING_SIZE <= VHOST_RING_SLOTS,
              "so does used");
static_assert(VHOST_RING_SLOTS + VHOST_RING_SIZE * SLOT_SIZE <= VHOST_RING_TABLES,
              "so do slots");
static_assert((VHOST_RING_SEGMENTS_MAX + 3) * DESC_SIZE <= TABLE_SIZE, "so does a table");

int vhost_ring_init(struct vhost_ring *ring)
{
    void *memory;

    *ring = (struct vhost_ring){.fd = -1};
    ring->fd = memfd_create("vhost-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ring->fd < 0 || ftruncate(ring->fd, VHOST_RING_BYTES) < 0) {
        return -errno;
    }
    /* Else the daemon could cut it off under us. */
    if (fcntl(ring->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        return -errno;
    }
    memory =
        mmap(NULL, VHOST_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
    if (memory == MAP_FAILED) {
        return -errno;
    }
    ring->memory = memory;
    return 0;
}

void vhost_ring_done(struct vhost_ring *ring)
{
    if (ring->memory != NULL) {
        (void)munmap(ring->memory, VHOST_RING_BYTES);
        ring->memory = NULL;
    }
    if (ring->fd >= 0) {
        (void)close(ring->fd);
        ring->fd = -1;
    }
}

void vhost_ring_reset(struct vhost_ring *ring)
{
    memset(ring->memory, 0, VHOST_RING_SLOTS);
    memset(ring->in_flight, 0, sizeof(ring->in_flight));
    ring->avail = ring->used = 0;
    ring->in_flight_count = 0;
}

static void descriptor_write(uint8_t *table, unsigned index, uint64_t address,
                             uint32_t size, uint16_t flags)
{
    uint8_t *at = table + index * DESC_SIZE;
    uint16_t next = (uint16_t)(flags & DESC_NEXT ? index + 1 : 0);

    memcpy(at, &address, 8);
    memcpy(at + 8, &size, 4);
    memcpy(at + 12, &flags, 2);
    memcpy(at + 14, &next, 2);
}

static void slot_write(struct vhost_ring *ring, unsigned slot,
                       const struct vhost_ring_request *request)
{
    uint8_t *at = ring->memory + VHOST_RING_SLOTS + slot * SLOT_SIZE;
    uint64_t sector = request->has_range ? 0 : request->sector;

    memset(at, 0, SLOT_SIZE);
    memcpy(at, &request->type, 4);
    memcpy(at + 8, &sector, 8);
    if (request->has_range) {
        memcpy(at + SLOT_RANGE, &request->sector, 8);
        memcpy(at + SLOT_RANGE + 8, &request->range_sectors, 4);
        memcpy(at + SLOT_RANGE + 12, &request->range_flags, 4);
    }
    at[SLOT_STATUS] = STATUS_UNSET;
}

void vhost_ring_add(struct vhost_ring *ring, unsigned slot,
                    const struct vhost_ring_request *request)
{
    uint64_t slot_address = VHOST_RING_ADDRESS + VHOST_RING_SLOTS + slot * SLOT_SIZE;
    uint64_t table_offset = VHOST_RING_TABLES + (uint64_t)slot * TABLE_SIZE;
    uint8_t *table = ring->memory + table_offset;
    uint16_t head = (uint16_t)slot;
    unsigned count = 0;

    CHECK(slot < VHOST_RING_SIZE && !ring->in_flight[slot]);
    CHECK(request->segment_count <= VHOST_RING_SEGMENTS_MAX);
    slot_write(ring, slot, request);
    descriptor_write(table, count++, slot_address, HEADER_BYTES, DESC_NEXT);
    if (request->has_range) {
        descriptor_write(table, count++, slot_address + SLOT_RANGE, RANGE_BYTES,
                         DESC_NEXT);
    }
    for (unsigned i = 0; i < request->segment_count; i++) {
        descriptor_write(table, count++, request->segments[i].gpa,
                         request->segments[i].size,
                         DESC_NEXT | (request->to_guest ? DESC_WRITE : 0));
    }
    descriptor_write(table, count++, slot_address + SLOT_STATUS, 1, DESC_WRITE);
    descriptor_write(ring->memory + VHOST_RING_DESC, slot,
                     VHOST_RING_ADDRESS + table_offset, count * DESC_SIZE, DESC_INDIRECT);
    memcpy(ring->memory + VHOST_RING_AVAIL + 4 + 2 * (ring->avail % VHOST_RING_SIZE),
           &head, 2);
    ring->avail++;
    ring->in_flight[slot] = true;
    ring->in_flight_count++;
}

void vhost_ring_publish(struct vhost_ring *ring)
{
    uint8_t *index = ring->memory + VHOST_RING_AVAIL + 2;

    __atomic_store_n((uint16_t *)(void *)index, ring->avail, __ATOMIC_RELEASE);
}

int vhost_ring_take(struct vhost_ring *ring, unsigned *ret_slot, uint8_t *ret_status)
{
    const uint8_t *used = ring->memory + VHOST_RING_USED;
    uint16_t index =
        __atomic_load_n((const uint16_t *)(const void *)(used + 2), __ATOMIC_ACQUIRE);
    uint16_t count = (uint16_t)(index - ring->used);
    uint32_t slot;

    if (count == 0) {
        return 0;
    }
    memcpy(&slot, used + 4 + 8 * (ring->used % VHOST_RING_SIZE), sizeof(slot));
    if (count > ring->in_flight_count || slot >= VHOST_RING_SIZE ||
        !ring->in_flight[slot]) {
        return DROVER_EPEER;
    }
    *ret_status = *(const volatile uint8_t *)(ring->memory + VHOST_RING_SLOTS +
                                              slot * SLOT_SIZE + SLOT_STATUS);
    *ret_slot = slot;
    ring->in_flight[slot] = false;
    ring->in_flight_count--;
    ring->used++;
    return 1;
}
