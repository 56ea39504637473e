/* SPDX-License-Identifier: Apache-2.0 */
/* The test guests' small library. */
#include "guest.h"

#define PORT_SERIAL   0x3f8
#define PORT_CONTROL  0x604
#define PORT_TIMER    0x608
#define PORT_CMOS     0x70
#define SLEEP_S5      (0x2000 | 5 << 10)
#define APIC          0xfee00000u
#define APIC_SPURIOUS 0xf0
#define APIC_COMMAND  0x300
#define APIC_TARGET   0x310
#define AP_START      0x8000u

struct guest_start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line, rsdp, memory_map;
    uint32_t memory_entries, reserved;
};

struct memory_entry {
    uint64_t start, size;
    uint32_t type, reserved;
};

extern const uint8_t ap_start[], ap_end[];
extern void interrupt_entry(void);

/* The compiler calls these two. */
void *memset(void *to, int value, size_t size);
void *memcpy(void *to, const void *from, size_t size);

void *memset(void *to, int value, size_t size)
{
    uint8_t *at = to;
    while (size-- > 0) {
        *at++ = (uint8_t)value;
    }
    return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
    uint8_t *at = to;
    const uint8_t *source = from;
    while (size-- > 0) {
        *at++ = *source++;
    }
    return to;
}

__attribute__((weak)) void guest_interrupt(void)
{
}

__attribute__((weak)) void guest_ap(void)
{
}

void print(const char *text)
{
    while (*text != '\0') {
        port_write8(PORT_SERIAL, (uint8_t)*text++);
    }
}

void print_number(uint64_t number)
{
    char text[24];
    char *at = text + sizeof(text) - 1;
    *at = '\0';
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    print(at);
}

static const char *argument_find(const struct guest_start_info *info, const char *name)
{
    const char *line = (const char *)(uintptr_t)info->command_line;
    while (line != NULL && *line != '\0') {
        const char *word = line;
        const char *wanted = name;
        while (*wanted != '\0' && *word == *wanted) {
            word++;
            wanted++;
        }
        if (*wanted == '\0' && (*word == '=' || *word == ' ' || *word == '\0')) {
            return word;
        }
        while (*line != '\0' && *line != ' ') {
            line++;
        }
        line += *line == ' ' ? 1 : 0;
    }
    return NULL;
}

uint64_t argument_number(const struct guest_start_info *info, const char *name,
                         uint64_t otherwise)
{
    const char *value = argument_find(info, name);
    if (value == NULL || *value != '=') {
        return otherwise;
    }
    uint64_t number = 0;
    for (value++; *value >= '0' && *value <= '9'; value++) {
        number = number * 10 + (uint64_t)(*value - '0');
    }
    return number;
}

bool argument_given(const struct guest_start_info *info, const char *name)
{
    return argument_find(info, name) != NULL;
}

uint64_t memory_end(const struct guest_start_info *info)
{
    const struct memory_entry *map =
        (const struct memory_entry *)(uintptr_t)info->memory_map;
    uint64_t end = 0;
    for (uint32_t i = 0; i < info->memory_entries; i++) {
        if (map[i].type == 1 && map[i].start < 0xc0000000u) {
            end = map[i].start + map[i].size > end ? map[i].start + map[i].size : end;
        }
    }
    return end;
}

uint32_t timer_ticks(void)
{
    return port_read32(PORT_TIMER);
}

uint32_t apic_read(uint32_t offset)
{
    return *(volatile uint32_t *)(uintptr_t)(APIC + offset);
}

void apic_write(uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)(uintptr_t)(APIC + offset) = value;
}

void interrupts_on(void)
{
    static struct {
        uint16_t low, selector, flags, middle;
        uint32_t high, reserved;
    } table[48];
    uint64_t entry = (uint64_t)(uintptr_t)interrupt_entry;
    table[32].low = (uint16_t)entry;
    table[32].selector = 8;
    table[32].flags = 0x8e00;
    table[32].middle = (uint16_t)(entry >> 16);
    table[32].high = (uint32_t)(entry >> 32);
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } pointer = {sizeof(table) - 1, (uint64_t)(uintptr_t)table};
    /* Both PICs masked: interrupts come through the APIC. */
    port_write8(0x21, 0xff);
    port_write8(0xa1, 0xff);
    __asm__ volatile("lidt %0" : : "m"(pointer));
    apic_write(APIC_SPURIOUS, 0x100 | 47);
    __asm__ volatile("sti");
}

#define APIC_EOI      0xb0
#define APIC_TIMER    0x320
#define APIC_INITIAL  0x380
#define APIC_CURRENT  0x390
#define APIC_DIVIDE   0x3e0
#define APIC_MASKED   0x10000
#define APIC_PERIODIC 0x20000

void interrupts_each_ms(unsigned ms)
{
    apic_write(APIC_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_TIMER, APIC_MASKED);
    apic_write(APIC_INITIAL, 0xffffffff);
    uint32_t start = timer_ticks();
    while (timer_ticks() - start < ms * TIMER_TICKS_PER_MS) {
    }
    uint32_t count = 0xffffffff - apic_read(APIC_CURRENT);
    interrupts_on();
    apic_write(APIC_TIMER, APIC_PERIODIC | 32);
    apic_write(APIC_INITIAL, count);
}

void apic_end_of_interrupt(void)
{
    apic_write(APIC_EOI, 0);
}

static void pause_ms(unsigned ms)
{
    uint32_t start = timer_ticks();
    while (timer_ticks() - start < ms * TIMER_TICKS_PER_MS) {
    }
}

void processor_start(unsigned apic_id)
{
    memcpy((void *)(uintptr_t)AP_START, ap_start, (size_t)(ap_end - ap_start));
    apic_write(APIC_SPURIOUS, 0x100 | 47);
    apic_write(APIC_TARGET, apic_id << 24);
    apic_write(APIC_COMMAND, 0x4500); /* INIT */
    pause_ms(10);
    apic_write(APIC_TARGET, apic_id << 24);
    apic_write(APIC_COMMAND, 0x4600 | AP_START >> 12); /* SIPI */
}

void power_off(void)
{
    port_write16(PORT_CONTROL, SLEEP_S5);
    for (;;) {
        __asm__ volatile("hlt");
    }
}

uint8_t cmos_read(uint8_t index)
{
    port_write8(PORT_CMOS, index);
    return port_read8(PORT_CMOS + 1);
}

void cmos_write(uint8_t index, uint8_t value)
{
    port_write8(PORT_CMOS, index);
    port_write8(PORT_CMOS + 1, value);
}
