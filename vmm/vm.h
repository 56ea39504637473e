/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One virtual machine: owns memory, vCPUs, buses, devices and threads. What a device may ask of its VM is in the first part;
 * the rest is for main.c, control.c and migrate.c. See docs/vmm.md for the threads.
 *
 * vCPUs run only while no hold is set. Each reason to stop is a hold of its own, so that a lease
 * that comes back can't undo an operator's pause.
 */
#ifndef DROVER_VMM_VM_H
#define DROVER_VMM_VM_H

#include <stdbool.h>
#include <stdint.h>

struct buffer;
struct bus;
struct device;
struct error;
struct event_loop;
struct guest_ram;
struct log;
struct pci_bus;
struct vm;

enum vm_hold {
    VM_HOLD_START = 1 << 0,       /* not started yet */
    VM_HOLD_OPERATOR = 1 << 1,    /* paused */
    VM_HOLD_LEASE = 1 << 2,       /* past the deadline: frozen */
    VM_HOLD_INCOMING = 1 << 3,    /* waits for its state */
    VM_HOLD_HANDOVER = 1 << 4,    /* in a handover, or handed over */
    VM_HOLD_SHUTDOWN = 1 << 5,    /* ended for good */
    VM_HOLD_RESET = 1 << 6,       /* between two lives of the guest */
    VM_HOLD_SNAPSHOT = 1 << 7,
};

/* ---- for devices ---------------------------------------------------------------------- */

struct guest_ram *vm_ram(struct vm *vm);
struct bus *vm_port_bus(struct vm *vm);
struct bus *vm_memory_bus(struct vm *vm);
struct pci_bus *vm_pci(struct vm *vm);
const struct log *vm_log(struct vm *vm);
/* The loop on which devices do their I/O. */
struct event_loop *vm_io_loop(struct vm *vm);
/* The loop of the main thread: control socket, serial clients, timers. */
struct event_loop *vm_main_loop(struct vm *vm);
int vm_kvm_fd(struct vm *vm); /* the KVM VM descriptor, for ioeventfd and irqfd */
/* Level of an ISA interrupt line; any thread. */
void vm_irq_set(struct vm *vm, unsigned irq, bool level);
/* MSI as the guest programmed it; any thread. */
void vm_msi_send(struct vm *vm, uint64_t address, uint32_t data);
/* Takes the device into the VM's list: freed with the VM. Before the guest runs. */
void vm_device_add(struct vm *vm, struct device *device);
/*
 * True while I/O may be submitted. Each device asks right before each submission (io_uring_submit,
 * write to a tap): false once the lease's deadline is over, whichever thread has noticed it yet, or while io_stop is in force.
 */
bool vm_io_allowed(struct vm *vm);
/* The guest asked for these; any thread. */
void vm_request_reset(struct vm *vm);
void vm_request_power_off(struct vm *vm, const char *reason);

#endif
