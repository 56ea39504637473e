/* SPDX-License-Identifier: Apache-2.0 */
/* The device's side of a split virtqueue; every word of the ring is judged after it was
 * copied. */
#include "vmm/virtio/virtqueue.h"

#include <assert.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/memory/guest_ram.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "rings are little endian, read as they are");

/*
 * Layout of the three parts (virtio 1.2, 2.7.5, 2.7.6, 2.7.8), n = size of the queue:
 *
 *   desc:  n * { gpa u64 | size u32 | flags u16 | next u16 }
 *   avail: flags u16 | index u16 | head u16 * n | used_event u16
 *   used:  flags u16 | index u16 | { head u32 | written u32 } * n | avail_event u16
 */
#define DESC_SIZE      16u
#define AVAIL_RING     4u
#define USED_RING      4u
#define USED_ELEM_SIZE 8u

enum {
    DESC_NEXT = 1,
    DESC_WRITE = 2,
    DESC_INDIRECT = 4,
    AVAIL_NO_INTERRUPT = 1,
    USED_NO_NOTIFY = 1,
};

struct descriptor {
    uint64_t gpa;
    uint32_t size;
    uint16_t flags;
    uint16_t next;
};

/* The guest writes at any time: index words are read and written whole. */
static uint16_t load_u16(const uint8_t *at)
{
    return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE);
}

static void store_u16(struct virtqueue *queue, uint64_t offset, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)(queue->used + offset), value, __ATOMIC_RELEASE);
    guest_ram_mark_dirty(queue->ram, queue->used_gpa + offset, sizeof(value));
}

static int broken(struct virtqueue *queue, const char *how)
{
    queue->broken = how;
    return DROVER_EGUEST;
}

void virtqueue_init(struct virtqueue *queue, struct guest_ram *ram, uint16_t size_max)
{
    CHECK(size_max > 0 && size_max <= VIRTQUEUE_SIZE_MAX);
    CHECK((size_max & (size_max - 1)) == 0);
    *queue = (struct virtqueue){.ram = ram, .size_max = size_max, .size = size_max};
}

void virtqueue_reset(struct virtqueue *queue)
{
    virtqueue_init(queue, queue->ram, queue->size_max);
}

int virtqueue_enable(struct virtqueue *queue, bool event_index, bool indirect)
{
    uint16_t size = queue->size;

    if (size == 0 || size > queue->size_max || (size & (size - 1)) != 0) {
        return broken(queue, "the queue's size is no power of two, or too large");
    }
    if (queue->desc_gpa % 16 != 0 || queue->avail_gpa % 2 != 0 ||
        queue->used_gpa % 4 != 0) {
        return broken(queue, "a part of the queue is not aligned");
    }
    queue->desc =
        guest_ram_pointer(queue->ram, queue->desc_gpa, (size_t)size * DESC_SIZE);
    queue->avail = guest_ram_pointer(queue->ram, queue->avail_gpa,
                                     AVAIL_RING + 2 * (size_t)size + 2);
    queue->used = guest_ram_pointer(queue->ram, queue->used_gpa,
                                    USED_RING + USED_ELEM_SIZE * (size_t)size + 2);
    if (queue->desc == NULL || queue->avail == NULL || queue->used == NULL) {
        return broken(queue, "a part of the queue is outside of memory");
    }
    queue->event_index = event_index;
    queue->indirect = indirect;
    queue->ready = true;
    return 0;
}

static struct descriptor descriptor_decode(const uint8_t data[DESC_SIZE])
{
    struct descriptor desc;

    memcpy(&desc.gpa, data, 8);
    memcpy(&desc.size, data + 8, 4);
    memcpy(&desc.flags, data + 12, 2);
    memcpy(&desc.next, data + 14, 2);
    return desc;
}

static int chain_add(struct virtqueue *queue, struct virtqueue_chain *chain,
                     const struct descriptor *desc)
{
    unsigned count = (unsigned)chain->readable_count + chain->writable_count;

    if (count >= VIRTQUEUE_SEGMENTS_MAX) {
        return broken(queue, "a chain of descriptors has a loop, or is too long");
    }
    if (!(desc->flags & DESC_WRITE) && chain->writable_count > 0) {
        return broken(queue, "a readable descriptor follows a writable one");
    }
    if (desc->size == 0) {
        return 0;
    }
    if (guest_ram_pointer(queue->ram, desc->gpa, desc->size) == NULL) {
        return broken(queue, "a descriptor points outside of memory");
    }
    chain->segments[count] =
        (struct virtqueue_segment){.gpa = desc->gpa, .size = desc->size};
    if (desc->flags & DESC_WRITE) {
        chain->writable_count++;
        chain->writable_bytes += desc->size;
    } else {
        chain->readable_count++;
        chain->readable_bytes += desc->size;
    }
    return 0;
}

/* Walks one table: the ring's own, or an indirect one at `table_gpa`. Returns the
 * indirect descriptor if one ended it. */
static int table_walk(struct virtqueue *queue, struct virtqueue_chain *chain,
                      const uint8_t *table, unsigned count,
                      struct descriptor *ret_indirect)
{
    unsigned index = ret_indirect != NULL ? chain->head : 0;

    for (unsigned steps = 0; steps < count; steps++) {
        uint8_t data[DESC_SIZE];
        struct descriptor desc;
        int ret;

        if (index >= count) {
            return broken(queue, "a descriptor's index is outside of its table");
        }
        memcpy(data, table + (size_t)index * DESC_SIZE, DESC_SIZE);
        desc = descriptor_decode(data);
        if (desc.flags & DESC_INDIRECT) {
            if (ret_indirect == NULL || !queue->indirect || (desc.flags & DESC_NEXT)) {
                return broken(queue, "an indirect descriptor where none may be");
            }
            *ret_indirect = desc;
            return 0;
        }
        ret = chain_add(queue, chain, &desc);
        if (ret < 0 || !(desc.flags & DESC_NEXT)) {
            return ret;
        }
        index = desc.next;
    }
    return broken(queue, "a chain of descriptors has a loop, or is too long");
}

int virtqueue_chain_load(struct virtqueue *queue, uint16_t head,
                         struct virtqueue_chain *ret_chain)
{
    struct descriptor indirect = {0};
    const uint8_t *table;
    int ret;

    CHECK(queue->ready);
    if (head >= queue->size) {
        return broken(queue, "the head of a request is outside of the queue");
    }
    ret_chain->head = head;
    ret_chain->readable_count = ret_chain->writable_count = 0;
    ret_chain->readable_bytes = ret_chain->writable_bytes = 0;
    ret = table_walk(queue, ret_chain, queue->desc, queue->size, &indirect);
    if (ret < 0 || !(indirect.flags & DESC_INDIRECT)) {
        return ret;
    }
    if (indirect.size == 0 || indirect.size % DESC_SIZE != 0 ||
        indirect.size / DESC_SIZE > VIRTQUEUE_SEGMENTS_MAX) {
        return broken(queue, "an indirect table has a wrong size");
    }
    table = guest_ram_pointer(queue->ram, indirect.gpa, indirect.size);
    if (table == NULL) {
        return broken(queue, "an indirect table is outside of memory");
    }
    return table_walk(queue, ret_chain, table, indirect.size / DESC_SIZE, NULL);
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *ret_chain)
{
    uint16_t waiting;
    uint16_t head;
    int ret;

    if (queue->broken != NULL) {
        return DROVER_EGUEST;
    }
    if (!queue->ready) {
        return 0;
    }
    waiting = (uint16_t)(load_u16(queue->avail + 2) - queue->next_avail);
    if (waiting == 0) {
        return 0;
    }
    if (waiting > queue->size) {
        return broken(queue, "the available index jumped");
    }
    head = load_u16(queue->avail + AVAIL_RING + 2 * (queue->next_avail % queue->size));
    ret = virtqueue_chain_load(queue, head, ret_chain);
    if (ret < 0) {
        return ret;
    }
    queue->next_avail++;
    /* The requests that are out never outnumber the queue's descriptors. */
    if ((uint16_t)(queue->next_avail - queue->next_used) > queue->size) {
        return broken(queue, "more requests than descriptors are in use");
    }
    return 1;
}

void virtqueue_unpop(struct virtqueue *queue, uint16_t count)
{
    CHECK((uint16_t)(queue->next_avail - queue->next_used) >= count);
    queue->next_avail = (uint16_t)(queue->next_avail - count);
}

bool virtqueue_pending(struct virtqueue *queue)
{
    return queue->broken == NULL && queue->ready &&
           load_u16(queue->avail + 2) != queue->next_avail;
}

void virtqueue_fill(struct virtqueue *queue, uint16_t ahead, uint16_t head,
                    uint32_t written_bytes)
{
    uint16_t position = (uint16_t)(queue->next_used + ahead);
    uint64_t offset = USED_RING + USED_ELEM_SIZE * (uint64_t)(position % queue->size);
    uint32_t element[2] = {head, written_bytes};

    CHECK(queue->ready && head < queue->size && ahead < queue->size);
    memcpy(queue->used + offset, element, sizeof(element));
    guest_ram_mark_dirty(queue->ram, queue->used_gpa + offset, sizeof(element));
}

void virtqueue_publish(struct virtqueue *queue, uint16_t count)
{
    queue->next_used = (uint16_t)(queue->next_used + count);
    store_u16(queue, 2, queue->next_used);
}

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written_bytes)
{
    virtqueue_fill(queue, 0, head, written_bytes);
    virtqueue_publish(queue, 1);
}

bool virtqueue_interrupt_wanted(struct virtqueue *queue)
{
    uint16_t before = queue->signalled_used;
    uint16_t now = queue->next_used;
    bool first = !queue->signalled_valid;

    if (!queue->ready || before == now) {
        return false;
    }
    queue->signalled_used = now;
    queue->signalled_valid = true;
    /* The guest must see the used index before we see its wish: it does the same the
     * other way round. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!queue->event_index) {
        return !(load_u16(queue->avail) & AVAIL_NO_INTERRUPT);
    }
    uint16_t event = load_u16(queue->avail + AVAIL_RING + 2 * (size_t)queue->size);
    return first || (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

void virtqueue_notify_enable(struct virtqueue *queue)
{
    if (!queue->ready) {
        return;
    }
    if (queue->event_index) {
        store_u16(queue, USED_RING + USED_ELEM_SIZE * (uint64_t)queue->size,
                  queue->next_avail);
    } else {
        store_u16(queue, 0, 0);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void virtqueue_notify_disable(struct virtqueue *queue)
{
    /* With an event index the old one, now behind, does it. */
    if (queue->ready && !queue->event_index) {
        store_u16(queue, 0, USED_NO_NOTIFY);
    }
}
