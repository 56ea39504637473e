/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processors: the first writes to its memory as fast as it can (or at a set rate) and
 * checks what it wrote before, the second only counts. So it shows whether a guest that
 * is slowed down for its writes is slowed down where it writes.
 *
 * Arguments: hot=MIB that are written again and again, rate=PAGES a second (0: as fast as
 * it goes), khz=TSC_KHZ. Prints "ready", then each 50 ms, by the second processor, in the
 * words of checker.c: beat N writes W checked C errors E gap_us 0 late_us L; W are the
 * first one's writes, C is how far the second has counted, in thousands.
 */
#include "guest.h"

#define PAGE_SIZE 4096u
#define MIB_PAGES 256u
#define HOT_START 0x1000000u
#define COUNTS    1000u

static volatile uint32_t writes;
static volatile uint32_t errors;
static uint32_t khz;

static void print_field(const char *name, uint64_t value)
{
    print(name);
    print_number(value);
}

static void page_write(uint32_t page, uint32_t pass)
{
    volatile uint32_t *words =
        (volatile uint32_t *)(uintptr_t)(HOT_START + page * PAGE_SIZE);
    if (words[0] != pass - 1 || words[PAGE_SIZE / 4 - 1] != (pass - 1) * 3) {
        errors++;
    }
    words[0] = pass;
    words[PAGE_SIZE / 4 - 1] = pass * 3;
    writes++;
}

/* The second processor. */
void guest_ap(void)
{
    uint64_t tick = (uint64_t)khz * 50;
    uint64_t next = tsc_read() + tick;
    uint32_t beats = 0;
    uint32_t counted = 0;
    for (;;) {
        for (volatile uint32_t i = 0; i < COUNTS; i++) {
        }
        counted++;
        uint64_t now = tsc_read();
        if (now >= next) {
            print_field("beat ", ++beats);
            print_field(" writes ", writes);
            print_field(" checked ", counted);
            print_field(" errors ", errors);
            print_field(" gap_us ", 0);
            print_field(" late_us ", (now - next) * 1000 / khz);
            print("\n");
            next = now + tick;
        }
    }
}

void guest_main(struct guest_start_info *info)
{
    uint32_t hot = (uint32_t)argument_number(info, "hot", 16) * MIB_PAGES;
    uint64_t rate = argument_number(info, "rate", 0);
    khz = (uint32_t)argument_number(info, "khz", 2000000);
    if (HOT_START + (uint64_t)hot * PAGE_SIZE > memory_end(info) || hot == 0) {
        print("does not fit\n");
        power_off();
    }
    for (uint32_t page = 0; page < hot; page++) {
        page_write(page, 1);
    }
    errors = 0; /* memory was not zero before: not our affair */
    print("ready\n");
    processor_start(1);
    uint64_t per_page = rate == 0 ? 0 : (uint64_t)khz * 1000 / rate;
    uint64_t next = tsc_read();
    for (uint32_t pass = 2;; pass++) {
        for (uint32_t page = 0; page < hot; page++) {
            while (rate != 0 && tsc_read() < next) {
                __asm__ volatile("pause");
            }
            next += per_page;
            page_write(page, pass);
        }
    }
}
