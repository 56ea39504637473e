/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM without KVM for the tests of devices: real memory, buses, PCI and I/O loop, no
 * vCPUs. The test's own thread plays the vCPU, and runs the I/O loop when it waits for
 * something.
 */
#ifndef DROVER_TESTS_FAKE_VM_H
#define DROVER_TESTS_FAKE_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "vmm/vm.h"

#define FAKE_VM_MSI_MAX 64

struct fake_msi {
    uint64_t address;
    uint32_t data;
};

struct vm {
    struct guest_ram *ram;
    struct bus *ports, *memory;
    struct pci_bus *pci;
    struct event_loop *loop;
    struct event_source *tick;
    struct log log;
    struct vm_config config;
    struct device *devices;
    bool io_allowed;
    uint64_t lease_deadline_ns; /* with config.ha */
    unsigned drained_count; /* calls of vm_device_drained() */
    unsigned reset_count;   /* by port 0xCF9 */
    unsigned end_count; /* calls of vm_end() */
    unsigned holds;     /* by vm_hold_set() */
    unsigned msi_count;
    struct fake_msi
        msi[FAKE_VM_MSI_MAX]; /* the last ones, by msi_count modulo the size */
    int log_fd;               /* memfd with the lines that were logged */
};

struct vm *fake_vm_create(uint64_t memory_bytes);
void fake_vm_free(struct vm *vm);
/* Runs the I/O loop until `done(owner)`, five seconds at most; false when that is over.
 */
bool fake_vm_run(struct vm *vm, bool (*done)(void *owner), void *owner);
/* Runs the I/O loop for a while. */
void fake_vm_run_ms(struct vm *vm, unsigned ms);
/* How often `text` stands in the log. */
unsigned fake_vm_logged(struct vm *vm, const char *text);

#endif
