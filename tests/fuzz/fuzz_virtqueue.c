/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of split rings: the input is guest memory with a ring in it, which is served
 * until it is empty or broken. What must hold: no access outside of memory, an end, and
 * that a broken ring stays broken.
 *
 *   byte 0: bit 0 event index, bit 1 indirect, bits 2-4 log2 of the size
 *   then:   desc (at 0), avail (at 0x1000), used (at 0x2000): filled from the input in
 * turn, the rest follows at 0x3000
 */
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtqueue.h"

#define MEMORY_BYTES (1024u * 1024u)
#define AVAIL        0x1000u
#define USED         0x2000u
#define REST         0x3000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void part_fill(struct guest_ram *ram, uint64_t gpa, size_t part_size,
                      const uint8_t **data, size_t *size)
{
    size_t take = *size < part_size ? *size : part_size;

    CHECK(guest_ram_write(ram, gpa, *data, take) == 0);
    *data += take;
    *size -= take;
}

static void request_serve(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    struct iovec vectors[VIRTQUEUE_SEGMENTS_MAX];
    uint8_t piece[64];
    int count;

    count = virtqueue_chain_vectors(queue, chain, true, chain->writable_bytes / 2,
                                    chain->writable_bytes - chain->writable_bytes / 2,
                                    vectors);
    CHECK(count >= 0 && count <= VIRTQUEUE_SEGMENTS_MAX);
    for (int i = 0; i < count; i++) {
        *(volatile uint8_t *)vectors[i].iov_base = 0x5a;
    }
    (void)virtqueue_chain_read(queue, chain, chain->readable_bytes / 3, piece,
                               sizeof(piece));
    (void)virtqueue_chain_write(queue, chain, chain->writable_bytes / 3, piece,
                                sizeof(piece));
    virtqueue_chain_mark_dirty(queue, chain, 1, chain->writable_bytes);
    virtqueue_push(queue, chain->head, (uint32_t)chain->writable_bytes);
    (void)virtqueue_interrupt_wanted(queue);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest_ram *ram;
    static struct virtqueue_chain chain;
    static const uint8_t zeros[REST + 0x4000];
    struct virtqueue queue;
    unsigned served = 0;
    uint8_t flags;
    int ret;

    if (ram == NULL) {
        CHECK(guest_ram_create(MEMORY_BYTES, &ram, NULL) == 0);
        CHECK(guest_ram_track_dirty(ram, true) == 0);
    }
    if (size < 1) {
        return 0;
    }
    flags = *data++;
    size--;
    CHECK(guest_ram_write(ram, 0, zeros, sizeof(zeros)) == 0);
    virtqueue_init(&queue, ram, VIRTQUEUE_SIZE_MAX);
    queue.size = (uint16_t)(1u << (flags >> 2 & 7));
    queue.avail_gpa = AVAIL;
    queue.used_gpa = USED;
    CHECK(virtqueue_enable(&queue, flags & 1, flags & 2) == 0);
    part_fill(ram, AVAIL, 4 + 2 * (size_t)queue.size + 2, &data, &size);
    part_fill(ram, 0, 16 * (size_t)queue.size, &data, &size);
    part_fill(ram, REST, 0x4000, &data, &size);
    while ((ret = virtqueue_pop(&queue, &chain)) > 0) {
        virtqueue_notify_disable(&queue);
        request_serve(&queue, &chain);
        virtqueue_notify_enable(&queue);
        /* Serving writes into memory, so the ring may go on for a while; never for ever
         * in one call. */
        if (++served > 1000) {
            break;
        }
    }
    CHECK(ret >= 0 ||
          (ret == DROVER_EGUEST && queue.broken != NULL && !virtqueue_pending(&queue)));
    return 0;
}
