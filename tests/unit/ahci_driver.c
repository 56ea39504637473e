/* SPDX-License-Identifier: Apache-2.0 */
/* An AHCI driver for tests. */
#include "tests/unit/ahci_driver.h"

#include <string.h>

#include "base/check.h"
#include "vmm/bus/bus.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

#define SPACE (LAYOUT_ECAM_START + (31u << 15) + (2u << 12))
#define PORT  0x100u

static uint32_t get32(struct vm *vm, uint64_t address)
{
    uint32_t value = 0;
    bus_read(vm->memory, address, (uint8_t *)&value, 4);
    return value;
}

static void set32(struct vm *vm, uint64_t address, uint32_t value)
{
    bus_write(vm->memory, address, (const uint8_t *)&value, 4);
}

void ahci_driver_init(struct ahci_driver *driver, struct vm *vm)
{
    *driver = (struct ahci_driver){.vm = vm};
    driver->bar = get32(vm, SPACE + 0x24) & ~0xfu;
    set32(vm, SPACE + 4, 6);
    uint64_t msi = SPACE + (get32(vm, SPACE + 0x34) & 0xff);
    CHECK((get32(vm, msi) & 0xff) == 5);
    set32(vm, msi + 4, AHCI_DRIVER_MSI);
    set32(vm, msi + 8, 0);
    set32(vm, msi + 12, 0x41);
    set32(vm, msi, get32(vm, msi) | 0x10000);
}

uint32_t ahci_driver_get(struct ahci_driver *driver, unsigned offset)
{
    return get32(driver->vm, driver->bar + offset);
}

void ahci_driver_set(struct ahci_driver *driver, unsigned offset, uint32_t value)
{
    set32(driver->vm, driver->bar + offset, value);
}

uint32_t ahci_driver_port_get(struct ahci_driver *driver, unsigned offset)
{
    return ahci_driver_get(driver, PORT + 0x80 * driver->port + offset);
}

void ahci_driver_port_set(struct ahci_driver *driver, unsigned offset, uint32_t value)
{
    ahci_driver_set(driver, PORT + 0x80 * driver->port + offset, value);
}

void ahci_driver_start(struct ahci_driver *driver)
{
    ahci_driver_set(driver, 0x04, 0x80000002);
    ahci_driver_port_set(driver, 0x00, AHCI_DRIVER_LIST_GPA);
    ahci_driver_port_set(driver, 0x04, 0);
    ahci_driver_port_set(driver, 0x08, AHCI_DRIVER_FIS_GPA);
    ahci_driver_port_set(driver, 0x0c, 0);
    ahci_driver_port_set(driver, 0x14, 0xffffffff);
    ahci_driver_port_set(driver, 0x18, 0x16);
    ahci_driver_port_set(driver, 0x18, 0x17);
}

void ahci_driver_prepare(struct ahci_driver *driver, uint8_t command, const void *packet,
                         uint32_t size)
{
    struct guest_ram *ram = driver->vm->ram;
    uint32_t header[8] = {(size > 0 ? 1u << 16 : 0) | 5, 0, AHCI_DRIVER_TABLE_GPA};
    uint8_t fis[20] = {0x27, 0x80, command, 1};
    uint32_t prd[4] = {AHCI_DRIVER_DATA_GPA, 0, 0, size - 1};
    CHECK(guest_ram_write(ram, AHCI_DRIVER_LIST_GPA, header, sizeof(header)) == 0);
    CHECK(guest_ram_write(ram, AHCI_DRIVER_TABLE_GPA, fis, sizeof(fis)) == 0);
    if (packet != NULL) {
        CHECK(guest_ram_write(ram, AHCI_DRIVER_TABLE_GPA + 0x40, packet, 12) == 0);
    }
    CHECK(guest_ram_write(ram, AHCI_DRIVER_TABLE_GPA + 0x80, prd, sizeof(prd)) == 0);
}

void ahci_driver_issue(struct ahci_driver *driver)
{
    ahci_driver_port_set(driver, 0x10, 0xffffffff);
    ahci_driver_set(driver, 0x08, 0xffffffff);
    ahci_driver_port_set(driver, 0x38, 1);
}

static bool over(void *owner)
{
    struct ahci_driver *driver = owner;
    return (ahci_driver_port_get(driver, 0x38) & 1) == 0 ||
           (ahci_driver_port_get(driver, 0x10) & 0x60000000) != 0;
}

bool ahci_driver_wait(struct ahci_driver *driver)
{
    return fake_vm_run(driver->vm, over, driver);
}

bool ahci_driver_packet(struct ahci_driver *driver, const void *packet, uint32_t size)
{
    ahci_driver_prepare(driver, 0xa0, packet, size);
    ahci_driver_issue(driver);
    CHECK(ahci_driver_wait(driver));
    return (ahci_driver_port_get(driver, 0x10) & 0x60000000) == 0;
}

uint32_t ahci_driver_done_bytes(struct ahci_driver *driver)
{
    uint32_t bytes = 0;
    CHECK(guest_ram_read(driver->vm->ram, AHCI_DRIVER_LIST_GPA + 4, &bytes, 4) == 0);
    return bytes;
}
