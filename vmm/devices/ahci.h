/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An AHCI controller as in Intel's ICH9 (8086:2922 at 00:1f.2) with CD-ROM drives on its
 * ports: what firmware, installers and stock drivers expect a CD-ROM behind. Adds itself
 * to the VM, which owns it. See docs/vmm.md.
 */
#ifndef DROVER_VMM_DEVICES_AHCI_H
#define DROVER_VMM_DEVICES_AHCI_H

struct error;
struct vm;

#define AHCI_CDROMS_MAX 4
#define AHCI_SLOT       31 /* on the PCI bus */
#define AHCI_FUNCTION   2

struct ahci_config {
    unsigned cdrom_count;                /* 1 to AHCI_CDROMS_MAX */
    const char *cdroms[AHCI_CDROMS_MAX]; /* paths of images, port by port */
    unsigned boot[AHCI_CDROMS_MAX];      /* place in the boot order, 0: none */
};

/* Opens the images. One line in `err` when one of them can't be used. */
int ahci_create(struct vm *vm, const struct ahci_config *config, struct error *err);

#endif
