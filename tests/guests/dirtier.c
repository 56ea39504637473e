/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dirties memory at a set rate, and checks on each pass that no write was lost.
 * Arguments: "mib" of memory in use (default 16), "rate" pages a second (0: as fast as it
 * goes), "fill" MiB more that are filled once with a pattern and checked from time to
 * time. Prints "pass N" after each, and "LOST page P" if one does not hold what was
 * written last: then it stops.
 */
#include "guest.h"

#define MIB        (UINT64_C(1) << 20)
#define PAGE       UINT64_C(4096)
#define AREA       (UINT64_C(16) * MIB)
#define BATCH      64
#define FILL_CHECK 16 /* passes */

static volatile uint64_t *page_at(uint64_t index)
{
    return (volatile uint64_t *)(uintptr_t)(AREA + index * PAGE);
}

static void lost(const char *what, uint64_t page)
{
    for (;;) {
        print("LOST ");
        print(what);
        print(" page ");
        print_number(page);
        print("\n");
        uint32_t start = timer_ticks();
        while (timer_ticks() - start < 1000 * TIMER_TICKS_PER_MS) {
        }
    }
}

/* First and last word of each page, so that half a page would be noticed too. */
static void page_write(uint64_t index, uint64_t pass)
{
    volatile uint64_t *page = page_at(index);
    if (page[0] != pass - 1 || page[PAGE / 8 - 1] != pass - 1) {
        lost("hot", index);
    }
    page[0] = pass;
    page[PAGE / 8 - 1] = pass;
}

static uint64_t pattern(uint64_t page)
{
    return page * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

static void fill_check(uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        if (*page_at(i) != pattern(i)) {
            lost("cold", i);
        }
    }
}

/* Waits so that `done` pages took at least done / rate seconds. */
static void rate_keep(uint64_t rate, uint64_t *done, uint32_t *since)
{
    if (rate == 0) {
        return;
    }
    while ((uint64_t)(timer_ticks() - *since) * rate <
           *done * UINT64_C(1000) * TIMER_TICKS_PER_MS) {
        __asm__ volatile("pause");
    }
    *since = timer_ticks();
    *done = 0;
}

void guest_main(struct guest_start_info *info)
{
    uint64_t pages = argument_number(info, "mib", 16) * MIB / PAGE;
    uint64_t rate = argument_number(info, "rate", 0);
    uint64_t filled = argument_number(info, "fill", 0) * MIB / PAGE;
    if (AREA + (pages + filled) * PAGE > memory_end(info)) {
        print("does not fit\n");
        power_off();
    }
    for (uint64_t i = 0; i < pages; i++) {
        page_at(i)[0] = 0;
        page_at(i)[PAGE / 8 - 1] = 0;
    }
    for (uint64_t i = pages; i < pages + filled; i++) {
        *page_at(i) = pattern(i);
    }
    print("ready\n");
    uint64_t done = 0;
    uint32_t since = timer_ticks();
    for (uint64_t pass = 1;; pass++) {
        for (uint64_t i = 0; i < pages; i++) {
            page_write(i, pass);
            if (++done % BATCH == 0) {
                rate_keep(rate, &done, &since);
            }
        }
        if (pass % FILL_CHECK == 1) {
            fill_check(pages, filled);
        }
        print("pass ");
        print_number(pass);
        print("\n");
    }
}
