/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chipset's own: host bridge and LPC bridge (ICH9, 00:1f.0) as firmware and kernels
 * know them, A20 and reset by port 0x92, the APM ports, and the power management ports
 * behind those of acpi_power.c. There is no SMM: the register by which firmware would
 * turn it on says that this was done already.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/bus.h"
#include "vmm/bus/pci.h"
#include "vmm/device.h"
#include "vmm/devices/platform.h"
#include "vmm/layout.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define LPC_PLACE PCI_PLACE(31, 0)

/* Registers of the LPC bridge, as Intel's ICH9 has them. */
#define LPC_COMMAND      0x04
#define LPC_COMMAND_ON   0x7  /* ports, memory, bus master: OVMF wants to see them on */
#define LPC_PMBASE       0x40 /* power management ports: fixed here */
#define LPC_PMBASE_IO    0x1
#define LPC_ACPI_CNTL    0x44
#define LPC_ACPI_CNTL_ON 0x80
#define LPC_PIRQ_A       0x60 /* to D; E to H at 0x68: there is no INTx to route */
#define LPC_PIRQ_E       0x68
#define LPC_PIRQ_OFF     0x80808080u
#define LPC_PIRQ_MASK    0x8f8f8f8fu
#define LPC_RCBA         0xf0
#define LPC_RCBA_MASK    0xffffc001u

#define A20_PORT_GATE  0x02
#define A20_PORT_RESET 0x01

#define PM_PORTS_START  (LAYOUT_PORT_PM_TIMER + 4)
#define PM_SMI_EN       (LAYOUT_PORT_ACPI_EVENT + 0x30 - PM_PORTS_START)
#define PM_SMI_EN_VALUE 0x20 /* SMIs by the APM port: set up by firmware already */

struct chipset {
    struct device device;
    struct vm *vm;
    struct pci_function *bridge;
    struct pci_function *lpc;
    pthread_mutex_t lock; /* of all below */
    uint8_t a20;
    uint8_t apm[2];
};

static void lock(struct chipset *chipset)
{
    CHECK(pthread_mutex_lock(&chipset->lock) == 0);
}

static void unlock(struct chipset *chipset)
{
    CHECK(pthread_mutex_unlock(&chipset->lock) == 0);
}

/* The address line is always on: whoever wants it off finds that it can't be. */
static void a20_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct chipset *chipset = owner;
    (void)offset;
    memset(data, 0xff, size);
    lock(chipset);
    data[0] = chipset->a20;
    unlock(chipset);
}

static void a20_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct chipset *chipset = owner;
    (void)offset;
    (void)size;
    lock(chipset);
    chipset->a20 = (uint8_t)((data[0] & ~A20_PORT_RESET) | A20_PORT_GATE);
    unlock(chipset);
    if ((data[0] & A20_PORT_RESET) != 0) {
        vm_request_reset(chipset->vm);
    }
}

static void apm_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct chipset *chipset = owner;
    memset(data, 0xff, size);
    lock(chipset);
    memcpy(data, chipset->apm + offset, size <= 2 - offset ? size : 2 - offset);
    unlock(chipset);
}

static void apm_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct chipset *chipset = owner;
    lock(chipset);
    memcpy(chipset->apm + offset, data, size <= 2 - offset ? size : 2 - offset);
    unlock(chipset);
}

static void pm_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    (void)owner;
    memset(data, 0, size);
    if (offset <= PM_SMI_EN && PM_SMI_EN - offset < size) {
        data[PM_SMI_EN - offset] = PM_SMI_EN_VALUE;
    }
}

static void pm_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    (void)owner;
    (void)offset;
    (void)data;
    (void)size;
}

static const struct bus_ops a20_ops = {.read = a20_read, .write = a20_write};
static const struct bus_ops apm_ops = {.read = apm_read, .write = apm_write};
static const struct bus_ops pm_ops = {.read = pm_read, .write = pm_write};

static const struct {
    uint64_t start;
    uint64_t size;
    const struct bus_ops *ops;
} ports[] = {
    {LAYOUT_PORT_A20, 1, &a20_ops},
    {LAYOUT_PORT_APM, 2, &apm_ops},
    {PM_PORTS_START, LAYOUT_PORT_PM_END - PM_PORTS_START, &pm_ops},
};
#define PORTS_COUNT (sizeof(ports) / sizeof(ports[0]))

static void chipset_reset(struct device *device)
{
    struct chipset *chipset = (struct chipset *)device;
    lock(chipset);
    chipset->a20 = A20_PORT_GATE;
    memset(chipset->apm, 0, sizeof(chipset->apm));
    unlock(chipset);
    pci_function_reset(chipset->lpc);
    pci_function_reset(chipset->bridge);
    pci_bus_ecam_update(vm_pci(chipset->vm));
}

static int chipset_save(struct device *device, struct buffer *out)
{
    struct chipset *chipset = (struct chipset *)device;
    Drover__ChipsetState state = DROVER__CHIPSET_STATE__INIT;
    CLEANUP(buffer_done) struct buffer bridge = {0};
    CLEANUP(buffer_done) struct buffer lpc = {0};
    int result = pci_function_save(chipset->bridge, &bridge);
    result = result < 0 ? result : pci_function_save(chipset->lpc, &lpc);
    if (result < 0) {
        return result;
    }
    state.host_bridge = (ProtobufCBinaryData){.len = bridge.size, .data = bridge.data};
    state.lpc_bridge = (ProtobufCBinaryData){.len = lpc.size, .data = lpc.data};
    lock(chipset);
    state.a20 = chipset->a20;
    state.apm_command = chipset->apm[0];
    state.apm_status = chipset->apm[1];
    unlock(chipset);
    return state_pack(&state.base, out);
}

static int chipset_load(struct device *device, uint32_t version, const uint8_t *payload,
                        size_t size, struct error *err)
{
    struct chipset *chipset = (struct chipset *)device;
    (void)version; /* 1 is the first */
    Drover__ChipsetState *state = drover__chipset_state__unpack(NULL, size, payload);
    if (state == NULL) {
        return error_set(err, DROVER_EMALFORMED, "the saved chipset is malformed");
    }
    int result = pci_function_load(chipset->bridge, state->host_bridge.data,
                                   (uint32_t)state->host_bridge.len, err);
    if (result == 0) {
        pci_bus_ecam_update(vm_pci(chipset->vm));
        result = pci_function_load(chipset->lpc, state->lpc_bridge.data,
                                   (uint32_t)state->lpc_bridge.len, err);
    }
    if (result == 0) {
        lock(chipset);
        chipset->a20 = (uint8_t)state->a20;
        chipset->apm[0] = (uint8_t)state->apm_command;
        chipset->apm[1] = (uint8_t)state->apm_status;
        unlock(chipset);
    }
    drover__chipset_state__free_unpacked(state, NULL);
    return result;
}

static void ports_remove(struct chipset *chipset, unsigned count)
{
    while (count > 0) {
        bus_remove(vm_port_bus(chipset->vm), ports[--count].start);
    }
}

static int ports_add(struct chipset *chipset)
{
    for (unsigned i = 0; i < PORTS_COUNT; i++) {
        int result = bus_add(vm_port_bus(chipset->vm), ports[i].start, ports[i].size,
                             ports[i].ops, chipset);
        if (result < 0) {
            ports_remove(chipset, i);
            return result;
        }
    }
    return 0;
}

static void chipset_free(struct device *device)
{
    struct chipset *chipset = (struct chipset *)device;
    ports_remove(chipset, PORTS_COUNT);
    pci_function_remove(chipset->lpc);
    (void)pthread_mutex_destroy(&chipset->lock); /* nobody uses it any more */
    free(chipset);
}

static const struct device_ops chipset_device_ops = {
    .name = "chipset",
    .version = 1,
    .save = chipset_save,
    .load = chipset_load,
    .reset = chipset_reset,
    .free = chipset_free,
};

static int lpc_add(struct chipset *chipset)
{
    const struct pci_function_config config = {
        .place = LPC_PLACE,
        .vendor_id = 0x8086,
        .device_id = 0x2918,
        .subsystem_vendor_id = 0x1af4,
        .subsystem_id = 0x1100,
        .revision = 2,
        .class_code = 0x060100,
        .owner = chipset,
    };
    int result = pci_function_add(vm_pci(chipset->vm), &config, &chipset->lpc);
    if (result < 0) {
        return result;
    }
    pci_register_add(chipset->lpc, LPC_COMMAND, 2, LPC_COMMAND_ON, 0);
    pci_register_add(chipset->lpc, LPC_PMBASE, 4, LAYOUT_PORT_ACPI_EVENT | LPC_PMBASE_IO,
                     0);
    pci_register_add(chipset->lpc, LPC_ACPI_CNTL, 1, LPC_ACPI_CNTL_ON, 0x07);
    pci_register_add(chipset->lpc, LPC_PIRQ_A, 4, LPC_PIRQ_OFF, LPC_PIRQ_MASK);
    pci_register_add(chipset->lpc, LPC_PIRQ_E, 4, LPC_PIRQ_OFF, LPC_PIRQ_MASK);
    pci_register_add(chipset->lpc, LPC_RCBA, 4, 0, LPC_RCBA_MASK);
    return 0;
}

int chipset_create(struct vm *vm, struct error *err)
{
    struct chipset *chipset = calloc(1, sizeof(*chipset));
    if (chipset == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    chipset->device.ops = &chipset_device_ops;
    chipset->vm = vm;
    chipset->a20 = A20_PORT_GATE;
    chipset->bridge = pci_function_at(vm_pci(vm), PCI_PLACE(0, 0));
    int result = lpc_add(chipset);
    if (result == 0) {
        result = ports_add(chipset);
    }
    if (result < 0) {
        pci_function_remove(chipset->lpc);
        free(chipset);
        return error_set(err, result, "cannot add the chipset: %s", err_text(result));
    }
    CHECK(pthread_mutex_init(&chipset->lock, NULL) == 0);
    vm_device_add(vm, &chipset->device);
    return 0;
}
