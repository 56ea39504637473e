/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ACPI tables of the machine: RSDP, RSDT, XSDT, FADT with FACS and DSDT, MADT, MCFG
 * (ACPI 6.3). A kernel that is booted directly finds them in memory; firmware gets them
 * as files, with a script that tells how to join them (acpi_loader.c).
 */
#ifndef DROVER_VMM_BOOT_ACPI_H
#define DROVER_VMM_BOOT_ACPI_H

#include <stdint.h>

struct buffer;
struct guest_ram;

#define ACPI_RSDP_SIZE 36
#define ACPI_LISTED    3 /* tables that RSDT and XSDT list */

struct acpi_machine {
    unsigned cpu_count;
    unsigned machine; /* machine.h */
    uint64_t ecam;
    uint64_t window64_start; /* for 64-bit BARs */
    uint64_t window64_end;   /* exclusive */
};

struct acpi_places {
    uint64_t facs, dsdt, fadt, rsdt, xsdt;
    uint64_t listed[ACPI_LISTED]; /* the FADT is the first */
};

/* `ecam` 0: firmware has not set it up. */
void acpi_machine_describe(struct guest_ram *ram, unsigned cpu_count, unsigned machine,
                           uint64_t ecam, struct acpi_machine *ret_machine);
/* Into guest memory. 0, -ENOMEM or -ENOSPC (more processors than the tables' place
 * holds). */
int acpi_tables_write(const struct acpi_machine *machine, struct guest_ram *ram);
/* Into `out`, which is empty, for tables that will stand at `base`. Their size depends on
 * the number of processors only. */
int acpi_tables_make(const struct acpi_machine *machine, uint64_t base,
                     struct buffer *out, struct acpi_places *ret_places);
void acpi_rsdp_make(const struct acpi_places *places, uint8_t ret_rsdp[ACPI_RSDP_SIZE]);
/* The DSDT with its header, for tests. */
int acpi_dsdt_make(const struct acpi_machine *machine, struct buffer *out);

#define ACPI_FILE_TABLES "etc/acpi/tables"
#define ACPI_FILE_RSDP   "etc/acpi/rsdp"
#define ACPI_FILE_LOADER "etc/table-loader"

/*
 * Tables and RSDP as firmware wants them: made for base 0, without the checksums that it
 * fills in itself.
 */
int acpi_files_make(const struct acpi_machine *machine, struct buffer *out,
                    uint8_t ret_rsdp[ACPI_RSDP_SIZE], struct acpi_places *ret_places);
/* The script that has firmware place these. */
int acpi_loader_make(const struct acpi_places *places, struct buffer *out);

#endif
