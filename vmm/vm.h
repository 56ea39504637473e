/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One virtual machine: owns memory, vCPUs, buses, devices and threads. What a device may
 * ask of its VM is in the first part; the rest is for main.c, control.c and migrate.c.
 * See docs/vmm.md for the threads.
 *
 * vCPUs run only while no hold is set. Each reason to stop is a hold of its own, so that
 * a lease that comes back can't undo an operator's pause.
 */
#ifndef DROVER_VMM_VM_H
#define DROVER_VMM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/cpu/cpu_model.h"
#include "vmm/jail/seccomp.h"

struct broker;
struct buffer;
struct acpi_power;
struct bus;
struct device;
struct error;
struct event_loop;
struct flash;
struct guest_ram;
struct log;
struct options_cpu_set;
struct pci_bus;
struct vm;

enum vm_hold {
    VM_HOLD_START = 1 << 0,    /* not started yet */
    VM_HOLD_OPERATOR = 1 << 1, /* paused */
    VM_HOLD_LEASE = 1 << 2,    /* past the deadline: frozen */
    VM_HOLD_INCOMING = 1 << 3, /* waits for its state */
    VM_HOLD_HANDOVER = 1 << 4, /* in a handover, or handed over */
    VM_HOLD_SHUTDOWN = 1 << 5, /* ended for good */
    VM_HOLD_RESET = 1 << 6,    /* between two lives of the guest */
    VM_HOLD_SNAPSHOT = 1 << 7,
    VM_HOLD_PANIC = 1 << 8, /* the guest has crashed, and shall stand still then */
};

/* ---- for devices ----------------------------------------------------------------------
 */

struct guest_ram *vm_ram(struct vm *vm);
struct bus *vm_port_bus(struct vm *vm);
struct bus *vm_memory_bus(struct vm *vm);
struct pci_bus *vm_pci(struct vm *vm);
const struct log *vm_log(struct vm *vm);
/* The loop on which devices do their I/O. */
struct event_loop *vm_io_loop(struct vm *vm);
/* The loop of the main thread: control socket, serial clients, timers. */
struct event_loop *vm_main_loop(struct vm *vm);
/* What the VM may need from outside its jail. NULL in some unit tests. */
struct broker *vm_broker(struct vm *vm);
/* First thing in each thread that is started once the guest may run. */
void vm_thread_confine(struct vm *vm, enum seccomp_role role);
int vm_kvm_fd(struct vm *vm); /* the KVM VM descriptor, for ioeventfd and irqfd */
/* Level of an ISA interrupt line; any thread. */
void vm_irq_set(struct vm *vm, unsigned irq, bool level);
/* MSI as the guest programmed it; any thread. */
void vm_msi_send(struct vm *vm, uint64_t address, uint32_t data);
/*
 * Each write to the eventfd `fd` raises this MSI without us, from now on; `route` is -1
 * at first, and changed. -errno: nothing is changed, but for what was set before. Any
 * thread; one at a time for each `fd`.
 */
int vm_irqfd_set(struct vm *vm, int fd, int *route, uint64_t address, uint32_t data);
/* No more; harmless if it was not. */
void vm_irqfd_clear(struct vm *vm, int fd, int *route);
/* Takes the device into the VM's list: freed with the VM. Before the guest runs. */
void vm_device_add(struct vm *vm, struct device *device);
/* The flash among the devices; NULL: a VM without firmware. Main or migration thread. */
void vm_flash_set(struct vm *vm, struct flash *flash);
struct flash *vm_flash(struct vm *vm);
/*
 * True while I/O may be submitted. Each device asks right before each submission
 * (io_uring_submit, write to a tap): false once the lease's deadline is over, whichever
 * thread has noticed it yet, or while io_stop is in force.
 */
bool vm_io_allowed(struct vm *vm);
/* Where vm_power_button() presses; NULL: nowhere. Before the guest runs, or after. */
void vm_power_device_set(struct vm *vm, struct acpi_power *power);
/* The guest asked for these; any thread. */
void vm_request_reset(struct vm *vm);
void vm_request_power_off(struct vm *vm, const char *reason);
/*
 * A device whose last I/O has ended after io_stop() may say so, so that nobody has to
 * wait for the next look (each millisecond). Any thread; cheap; harmless at any time.
 */
void vm_device_drained(struct vm *vm);

/* ---- for main.c, control.c, migrate.c -------------------------------------------------
 */

struct vm_config {
    const char *name;
    uint64_t memory_bytes;
    bool huge_pages, mergeable, preallocated; /* vmm/memory/guest_ram.h */
    unsigned cpus;
    unsigned machine; /* machine.h; 0: the newest */
    enum cpu_model cpu_model;
    const struct options_cpu_set *cpu_affinity; /* NULL or empty: any; borrowed */
    const char *kernel;                         /* bzImage, or ELF with a PVH note; NULL:
                                                 boots by firmware */
    const char *initrd;                         /* NULL: none */
    const char *cmdline;
    uint64_t vm_id; /* 0: not run by a cluster */
    uint64_t epoch;
    bool ha;                   /* held by VM_HOLD_LEASE until vm_lease_set() */
    bool incoming;             /* VM_HOLD_INCOMING is set: nothing is put into memory */
    bool paused;               /* VM_HOLD_OPERATOR is set */
    struct broker *broker;     /* borrowed; see broker.h */
    enum seccomp_mode seccomp; /* of all threads */
};

/*
 * Makes memory, buses, irqchip and vCPUs; the strings of `config` are borrowed for the
 * VM's life, `log` too. VM_HOLD_START is set. Then the caller adds devices, then calls
 * vm_start().
 */
int vm_create(const struct vm_config *config, const struct log *log, struct vm **ret_vm,
              struct error *err);
/* Puts the guest's kernel and tables into memory (unless incoming), starts the threads,
 * clears VM_HOLD_START. */
int vm_start(struct vm *vm, struct error *err);
/* Runs the main loop until the VM has ended for good and was told to go. */
int vm_run(struct vm *vm);
/* Ends all threads but the caller's: then whatever else uses the loops can be freed. */
void vm_stop(struct vm *vm);
/* vm_stop(), and frees devices and all. NULL is fine. */
void vm_free(struct vm *vm);

const struct vm_config *vm_config(const struct vm *vm);
/* First in the VM's list, or NULL; follow `next`. */
struct device *vm_devices(struct vm *vm);

typedef void (*vm_quiet_handler)(struct vm *vm, void *owner);

/*
 * Sets a hold; any thread. The vCPUs leave the guest, I/O stops. `quiet` (may be NULL)
 * runs once, later, on the main loop, when all vCPUs are out and all I/O is drained; at
 * once next if that is so already. -EBUSY when too many wait.
 */
int vm_hold_set(struct vm *vm, enum vm_hold hold, vm_quiet_handler quiet, void *owner);
/* The same, and waits for it: any thread but the main loop's, the I/O loop's and the
 * vCPUs'. */
void vm_hold_set_wait(struct vm *vm, enum vm_hold hold);
/* No `quiet` with this owner is run any more; true if one was still to be. Main thread. */
bool vm_hold_forget(struct vm *vm, const void *owner);
/* Takes a hold back; with the last one the guest goes on. Any thread. */
void vm_hold_clear(struct vm *vm, enum vm_hold hold);
/* A guest has arrived and may be let go any moment: what can be done before is. VM_HOLD_INCOMING
 * is set. */
void vm_go_expected(struct vm *vm);
/* The holds in force, an OR of enum vm_hold. */
unsigned vm_holds(const struct vm *vm);
/* True while all vCPUs are out of the guest and all I/O is drained, and a hold keeps it
 * so. */
bool vm_quiet(const struct vm *vm);
/* Pages of the guest's are on their way, and may never come: who touches one waits. Main
 * must not, so a reset waits until there are none such. Any thread. */
void vm_memory_missing_set(struct vm *vm, bool missing);
bool vm_memory_missing(const struct vm *vm);
/*
 * CLOCK_BOOTTIME of the last vCPU's last exit before the VM became quiet, and of the
 * first entry since it went on (0 while none). Any thread.
 */
uint64_t vm_last_exit_ns(const struct vm *vm);
uint64_t vm_first_entry_ns(const struct vm *vm);
/* Calls `entered` once on the main loop soon after the first entry since it went on. NULL
 * takes it back. Main thread. */
void vm_on_first_entry(struct vm *vm, vm_quiet_handler entered, void *owner);

/*
 * The lease: the guest may run until `deadline_ns` (CLOCK_BOOTTIME), 0 = not any more. An
 * earlier deadline than the one in force is ignored, but 0. Main thread.
 * DROVER_EWRONGSTATE if the VM is not for HA.
 */
int vm_lease_set(struct vm *vm, uint64_t deadline_ns);
uint64_t vm_lease_deadline_ns(const struct vm *vm);

/*
 * All state but memory, as VmDeviceState (proto/device_state.proto). The VM must be
 * quiet. One thread at a time. Load judges the machine (memory, vCPUs, devices in order)
 * first, then each section; after an error the VM must not run.
 */
int vm_save(struct vm *vm, struct buffer *out);
int vm_load(struct vm *vm, const uint8_t *data, size_t size, struct error *err);
/* After a migration, here: every device that announces itself does so. Main thread. */
void vm_arrived(struct vm *vm);

/* VM_HOLD_SHUTDOWN with a reason for people; `failed`: it never got to run, or harm was
 * done. Any thread. */
void vm_end(struct vm *vm, bool failed, const char *reason);
/* Why it ended, or "". Any thread, as the next three. */
void vm_end_reason(struct vm *vm, char *ret_reason, size_t size);
bool vm_ended(struct vm *vm);
bool vm_failed(struct vm *vm);
bool vm_guest_powered_off(struct vm *vm);
/* The go was sent, or may have been: from migrate.c, for the state that clients see. Any
 * thread. */
void vm_handed_over_set(struct vm *vm, bool handed_over);
bool vm_handed_over(const struct vm *vm);
/* An order to end the process too, whatever the VM's state is worth. Main thread. */
void vm_quit(struct vm *vm);
bool vm_quit_wanted(const struct vm *vm);
/* Since vm_start(). */
uint64_t vm_uptime_ms(const struct vm *vm);
/* Presses the ACPI power button. Any thread. */
void vm_power_button(struct vm *vm);
/* Some state that clients of the control socket see has changed: they are told soon. Any
 * thread. */
void vm_state_changed(struct vm *vm);
/* `changed` runs on the main loop after each change; there is one observer. */
void vm_observe(struct vm *vm, vm_quiet_handler changed, void *owner);

unsigned vm_vcpu_count(const struct vm *vm);
/*
 * Keeps a vCPU out of the guest for so much of its time from now on: 0 to 99; 100: it
 * stands until further notice, but not for long. Any thread. -ENOSYS: its host gave it no
 * timer.
 */
int vm_vcpu_throttle(struct vm *vm, unsigned vcpu, unsigned percent);
/*
 * What stopping the vCPUs and saving their state takes, tried while the guest runs: each
 * stands for well under a millisecond, one after the other. What is typical counts, not the
 * best. A VM that waits for a guest tries instead what loading and running take. One
 * thread at a time.
 */
struct vm_rehearsal {
    uint64_t stop_ns; /* until a vCPU is out */
    uint64_t drain_ns; /* from then on, until whoever stopped them knows */
    uint64_t enter_ns; /* from the order to run until a vCPU that is parked has it; 0: none is */
    uint64_t early_ns; /* what each vCPU saves of itself meanwhile */
    uint64_t save_ns;  /* the rest, then */
    uint64_t load_ns; /* 0: not tried */
    uint64_t state_bytes;
};
int vm_rehearse(struct vm *vm, struct vm_rehearsal *ret_rehearsal);
/* A VM that waits for a guest: loads the machine's own part of a state, which is the one that
 * it had the first time; what that took. */
int vm_rehearse_load(struct vm *vm, uint64_t *ret_load_ns);

/*
 * Pages that were written by vCPUs, KVM itself, or devices, since start or since the last
 * fetch that covered them. `start` turns the log on for all memory; fetch ORs the pages
 * [first_page, first_page + page_count) of a region into `bitmap` (bit 0 = first_page;
 * (page_count + 63) / 64 words) and forgets them. Both numbers are multiples of 64, but
 * the last range of a region may be shorter. Any one thread at a time.
 */
int vm_dirty_log_start(struct vm *vm);
int vm_dirty_log_stop(struct vm *vm);
int vm_dirty_log_fetch(struct vm *vm, unsigned region_index, uint64_t *bitmap,
                       uint64_t first_page, uint64_t page_count);
/*
 * Its two halves: `peek` ORs all of a region, which stays written; `forget` forgets the
 * pages that `bitmap` (bit 0 = first_page) holds, so that it can be done right before
 * they are read. Forget by several threads at once.
 */
int vm_dirty_log_peek(struct vm *vm, unsigned region_index, uint64_t *bitmap);
int vm_dirty_log_forget(struct vm *vm, unsigned region_index, const uint64_t *bitmap,
                        uint64_t first_page, uint64_t page_count);

#endif
