/* SPDX-License-Identifier: Apache-2.0 */
/* From the command line to firmware_create(): which devices it may boot from. */
#include "base/check.h"
#include "vmm/bus/pci.h"
#include "vmm/devices/ahci.h"
#include "vmm/firmware/firmware.h"
#include "vmm/options/options.h"

/* Disks, then networks have the slots from 1 on. */
int firmware_options_create(struct vm *vm, const struct options *options,
                            struct error *err)
{
    if (options->firmware == NULL) {
        return 0;
    }
    struct firmware_boot boot[FIRMWARE_BOOT_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < options->disk_count; i++) {
        boot[count] = (struct firmware_boot){.kind = FIRMWARE_BOOT_DISK,
                                             .place = PCI_PLACE(count + 1, 0),
                                             .order = options->disks[i].boot};
        count++;
    }
    for (unsigned i = 0; i < options->net_count; i++) {
        boot[count] = (struct firmware_boot){.kind = FIRMWARE_BOOT_NET,
                                             .place = PCI_PLACE(count + 1, 0),
                                             .order = options->nets[i].boot};
        count++;
    }
    for (unsigned i = 0; i < options->cdrom_count; i++) {
        boot[count++] =
            (struct firmware_boot){.kind = FIRMWARE_BOOT_CDROM,
                                   .place = PCI_PLACE(AHCI_SLOT, AHCI_FUNCTION),
                                   .port = i,
                                   .order = options->cdroms[i].boot};
    }
    CHECK(count <= FIRMWARE_BOOT_MAX);
    const struct firmware_config config = {
        .firmware = options->firmware,
        .vars = options->vars,
        .uuid = options->uuid,
        .log = options->firmware_log,
        .incoming = options->incoming != NULL,
        .boot_count = count,
        .boot = boot,
    };
    return firmware_create(vm, &config, err);
}
