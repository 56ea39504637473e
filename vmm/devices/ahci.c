/* SPDX-License-Identifier: Apache-2.0 */
/* The AHCI controller: its making, its global registers, its interrupt (AHCI 1.3.1
 * section 3.1). */
#include "vmm/devices/ahci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/bus/pci.h"
#include "vmm/devices/ahci_internal.h"
#include "vmm/vm.h"

#define BAR_SIZE   4096u
#define BAR_INDEX  5
#define PORTS_AT   0x100u
#define CLASS_CODE 0x010601u

#define REG_CAP 0x00
#define REG_GHC 0x04
#define REG_IS  0x08
#define REG_PI  0x0c
#define REG_VS  0x10

#define GHC_RESET   UINT32_C(0x00000001)
#define GHC_IE      UINT32_C(0x00000002)
#define GHC_AE      UINT32_C(0x80000000)
#define VERSION_1_3 UINT32_C(0x00010300)
/* 64-bit addresses, CLO, 1.5 Gbit/s, no legacy interface, 32 slots. */
#define CAP_FIXED UINT32_C(0x81141f00)

/*
 * PxIS bits that are enabled show in IS, which the guest clears after them. The one
 * message goes out whenever a bit of IS comes anew: also right after the guest cleared it
 * and the port's are still, or again, there.
 */
void ahci_interrupt_update(struct ahci *ahci)
{
    uint32_t now = 0;
    for (unsigned i = 0; i < ahci->port_count; i++) {
        now |= (ahci->ports[i].is & ahci->ports[i].ie) != 0 ? UINT32_C(1) << i : 0;
    }
    uint32_t fresh = now & ~ahci->is;
    ahci->is |= now;
    if (fresh != 0 && (ahci->ghc & GHC_IE) != 0) {
        pci_msi_raise(ahci->function);
    }
}

void ahci_log_broken(struct ahci_port *port, const char *how)
{
    struct ahci *ahci = port->ahci;
    if (ahci->broken_count < AHCI_BROKEN_LOGS) {
        ahci->broken_count++;
        log_warn(vm_log(ahci->vm), "ahci port %u: stopped until the guest resets it: %s",
                 port->index, how);
    }
}

/* ---- registers ------------------------------------------------------------ */

static void controller_reset(struct ahci *ahci)
{
    ahci->ghc = 0;
    ahci->is = 0;
    for (unsigned i = 0; i < ahci->port_count; i++) {
        ahci_port_reset(&ahci->ports[i]);
    }
}

static void ghc_write(struct ahci *ahci, uint32_t value)
{
    if ((value & GHC_RESET) != 0) {
        controller_reset(ahci);
        return;
    }
    bool was_on = (ahci->ghc & GHC_IE) != 0;
    ahci->ghc = value & GHC_IE;
    if (!was_on && ahci->ghc != 0 && ahci->is != 0) {
        pci_msi_raise(ahci->function);
    }
}

static uint32_t register_read(struct ahci *ahci, unsigned offset)
{
    unsigned index = (offset - PORTS_AT) / AHCI_PORT_SIZE;
    if (offset >= PORTS_AT) {
        return index < ahci->port_count
                   ? ahci_port_read(&ahci->ports[index], offset % AHCI_PORT_SIZE)
                   : 0;
    }
    switch (offset) {
    case REG_CAP:
        return CAP_FIXED | (ahci->port_count - 1);
    case REG_GHC:
        return GHC_AE | ahci->ghc;
    case REG_IS:
        return ahci->is;
    case REG_PI:
        return (UINT32_C(1) << ahci->port_count) - 1;
    case REG_VS:
        return VERSION_1_3;
    default:
        return 0;
    }
}

static void register_write(struct ahci *ahci, unsigned offset, uint32_t value)
{
    unsigned index = (offset - PORTS_AT) / AHCI_PORT_SIZE;
    if (offset >= PORTS_AT) {
        if (index < ahci->port_count) {
            ahci_port_write(&ahci->ports[index], offset % AHCI_PORT_SIZE, value);
        }
    } else if (offset == REG_GHC) {
        ghc_write(ahci, value);
    } else if (offset == REG_IS) {
        ahci->is &= ~value;
        ahci_interrupt_update(ahci);
    }
}

/* Any part of a register can be read; writes are whole ones (AHCI 1.3.1 section 3). */
static void bar_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct ahci *ahci = owner;
    uint8_t words[16];
    unsigned first = (unsigned)offset & ~3u;
    CHECK(size <= 8 && offset + size <= BAR_SIZE);
    ahci_lock(ahci);
    for (unsigned at = 0; at < sizeof(words); at += 4) {
        bool touched = first + at < offset + size;
        ahci_set32(words + at, touched ? register_read(ahci, first + at) : 0);
    }
    ahci_unlock(ahci);
    memcpy(data, words + (offset - first), size);
}

static void bar_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct ahci *ahci = owner;
    if (size < 4 || offset % 4 != 0) {
        return;
    }
    CHECK(offset + size <= BAR_SIZE);
    ahci_lock(ahci);
    for (unsigned at = 0; at < size; at += 4) {
        register_write(ahci, (unsigned)offset + at, ahci_get32(data + at));
    }
    ahci_unlock(ahci);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

/* ---- the device ----------------------------------------------------------- */

static void ahci_reset(struct device *device)
{
    struct ahci *ahci = (struct ahci *)device;
    ahci_lock(ahci);
    controller_reset(ahci);
    for (unsigned i = 0; i < ahci->port_count; i++) {
        ahci_port_power_on(&ahci->ports[i]);
    }
    ahci_unlock(ahci);
    pci_function_reset(ahci->function);
}

static void ahci_free(struct device *device)
{
    struct ahci *ahci = (struct ahci *)device;
    pci_function_remove(ahci->function);
    ahci_io_done(ahci);
    for (unsigned i = 0; i < ahci->port_count; i++) {
        cdrom_image_close(&ahci->ports[i].image);
        free((void *)ahci->ports[i].image.path); /* ours, by strdup() */
    }
    (void)pthread_mutex_destroy(&ahci->lock); /* nobody uses it any more */
    free(ahci);
}

static const struct device_ops ahci_device_ops = {
    .name = "ahci",
    .version = 1,
    .io_stop = ahci_io_stop,
    .io_drained = ahci_io_drained,
    .io_start = ahci_io_start,
    .save = ahci_save,
    .load = ahci_load,
    .reset = ahci_reset,
    .free = ahci_free,
};

static int image_insert(struct ahci_port *port, const char *config_path, unsigned boot,
                        struct error *err)
{
    char *path = strdup(config_path);
    if (path == NULL) {
        return error_set(err, -ENOMEM, "no memory for the CD-ROMs");
    }
    int result = cdrom_image_open(&port->image, path, err);
    port->image.path = path;
    if (result < 0) {
        return result;
    }
    if (boot != 0 && !port->image.boots_bios && !port->image.boots_uefi) {
        return error_set(err, DROVER_EBADINPUT,
                         "CD-ROM image %s has no boot record (El Torito): leave out "
                         "boot=%u, or give an image that can be booted from",
                         path, boot);
    }
    port->drive.block_count = port->image.block_count;
    port->drive.number = port->index;
    return 0;
}

static int function_add(struct ahci *ahci, struct error *err)
{
    const struct pci_function_config config = {
        .place = PCI_PLACE(AHCI_SLOT, AHCI_FUNCTION),
        .vendor_id = 0x8086,
        .device_id = 0x2922,
        .subsystem_vendor_id = 0x1af4,
        .subsystem_id = 0x1100,
        .revision = 2,
        .class_code = CLASS_CODE,
        .bars[BAR_INDEX] = {.size_bytes = BAR_SIZE, .ops = &bar_ops},
        .owner = ahci,
    };
    int result = pci_function_add(vm_pci(ahci->vm), &config, &ahci->function);
    result = result < 0 ? result : pci_msi_add(ahci->function);
    return result < 0 ? error_set(err, result, "cannot add the AHCI controller: %s",
                                  err_text(result))
                      : 0;
}

int ahci_create(struct vm *vm, const struct ahci_config *config, struct error *err)
{
    CHECK(config->cdrom_count >= 1 && config->cdrom_count <= AHCI_CDROMS_MAX);
    struct ahci *ahci = calloc(1, sizeof(*ahci));
    if (ahci == NULL) {
        return error_set(err, -ENOMEM, "no memory for the CD-ROMs");
    }
    ahci->device.ops = &ahci_device_ops;
    ahci->vm = vm;
    ahci->event_fd = -1;
    CHECK(pthread_mutex_init(&ahci->lock, NULL) == 0);
    int result = 0;
    for (unsigned i = 0; result == 0 && i < config->cdrom_count; i++) {
        struct ahci_port *port = &ahci->ports[i];
        port->ahci = ahci;
        port->index = i;
        port->image.fd = -1;
        ahci->port_count = i + 1;
        result = image_insert(port, config->cdroms[i], config->boot[i], err);
    }
    result = result < 0 ? result : ahci_io_init(ahci, err);
    result = result < 0 ? result : function_add(ahci, err);
    if (result < 0) {
        ahci_free(&ahci->device);
        return result;
    }
    for (unsigned i = 0; i < ahci->port_count; i++) {
        ahci_port_power_on(&ahci->ports[i]);
    }
    vm_device_add(vm, &ahci->device);
    return 0;
}
