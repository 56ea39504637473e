/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware: PM1 event and control registers, power button, S5, PM timer
 * (ACPI 6.3 section 4.8). */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define PORTS         12 /* event, control, timer */
#define REG_STATUS    0
#define REG_ENABLE    2
#define REG_CONTROL   4
#define REG_TIMER     8
#define STATUS_BUTTON 0x0100
#define STATUS_MASK   0x8731 /* those that exist; all are cleared by writing ones */
#define ENABLE_MASK   0x0721
#define CONTROL_SCI   0x0001
#define CONTROL_SLEEP 0x2000
#define CONTROL_TYPE  10 /* bits 10 to 12 */
#define CONTROL_KEPT  0x1c07
#define TIMER_HZ      UINT64_C(3579545)

struct acpi_power {
    struct device device;
    struct vm *vm;
    pthread_mutex_t lock; /* of all below */
    uint16_t status;
    uint16_t enable;
    uint16_t control;
    bool line;
    uint64_t timer_base_ns; /* when the timer stood at zero */
};

static void lock(struct acpi_power *power)
{
    CHECK(pthread_mutex_lock(&power->lock) == 0);
}

static void unlock(struct acpi_power *power)
{
    CHECK(pthread_mutex_unlock(&power->lock) == 0);
}

static void line_update(struct acpi_power *power)
{
    bool line = (power->status & power->enable) != 0;
    if (line != power->line) {
        power->line = line;
        vm_irq_set(power->vm, LAYOUT_IRQ_SCI, line);
    }
}

static uint32_t timer_value(const struct acpi_power *power)
{
    uint64_t ns = clock_now_ns() - power->timer_base_ns;
    return (uint32_t)(ns / NS_PER_S * TIMER_HZ + ns % NS_PER_S * TIMER_HZ / NS_PER_S);
}

/* The registers as 12 bytes. */
static void registers_read(struct acpi_power *power, uint8_t image[PORTS])
{
    uint16_t control = power->control | CONTROL_SCI;
    uint32_t timer = timer_value(power);
    memset(image, 0, PORTS);
    memcpy(image + REG_STATUS, &power->status, 2);
    memcpy(image + REG_ENABLE, &power->enable, 2);
    memcpy(image + REG_CONTROL, &control, 2);
    memcpy(image + REG_TIMER, &timer, 4);
}

static void power_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct acpi_power *power = owner;
    uint8_t image[PORTS];
    lock(power);
    registers_read(power, image);
    unlock(power);
    CHECK(offset + size <= PORTS);
    memcpy(data, image + offset, size);
}

/* Under lock; whole 16-bit registers, of which `mask` tells the bytes that were written.
 * True: switch off. */
static bool register_write(struct acpi_power *power, unsigned reg, uint16_t value,
                           uint16_t mask)
{
    switch (reg) {
    case REG_STATUS:
        power->status &= (uint16_t) ~(value & mask & STATUS_MASK);
        return false;
    case REG_ENABLE:
        power->enable =
            (uint16_t)((power->enable & ~mask) | (value & mask & ENABLE_MASK));
        return false;
    case REG_CONTROL:
        power->control =
            (uint16_t)((power->control & ~mask) | (value & mask & CONTROL_KEPT));
        return (value & mask & CONTROL_SLEEP) != 0 &&
               (power->control >> CONTROL_TYPE & 7) == ACPI_SLEEP_TYPE_S5;
    default:
        return false; /* the timer is read only */
    }
}

static void power_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct acpi_power *power = owner;
    bool off = false;
    lock(power);
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)offset + i;
        unsigned shift = at % 2 * 8;
        bool pair = shift == 0 && i + 1 < size;
        uint16_t value = (uint16_t)(data[i] << shift | (pair ? data[i + 1] << 8 : 0));
        uint16_t mask = pair ? 0xffff : (uint16_t)(0xff << shift);
        off = register_write(power, at & ~1u, value, mask) || off;
        i += pair ? 1 : 0;
    }
    line_update(power);
    unlock(power);
    if (off) {
        vm_request_power_off(power->vm, "the guest powered off");
    }
}

void acpi_power_button(struct acpi_power *power)
{
    lock(power);
    power->status |= STATUS_BUTTON;
    line_update(power);
    unlock(power);
}

static void power_reset(struct device *device)
{
    struct acpi_power *power = (struct acpi_power *)device;
    lock(power);
    power->status = 0;
    power->enable = 0;
    power->control = 0;
    line_update(power);
    unlock(power);
}

static int power_save(struct device *device, struct buffer *out)
{
    struct acpi_power *power = (struct acpi_power *)device;
    Drover__AcpiPowerState state = DROVER__ACPI_POWER_STATE__INIT;
    lock(power);
    state.status = power->status;
    state.enable = power->enable;
    state.control = power->control;
    state.timer_ns = clock_now_ns() - power->timer_base_ns;
    unlock(power);
    return state_pack(&state.base, out);
}

static int power_load(struct device *device, uint32_t version, const uint8_t *payload,
                      size_t size, struct error *err)
{
    struct acpi_power *power = (struct acpi_power *)device;
    (void)version; /* 1 is the first */
    Drover__AcpiPowerState *state = drover__acpi_power_state__unpack(NULL, size, payload);
    if (state == NULL) {
        return error_set(err, DROVER_EMALFORMED,
                         "the saved power management is malformed");
    }
    lock(power);
    power->status = state->status & STATUS_MASK;
    power->enable = state->enable & ENABLE_MASK;
    power->control = state->control & CONTROL_KEPT;
    power->timer_base_ns = clock_now_ns() - state->timer_ns;
    line_update(power);
    unlock(power);
    drover__acpi_power_state__free_unpacked(state, NULL);
    return 0;
}

static void power_free(struct device *device)
{
    struct acpi_power *power = (struct acpi_power *)device;
    bus_remove(vm_port_bus(power->vm), LAYOUT_PORT_ACPI_EVENT);
    vm_power_device_set(power->vm, NULL);
    (void)pthread_mutex_destroy(&power->lock); /* nobody uses it any more */
    free(power);
}

static const struct bus_ops power_bus_ops = {.read = power_read, .write = power_write};

static const struct device_ops power_device_ops = {
    .name = "acpi-power",
    .version = 1,
    .save = power_save,
    .load = power_load,
    .reset = power_reset,
    .free = power_free,
};

int acpi_power_create(struct vm *vm, struct acpi_power **ret_power, struct error *err)
{
    struct acpi_power *power = calloc(1, sizeof(*power));
    if (power == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    power->device.ops = &power_device_ops;
    power->vm = vm;
    power->timer_base_ns = clock_now_ns();
    int result =
        bus_add(vm_port_bus(vm), LAYOUT_PORT_ACPI_EVENT, PORTS, &power_bus_ops, power);
    if (result < 0) {
        free(power);
        return error_set(err, result, "cannot add power management: %s",
                         err_text(result));
    }
    CHECK(pthread_mutex_init(&power->lock, NULL) == 0);
    vm_power_device_set(vm, power);
    vm_device_add(vm, &power->device);
    *ret_power = power;
    return 0;
}
