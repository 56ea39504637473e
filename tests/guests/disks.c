/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads or writes the first virtio-blk disk for benchmarks: "count" requests of "bytes" each, "depth" of them at a time,
 * "write=1", "random=1" or one after the other, over the first "span" MiB; says "begin" and "end". Sleeps until its interrupt
 * comes; asks for one per request that comes back, as drivers do. Runs on any PC: finds its device by the configuration
 * ports, and puts its BARs where it wants them.
 */
#include "guest.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc
#define BLOCK          0x10421af4u
#define BAR_ADDRESS    0xd0000000u
#define BAR_STRIDE     0x00100000u
#define MSI_ADDRESS    0xfee00000u
#define APIC_EOI       0xb0
#define STATUS         20
#define EVENT_INDEX    (1u << 29)
#define QUEUE_SIZE     128u
#define DEPTH_MAX      32u
#define BYTES_MAX      (256u << 10)
#define SECTOR         512u

enum { DESC_NEXT = 1, DESC_WRITE = 2 };

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

static struct {
    struct {
        uint64_t address;
        uint32_t size;
        uint16_t flags, next;
    } descriptors[QUEUE_SIZE];
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

static struct header headers[DEPTH_MAX];
static volatile uint8_t statuses[DEPTH_MAX];
static uint8_t data[DEPTH_MAX][BYTES_MAX] __attribute__((aligned(4096)));
static uint32_t common, notify, bars_placed;
static uint16_t used_seen;
static uint64_t seed = 88172645463325252u;

void guest_interrupt(void)
{
    apic_write(APIC_EOI, 0);
}

static void port_write32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static uint32_t config_read(uint32_t slot, uint32_t at)
{
    port_write32(CONFIG_ADDRESS, 1u << 31 | slot << 11 | (at & ~3u));
    return port_read32(CONFIG_DATA) >> 8 * (at & 3);
}

static void config_write(uint32_t slot, uint32_t at, uint32_t value)
{
    port_write32(CONFIG_ADDRESS, 1u << 31 | slot << 11 | at);
    port_write32(CONFIG_DATA, value);
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

static _Noreturn void fail(const char *why)
{
    print("FAILED: ");
    print(why);
    print("\n");
    power_off();
}

/* Where a BAR is, once it was put there. */
static uint32_t bar_place(uint32_t slot, uint32_t bar)
{
    uint32_t where = BAR_ADDRESS + bar * BAR_STRIDE;
    if ((bars_placed & 1u << bar) == 0) {
        bool is_wide = (config_read(slot, 0x10 + 4 * bar) & 6) == 4;
        config_write(slot, 0x10 + 4 * bar, where);
        if (is_wide) {
            config_write(slot, 0x14 + 4 * bar, 0);
        }
        bars_placed |= 1u << bar;
    }
    return where;
}

static void interrupts_set_up(uint32_t slot, uint32_t capability)
{
    uint32_t place = config_read(slot, capability + 4);
    uint32_t table = bar_place(slot, place & 7) + (place & ~7u);
    uint32_t control = config_read(slot, capability & ~3u);
    config_write(slot, 4, 6);
    config_write(slot, capability & ~3u, control | 0x80000000u);
    write32(table + 16, MSI_ADDRESS); /* vector 1, for the queue */
    write32(table + 20, 0);
    write32(table + 24, 32);
    write32(table + 28, 0);
}

static void queue_set_up(void)
{
    write8(common + STATUS, 0);
    write8(common + STATUS, 3);
    write32(common + 8, 0);
    write32(common + 12, EVENT_INDEX | 1u << 9); /* flush: so that writes need not go through */
    write32(common + 8, 1);
    write32(common + 12, 1); /* VERSION_1 */
    write8(common + STATUS, 3 | 8);
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

static void disk_set_up(void)
{
    uint32_t slot = 0;
    while (slot < 32 && config_read(slot, 0) != BLOCK) {
        slot++;
    }
    if (slot == 32) {
        fail("no virtio-blk");
    }
    for (uint32_t at = config_read(slot, 0x34) & 0xff; at != 0;
         at = config_read(slot, at + 1) & 0xff) {
        uint32_t id = config_read(slot, at) & 0xff;
        uint32_t kind = config_read(slot, at + 3) & 0xff;
        if (id == 0x11) {
            interrupts_set_up(slot, at);
        } else if (id == 9 && (kind == 1 || kind == 2)) {
            uint32_t where = bar_place(slot, config_read(slot, at + 4) & 0xff) +
                             config_read(slot, at + 8);
            if (kind == 1) {
                common = where;
            } else {
                notify = where;
            }
        }
    }
    config_write(slot, 4, 6);
    queue_set_up();
}

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void request_add(unsigned index, bool write, uint64_t sector, uint32_t bytes)
{
    uint16_t first = (uint16_t)(3 * index);
    headers[index] = (struct header){.type = write ? 1 : 0, .sector = sector};
    statuses[index] = 0xff;
    queue.descriptors[first].address = (uintptr_t)&headers[index];
    queue.descriptors[first].size = sizeof(struct header);
    queue.descriptors[first].flags = DESC_NEXT;
    queue.descriptors[first].next = (uint16_t)(first + 1);
    queue.descriptors[first + 1].address = (uintptr_t)data[index];
    queue.descriptors[first + 1].size = bytes;
    queue.descriptors[first + 1].flags = (uint16_t)(DESC_NEXT | (write ? 0 : DESC_WRITE));
    queue.descriptors[first + 1].next = (uint16_t)(first + 2);
    queue.descriptors[first + 2].address = (uintptr_t)&statuses[index];
    queue.descriptors[first + 2].size = 1;
    queue.descriptors[first + 2].flags = DESC_WRITE;
    queue.available.ring[queue.available.index % QUEUE_SIZE] = first;
    __atomic_store_n(&queue.available.index, (uint16_t)(queue.available.index + 1),
                     __ATOMIC_RELEASE);
}

/* Notifies if the device wants it, for what was added since `before`. */
static void device_notify(uint16_t before)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint16_t event = *(volatile uint16_t *)&queue.used.available_event;
    uint16_t now = queue.available.index;
    if ((uint16_t)(now - event - 1) < (uint16_t)(now - before)) {
        write16(notify, 0);
    }
}

static void some_wait(void)
{
    queue.available.used_event = used_seen;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    __asm__ volatile("cli");
    while (__atomic_load_n(&queue.used.index, __ATOMIC_ACQUIRE) == used_seen) {
        __asm__ volatile("sti; hlt; cli");
    }
    __asm__ volatile("sti");
}

struct plan {
    uint64_t count, span, bytes;
    bool write, random;
};

static void plan_run(const struct plan *plan, unsigned depth)
{
    uint64_t places = plan->span / plan->bytes;
    uint64_t begun = 0, back = 0;
    uint16_t free_slots[DEPTH_MAX];
    unsigned free_count = depth;
    for (unsigned i = 0; i < depth; i++) {
        free_slots[i] = (uint16_t)i;
    }
    while (back < plan->count) {
        uint16_t before = queue.available.index;
        while (free_count > 0 && begun < plan->count) {
            uint64_t place = (plan->random ? next_random() : begun) % places;
            request_add(free_slots[--free_count], plan->write,
                        place * plan->bytes / SECTOR, (uint32_t)plan->bytes);
            begun++;
        }
        if (before != queue.available.index) {
            device_notify(before);
        }
        some_wait();
        while (__atomic_load_n(&queue.used.index, __ATOMIC_ACQUIRE) != used_seen) {
            unsigned index = queue.used.ring[used_seen % QUEUE_SIZE].head / 3;
            if (statuses[index] != 0) {
                fail("a request was not served");
            }
            free_slots[free_count++] = (uint16_t)index;
            used_seen++;
            back++;
        }
    }
}

void guest_main(struct guest_start_info *info)
{
    struct plan plan = {
        .count = argument_number(info, "count", 10000),
        .bytes = argument_number(info, "bytes", 4096),
        .span = argument_number(info, "span", 64) << 20,
        .write = argument_number(info, "write", 0) != 0,
        .random = argument_number(info, "random", 0) != 0,
    };
    uint64_t depth = argument_number(info, "depth", 1);
    if (depth == 0 || depth > DEPTH_MAX || plan.bytes % SECTOR != 0 || plan.bytes == 0 ||
        plan.bytes > BYTES_MAX || plan.span < plan.bytes) {
        fail("arguments make no sense");
    }
    interrupts_on();
    disk_set_up();
    struct plan warm = plan;
    warm.count = plan.count / 10;
    plan_run(&warm, (unsigned)depth);
    print("begin\n");
    plan_run(&plan, (unsigned)depth);
    print("end\n");
    for (;;) {
        __asm__ volatile("hlt");
    }
}
