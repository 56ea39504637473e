/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaves the guest "count" times and says when: "begin", "end". "what=0": writes to port 0x80, which nobody takes; 1: reads
 * the serial port's line status, a device's register; 2: notifies the queue of the first virtio-rng, which is empty. Runs
 * on any PC: finds its device by the configuration ports and puts its BAR where it wants it.
 */
#include "guest.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc
#define RNG            0x10441af4u
#define BAR_ADDRESS    0xd0000000u
#define STATUS         20
#define QUEUE_SIZE     8u

static uint8_t rings[3][4096] __attribute__((aligned(4096)));

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

static _Noreturn void fail(const char *why)
{
    print("FAILED: ");
    print(why);
    print("\n");
    power_off();
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

static void queue_set_up(uint32_t common)
{
    write8(common + STATUS, 0);
    write8(common + STATUS, 3);
    write32(common + 8, 0);
    write32(common + 12, 0);
    write32(common + 8, 1);
    write32(common + 12, 1); /* VERSION_1 */
    write8(common + STATUS, 3 | 8);
    write16(common + 22, 0);
    write16(common + 24, QUEUE_SIZE);
    for (unsigned i = 0; i < 3; i++) {
        write32(common + 32 + 8 * i, (uint32_t)(uintptr_t)rings[i]);
        write32(common + 36 + 8 * i, 0);
    }
    write16(common + 28, 1);
    write8(common + STATUS, 3 | 8 | 4);
}

/* The address to notify its queue at. */
static uint32_t rng_set_up(void)
{
    uint32_t slot = 0;
    while (slot < 32 && config_read(slot, 0) != RNG) {
        slot++;
    }
    if (slot == 32) {
        fail("no virtio-rng");
    }
    uint32_t notify = 0;
    uint32_t common = 0;
    uint32_t placed = 6; /* no BAR yet */
    for (uint32_t at = config_read(slot, 0x34) & 0xff; at != 0;
         at = config_read(slot, at + 1) & 0xff) {
        uint32_t kind = config_read(slot, at + 3) & 0xff;
        uint32_t bar = config_read(slot, at + 4) & 0xff;
        if ((config_read(slot, at) & 0xff) != 9 || (kind != 1 && kind != 2)) {
            continue;
        }
        if (placed == 6) {
            config_write(slot, 0x10 + 4 * bar, BAR_ADDRESS);
            config_write(slot, 0x14 + 4 * bar, 0);
            placed = bar;
        }
        if (bar != placed) {
            fail("its registers are in several BARs");
        }
        uint32_t where = BAR_ADDRESS + config_read(slot, at + 8);
        if (kind == 1) {
            common = where;
        } else {
            notify = where;
        }
    }
    config_write(slot, 4, 6);
    queue_set_up(common);
    return notify;
}

void guest_main(struct guest_start_info *info)
{
    uint64_t count = argument_number(info, "count", 100000);
    uint64_t what = argument_number(info, "what", 0);
    uint32_t notify = what == 2 ? rng_set_up() : 0;
    print("begin\n");
    for (uint64_t i = 0; i < count; i++) {
        if (what == 0) {
            port_write8(0x80, (uint8_t)i);
        } else if (what == 1) {
            (void)port_read8(0x3fd);
        } else {
            write16(notify, 0);
        }
    }
    print("end\n");
    for (;;) {
        __asm__ volatile("hlt");
    }
}
