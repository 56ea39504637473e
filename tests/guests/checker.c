/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to its memory at a set rate, checks every page for lost writes, and tells how
 * long it stood: each line has the longest time between two looks at the TSC, which is
 * what a guest sees of a pause.
 *
 * Arguments: used=MIB that hold something, hot=MIB of them that are written again and
 * again (0: none), rate=PAGES a second (0: as fast as it goes), khz=TSC_KHZ, rest=1 (it
 * halts where it has nothing to write, and looks again each 10 ms), zeros=0 (no page is made
 * all zeros, which takes much longer where instructions are emulated). Prints
 * "ready", then each 100 ms: beat N writes W checked C errors E gap_us G late_us L
 */
#include "guest.h"

#define PAGE_SIZE  4096u
#define PAGE_WORDS 1024u
#define MIB_PAGES  256u
#define USED_START 0x1000000u /* pages that are used: from 16 MiB on */
#define TABLE      0x800000u  /* generation of each: from 8 MiB on */

static void print_field(const char *name, uint64_t value)
{
    print(name);
    print_number(value);
}

void guest_interrupt(void)
{
    apic_end_of_interrupt();
}

/* ---- pages ------------------------------------------------------------------------- */

static volatile uint32_t *page_at(uint32_t page)
{
    return (volatile uint32_t *)(uintptr_t)(USED_START + page * PAGE_SIZE);
}

static volatile uint32_t *generation(uint32_t page)
{
    return (volatile uint32_t *)(uintptr_t)(TABLE + page * 4);
}

static bool zeros = true;

/* Every eighth generation of a page is all zeros. */
static bool is_zero(uint32_t value)
{
    return zeros && value % 8 == 7;
}

static void page_write(uint32_t page)
{
    volatile uint32_t *words = page_at(page);
    uint32_t value = ++*generation(page);
    if (is_zero(value)) {
        uint32_t count = PAGE_WORDS;
        volatile uint32_t *at = words;
        __asm__ volatile("rep stosl" : "+D"(at), "+c"(count) : "a"(0) : "memory");
        return;
    }
    words[0] = value ^ page << 12;
    words[1] = 0x64727672u; /* never all zero */
    words[PAGE_WORDS / 2] = value + page;
    words[PAGE_WORDS - 1] = ~value;
}

static uint32_t page_wrong(uint32_t page)
{
    volatile uint32_t *words = page_at(page);
    uint32_t value = *generation(page);
    if (is_zero(value)) {
        return (words[0] | words[1] | words[PAGE_WORDS / 2] | words[PAGE_WORDS - 1]) != 0;
    }
    return words[0] != (value ^ page << 12) || words[1] != 0x64727672u ||
           words[PAGE_WORDS / 2] != value + page || words[PAGE_WORDS - 1] != ~value;
}

struct progress {
    uint32_t beats, writes, checked, errors;
    uint64_t longest, last_look;
};

static uint64_t look(struct progress *progress)
{
    uint64_t now = tsc_read();
    if (progress->last_look != 0 && now - progress->last_look > progress->longest) {
        progress->longest = now - progress->last_look;
    }
    progress->last_look = now;
    return now;
}

static void beat(struct progress *progress, uint32_t khz, uint64_t late)
{
    print_field("beat ", ++progress->beats);
    print_field(" writes ", progress->writes);
    print_field(" checked ", progress->checked);
    print_field(" errors ", progress->errors);
    print_field(" gap_us ", progress->longest * 1000 / khz);
    print_field(" late_us ", late * 1000 / khz);
    print("\n");
    progress->longest = 0;
    progress->last_look = tsc_read(); /* the time for printing is no gap */
}

static void check(struct progress *progress, uint32_t page)
{
    progress->checked++;
    if (page_wrong(page)) {
        if (progress->errors++ < 5) {
            print_field("LOST page ", page);
            print_field(" generation ", *generation(page));
            print_field(" has ", page_at(page)[0]);
            print("\n");
        }
    }
}

static void run(uint32_t used, uint32_t hot, uint32_t rate, uint32_t khz, bool rest)
{
    struct progress progress = {0};
    uint64_t tick = (uint64_t)khz * 100; /* 100 ms */
    uint64_t per_page = rate == 0 ? 0 : (uint64_t)khz * 1000 / rate;
    uint64_t next_beat = tsc_read() + tick;
    uint64_t next_write = tsc_read();
    uint32_t cold = 0, page = 0;
    for (;;) {
        uint64_t now = look(&progress);
        if (now >= next_beat) {
            beat(&progress, khz, now - next_beat);
            next_beat = now + tick;
        }
        if (hot == 0 || (rate != 0 && now < next_write)) {
            if (rest) {
                __asm__ volatile("hlt");
            } else {
                __asm__ volatile("pause");
            }
            if (hot == 0) {
                check(&progress, cold);
                cold = cold + 1 == used ? 0 : cold + 1;
            }
            continue;
        }
        /* After a pause it goes on at its rate, and does not catch up. */
        next_write = now > next_write + tick ? now : next_write + per_page;
        check(&progress, page);
        page_write(page);
        check(&progress, cold);
        progress.writes++;
        page = page + 1 == hot ? 0 : page + 1;
        cold = cold + 1 == used ? 0 : cold + 1;
    }
}

void guest_main(struct guest_start_info *info)
{
    uint32_t used = (uint32_t)argument_number(info, "used", 16) * MIB_PAGES;
    uint32_t hot = (uint32_t)argument_number(info, "hot", 4) * MIB_PAGES;
    uint32_t khz = (uint32_t)argument_number(info, "khz", 2000000);
    if (USED_START + (uint64_t)used * PAGE_SIZE > memory_end(info) || hot > used) {
        print("does not fit\n");
        power_off();
    }
    zeros = argument_number(info, "zeros", 1) != 0;
    for (uint32_t page = 0; page < used; page++) {
        *generation(page) = 0;
        page_write(page);
    }
    print("ready\n");
    bool rest = argument_number(info, "rest", 0) != 0;
    if (rest) {
        interrupts_each_ms(10);
    }
    run(used, hot, (uint32_t)argument_number(info, "rate", 0), khz, rest);
}
