/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI Express root bus: configuration space by ECAM and by ports 0xCF8/0xCFC, 32
 * slots of up to eight functions, memory BARs, MSI and MSI-X (PCI Local Bus 3.0 section
 * 6.8; PCI Express Base, enhanced configuration access). A function's device fills struct
 * pci_function_config and calls pci_function_add().
 */
#ifndef DROVER_VMM_BUS_PCI_H
#define DROVER_VMM_BUS_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/bus/bus.h"

struct buffer;
struct error;
struct pci_bus;
struct pci_function;

#define PCI_BARS             6
#define PCI_SLOTS            32
#define PCI_SLOT_FUNCTIONS   8
#define PCI_MSIX_VECTORS_MAX 64

struct pci_bar_config {
    uint64_t size_bytes; /* power of two, at least 4096; 0: no such BAR */
    bool is_64bit;       /* takes the next index too */
    const struct bus_ops *ops;
};

/* A fixed place on the bus. */
#define PCI_PLACE(slot, number) ((slot)*PCI_SLOT_FUNCTIONS + (number))

struct pci_function_config {
    unsigned place; /* PCI_PLACE(), or 0: function 0 of the next free slot */
    uint16_t vendor_id, device_id, subsystem_vendor_id, subsystem_id;
    uint8_t revision;
    uint32_t class_code; /* 24 bits: class, subclass, interface */
    struct pci_bar_config bars[PCI_BARS];
    /* MSI-X: `msix_vectors` = 0 for none; table and PBA lie in BAR `msix_bar`, owned by
     * pci.c. */
    unsigned msix_vectors;
    unsigned msix_bar;
    void *owner; /* of the BARs' ops, and of the callbacks below */
    /*
     * The guest turned memory decoding on or off, or moved a BAR (base 0: not decoded).
     * On a vCPU's thread, or that of a load or reset. Must not wait for a BAR's handler.
     */
    void (*bar_moved)(void *owner, unsigned bar_index, uint64_t base);
    /*
     * May be NULL. The guest has changed MSI-X vector `vector`, or all (UINT_MAX): where
     * it goes, or whether it is let through. On a vCPU's thread, no lock of ours held.
     */
    void (*vector_changed)(void *owner, unsigned vector);
    /*
     * May be NULL. Sees each access that lies inside a capability of
     * pci_capability_add(): `offset` into configuration space. True: it was served here
     * (a read has filled `data`); false: as usual, reads give the bytes of the capability
     * and writes vanish. Called on a vCPU thread with no lock of the bus held.
     */
    bool (*capability_access)(void *owner, unsigned offset, uint8_t *data, unsigned size,
                              bool write);
};

/* For the VM: what the bus is joined to. */
struct pci_bus_config {
    struct bus *port_bus;
    struct bus *memory_bus;
    unsigned machine; /* machine.h */
    void *owner;
    void (*msi_send)(void *owner, uint64_t address, uint32_t data);
    void (*reset)(void *owner); /* by port 0xCF9 */
};

/* Claims the ports, the ECAM range, and slot 0 for the host bridge. The buses must
 * outlive it. */
int pci_bus_create(const struct pci_bus_config *config, struct pci_bus **ret_bus);
/* Removes all functions as well. */
void pci_bus_free(struct pci_bus *bus);
/*
 * The ECAM range follows the host bridge's register by itself, unless that was loaded or
 * reset: then this has to be called.
 */
void pci_bus_ecam_update(struct pci_bus *bus);
/* Where it is now, 0: nowhere. Any thread. */
uint64_t pci_bus_ecam(struct pci_bus *bus);
/* State of the bus itself: the address latch. */
uint32_t pci_bus_latch(const struct pci_bus *bus);
void pci_bus_latch_set(struct pci_bus *bus, uint32_t latch);

/*
 * The host bridge sits in slot 0; functions without a place of their own take slots 1, 2,
 * ... in the order of their addition. A slot with several functions says so in the header
 * of its function 0, without which guests don't look at the others. BAR addresses are
 * assigned by the VMM at start (guests without firmware rely on that) from the window in
 * vmm/layout.h, and can be moved by the guest.
 */
int pci_function_add(struct pci_bus *bus, const struct pci_function_config *config,
                     struct pci_function **ret_function);
void pci_function_remove(struct pci_function *function);
unsigned pci_function_slot(const struct pci_function *function);
/* NULL: that place is free. */
struct pci_function *pci_function_at(const struct pci_bus *bus, unsigned place);

/*
 * A register of the function's own: `size` bytes (1 to 8), little endian, of which the
 * guest may change the bits in `writable`. Before the guest runs.
 */
void pci_register_add(struct pci_function *function, unsigned offset, unsigned size,
                      uint64_t power_on, uint64_t writable);

/*
 * Adds a vendor capability of `size` bytes (PCI capability header included; offset of
 * `next` is filled in). Returns its offset in configuration space, or -ENOSPC. Before the
 * guest runs.
 */
int pci_capability_add(struct pci_function *function, const uint8_t *capability,
                       unsigned size);

/*
 * Raises an MSI-X interrupt (remembered as pending while masked). Any thread, also from a
 * BAR's handler. Vectors above the table are ignored.
 */
void pci_msix_raise(struct pci_function *function, unsigned vector);
bool pci_msix_enabled(const struct pci_function *function);
/* What an MSI-X vector would send now; false while it may send nothing. */
bool pci_msix_vector(struct pci_function *function, unsigned vector,
                     uint64_t *ret_address, uint32_t *ret_data);

/* Gives the function a plain MSI capability of one vector. Before the guest runs. */
int pci_msi_add(struct pci_function *function);
/* Raises the one MSI if the guest has turned it on. Any thread, also from a BAR's
 * handler. */
void pci_msi_raise(struct pci_function *function);

/* Configuration space, BAR addresses and MSI-X table of a function, for its device's save
 * and load. */
int pci_function_save(struct pci_function *function, struct buffer *out);
int pci_function_load(struct pci_function *function, const uint8_t *payload,
                      uint32_t size, struct error *err);
void pci_function_reset(struct pci_function *function);

#endif
