/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives the first CD-ROM of an AHCI controller, by MSI: tells what it is, then reads all
 * of it, "depth" blocks at a time, round and round, each command in another slot and with
 * its data cut into three pieces. Each block from number 17 on holds its own number in
 * each word; one with other contents is told as "WRONG". After each piece of 64 commands
 * it prints "read N", after each round "verified N". "rounds" says after how many it
 * powers off (0: never). "reset": resets the controller in the middle of each command,
 * which then must come again.
 */
#include "guest.h"

#define ECAM         0xe0000000u
#define MSI_ADDRESS  0xfee00000u
#define APIC_EOI     0xb0
#define BLOCK_BYTES  2048u
#define DEPTH_MAX    32u
#define SLOTS        32u
#define FIRST_NUMBER 17u

#define HBA_GHC  0x04
#define HBA_IS   0x08
#define PORT     0x100
#define PORT_CLB (PORT + 0x00)
#define PORT_FB  (PORT + 0x08)
#define PORT_IS  (PORT + 0x10)
#define PORT_IE  (PORT + 0x14)
#define PORT_CMD (PORT + 0x18)
#define PORT_TFD (PORT + 0x20)
#define PORT_SIG (PORT + 0x24)
#define PORT_CI  (PORT + 0x38)

struct header {
    uint16_t flags, prd_count;
    uint32_t bytes, table, table_high, reserved[4];
};

struct prd {
    uint32_t address, address_high, reserved, size;
};

static struct header headers[SLOTS] __attribute__((aligned(1024)));
static uint8_t received[256] __attribute__((aligned(256)));
static struct {
    uint8_t fis[64], packet[16], reserved[48];
    struct prd prds[3];
} table __attribute__((aligned(128)));
static uint8_t data[DEPTH_MAX * BLOCK_BYTES] __attribute__((aligned(4096)));
static volatile uint64_t interrupts;
static uint32_t hba;
static unsigned slot;
static bool resets;

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

static _Noreturn void fail(const char *why)
{
    print("FAILED: ");
    print(why);
    print("\n");
    power_off();
}

static void port_set_up(void)
{
    write32(hba + PORT_CLB, (uint32_t)(uintptr_t)headers);
    write32(hba + PORT_CLB + 4, 0);
    write32(hba + PORT_FB, (uint32_t)(uintptr_t)received);
    write32(hba + PORT_FB + 4, 0);
    write32(hba + PORT_IE, 0xffffffff);
    write32(hba + HBA_GHC, 0x80000002);
    write32(hba + PORT_CMD, 0x16);
    if (read32(hba + PORT_SIG) != 0xeb140101) {
        fail("no packet device");
    }
    write32(hba + PORT_CMD, 0x17);
}

static void controller_find(void)
{
    uint32_t space = 0;
    for (uint32_t function = 0; function < 256 && space == 0; function++) {
        space =
            read32(ECAM + (function << 12)) == 0x29228086 ? ECAM + (function << 12) : 0;
    }
    if (space == 0) {
        fail("no controller");
    }
    hba = read32(space + 0x24) & ~0xfu;
    write32(space + 4, 6);
    uint32_t at = read32(space + 0x34) & 0xff;
    if ((read32(space + at) & 0xff) != 5) {
        fail("no MSI");
    }
    write32(space + at + 4, MSI_ADDRESS);
    write32(space + at + 8, 0);
    write32(space + at + 12, 32);
    write32(space + at, read32(space + at) | 0x10000);
    port_set_up();
}

static void command_issue(uint8_t command, uint32_t size)
{
    uint32_t first = size / 2 & ~1u;
    for (unsigned i = 0; i < sizeof(table.fis); i++) {
        table.fis[i] = 0;
    }
    table.fis[0] = 0x27;
    table.fis[1] = 0x80;
    table.fis[2] = command;
    table.fis[3] = 1;
    uint32_t sizes[3] = {first, 2, size - first - 2};
    uint32_t address = (uint32_t)(uintptr_t)data;
    for (unsigned i = 0; i < 3; i++) {
        table.prds[i] = (struct prd){address, 0, 0, sizes[i] - 1};
        address += sizes[i];
    }
    slot = (slot + 7) % SLOTS;
    headers[slot] = (struct header){.flags = 5 | (command == 0xa0 ? 0x20 : 0),
                                    .prd_count = 3,
                                    .table = (uint32_t)(uintptr_t)&table};
    write32(hba + PORT_CI, 1u << slot);
}

/* Sleeps until the command is over. An interrupt that gets lost leaves it asleep. */
static void command_wait(void)
{
    for (;;) {
        __asm__ volatile("cli");
        write32(hba + PORT_IS, read32(hba + PORT_IS));
        write32(hba + HBA_IS, 1);
        if (read32(hba + PORT_CI) == 0) {
            __asm__ volatile("sti");
            return;
        }
        if ((read32(hba + PORT_TFD) & 0x81) == 1) {
            fail("the drive reports an error");
        }
        __asm__ volatile("sti; hlt");
    }
}

static void command_run(uint8_t command, uint32_t size)
{
    command_issue(command, size);
    if (resets) {
        write32(hba + HBA_GHC, 1);
        port_set_up();
        command_issue(command, size);
    }
    command_wait();
    if (headers[slot].bytes != size) {
        fail("bytes are missing");
    }
}

static void packet_set(uint8_t operation, uint32_t block, uint16_t count)
{
    for (unsigned i = 0; i < sizeof(table.packet); i++) {
        table.packet[i] = 0;
    }
    table.packet[0] = operation;
    table.packet[2] = (uint8_t)(block >> 24);
    table.packet[3] = (uint8_t)(block >> 16);
    table.packet[4] = (uint8_t)(block >> 8);
    table.packet[5] = (uint8_t)block;
    table.packet[7] = (uint8_t)(count >> 8);
    table.packet[8] = (uint8_t)count;
}

static uint32_t capacity(void)
{
    packet_set(0x25, 0, 0);
    command_run(0xa0, 8);
    return ((uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 |
            data[3]) +
           1;
}

static void blocks_verify(uint32_t first, uint32_t count)
{
    packet_set(0x28, first, (uint16_t)count);
    command_run(0xa0, count * BLOCK_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t *words = (const uint64_t *)(uintptr_t)&data[i * BLOCK_BYTES];
        for (unsigned word = 0; word < BLOCK_BYTES / 8; word++) {
            if (first + i >= FIRST_NUMBER && words[word] != first + i) {
                print("WRONG block ");
                print_number(first + i);
                print(" holds ");
                print_number(words[word]);
                print("\n");
                fail("the CD-ROM gave another block");
            }
        }
    }
}

void guest_main(struct guest_start_info *info)
{
    uint64_t rounds = argument_number(info, "rounds", 0);
    uint32_t depth = (uint32_t)argument_number(info, "depth", 8);
    uint64_t commands = 0;
    interrupts_on();
    controller_find();
    command_run(0xa1, 512);
    uint32_t blocks = capacity();
    resets = argument_given(info, "reset");
    print("blocks ");
    print_number(blocks);
    print("\n");
    for (uint64_t round = 0; rounds == 0 || round < rounds; round++) {
        for (uint32_t block = 0; block < blocks; block += depth) {
            blocks_verify(block, blocks - block < depth ? blocks - block : depth);
            if (++commands % 64 == 0) {
                print("read ");
                print_number(commands);
                print("\n");
            }
        }
        print("verified ");
        print_number(round);
        print("\n");
    }
    print("interrupts ");
    print_number(interrupts);
    print("\n");
    power_off();
}
