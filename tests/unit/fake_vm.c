/* SPDX-License-Identifier: Apache-2.0 */
/* vmm/vm.h's part for devices, without KVM. */
#include "tests/unit/fake_vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "vmm/bus/bus.h"
#include "vmm/bus/pci.h"
#include "vmm/device.h"
#include "vmm/host/event_loop.h"
#include "vmm/memory/guest_ram.h"

#define TIMEOUT_MS 5000
#define LOG_SIZE   65536

static void msi_send(void *owner, uint64_t address, uint32_t data)
{
    vm_msi_send(owner, address, data);
}

static void reset(void *owner)
{
    ((struct vm *)owner)->reset_count++;
}

struct vm *fake_vm_create(uint64_t memory_bytes)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    struct pci_bus_config config;

    CHECK(vm != NULL);
    vm->io_allowed = true;
    vm->config.name = "test";
    vm->log_fd = memfd_create("log", MFD_CLOEXEC);
    CHECK(vm->log_fd >= 0);
    log_init(&vm->log, "test", LOG_LEVEL_DEBUG);
    vm->log.fd = vm->log_fd;
    CHECK(guest_ram_create(memory_bytes, &vm->ram, NULL) == 0);
    CHECK(bus_create(&vm->ports) == 0 && bus_create(&vm->memory) == 0);
    CHECK(event_loop_create(&vm->loop) == 0);
    memset(&config, 0, sizeof(config));
    config.port_bus = vm->ports;
    config.memory_bus = vm->memory;
    config.msi_send = msi_send;
    config.reset = reset;
    config.owner = vm;
    CHECK(pci_bus_create(&config, &vm->pci) == 0);
    return vm;
}

void fake_vm_free(struct vm *vm)
{
    while (vm->devices != NULL) {
        struct device *device = vm->devices;

        vm->devices = device->next;
        device->ops->free(device);
    }
    pci_bus_free(vm->pci);
    event_loop_free(vm->loop);
    bus_free(vm->memory);
    bus_free(vm->ports);
    guest_ram_free(vm->ram);
    (void)close(vm->log_fd);
    free(vm);
}

struct run {
    struct vm *vm;
    bool (*done)(void *owner);
    void *owner;
    uint64_t end_ms;
    bool was_done;
    struct event_source *tick;
};

static void run_tick(void *owner)
{
    struct run *run = owner;

    run->was_done = run->done != NULL && run->done(run->owner);
    if (run->was_done || clock_now_ms() >= run->end_ms) {
        event_loop_stop(run->vm->loop);
    } else {
        CHECK(event_loop_timer_set(run->tick, clock_now_ns() + NS_PER_MS / 4) == 0);
    }
}

static bool run(struct vm *vm, bool (*done)(void *owner), void *owner, unsigned ms)
{
    struct run run = {
        .vm = vm, .done = done, .owner = owner, .end_ms = clock_now_ms() + ms};

    CHECK(event_loop_timer_create(vm->loop, run_tick, &run, &run.tick) == 0);
    CHECK(event_loop_timer_set(run.tick, clock_now_ns()) == 0);
    CHECK(event_loop_run(vm->loop) == 0);
    event_loop_remove(run.tick);
    return run.was_done;
}

bool fake_vm_run(struct vm *vm, bool (*done)(void *owner), void *owner)
{
    return run(vm, done, owner, TIMEOUT_MS);
}

void fake_vm_run_ms(struct vm *vm, unsigned ms)
{
    (void)run(vm, NULL, NULL, ms);
}

unsigned fake_vm_logged(struct vm *vm, const char *text)
{
    static char log[LOG_SIZE];
    ssize_t size = pread(vm->log_fd, log, sizeof(log) - 1, 0);
    unsigned count = 0;

    CHECK(size >= 0);
    log[size] = '\0';
    for (const char *at = strstr(log, text); at != NULL; at = strstr(at + 1, text)) {
        count++;
    }
    return count;
}

/* ---- vmm/vm.h ------------------------------------------------------------- */

struct guest_ram *vm_ram(struct vm *vm)
{
    return vm->ram;
}

struct bus *vm_port_bus(struct vm *vm)
{
    return vm->ports;
}

struct bus *vm_memory_bus(struct vm *vm)
{
    return vm->memory;
}

struct pci_bus *vm_pci(struct vm *vm)
{
    return vm->pci;
}

const struct log *vm_log(struct vm *vm)
{
    return &vm->log;
}

struct event_loop *vm_io_loop(struct vm *vm)
{
    return vm->loop;
}

struct event_loop *vm_main_loop(struct vm *vm)
{
    return vm->loop;
}

int vm_kvm_fd(struct vm *vm)
{
    return -1;
}

void vm_msi_send(struct vm *vm, uint64_t address, uint32_t data)
{
    vm->msi[vm->msi_count++ % FAKE_VM_MSI_MAX] =
        (struct fake_msi){.address = address, .data = data};
}

void vm_device_add(struct vm *vm, struct device *device)
{
    struct device **end = &vm->devices;

    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = device;
}

struct device *vm_devices(struct vm *vm)
{
    return vm->devices;
}

const struct vm_config *vm_config(const struct vm *vm)
{
    return &vm->config;
}

bool vm_memory_missing(const struct vm *vm)
{
    (void)vm;
    return false;
}

bool vm_io_allowed(struct vm *vm)
{
    return vm->io_allowed;
}

void vm_device_drained(struct vm *vm)
{
    vm->drained_count++;
}

uint64_t vm_lease_deadline_ns(const struct vm *vm)
{
    return vm->lease_deadline_ns;
}

int vm_irqfd_set(struct vm *vm, int fd, int *route, uint64_t address, uint32_t data)
{
    return -ENOSYS; /* without KVM */
}

void vm_irqfd_clear(struct vm *vm, int fd, int *route)
{
}

void vm_request_reset(struct vm *vm)
{
    vm->reset_count++;
}

void vm_end(struct vm *vm, bool failed, const char *reason)
{
    (void)failed;
    (void)reason;
    vm->end_count++;
}

int vm_hold_set(struct vm *vm, enum vm_hold hold, vm_quiet_handler quiet, void *owner)
{
    (void)quiet;
    (void)owner;
    vm->holds |= hold;
    return 0;
}

void vm_state_changed(struct vm *vm)
{
    (void)vm; /* nobody watches */
}

void vm_thread_confine(struct vm *vm, enum seccomp_role role)
{
    (void)vm;
    (void)role;
}

struct broker *vm_broker(struct vm *vm)
{
    (void)vm;
    return NULL;
}
