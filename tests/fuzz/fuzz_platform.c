/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the fixed devices of the machine (serial port, clock, power management, reset
 * line, PCI host) as a guest reaches them: ports and memory, mixed with typing, the power
 * button, save and load, reset. With a first byte of 0xff the rest is the saved section
 * of a device, as a hostile peer sends it. What must hold: no crash, and that what is
 * saved can be loaded.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_state.h"
#include "tests/unit/fake_vm.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/devices/panic.h"
#include "vmm/devices/platform.h"
#include "vmm/devices/serial.h"
#include "vmm/layout.h"

#define ORDERS_MAX     400
#define MEMORY_BYTES   (16u << 20)
#define PANIC_POLICIES 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
    struct vm *vm;
    struct serial *serial;
    struct acpi_power *power;
    struct fuzz_state state;
};

/* ---- of vmm/vm.h, what fake_vm.c has not ---- */

static struct acpi_power *power_device;

void vm_irq_set(struct vm *vm, unsigned irq, bool level)
{
    CHECK(vm != NULL && irq < 24);
    (void)level;
}

void vm_request_power_off(struct vm *vm, const char *reason)
{
    CHECK(vm != NULL && reason != NULL);
}

void vm_power_device_set(struct vm *vm, struct acpi_power *power)
{
    CHECK(vm != NULL);
    power_device = power;
}

/* ---- the machine ---- */

static void output(void *owner, const uint8_t *data, size_t size)
{
    CHECK(owner != NULL && data != NULL && size == 1);
}

static struct machine machines[PANIC_POLICIES];
static bool ends; /* end() will be called */

static void end(void)
{
    for (unsigned i = 0; i < PANIC_POLICIES; i++) {
        if (machines[i].vm != NULL) {
            fake_vm_free(machines[i].vm);
            fuzz_state_done(&machines[i].state);
        }
    }
}

/* One for each of what a guest's crash can lead to. */
static struct machine *machine_fresh(enum panic_policy policy)
{
    struct machine *machine = &machines[policy];

    if (machine->vm == NULL) {
        CHECK(ends || atexit(end) == 0);
        ends = true;
        machine->vm = fake_vm_create(MEMORY_BYTES);
        machine->vm->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        const struct serial_config serial = {.output = output, .owner = machine};
        CHECK(serial_create(machine->vm, &serial, &machine->serial, NULL) == 0);
        CHECK(platform_create(machine->vm, NULL) == 0);
        CHECK(panic_create(machine->vm, policy, NULL) == 0);
        machine->power = power_device;
        fuzz_state_keep(&machine->state, machine->vm);
    }
    for (struct device *device = vm_devices(machine->vm); device != NULL;
         device = device->next) {
        if (device->ops->reset != NULL) {
            device->ops->reset(device);
        }
    }
    fuzz_state_restore(&machine->state);
    return machine;
}

static struct device *device_at(struct machine *machine, unsigned index)
{
    unsigned count = 0;

    for (struct device *device = machine->vm->devices; device != NULL;
         device = device->next) {
        count++;
    }
    struct device *device = machine->vm->devices;
    for (index %= count; index > 0; index--) {
        device = device->next;
    }
    return device;
}

/* The ports where something is, and now and then any other. */
static uint16_t take_port(struct input *input)
{
    static const uint16_t ports[] = {
        LAYOUT_PORT_COM1,       LAYOUT_PORT_COM1 + 4,  LAYOUT_PORT_RTC,
        LAYOUT_PORT_RTC + 1,    LAYOUT_PORT_I8042,     LAYOUT_PORT_I8042_DATA,
        LAYOUT_PORT_ACPI_EVENT, LAYOUT_PORT_ACPI_CTRL, LAYOUT_PORT_PM_TIMER,
        LAYOUT_PORT_PCI,        LAYOUT_PORT_PCI + 4,   LAYOUT_PORT_RESET,
    };
    static const uint16_t more[] = {
        LAYOUT_PORT_A20,        LAYOUT_PORT_APM,
        LAYOUT_PORT_APM + 1,    LAYOUT_PORT_PM_TIMER + 4,
        LAYOUT_PORT_PM_END - 8, LAYOUT_PORT_RESET + 2,
        LAYOUT_PORT_PCI + 6,    LAYOUT_PORT_ACPI_EVENT + 0x30};
    uint8_t choice = (uint8_t)take(input, 1);

    if (choice >= 0xe0 && choice < 0xe8) {
        return more[choice - 0xe0];
    }
    if (choice >= 0xe8 && choice < 0xf0) {
        return PANIC_PORT;
    }
    if (choice >= 0xf0) {
        return (uint16_t)take(input, 2);
    }
    return (uint16_t)(ports[choice % (sizeof(ports) / sizeof(ports[0]))] + choice / 60);
}

static void access(struct bus *bus, uint64_t address, struct input *input)
{
    uint8_t kind = (uint8_t)take(input, 1);
    unsigned size = 1u << (kind & 3);
    uint8_t data[8] = {0};

    if ((kind & 4) != 0) {
        uint32_t value = take(input, size > 4 ? 4 : size);
        memcpy(data, &value, sizeof(value));
        bus_write(bus, address, data, size);
    } else {
        bus_read(bus, address, data, size);
    }
}

static void save_and_load(struct device *device)
{
    struct buffer saved;

    if (device->ops->save == NULL) {
        return;
    }
    buffer_init(&saved, 0);
    CHECK(device->ops->save(device, &saved) == 0);
    CHECK(device->ops->load(device, device->ops->version, saved.data, saved.size, NULL) ==
          0); /* what we save we can load */
    buffer_done(&saved);
}

static void order_run(struct machine *machine, struct input *input)
{
    uint8_t order = (uint8_t)take(input, 1);
    uint8_t typed[16];
    struct panic_status panicked;

    switch (order % 8) {
    case 0:
    case 1:
    case 2:
    case 3:
        access(machine->vm->ports, take_port(input), input);
        break;
    case 4:
        access(machine->vm->memory,
               (order & 0x80) != 0 ? (uint64_t)take(input, 4)
                                   : LAYOUT_ECAM_START + take(input, 2) * 4,
               input);
        break;
    case 5:
        for (unsigned i = 0; i < sizeof(typed); i++) {
            typed[i] = (uint8_t)take(input, 1);
        }
        (void)serial_input(machine->serial, typed, typed[0] % sizeof(typed));
        break;
    case 6:
        acpi_power_button(machine->power);
        panic_status(machine->vm, &panicked);
        break;
    default:
        save_and_load(device_at(machine, take(input, 1)));
        break;
    }
}

static void load(struct machine *machine, struct input *input)
{
    struct device *device = device_at(machine, take(input, 1));
    struct error err = {0};

    if (device->ops->load == NULL) {
        return;
    }
    int rv =
        device->ops->load(device, device->ops->version, input->data, input->size, &err);
    if (rv < 0) {
        CHECK(err.text[0] != '\0'); /* a line for people */
        return;
    }
    save_and_load(device);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {.data = data, .size = size};
    struct machine *machine =
        machine_fresh(size > 0 ? data[size - 1] % PANIC_POLICIES : 0);

    if (size > 0 && data[0] == 0xff) {
        (void)take(&input, 1);
        load(machine, &input);
    }
    for (unsigned i = 0; i < ORDERS_MAX && input.size > 0; i++) {
        order_run(machine, &input);
    }
    return 0;
}
