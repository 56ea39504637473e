/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small fixed devices of a PC: clock (rtc.c), ACPI power management (acpi_power.c),
 * and the keyboard controller's reset line (i8042.c). Each adds itself to the VM, which
 * owns it.
 */
#ifndef DROVER_VMM_DEVICES_PLATFORM_H
#define DROVER_VMM_DEVICES_PLATFORM_H

struct acpi_power;
struct error;
struct vm;

/* Value of SLP_TYPa that switches the machine off; \_S5 names it, acpi_power.c obeys it.
 */
#define ACPI_SLEEP_TYPE_S5 5

int chipset_create(struct vm *vm, struct error *err);
int rtc_create(struct vm *vm, struct error *err);
int i8042_create(struct vm *vm, struct error *err);
int acpi_power_create(struct vm *vm, struct acpi_power **ret_power, struct error *err);
/* Any thread. */
void acpi_power_button(struct acpi_power *power);

/* All that the VM's machine has, in their fixed order. */
int platform_create(struct vm *vm, struct error *err);

#endif
