/* SPDX-License-Identifier: Apache-2.0 */
/* Of the keyboard controller, only its reset line: command 0xFE at port 0x64. There is no
 * keyboard. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"
#include "vmm/machine.h"
#include "vmm/vm.h"

#define COMMAND_RESET 0xfe
/* As where there is no such chip: OVMF waits seconds for any that seems to be one. */
#define STATUS_ABSENT 0xff

struct i8042 {
    struct device device;
    struct vm *vm;
};

static void i8042_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    (void)owner;
    (void)offset;
    memset(data, STATUS_ABSENT, size);
}

static void i8042_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct i8042 *i8042 = owner;
    (void)offset;
    (void)size;
    if (data[0] == COMMAND_RESET) {
        vm_request_reset(i8042->vm);
    }
}

static void i8042_free(struct device *device)
{
    struct i8042 *i8042 = (struct i8042 *)device;
    bus_remove(vm_port_bus(i8042->vm), LAYOUT_PORT_I8042);
    free(i8042);
}

static const struct bus_ops i8042_bus_ops = {.read = i8042_read, .write = i8042_write};

/* It has no state. */
static const struct device_ops i8042_device_ops = {
    .name = "i8042",
    .version = 1,
    .free = i8042_free,
};

int i8042_create(struct vm *vm, struct error *err)
{
    struct i8042 *i8042 = calloc(1, sizeof(*i8042));
    if (i8042 == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    i8042->device.ops = &i8042_device_ops;
    i8042->vm = vm;
    int result = bus_add(vm_port_bus(vm), LAYOUT_PORT_I8042, 1, &i8042_bus_ops, i8042);
    if (result < 0) {
        free(i8042);
        return error_set(err, result, "cannot add the reset port: %s", err_text(result));
    }
    vm_device_add(vm, &i8042->device);
    return 0;
}

int platform_create(struct vm *vm, struct error *err)
{
    struct acpi_power *power = NULL;
    int result = acpi_power_create(vm, &power, err);
    result = result < 0 ? result : rtc_create(vm, err);
    result = result < 0 ? result : i8042_create(vm, err);
    return result < 0 || !machine_has_chipset(vm_config(vm)->machine)
               ? result
               : chipset_create(vm, err);
}
