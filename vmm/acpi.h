/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ACPI tables of the machine: RSDP, XSDT, FADT with FACS and DSDT, MADT, MCFG
 * (ACPI 6.3). The DSDT's AML is put together by vmm/aml.h.
 */
#ifndef DROVER_VMM_ACPI_H
#define DROVER_VMM_ACPI_H

struct buffer;
struct guest_ram;

/* Value of SLP_TYPa that switches the machine off; \_S5 names it, acpi_power.c obeys it.
 */
#define ACPI_SLEEP_TYPE_S5 5

/* 0, -ENOMEM or -ENOSPC (more processors than the tables' place holds). */
int acpi_tables_write(struct guest_ram *ram, unsigned cpu_count);
/* The DSDT with its header, for tests. */
int acpi_dsdt_make(struct buffer *out);

#endif
