/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives the first virtio-blk disk, by interrupts: writes DEPTH blocks of 4 KiB at a
 * time, each filled with its sequence number, round and round over the first "blocks"
 * blocks of the disk; then a flush; then prints "ack N": all blocks up to number N are
 * stable. After each round it reads everything back and prints "verified N". A block with
 * other contents is told as "WRONG". "rounds" says after how many it powers off (0:
 * never).
 *
 * "ecam=": where the machine has its configuration space, else as Drover has it.
 * "no-flush": neither flushes nor acknowledges. "from=N": goes on with number N, and
 * first verifies what a guest before it has written.
 */
#include "guest.h"

#define MSI_ADDRESS   0xfee00000u
#define APIC_EOI      0xb0
#define DEPTH         16u
#define QUEUE_SIZE    64u
#define BLOCK_BYTES   4096u
#define WORDS         (BLOCK_BYTES / 8)
#define STATUS        20
#define VERSION_1     1u /* bit 32 */
#define FEATURE_FLUSH (1u << 9)
#define EVENT_INDEX   (1u << 29)

enum { TYPE_READ = 0, TYPE_WRITE = 1, TYPE_FLUSH = 4, DESC_NEXT = 1, DESC_WRITE = 2 };

struct descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t flags, next;
};

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

static struct {
    struct descriptor descriptors[QUEUE_SIZE];
    struct {
        uint16_t flags, index, ring[QUEUE_SIZE], used_event;
    } available __attribute__((aligned(64)));
    struct {
        uint16_t flags, index;
        struct {
            uint32_t head, written;
        } ring[QUEUE_SIZE];
        uint16_t available_event;
    } used __attribute__((aligned(64)));
} queue __attribute__((aligned(4096)));

static struct header headers[DEPTH];
static volatile uint8_t statuses[DEPTH];
static uint64_t blocks[DEPTH][WORDS] __attribute__((aligned(4096)));
static volatile uint64_t interrupts;
static uint32_t common, notify, ecam;
static uint16_t used_seen;

void guest_interrupt(void)
{
    interrupts++;
    apic_write(APIC_EOI, 0);
}

static uint32_t read32(uint32_t address)
{
    return *(volatile uint32_t *)(uintptr_t)address;
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

static uint8_t read8(uint32_t address)
{
    return *(volatile uint8_t *)(uintptr_t)address;
}

static _Noreturn void fail(const char *why)
{
    print("FAILED: ");
    print(why);
    print("\n");
    power_off();
}

static uint32_t disk_find(void)
{
    for (uint32_t slot = 0; slot < 32; slot++) {
        uint32_t space = ecam + (slot << 15);
        if (read32(space) == 0x10421af4) {
            return space;
        }
    }
    fail("no disk");
}

static uint32_t bar(uint32_t space, uint8_t index)
{
    return read32(space + 0x10 + 4u * index) & ~0xfu;
}

static void interrupts_set_up(uint32_t space, uint32_t capability)
{
    uint32_t table = bar(space, read8(space + capability + 4) & 7);
    write32(table + 16, MSI_ADDRESS); /* vector 1, for the queue */
    write32(table + 20, 0);
    write32(table + 24, 32);
    write32(table + 28, 0);
    write16(space + capability + 2, 0x8000);
}

static void disk_set_up(void)
{
    uint32_t space = disk_find();
    write16(space + 4, 6);
    for (uint8_t at = read8(space + 0x34); at != 0; at = read8(space + at + 1)) {
        uint32_t where = bar(space, read8(space + at + 4)) + read32(space + at + 8);
        if (read8(space + at) == 0x11) {
            interrupts_set_up(space, at);
        } else if (read8(space + at + 3) == 1) {
            common = where;
        } else if (read8(space + at + 3) == 2) {
            notify = where;
        }
    }
    write8(common + STATUS, 0);
    write8(common + STATUS, 3);
    write32(common + 8, 0);
    write32(common + 12, FEATURE_FLUSH | EVENT_INDEX);
    write32(common + 8, 1);
    write32(common + 12, VERSION_1);
    write8(common + STATUS, 3 | 8);
    if ((read8(common + STATUS) & 8) == 0) {
        fail("the features are refused");
    }
    write16(common + 22, 0);
    write16(common + 24, QUEUE_SIZE);
    write16(common + 26, 1);
    write32(common + 32, (uint32_t)(uintptr_t)queue.descriptors);
    write32(common + 36, 0);
    write32(common + 40, (uint32_t)(uintptr_t)&queue.available);
    write32(common + 44, 0);
    write32(common + 48, (uint32_t)(uintptr_t)&queue.used);
    write32(common + 52, 0);
    write16(common + 28, 1);
    write8(common + STATUS, 3 | 8 | 4);
}

/* Request `index` of the batch; its descriptors are always the same three. */
static void request_add(unsigned index, uint32_t type, uint64_t block)
{
    struct descriptor *descriptors = &queue.descriptors[3 * index];
    uint16_t first = (uint16_t)(3 * index);
    headers[index] = (struct header){.type = type, .sector = block * (BLOCK_BYTES / 512)};
    statuses[index] = 0xff;
    descriptors[0] =
        (struct descriptor){(uintptr_t)&headers[index], sizeof(struct header), DESC_NEXT,
                            (uint16_t)(first + (type == TYPE_FLUSH ? 2 : 1))};
    descriptors[1] =
        (struct descriptor){(uintptr_t)blocks[index], BLOCK_BYTES,
                            (uint16_t)(DESC_NEXT | (type == TYPE_READ ? DESC_WRITE : 0)),
                            (uint16_t)(first + 2)};
    descriptors[2] = (struct descriptor){(uintptr_t)&statuses[index], 1, DESC_WRITE, 0};
    queue.available.ring[queue.available.index % QUEUE_SIZE] = first;
    __atomic_store_n(&queue.available.index, (uint16_t)(queue.available.index + 1),
                     __ATOMIC_RELEASE);
}

/* Notifies, and sleeps until `count` requests are back. An interrupt that gets lost
 * leaves it asleep. */
static void requests_wait(unsigned count)
{
    uint16_t until = (uint16_t)(used_seen + count);
    queue.available.used_event = (uint16_t)(until - 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    write16(notify, 0);
    for (;;) {
        __asm__ volatile("cli");
        if (__atomic_load_n(&queue.used.index, __ATOMIC_ACQUIRE) == until) {
            __asm__ volatile("sti");
            break;
        }
        __asm__ volatile("sti; hlt");
    }
    used_seen = until;
    for (unsigned i = 0; i < count; i++) {
        if (statuses[i] != 0) {
            fail("a request was not served");
        }
    }
}

static void batch_write(uint64_t first, uint64_t block_count, bool flush)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        for (unsigned word = 0; word < WORDS; word++) {
            blocks[i][word] = first + i;
        }
        request_add(i, TYPE_WRITE, (first + i) % block_count);
    }
    requests_wait(DEPTH);
    if (!flush) {
        return;
    }
    request_add(0, TYPE_FLUSH, 0);
    requests_wait(1);
    print("ack ");
    print_number(first + DEPTH - 1);
    print("\n");
}

/* Each block must hold the last number below `end` that belongs to it. */
static void all_verify(uint64_t end, uint64_t block_count)
{
    for (uint64_t block = 0; block < block_count; block += DEPTH) {
        for (unsigned i = 0; i < DEPTH; i++) {
            request_add(i, TYPE_READ, block + i);
        }
        requests_wait(DEPTH);
        for (unsigned i = 0; i < DEPTH; i++) {
            uint64_t age = (end - 1 - (block + i)) % block_count;
            for (unsigned word = 0; word < WORDS; word++) {
                if (blocks[i][word] != end - 1 - age) {
                    print("WRONG block ");
                    print_number(block + i);
                    print(" holds ");
                    print_number(blocks[i][word]);
                    print(" not ");
                    print_number(end - 1 - age);
                    print("\n");
                    fail("the disk lost a write");
                }
            }
        }
    }
    print("verified ");
    print_number(end - 1);
    print("\n");
}

void guest_main(struct guest_start_info *info)
{
    uint64_t block_count = argument_number(info, "blocks", 512) / DEPTH * DEPTH;
    uint64_t rounds = argument_number(info, "rounds", 0);
    uint64_t next = argument_number(info, "from", 0);
    ecam = (uint32_t)argument_number(info, "ecam", 0xe0000000);
    interrupts_on();
    disk_set_up();
    if (next != 0) {
        all_verify(next, block_count);
    }
    for (uint64_t round = 0; rounds == 0 || round < rounds; round++) {
        for (uint64_t done = 0; done < block_count; done += DEPTH) {
            batch_write(next, block_count, !argument_given(info, "no-flush"));
            next += DEPTH;
        }
        all_verify(next, block_count);
    }
    print("interrupts ");
    print_number(interrupts);
    print("\n");
    power_off();
}
