/* SPDX-License-Identifier: Apache-2.0 */
/* The SMBIOS tables of the machine (SMBIOS 2.8): who made it, its UUID, its processor and
 * memory. */
#ifndef DROVER_VMM_FIRMWARE_SMBIOS_H
#define DROVER_VMM_FIRMWARE_SMBIOS_H

#include <stdint.h>

struct buffer;

#define SMBIOS_ANCHOR_SIZE 31

struct smbios_machine {
    uint8_t uuid[16];
    unsigned cpu_count;
    uint64_t memory_bytes;
};

/* The structures into `out`, which is empty, and the anchor that tells of them; they will
 * stand at `address`. */
int smbios_make(const struct smbios_machine *machine, uint32_t address,
                struct buffer *out, uint8_t ret_anchor[SMBIOS_ANCHOR_SIZE]);

#endif
