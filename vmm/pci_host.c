/* SPDX-License-Identifier: Apache-2.0 */
/* The two ways to configuration space: ports 0xCF8/0xCFC and the ECAM range. And the
 * reset port, which lies between. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "vmm/layout.h"
#include "vmm/pci_internal.h"

#define LATCH_ENABLE     0x80000000u
#define LATCH_MASK       0x80fffffcu
#define RESET_REQUEST    0x04
#define PORTS_SIZE       8
#define ECAM_OFFSET_MASK 0xfff

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
    if (bus->functions[place] != NULL && offset + size <= PCI_CONFIG_SIZE) {
        pci_config_write(bus->functions[place], offset, data, size);
    }
    unlock(bus);
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
        space_write(bus, latch >> 8 & 0xff, (latch & 0xfc) + (unsigned)offset - 4, data,
                    size);
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
    space_write(bus, offset >> 12 & 0xff, offset & ECAM_OFFSET_MASK, data, size);
}

static const struct bus_ops ports_ops = {.read = ports_read, .write = ports_write};
static const struct bus_ops ecam_ops = {.read = ecam_read, .write = ecam_write};

static void bus_free_object(struct pci_bus **bus)
{
    if (*bus != NULL) {
        (void)pthread_mutex_destroy(&(*bus)->lock); /* nobody uses it any more */
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
    bus->config = *config;
    bus->bar_next = LAYOUT_PCI_WINDOW_START;
    int result = bus_add(config->port_bus, LAYOUT_PORT_PCI, PORTS_SIZE, &ports_ops, bus);
    if (result < 0) {
        return result;
    }
    result =
        bus_add(config->memory_bus, LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE, &ecam_ops, bus);
    if (result < 0) {
        bus_remove(config->port_bus, LAYOUT_PORT_PCI);
        return result;
    }
    /* A host bridge that no driver wants: Red Hat's for QEMU's generic PCIe host. */
    const struct pci_function_config bridge = {
        .vendor_id = 0x1b36, .device_id = 0x0008, .class_code = 0x060000};
    struct pci_function *function = NULL;
    result = pci_function_add(bus, &bridge, &function);
    if (result < 0) {
        bus_remove(config->port_bus, LAYOUT_PORT_PCI);
        bus_remove(config->memory_bus, LAYOUT_ECAM_START);
        return result;
    }
    CHECK(pci_function_slot(function) == 0);
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
    bus_remove(bus->config.memory_bus, LAYOUT_ECAM_START);
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
