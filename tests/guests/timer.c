/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A periodic APIC timer on the first processor, counted by interrupt; a second processor
 * (if "cpus" says so) that counts by itself. Prints "tick N ms M ap A" about each 100 ms:
 * M is the PM timer's time, which must go on evenly over pauses and moves. "ticks" says
 * after how many it powers off (0: never). A TSC that goes backwards is told.
 */
#include "guest.h"

#define TICKS_MS 10

static volatile uint64_t interrupts;
static volatile uint64_t ap_count;

void guest_interrupt(void)
{
    interrupts++;
    apic_end_of_interrupt();
}

void guest_ap(void)
{
    for (;;) {
        ap_count++;
        __asm__ volatile("pause");
    }
}

static void line_print(uint64_t line, uint64_t ms)
{
    print("tick ");
    print_number(line);
    print(" ms ");
    print_number(ms);
    print(" ap ");
    print_number(ap_count);
    print("\n");
}

void guest_main(struct guest_start_info *info)
{
    uint64_t last = argument_number(info, "ticks", 0);
    if (argument_number(info, "cpus", 1) > 1) {
        processor_start(1);
    }
    interrupts_each_ms(TICKS_MS);
    uint32_t before = timer_ticks();
    uint64_t ticks = 0;
    uint64_t tsc = tsc_read();
    for (uint64_t line = 1; last == 0 || line <= last; line++) {
        uint64_t until = interrupts + 100 / TICKS_MS;
        while (interrupts < until) {
            __asm__ volatile("hlt");
            if (tsc_read() < tsc) {
                print("TSC WENT BACK\n");
            }
            tsc = tsc_read();
        }
        uint32_t now = timer_ticks();
        ticks += (uint32_t)(now - before);
        before = now;
        line_print(line, ticks / TIMER_TICKS_PER_MS);
    }
    power_off();
}
