/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resets the machine in each of the three ways, one life after the other (CMOS memory
 * counts them), and powers off in the fourth. Each life checks that its own data came
 * back as they were in the file.
 */
#include "guest.h"

#define CMOS_LIFE 0x40

static volatile uint32_t data = 0x12345678;

static void triple_fault(void)
{
    static const struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } nothing = {0, 0};
    __asm__ volatile("lidt %0; ud2" : : "m"(nothing));
}

void guest_main(struct guest_start_info *info)
{
    (void)info;
    uint8_t life = cmos_read(CMOS_LIFE);
    cmos_write(CMOS_LIFE, (uint8_t)(life + 1));
    print("life ");
    print_number(life);
    print(data == 0x12345678 ? " fresh\n" : " STALE\n");
    data = 0;
    switch (life) {
    case 0:
        port_write8(0x64, 0xfe);
        break;
    case 1:
        port_write8(0xcf9, 0x06);
        break;
    case 2:
        triple_fault();
        break;
    default:
        power_off();
    }
    for (;;) {
        __asm__ volatile("hlt");
    }
}
