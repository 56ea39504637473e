/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives a virtio device requests whose buffers lie all over its memory, which it writes to
 * as fast as it can: in a post-copy the device's thread soon waits for a page.
 *
 * Arguments: "id=N" the device's type (5: balloon), "queue=N" which of its queues,
 * "bytes=N" of each buffer, "word=N" what each begins with, "answer": a byte that the
 * device writes follows. "mib=N" of memory in use. "reset": once it has stood still for a
 * time, as in a move, it resets itself instead of going on.
 * Prints "ready", then "pass N", and "WRONG" if a page does not hold what was written.
 */
#include "guest.h"

#define ECAM       0xe0000000u
#define AREA       UINT64_C(0x1000000)
#define PAGE       UINT64_C(4096)
#define MIB_PAGES  256u
#define QUEUE_SIZE 32u
#define AHEAD      16u
#define STATUS     20
#define STOOD_MS   20u

enum { DESC_NEXT = 1, DESC_WRITE = 2 };

static volatile struct {
    struct {
        uint64_t address;
        uint32_t size;
        uint16_t flags, next;
    } descriptors[QUEUE_SIZE];
    struct {
        uint16_t flags, index, ring[QUEUE_SIZE];
    } available __attribute__((aligned(64)));
    struct {
        uint16_t flags, index;
        struct {
            uint32_t head, written;
        } ring[QUEUE_SIZE];
    } used __attribute__((aligned(64)));
} queue __attribute__((aligned(4096)));

static volatile uint8_t answers[AHEAD];
static uint32_t common, notify;

static uint32_t read32(uint32_t address)
{
    return *(volatile uint32_t *)(uintptr_t)address;
}

static uint8_t read8(uint32_t address)
{
    return *(volatile uint8_t *)(uintptr_t)address;
}

static void write32(uint32_t address, uint32_t value)
{
    *(volatile uint32_t *)(uintptr_t)address = value;
}

static void write16(uint32_t address, uint16_t value)
{
    *(volatile uint16_t *)(uintptr_t)address = value;
}

static void write8(uint32_t address, uint8_t value)
{
    *(volatile uint8_t *)(uintptr_t)address = value;
}

static uint32_t device_find(uint64_t id)
{
    for (uint32_t slot = 0; slot < 32; slot++) {
        uint32_t space = ECAM + (slot << 15);
        if (read32(space) == ((0x1040u + id) << 16 | 0x1af4u)) {
            return space;
        }
    }
    print("FAILED: no such device\n");
    power_off();
}

static void address_set(uint32_t offset, volatile void *what)
{
    write32(common + offset, (uint32_t)(uintptr_t)what);
    write32(common + offset + 4, 0);
}

static void device_set_up(uint32_t space, uint64_t index)
{
    uint32_t step = 0;
    write16(space + 4, 6);
    for (uint8_t at = read8(space + 0x34); at != 0; at = read8(space + at + 1)) {
        uint32_t bar = read32(space + 0x10 + 4u * read8(space + at + 4)) & ~0xfu;
        if (read8(space + at) != 9) {
            continue;
        }
        if (read8(space + at + 3) == 1) {
            common = bar + read32(space + at + 8);
        } else if (read8(space + at + 3) == 2) {
            notify = bar + read32(space + at + 8);
            step = read32(space + at + 16);
        }
    }
    write8(common + STATUS, 0);
    write8(common + STATUS, 3);
    write32(common + 8, 1);
    write32(common + 12, 1); /* of version 1, and nothing else */
    write8(common + STATUS, 3 | 8);
    write16(common + 22, (uint16_t)index);
    write16(common + 24, QUEUE_SIZE);
    address_set(32, queue.descriptors);
    address_set(40, &queue.available);
    address_set(48, &queue.used);
    notify += step * *(volatile uint16_t *)(uintptr_t)(common + 30);
    write16(common + 28, 1);
    write8(common + STATUS, 3 | 8 | 4);
}

static volatile uint32_t *page_at(uint64_t index)
{
    return (volatile uint32_t *)(uintptr_t)(AREA + index * PAGE);
}

/* If there is room: the page is not touched here. */
static void request_add(uint64_t page, uint32_t bytes, bool answered, uint64_t index)
{
    uint16_t next = queue.available.index;
    unsigned slot = next % AHEAD;
    if ((uint16_t)(next - queue.used.index) >= AHEAD) {
        return;
    }
    queue.descriptors[2 * slot].address = (uintptr_t)page_at(page);
    queue.descriptors[2 * slot].size = bytes;
    queue.descriptors[2 * slot].flags = answered ? DESC_NEXT : 0;
    queue.descriptors[2 * slot].next = (uint16_t)(2 * slot + 1);
    queue.descriptors[2 * slot + 1].address = (uintptr_t)&answers[slot];
    queue.descriptors[2 * slot + 1].size = 1;
    queue.descriptors[2 * slot + 1].flags = DESC_WRITE;
    queue.available.ring[next % QUEUE_SIZE] = (uint16_t)(2 * slot);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    queue.available.index = (uint16_t)(next + 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    write16(notify, (uint16_t)index);
}

static void page_write(uint64_t index, uint32_t pass)
{
    volatile uint32_t *page = page_at(index);
    if (page[1] != pass - 1) {
        print("WRONG\n");
    }
    page[1] = pass;
}

void guest_main(struct guest_start_info *info)
{
    uint64_t pages = argument_number(info, "mib", 16) * MIB_PAGES;
    uint64_t index = argument_number(info, "queue", 0);
    uint32_t bytes = (uint32_t)argument_number(info, "bytes", 4);
    uint32_t word = (uint32_t)argument_number(info, "word", 0);
    bool answered = argument_given(info, "answer");
    bool resets = argument_given(info, "reset");
    uint64_t other = 0;
    for (uint64_t i = 0; i < pages; i++) {
        page_at(i)[0] = word;
        page_at(i)[1] = 0;
    }
    device_set_up(device_find(argument_number(info, "id", 5)), index);
    print("ready\n");
    for (uint32_t pass = 1;; pass++) {
        for (uint64_t i = 0; i < pages; i++) {
            uint32_t before = timer_ticks();
            other = (other + 7919) % pages; /* a prime */
            request_add(other, bytes, answered, index);
            page_write(i, pass);
            if (resets && timer_ticks() - before > STOOD_MS * TIMER_TICKS_PER_MS) {
                port_write8(0xcf9, 6);
            }
        }
        print("pass ");
        print_number(pass);
        print("\n");
    }
}
