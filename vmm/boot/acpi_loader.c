/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The script by which firmware joins the ACPI tables that it gets as files: entries of
 * 128 bytes, little endian, in the format that QEMU, SeaBIOS and OVMF share.
 *
 *   0  command, 4 bytes
 *   4  ALLOCATE      file (56), alignment (4), zone (1)
 *      ADD_POINTER   file to patch (56), file pointed to (56), offset (4), size (1)
 *      ADD_CHECKSUM  file (56), offset of the sum (4), start (4), length (4)
 *
 * A pointer's place holds the offset into the file pointed to.
 */
#include <string.h>

#include "base/buffer.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/acpi_internal.h"

#define ENTRY_SIZE           128
#define NAME_SIZE            56
#define COMMAND_ALLOCATE     1
#define COMMAND_ADD_POINTER  2
#define COMMAND_ADD_CHECKSUM 3
#define ZONE_HIGH            1
#define ZONE_BIOS            2 /* 0xE0000 to 1 MiB, where systems look for the RSDP */

#define RSDP_CHECKSUM     8 /* of the first RSDP_SIZE_1 bytes */
#define RSDP_SIZE_1       20
#define RSDP_RSDT         16
#define RSDP_XSDT         24
#define RSDP_CHECKSUM_ALL 32

static void name_set(uint8_t *at, const char *name)
{
    memcpy(at, name, strlen(name) + 1);
}

static int allocate(struct buffer *out, const char *file, unsigned alignment,
                    unsigned zone)
{
    uint8_t entry[ENTRY_SIZE] = {COMMAND_ALLOCATE};
    name_set(entry + 4, file);
    acpi_set(entry + 4 + NAME_SIZE, alignment, 4);
    entry[8 + NAME_SIZE] = (uint8_t)zone;
    return buffer_append(out, entry, sizeof(entry));
}

static int pointer_to_tables(struct buffer *out, const char *file, uint64_t offset,
                             unsigned bytes)
{
    uint8_t entry[ENTRY_SIZE] = {COMMAND_ADD_POINTER};
    name_set(entry + 4, file);
    name_set(entry + 4 + NAME_SIZE, ACPI_FILE_TABLES);
    acpi_set(entry + 4 + 2 * NAME_SIZE, offset, 4);
    entry[8 + 2 * NAME_SIZE] = (uint8_t)bytes;
    return buffer_append(out, entry, sizeof(entry));
}

static int checksum(struct buffer *out, const char *file, uint64_t at, uint64_t start,
                    uint64_t length)
{
    uint8_t entry[ENTRY_SIZE] = {COMMAND_ADD_CHECKSUM};
    name_set(entry + 4, file);
    acpi_set(entry + 4 + NAME_SIZE, at, 4);
    acpi_set(entry + 8 + NAME_SIZE, start, 4);
    acpi_set(entry + 12 + NAME_SIZE, length, 4);
    return buffer_append(out, entry, sizeof(entry));
}

static int table_checksum(struct buffer *out, uint64_t table, uint64_t length)
{
    return checksum(out, ACPI_FILE_TABLES, table + ACPI_HEADER_CHECKSUM, table, length);
}

static int root(struct buffer *out, uint64_t table, unsigned bytes)
{
    int result = 0;
    for (unsigned i = 0; result == 0 && i < ACPI_LISTED; i++) {
        result = pointer_to_tables(out, ACPI_FILE_TABLES,
                                   table + ACPI_HEADER_SIZE + (uint64_t)i * bytes, bytes);
    }
    return result < 0 ? result
                      : table_checksum(out, table,
                                       ACPI_HEADER_SIZE + (uint64_t)ACPI_LISTED * bytes);
}

static int fadt(struct buffer *out, uint64_t table)
{
    static const struct {
        unsigned offset;
        unsigned bytes;
    } pointers[] = {
        {ACPI_FADT_FACS, 4},
        {ACPI_FADT_DSDT, 4},
        {ACPI_FADT_X_FACS, 8},
        {ACPI_FADT_X_DSDT, 8},
    };
    int result = 0;
    for (unsigned i = 0; result == 0 && i < sizeof(pointers) / sizeof(pointers[0]); i++) {
        result = pointer_to_tables(out, ACPI_FILE_TABLES, table + pointers[i].offset,
                                   pointers[i].bytes);
    }
    return result < 0 ? result : table_checksum(out, table, ACPI_FADT_SIZE);
}

int acpi_files_make(const struct acpi_machine *machine, struct buffer *out,
                    uint8_t ret_rsdp[ACPI_RSDP_SIZE], struct acpi_places *ret_places)
{
    struct acpi_places places;
    int result = acpi_tables_make(machine, 0, out, &places);
    if (result < 0) {
        return result;
    }
    out->data[places.fadt + ACPI_HEADER_CHECKSUM] = 0;
    out->data[places.rsdt + ACPI_HEADER_CHECKSUM] = 0;
    out->data[places.xsdt + ACPI_HEADER_CHECKSUM] = 0;
    acpi_rsdp_make(&places, ret_rsdp);
    ret_rsdp[RSDP_CHECKSUM] = 0;
    ret_rsdp[RSDP_CHECKSUM_ALL] = 0;
    *ret_places = places;
    return 0;
}

int acpi_loader_make(const struct acpi_places *places, struct buffer *out)
{
    int result = allocate(out, ACPI_FILE_RSDP, 16, ZONE_BIOS);
    result = result < 0 ? result : allocate(out, ACPI_FILE_TABLES, 64, ZONE_HIGH);
    result = result < 0 ? result : fadt(out, places->fadt);
    result = result < 0 ? result : root(out, places->rsdt, 4);
    result = result < 0 ? result : root(out, places->xsdt, 8);
    result = result < 0 ? result : pointer_to_tables(out, ACPI_FILE_RSDP, RSDP_RSDT, 4);
    result = result < 0 ? result : pointer_to_tables(out, ACPI_FILE_RSDP, RSDP_XSDT, 8);
    result = result < 0 ? result : checksum(out, ACPI_FILE_RSDP, RSDP_CHECKSUM, 0, RSDP_SIZE_1);
    return result < 0
               ? result
               : checksum(out, ACPI_FILE_RSDP, RSDP_CHECKSUM_ALL, 0, ACPI_RSDP_SIZE);
}
