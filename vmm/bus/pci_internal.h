/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by pci.c (configuration space and BARs), pci_host.c (ways to it), pci_msi.c and
 * pci_msix.c only. */
#ifndef DROVER_VMM_BUS_PCI_INTERNAL_H
#define DROVER_VMM_BUS_PCI_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/bus/pci.h"

#define PCI_CONFIG_SIZE 256

/* Offsets in configuration space. */
#define PCI_REG_COMMAND    0x04
#define PCI_REG_STATUS     0x06
#define PCI_REG_HEADER     0x0e
#define PCI_REG_BAR0       0x10
#define PCI_REG_CAP_FIRST  0x34
#define PCI_REG_IRQ_LINE   0x3c
#define PCI_CAPS_START     0x40
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASK   0x0506 /* memory, bus master, SERR#, INTx disable */
#define PCI_STATUS_CAPS    0x0010
#define PCI_HEADER_MULTI   0x80 /* the slot has more functions than number 0 */

struct pci_msix_entry {
    uint64_t address;
    uint32_t data;
    bool masked;
    bool pending;
};

struct pci_bar {
    uint64_t size_bytes; /* 0: none */
    bool is_64bit;
    const struct bus_ops *ops;
    void *owner;
    uint64_t mapped_at; /* 0: not on the bus */
};

struct pci_function {
    struct pci_bus *bus;
    struct pci_function_config config;
    unsigned place;
    uint8_t space[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE]; /* bits that the guest may set */
    uint8_t power_on[PCI_CONFIG_SIZE]; /* for reset */
    unsigned caps_end;                 /* next free byte for a capability */
    unsigned cap_last;                 /* offset of the last one, 0: none */
    struct pci_bar bars[PCI_BARS];
    /* MSI-X; msix_lock also covers the entries, and is never held together with the bus's
     * lock waiting inside. */
    pthread_mutex_t msix_lock;
    unsigned msix_cap; /* offset, 0: none */
    atomic_bool msix_enabled;
    atomic_bool msix_function_masked;
    struct pci_msix_entry *msix;
    /* Plain MSI: what configuration space says, under msix_lock: BAR handlers, which
     * raise it, must not wait for the bus's lock. */
    unsigned msi_cap; /* offset, 0: none */
    bool msi_enabled;
    uint64_t msi_address;
    uint16_t msi_data;
};

struct pci_bus {
    struct pci_bus_config config;
    pthread_mutex_t lock; /* of configuration space; not held by BAR handlers */
    atomic_uint latch;    /* port 0xCF8 */
    uint64_t bar_next;    /* next free address of the window */
    pthread_mutex_t ecam_lock; /* of ecam_at; taken before `lock` */
    uint64_t ecam_at;          /* 0: nowhere */
    struct pci_function *functions[PCI_SLOTS * PCI_SLOT_FUNCTIONS]; /* by place */
};

/* Under bus->lock. `offset` and `size` lie inside the 256 bytes. */
void pci_config_read(struct pci_function *function, unsigned offset, uint8_t *data,
                     unsigned size);
void pci_config_write(struct pci_function *function, unsigned offset, const uint8_t *data,
                      unsigned size);
/* pci_msix.c */
int pci_msix_init(struct pci_function *function);
void pci_msix_done(struct pci_function *function);
/* Looks at the capability's control word after it was written; sends what is pending and
 * unmasked now. */
void pci_msix_control_changed(struct pci_function *function);
/* After the guest has changed a vector, or all (UINT_MAX). */
void pci_msix_changed_tell(struct pci_function *function, unsigned vector);
void pci_msix_reset(struct pci_function *function);
/* pci_msi.c: looks at the capability after configuration space was written. */
void pci_msi_changed(struct pci_function *function);

static inline uint16_t pci_get16(const uint8_t *space, unsigned offset)
{
    return (uint16_t)(space[offset] | space[offset + 1] << 8);
}

static inline uint32_t pci_get32(const uint8_t *space, unsigned offset)
{
    return pci_get16(space, offset) | (uint32_t)pci_get16(space, offset + 2) << 16;
}

static inline void pci_set16(uint8_t *space, unsigned offset, uint16_t value)
{
    space[offset] = (uint8_t)value;
    space[offset + 1] = (uint8_t)(value >> 8);
}

static inline void pci_set32(uint8_t *space, unsigned offset, uint32_t value)
{
    pci_set16(space, offset, (uint16_t)value);
    pci_set16(space, offset + 2, (uint16_t)(value >> 16));
}

#endif
