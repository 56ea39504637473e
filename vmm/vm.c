/* SPDX-License-Identifier: Apache-2.0 */
/* One VM from its making to its end; what devices may ask of it. */
#include "vmm/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "vmm/boot/boot.h"
#include "vmm/bus/bus.h"
#include "vmm/bus/pci.h"
#include "vmm/devices/platform.h"
#include "vmm/firmware/firmware.h"
#include "vmm/host/event_loop.h"
#include "vmm/kvm/affinity.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/options/options_cpu.h"
#include "vmm/vm_internal.h"

static void pci_msi(void *owner, uint64_t address, uint32_t data)
{
    vm_msi_send(owner, address, data);
}

static void pci_reset(void *owner)
{
    vm_request_reset(owner);
}

static int buses_create(struct vm *vm)
{
    int result = bus_create(&vm->port_bus);
    result = result < 0 ? result : bus_create(&vm->memory_bus);
    if (result < 0) {
        return result;
    }
    const struct pci_bus_config pci = {
        .port_bus = vm->port_bus,
        .memory_bus = vm->memory_bus,
        .machine = vm->config.machine,
        .owner = vm,
        .msi_send = pci_msi,
        .reset = pci_reset,
    };
    return pci_bus_create(&pci, &vm->pci);
}

/* The part of the making that needs no KVM. */
static int parts_create(struct vm *vm, struct error *err)
{
    const struct guest_ram_config ram = {
        .size_bytes = vm->config.memory_bytes,
        .huge_pages = vm->config.huge_pages,
        .mergeable = vm->config.mergeable,
        .preallocated = vm->config.preallocated,
    };
    int result = guest_ram_create_config(&ram, &vm->ram, err);
    if (result < 0) {
        return result;
    }
    result = buses_create(vm);
    result = result < 0 ? result : event_loop_create(&vm->main_loop);
    result = result < 0 ? result : event_loop_create(&vm->io_loop);
    result = result < 0 ? result : vm_hold_init(vm);
    if (result < 0) {
        return error_set(err, result, "cannot make the VM: %s", err_text(result));
    }
    if (vm->config.kernel == NULL) {
        return 0; /* firmware_create() has its part */
    }
    return boot_open(vm->config.kernel, vm->config.initrd, vm->config.cmdline,
                     guest_ram_size(vm->ram), &vm->boot, err);
}

/* What vCPU 0 is like before its first entry: from it, resets make all vCPUs new. */
static int power_on_state_keep(struct vm *vm, struct error *err)
{
    int result = kvm_cpu_save(&vm->vcpus[0], &vm->power_on_cpu);
    if (result < 0) {
        return error_set(err, result, "cannot read the state of a new vCPU: %s",
                         err_text(result));
    }
    return 0;
}

static int config_judge(const struct vm_config *config, struct error *err)
{
    if (config->cpus < 1 || config->cpus > LIMIT_VCPUS) {
        return error_set(err, DROVER_EBADINPUT, "--cpus %u: give 1 to %d", config->cpus,
                         LIMIT_VCPUS);
    }
    if (config->cpu_affinity != NULL && config->cpu_affinity->count > 0) {
        return affinity_judge(config->cpu_affinity, err);
    }
    return 0;
}

static void vm_free_scope(struct vm **vm)
{
    vm_free(*vm);
}

int vm_create(const struct vm_config *config, const struct log *log, struct vm **ret_vm,
              struct error *err)
{
    int result = config_judge(config, err);
    if (result < 0) {
        return result;
    }
    CLEANUP(vm_free_scope)
    struct vm *vm = calloc(1, sizeof(*vm) + config->cpus * sizeof(struct vcpu));
    if (vm == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    vm->config = *config;
    vm->config.machine = config->machine == 0 ? MACHINE_NEWEST : config->machine;
    vm->log = log;
    vm->kvm_fd = -1;
    vm->fd = -1;
    vm->wake_fd = -1;
    vm->echo_fd = -1;
    vm->devices_end = &vm->devices;
    vm->vcpu_count = config->cpus;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        vm->vcpus[i] = (struct vcpu){.vm = vm, .index = i, .fd = -1, .out = true};
    }
    CHECK(pthread_mutex_init(&vm->lock, NULL) == 0);
    CHECK(pthread_cond_init(&vm->go, NULL) == 0);
    CHECK(pthread_cond_init(&vm->quiet_cond, NULL) == 0);
    result = parts_create(vm, err);
    result = result < 0 ? result : kvm_vm_open(vm, err);
    result = result < 0 ? result : kvm_vcpus_create(vm, err);
    result = result < 0 ? result : power_on_state_keep(vm, err);
    if (result == 0) {
        *ret_vm = TAKE(vm);
    }
    return result;
}

static void *io_thread(void *argument)
{
    struct vm *vm = argument;
    (void)pthread_setname_np(pthread_self(), "io"); /* for people only */
    vm_thread_confine(vm, SECCOMP_ROLE_IO);
    CHECK(event_loop_run(vm->io_loop) == 0);
    return NULL;
}

int vm_start(struct vm *vm, struct error *err)
{
    if (!vm->config.incoming) {
        int result = vm_boot(vm, err);
        if (result < 0) {
            return result;
        }
    }
    /* First those for whom the guest waits: they close their jails meanwhile. */
    int result = kvm_vcpus_start(vm, err);
    if (result < 0) {
        return result;
    }
    result = -pthread_create(&vm->io_thread, NULL, io_thread, vm);
    if (result < 0) {
        return error_set(err, result, "cannot start a thread: %s", err_text(result));
    }
    vm->io_thread_started = true;
    vm->started_ms = clock_now_ms();
    vm_hold_clear(vm, VM_HOLD_START);
    return 0;
}

int vm_run(struct vm *vm)
{
    return event_loop_run(vm->main_loop);
}

void vm_stop(struct vm *vm)
{
    vm_lock(vm);
    vm->ending_threads = true;
    atomic_store(&vm->may_run, false);
    CHECK(pthread_cond_broadcast(&vm->go) == 0);
    vm_unlock(vm);
    kvm_vcpus_kick(vm);
    kvm_vcpus_join(vm);
    if (vm->io_thread_started) {
        event_loop_stop(vm->io_loop);
        CHECK(pthread_join(vm->io_thread, NULL) == 0);
        vm->io_thread_started = false;
    }
}

void vm_free(struct vm *vm)
{
    if (vm == NULL) {
        return;
    }
    vm_stop(vm);
    while (vm->devices != NULL) {
        struct device *device = vm->devices;
        vm->devices = device->next;
        device->ops->free(device);
    }
    pci_bus_free(vm->pci);
    bus_free(vm->port_bus);
    bus_free(vm->memory_bus);
    vm_hold_done(vm);
    event_loop_free(vm->io_loop);
    event_loop_free(vm->main_loop);
    kvm_vcpus_close(vm);
    kvm_vm_close(vm);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        free(vm->vcpus[i].scratch);
    }
    guest_ram_free(vm->ram);
    boot_close(vm->boot);
    buffer_done(&vm->power_on_cpu);
    vm_rehearsal_done(vm);
    free(vm->offered_cpu);
    free(vm->guest_cpu);
    free(vm);
}

int vm_boot(struct vm *vm, struct error *err)
{
    if (vm->firmware != NULL) {
        return firmware_boot(vm, err); /* the processor begins where it is reset to */
    }
    struct kvm_boot_entry entry = {0};
    int result = boot_load(vm->boot, vm, &entry, err);
    if (result < 0) {
        return result;
    }
    result = kvm_vcpu_boot_set(&vm->vcpus[0], &entry);
    if (result < 0) {
        return error_set(err, result, "KVM refused the boot registers: %s",
                         err_text(result));
    }
    return 0;
}

/* What was saved of vCPUs is of another life. */
static void saved_forget(struct vm *vm)
{
    vm_lock(vm);
    vm->standstill++;
    vm_unlock(vm);
}

int vm_reset(struct vm *vm, struct error *err)
{
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->reset != NULL) {
            device->ops->reset(device);
        }
    }
    saved_forget(vm); /* before, and after: it may be under way */
    int result = kvm_irqchip_reset(vm);
    if (result < 0) {
        return error_set(err, result, "reset failed: KVM refused the irqchip's state");
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        result = kvm_cpu_reset(&vm->vcpus[i], vm->power_on_cpu.data,
                               vm->power_on_cpu.size, err);
        if (result < 0) {
            return result;
        }
    }
    result = vm_boot(vm, err);
    saved_forget(vm);
    return result;
}

void vm_device_add(struct vm *vm, struct device *device)
{
    CHECK(device->ops != NULL && device->ops->free != NULL);
    device->next = NULL;
    *vm->devices_end = device;
    vm->devices_end = &device->next;
}

struct device *vm_devices(struct vm *vm)
{
    return vm->devices;
}

void vm_arrived(struct vm *vm)
{
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->arrived != NULL) {
            device->ops->arrived(device);
        }
    }
}

void vm_flash_set(struct vm *vm, struct flash *flash)
{
    vm->flash = flash;
}

struct flash *vm_flash(struct vm *vm)
{
    return vm->flash;
}

const struct vm_config *vm_config(const struct vm *vm)
{
    return &vm->config;
}

struct guest_ram *vm_ram(struct vm *vm)
{
    return vm->ram;
}

struct bus *vm_port_bus(struct vm *vm)
{
    return vm->port_bus;
}

struct bus *vm_memory_bus(struct vm *vm)
{
    return vm->memory_bus;
}

struct pci_bus *vm_pci(struct vm *vm)
{
    return vm->pci;
}

const struct log *vm_log(struct vm *vm)
{
    return vm->log;
}

struct broker *vm_broker(struct vm *vm)
{
    return vm->config.broker;
}

void vm_thread_confine(struct vm *vm, enum seccomp_role role)
{
    CHECK(seccomp_enter(vm->config.seccomp, role) == 0);
}

struct event_loop *vm_io_loop(struct vm *vm)
{
    return vm->io_loop;
}

struct event_loop *vm_main_loop(struct vm *vm)
{
    return vm->main_loop;
}

void vm_observe(struct vm *vm, vm_quiet_handler changed, void *owner)
{
    vm->observer = (struct vm_quiet_waiter){.handler = changed, .owner = owner};
}

void vm_handed_over_set(struct vm *vm, bool handed_over)
{
    atomic_store(&vm->handed_over, handed_over);
    vm_state_changed(vm);
}

bool vm_handed_over(const struct vm *vm)
{
    return atomic_load(&vm->handed_over);
}

bool vm_ended(struct vm *vm)
{
    vm_lock(vm);
    bool ended = vm->ended;
    vm_unlock(vm);
    return ended;
}

bool vm_failed(struct vm *vm)
{
    vm_lock(vm);
    bool failed = vm->failed;
    vm_unlock(vm);
    return failed;
}

void vm_power_device_set(struct vm *vm, struct acpi_power *power)
{
    vm->power = power;
}

void vm_power_button(struct vm *vm)
{
    if (vm->power != NULL) {
        acpi_power_button(vm->power);
    }
}

bool vm_guest_powered_off(struct vm *vm)
{
    vm_lock(vm);
    bool powered_off = vm->guest_powered_off;
    vm_unlock(vm);
    return powered_off;
}

void vm_end_reason(struct vm *vm, char *ret_reason, size_t size)
{
    vm_lock(vm);
    (void)snprintf(ret_reason, size, "%s", vm->end_reason); /* cut is fine */
    vm_unlock(vm);
}

void vm_quit(struct vm *vm)
{
    vm->quit_wanted = true;
    vm_end(vm, false, "stopped by order");
}

bool vm_quit_wanted(const struct vm *vm)
{
    return vm->quit_wanted;
}

uint64_t vm_uptime_ms(const struct vm *vm)
{
    return vm->started_ms == 0 ? 0 : clock_now_ms() - vm->started_ms;
}
