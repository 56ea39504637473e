/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crashes like a kernel that has a driver of the panic device: tells "life N" (N lives
 * before this one, by CMOS memory), writes to the port, and tells "survived" if it runs
 * on; then powers off, or with "beat" goes on telling "beat" for ever. From life "lives"
 * (2) on it does not crash but tells "well", and powers off. "loaded": a crash kernel
 * takes over; it resets.
 */
#include "guest.h"

#define PORT_PANIC 0x505
#define PORT_RESET 0xcf9
#define CMOS_LIVES 0x50

static void pause_ms(unsigned ms)
{
    uint32_t start = timer_ticks();
    while (timer_ticks() - start < ms * TIMER_TICKS_PER_MS) {
    }
}

void guest_main(struct guest_start_info *info)
{
    uint8_t lives = cmos_read(CMOS_LIVES);
    cmos_write(CMOS_LIVES, (uint8_t)(lives + 1));
    print("life ");
    print_number(lives);
    print("\n");
    if (port_read8(PORT_PANIC) != 3) {
        print("FAILED: no panic device\n");
        power_off();
    }
    if (lives >= argument_number(info, "lives", 2)) {
        print("well\n");
        power_off();
    }
    if (argument_given(info, "loaded")) {
        port_write8(PORT_PANIC, 2);
        print("saving the dump\n");
        port_write8(PORT_RESET, 6);
    }
    port_write8(PORT_PANIC, 1);
    print("survived\n");
    while (argument_given(info, "beat")) {
        print("beat\n");
        pause_ms(20);
    }
    power_off();
}
