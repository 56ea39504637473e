/* SPDX-License-Identifier: Apache-2.0 */
/* The two ways to configuration space: ports 0xCF8/0xCFC and the ECAM range. The reset
 * port, which lies between. And the host bridge, which tells where the ECAM range is. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "vmm/bus/pci_internal.h"
#include "vmm/layout.h"
#include "vmm/machine.h"

#define LATCH_ENABLE     0x80000000u
#define LATCH_MASK       0x80fffffcu
#define RESET_REQUEST    0x04
#define PORTS_SIZE       8
#define ECAM_OFFSET_MASK 0xfff

/* Registers of the host bridge, as Intel's Q35 has them (and firmware looks for them). */
#define BRIDGE_PCIEXBAR        0x60 /* 8 bytes */
#define BRIDGE_PCIEXBAR_ENABLE 0x1u
#define BRIDGE_PCIEXBAR_BASE   UINT64_C(0xff0000000)
#define BRIDGE_PAM             0x90 /* 7 bytes */
#define BRIDGE_SMRAM           0x9d

static void lock(struct pci_bus *bus)
{
    CHECK(pthread_mutex_lock(&bus->lock) == 0);
}

static void unlock(struct pci_bus *bus)
{
    CHECK(pthread_mutex_unlock(&bus->lock) == 0);
}

/* True if the device itself has served the access. Functions come and go only while no
 * guest runs: no lock. */
static bool served_by_device(struct pci_bus *bus, unsigned place, unsigned offset,
                             uint8_t *data, unsigned size, bool write)
{
    struct pci_function *function = bus->functions[place];
    if (function == NULL || function->config.capability_access == NULL ||
        offset < PCI_CAPS_START || offset + size > function->caps_end) {
        return false;
    }
    return function->config.capability_access(function->config.owner, offset, data, size,
                                              write);
}

static void space_read(struct pci_bus *bus, unsigned place, unsigned offset,
                       uint8_t *data, unsigned size)
{
    CHECK(place < PCI_PLACE(PCI_SLOTS, 0));
    if (served_by_device(bus, place, offset, data, size, false)) {
        return;
    }
    lock(bus);
    if (bus->functions[place] == NULL) {
        memset(data, 0xff, size);
    } else if (offset + size > PCI_CONFIG_SIZE) {
        memset(data, 0, size); /* no extended capabilities */
    } else {
        pci_config_read(bus->functions[place], offset, data, size);
    }
    unlock(bus);
}

static void space_write(struct pci_bus *bus, unsigned place, unsigned offset,
                        const uint8_t *data, unsigned size)
{
    CHECK(place < PCI_PLACE(PCI_SLOTS, 0));
    uint8_t copy[8];
    CHECK(size <= sizeof(copy));
    memcpy(copy, data, size);
    if (served_by_device(bus, place, offset, copy, size, true)) {
        return;
    }
    lock(bus);
    struct pci_function *function = bus->functions[place];
    if (function != NULL && offset + size <= PCI_CONFIG_SIZE) {
        pci_config_write(function, offset, data, size);
    }
    unlock(bus);
    /* Functions are not taken away while the guest runs. */
    if (function != NULL && function->msix_cap != 0 && offset < function->msix_cap + 4 &&
        offset + size > function->msix_cap + 2) {
        pci_msix_changed_tell(function, UINT_MAX);
    }
}

static bool moves_ecam(unsigned place, unsigned offset, unsigned size)
{
    return place == 0 && offset < BRIDGE_PCIEXBAR + 8 && offset + size > BRIDGE_PCIEXBAR;
}

/* Bus 0 only. */
static bool latch_names_function(uint32_t latch)
{
    return (latch & LATCH_ENABLE) != 0 && (latch & 0x00ff0000) == 0;
}

static void ports_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct pci_bus *bus = owner;
    memset(data, 0xff, size);
    uint32_t latch = atomic_load(&bus->latch);
    if (offset == 0 && size == 4) {
        pci_set32(data, 0, latch);
    } else if (offset == 1 && size == 1) {
        data[0] = 0;
    } else if (offset >= 4 && latch_names_function(latch)) {
        space_read(bus, latch >> 8 & 0xff, (latch & 0xfc) + (unsigned)offset - 4, data,
                   size);
    }
}

static void ports_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct pci_bus *bus = owner;
    if (offset == 1 && size == 1) {
        if ((data[0] & RESET_REQUEST) != 0) {
            bus->config.reset(bus->config.owner);
        }
        return;
    }
    uint32_t latch = atomic_load(&bus->latch);
    if (offset == 0 && size == 4) {
        atomic_store(&bus->latch, pci_get32(data, 0) & LATCH_MASK);
    } else if (offset >= 4 && latch_names_function(latch)) {
        unsigned place = latch >> 8 & 0xff;
        unsigned at = (latch & 0xfc) + (unsigned)offset - 4;
        space_write(bus, place, at, data, size);
        if (moves_ecam(place, at, size)) {
            pci_bus_ecam_update(bus);
        }
    }
}

static void ecam_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct pci_bus *bus = owner;
    space_read(bus, offset >> 12 & 0xff, offset & ECAM_OFFSET_MASK, data, size);
}

static void ecam_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct pci_bus *bus = owner;
    unsigned place = offset >> 12 & 0xff;
    unsigned at = offset & ECAM_OFFSET_MASK;
    /* The range can't be moved from within itself; firmware does it by the ports. */
    if (!moves_ecam(place, at, size)) {
        space_write(bus, place, at, data, size);
    }
}

static const struct bus_ops ports_ops = {.read = ports_read, .write = ports_write};
static const struct bus_ops ecam_ops = {.read = ecam_read, .write = ecam_write};

/* Under ecam_lock, or while no guest runs. */
static void ecam_unmap(struct pci_bus *bus)
{
    if (bus->ecam_at != 0) {
        bus_remove(bus->config.memory_bus, bus->ecam_at);
        bus->ecam_at = 0;
    }
}

/*
 * Not under bus->lock: a handler of the range may wait for that, and the range's removal
 * waits for the handler.
 */
void pci_bus_ecam_update(struct pci_bus *bus)
{
    if (!machine_has_chipset(bus->config.machine)) {
        return; /* has no such register */
    }
    CHECK(pthread_mutex_lock(&bus->ecam_lock) == 0);
    lock(bus);
    const uint8_t *space = bus->functions[0]->space;
    uint32_t low = pci_get32(space, BRIDGE_PCIEXBAR);
    uint64_t wanted = (uint64_t)pci_get32(space, BRIDGE_PCIEXBAR + 4) << 32 | low;
    unlock(bus);
    wanted = (low & BRIDGE_PCIEXBAR_ENABLE) != 0 ? wanted & BRIDGE_PCIEXBAR_BASE : 0;
    if (wanted != bus->ecam_at) {
        ecam_unmap(bus);
        /* A place that is taken already answers nothing. */
        if (wanted != 0 && bus_add(bus->config.memory_bus, wanted, LAYOUT_ECAM_SIZE,
                                   &ecam_ops, bus) == 0) {
            bus->ecam_at = wanted;
        }
    }
    CHECK(pthread_mutex_unlock(&bus->ecam_lock) == 0);
}

uint64_t pci_bus_ecam(struct pci_bus *bus)
{
    CHECK(pthread_mutex_lock(&bus->ecam_lock) == 0);
    uint64_t at = bus->ecam_at;
    CHECK(pthread_mutex_unlock(&bus->ecam_lock) == 0);
    return at;
}

/* Machine 1: a host bridge that says nothing; ACPI tells where the ECAM range is. */
static int plain_bridge_add(struct pci_bus *bus)
{
    const struct pci_function_config config = {
        .vendor_id = 0x1b36, .device_id = 0x0008, .class_code = 0x060000};
    struct pci_function *bridge = NULL;
    int result = pci_function_add(bus, &config, &bridge);
    if (result < 0) {
        return result;
    }
    CHECK(pci_function_slot(bridge) == 0);
    result = bus_add(bus->config.memory_bus, LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE,
                     &ecam_ops, bus);
    bus->ecam_at = result == 0 ? LAYOUT_ECAM_START : 0;
    return result;
}

/*
 * Firmware knows the machine by its host bridge, and sets it up by that bridge's
 * registers. Memory behind the PAM registers is always there and writable.
 */
static int bridge_add(struct pci_bus *bus)
{
    if (!machine_has_chipset(bus->config.machine)) {
        return plain_bridge_add(bus);
    }
    const struct pci_function_config config = {
        .vendor_id = 0x8086,
        .device_id = 0x29c0,
        .subsystem_vendor_id = 0x1af4,
        .subsystem_id = 0x1100,
        .class_code = 0x060000,
    };
    struct pci_function *bridge = NULL;
    int result = pci_function_add(bus, &config, &bridge);
    if (result < 0) {
        return result;
    }
    CHECK(pci_function_slot(bridge) == 0);
    pci_register_add(bridge, BRIDGE_PCIEXBAR, 8,
                     LAYOUT_ECAM_START | BRIDGE_PCIEXBAR_ENABLE,
                     BRIDGE_PCIEXBAR_BASE | 0x7);
    pci_register_add(bridge, BRIDGE_PAM, 7, 0, UINT64_C(0x33333333333330));
    pci_register_add(bridge, BRIDGE_SMRAM, 2, 0x3802, 0x0000);
    pci_bus_ecam_update(bus);
    return bus->ecam_at != 0 ? 0 : -ENOMEM;
}

static void bus_free_object(struct pci_bus **bus)
{
    if (*bus != NULL) {
        /* Nobody uses them any more. */
        (void)pthread_mutex_destroy(&(*bus)->lock);
        (void)pthread_mutex_destroy(&(*bus)->ecam_lock);
        free(*bus);
    }
}

int pci_bus_create(const struct pci_bus_config *config, struct pci_bus **ret_bus)
{
    CLEANUP(bus_free_object) struct pci_bus *bus = calloc(1, sizeof(*bus));
    if (bus == NULL) {
        return -ENOMEM;
    }
    CHECK(pthread_mutex_init(&bus->lock, NULL) == 0);
    CHECK(pthread_mutex_init(&bus->ecam_lock, NULL) == 0);
    bus->config = *config;
    bus->bar_next = LAYOUT_PCI_WINDOW_START;
    int result = bus_add(config->port_bus, LAYOUT_PORT_PCI, PORTS_SIZE, &ports_ops, bus);
    if (result < 0) {
        return result;
    }
    result = bridge_add(bus);
    if (result < 0) {
        pci_bus_free(TAKE(bus));
        return result;
    }
    *ret_bus = TAKE(bus);
    return 0;
}

void pci_bus_free(struct pci_bus *bus)
{
    if (bus == NULL) {
        return;
    }
    for (unsigned place = 0; place < PCI_PLACE(PCI_SLOTS, 0); place++) {
        pci_function_remove(bus->functions[place]);
    }
    bus_remove(bus->config.port_bus, LAYOUT_PORT_PCI);
    ecam_unmap(bus);
    bus_free_object(&bus);
}

uint32_t pci_bus_latch(const struct pci_bus *bus)
{
    return bus->latch;
}

void pci_bus_latch_set(struct pci_bus *bus, uint32_t latch)
{
    bus->latch = latch & LATCH_MASK;
}
