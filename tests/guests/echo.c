/* SPDX-License-Identifier: Apache-2.0 */
/* Sends back what comes in on the serial port, by its interrupt, and sleeps in between: a guest that costs nothing while
 * nobody talks to it. */
#include "guest.h"

#define SERIAL           0x3f8
#define IO_APIC          0xfec00000u
#define IO_APIC_LINE_4   (0x10 + 2 * 4)
#define INTERRUPT_VECTOR 32
#define APIC_EOI         0xb0

void guest_interrupt(void)
{
    while ((port_read8(SERIAL + 5) & 1) != 0) {
        port_write8(SERIAL, port_read8(SERIAL));
    }
    apic_write(APIC_EOI, 0);
}

static void io_apic_write(uint32_t index, uint32_t value)
{
    *(volatile uint32_t *)(uintptr_t)IO_APIC = index;
    *(volatile uint32_t *)(uintptr_t)(IO_APIC + 0x10) = value;
}

void guest_main(struct guest_start_info *info)
{
    (void)info;
    interrupts_on();
    io_apic_write(IO_APIC_LINE_4 + 1, 0);
    io_apic_write(IO_APIC_LINE_4, INTERRUPT_VECTOR);
    port_write8(SERIAL + 4, 0x0b); /* OUT2: interrupts reach the line */
    port_write8(SERIAL + 1, 1);
    print("ready\n");
    for (;;) {
        __asm__ volatile("hlt");
    }
}
