/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by acpi.c, acpi_dsdt.c and acpi_loader.c only. */
#ifndef DROVER_VMM_BOOT_ACPI_INTERNAL_H
#define DROVER_VMM_BOOT_ACPI_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#define ACPI_HEADER_SIZE     36
#define ACPI_HEADER_CHECKSUM 9
#define ACPI_FADT_SIZE       268
#define ACPI_FADT_FACS       36 /* 4 bytes each */
#define ACPI_FADT_DSDT       40
#define ACPI_FADT_X_FACS     132 /* 8 bytes each */
#define ACPI_FADT_X_DSDT     140

void acpi_header_set(uint8_t *table, const char *signature, unsigned revision);
uint8_t acpi_checksum(const uint8_t *data, size_t size);
/* Fills in length and checksum. */
void acpi_table_seal(uint8_t *table, size_t size);

static inline void acpi_set(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

#endif
