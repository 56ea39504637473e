/* SPDX-License-Identifier: Apache-2.0 */
/* What the small test guests share: ports, the serial line, numbers on the kernel's
 * command line. No libc. */
#ifndef DROVER_TESTS_GUESTS_GUEST_H
#define DROVER_TESTS_GUESTS_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guest_start_info;

/* The guest's own; each program has one. */
void guest_main(struct guest_start_info *info);
/* Interrupt 32 and second processor; programs that use them define them, others get empty
 * ones. */
void guest_interrupt(void);
void guest_ap(void);

static inline void port_write8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void port_write16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t port_read8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint16_t port_read16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t port_read32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint64_t tsc_read(void)
{
    uint32_t low;
    uint32_t high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

void print(const char *text);
void print_number(uint64_t number);
/* "name=123" on the command line, or `otherwise`. */
uint64_t argument_number(const struct guest_start_info *info, const char *name,
                         uint64_t otherwise);
/* The word is on the command line. */
bool argument_given(const struct guest_start_info *info, const char *name);
/* Bytes of memory below the hole. */
uint64_t memory_end(const struct guest_start_info *info);
/* The ACPI PM timer, 3579545 ticks a second, 32 bits. */
uint32_t timer_ticks(void);
#define TIMER_TICKS_PER_MS 3580u
/* Interrupt 32 is guest_interrupt() from now on. */
void interrupts_on(void);
/* The same, and it comes that often: the APIC's timer. guest_interrupt() must say when it
 * is over. */
void interrupts_each_ms(unsigned ms);
void apic_end_of_interrupt(void);
uint32_t apic_read(uint32_t offset);
void apic_write(uint32_t offset, uint32_t value);
/* Starts the processor with that APIC id in guest_ap(). */
void processor_start(unsigned apic_id);
/* S5. */
_Noreturn void power_off(void);
/* CMOS memory: survives resets. */
uint8_t cmos_read(uint8_t index);
void cmos_write(uint8_t index, uint8_t value);

#endif
