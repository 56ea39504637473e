/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Says hello, also by one repeated instruction (which must send all bytes to one port),
 * tells its memory, and powers off. With "wait" it stays instead, echoing what is typed.
 */
#include "guest.h"

static void repeated_print(const char *text, uint64_t size)
{
    __asm__ volatile("rep outsb" : "+S"(text), "+c"(size) : "d"(0x3f8) : "memory");
}

void guest_main(struct guest_start_info *info)
{
    static const char repeated[] = "hello by one instruction\n";
    print("hello\n");
    repeated_print(repeated, sizeof(repeated) - 1);
    print("memory ");
    print_number(memory_end(info));
    print("\n");
    if (!argument_given(info, "wait")) {
        power_off();
    }
    for (;;) {
        if ((port_read8(0x3fd) & 1) != 0) {
            port_write8(0x3f8, port_read8(0x3f8));
        }
    }
}
