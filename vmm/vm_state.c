/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Save and load of the whole state but memory, as VmDeviceState: a section for the clock,
 * each vCPU, the interrupt controllers, the PIT, the PCI host, and each device in the
 * order of its creation.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/pci.h"
#include "vmm/kvm/kvm.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/state.h"
#include "vmm/vm_internal.h"

#define STATE_VERSION 1u
#define CORE_VERSION  1u /* of the sections below that are not devices */
#define SECTIONS_MAX  (LIMIT_VCPUS + 64)
#define SECTION_LIMIT (16u << 20)

/* Holds all that a VmDeviceState points to while it is built. */
struct state_builder {
    Drover__VmDeviceState state;
    Drover__MachineConfig machine;
    Drover__DeviceSection sections[SECTIONS_MAX];
    Drover__DeviceSection *pointers[SECTIONS_MAX];
    char *device_names[SECTIONS_MAX];
    unsigned count;
};

static void builder_free(struct state_builder **builder)
{
    if (*builder == NULL) {
        return;
    }
    for (unsigned i = 0; i < (*builder)->count; i++) {
        free((*builder)->sections[i].payload.data);
    }
    free(*builder);
}

/* Takes the payload out of `payload`. */
static int section_add(struct state_builder *builder, const char *name, uint32_t instance,
                       uint32_t version, struct buffer *payload)
{
    if (builder->count == SECTIONS_MAX) {
        return DROVER_ELIMIT;
    }
    Drover__DeviceSection *section = &builder->sections[builder->count];
    drover__device_section__init(section);
    section->name = (char *)name; /* protobuf-c does not write to it */
    section->instance = instance;
    section->version = version;
    size_t size = 0;
    section->payload.data = buffer_take(payload, &size);
    section->payload.len = size;
    section->crc32 = (uint32_t)crc32(0, section->payload.data, (uInt)size);
    builder->pointers[builder->count] = section;
    builder->count++;
    return 0;
}

static int pci_host_save(struct vm *vm, struct buffer *out)
{
    Drover__PciHostState state = DROVER__PCI_HOST_STATE__INIT;
    state.address_latch = pci_bus_latch(vm->pci);
    return state_pack(&state.base, out);
}

static int pci_host_load(struct vm *vm, const uint8_t *payload, size_t size,
                         struct error *err)
{
    Drover__PciHostState *state = drover__pci_host_state__unpack(NULL, size, payload);
    if (state == NULL) {
        return error_set(err, DROVER_EMALFORMED, "the saved PCI host is malformed");
    }
    pci_bus_latch_set(vm->pci, state->address_latch);
    drover__pci_host_state__free_unpacked(state, NULL);
    return 0;
}

/* The sections that are the machine's own. Clock first: its load tells how old the state
 * is. */
static const struct core_section {
    const char *name;
    int (*save)(struct vm *vm, struct buffer *out);
    int (*load)(struct vm *vm, const uint8_t *payload, size_t size, struct error *err);
} core_sections[] = {
    {"irqchip", kvm_irqchip_save, kvm_irqchip_load},
    {"pit", kvm_pit_save, kvm_pit_load},
    {"pci-host", pci_host_save, pci_host_load},
};
#define CORE_SECTIONS (sizeof(core_sections) / sizeof(core_sections[0]))

static int core_save(struct vm *vm, struct state_builder *builder)
{
    CLEANUP(buffer_done) struct buffer payload = {0};
    int result = kvm_clock_save(vm, &payload);
    result =
        result < 0 ? result : section_add(builder, "clock", 0, CORE_VERSION, &payload);
    for (unsigned i = 0; result == 0 && i < vm->vcpu_count; i++) {
        result = kvm_cpu_save(&vm->vcpus[i], &payload);
        result =
            result < 0 ? result : section_add(builder, "cpu", i, CORE_VERSION, &payload);
    }
    for (unsigned i = 0; result == 0 && i < CORE_SECTIONS; i++) {
        result = core_sections[i].save(vm, &payload);
        result = result < 0 ? result
                            : section_add(builder, core_sections[i].name, 0, CORE_VERSION,
                                          &payload);
    }
    return result;
}

static int devices_save(struct vm *vm, struct state_builder *builder)
{
    CLEANUP(buffer_done) struct buffer payload = {0};
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        const struct device_ops *ops = device->ops;
        if (ops->save == NULL) {
            continue;
        }
        int result = ops->save(device, &payload);
        result = result < 0 ? result
                            : section_add(builder, ops->name, device->instance,
                                          ops->version, &payload);
        if (result < 0) {
            return result;
        }
        builder->device_names[builder->machine.n_devices++] = (char *)ops->name;
    }
    return 0;
}

int vm_save(struct vm *vm, struct buffer *out)
{
    CHECK(vm_quiet(vm));
    CLEANUP(builder_free) struct state_builder *builder = calloc(1, sizeof(*builder));
    if (builder == NULL) {
        return -ENOMEM;
    }
    drover__vm_device_state__init(&builder->state);
    drover__machine_config__init(&builder->machine);
    builder->state.version = STATE_VERSION;
    builder->state.machine = &builder->machine;
    builder->machine.memory_bytes = guest_ram_size(vm->ram);
    builder->machine.cpus = vm->vcpu_count;
    builder->machine.devices = builder->device_names;
    builder->machine.name = (char *)vm->config.name;
    int result = core_save(vm, builder);
    result = result < 0 ? result : devices_save(vm, builder);
    if (result < 0) {
        return result;
    }
    builder->state.n_sections = builder->count;
    builder->state.sections = builder->pointers;
    return state_pack(&builder->state.base, out);
}

static int machine_judge(struct vm *vm, const Drover__MachineConfig *machine,
                         struct error *err)
{
    if (machine == NULL) {
        return error_set(err, DROVER_EMALFORMED,
                         "the saved state does not describe its machine");
    }
    if (machine->memory_bytes != guest_ram_size(vm->ram) ||
        machine->cpus != vm->vcpu_count) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest has %u vCPUs and %" PRIu64
                         " bytes of memory, this VM has %u "
                         "and %" PRIu64 ": give the same --cpus and --memory",
                         machine->cpus, machine->memory_bytes, vm->vcpu_count,
                         guest_ram_size(vm->ram));
    }
    size_t index = 0;
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->save == NULL) {
            continue;
        }
        if (index == machine->n_devices ||
            strcmp(machine->devices[index], device->ops->name) != 0) {
            return error_set(
                err, DROVER_EBADINPUT,
                "the guest has a %s where this VM has a %s: give the same disks and "
                "networks in the same order",
                index == machine->n_devices ? "(none)" : machine->devices[index],
                device->ops->name);
        }
        index++;
    }
    if (index != machine->n_devices) {
        return error_set(
            err, DROVER_EBADINPUT,
            "the guest has a %s that this VM has not: give the same disks and "
            "networks in the same order",
            machine->devices[index]);
    }
    return 0;
}

/* The one section of that name and instance, checked; or NULL with `err` filled. */
static const Drover__DeviceSection *section_find(const Drover__VmDeviceState *state,
                                                 const char *name, uint32_t instance,
                                                 uint32_t version, struct error *err)
{
    for (size_t i = 0; i < state->n_sections; i++) {
        const Drover__DeviceSection *section = state->sections[i];
        if (strcmp(section->name, name) != 0 || section->instance != instance) {
            continue;
        }
        if (section->version > version || section->version + 1 < version ||
            section->version == 0) {
            (void)error_set(
                err, DROVER_EVERSION,
                "the saved %s has version %u, this program reads %u and the one "
                "before: use the program that saved it, or the next one",
                name, section->version, version);
            return NULL;
        }
        if (section->payload.len > SECTION_LIMIT ||
            crc32(0, section->payload.data, (uInt)section->payload.len) !=
                section->crc32) {
            (void)error_set(err, DROVER_EMALFORMED, "the saved %s is damaged", name);
            return NULL;
        }
        return section;
    }
    (void)error_set(err, DROVER_EMALFORMED, "the saved state lacks its %s %u", name,
                    instance);
    return NULL;
}

static int core_load(struct vm *vm, const Drover__VmDeviceState *state, struct error *err)
{
    const Drover__DeviceSection *section =
        section_find(state, "clock", 0, CORE_VERSION, err);
    if (section == NULL) {
        return err->code;
    }
    uint64_t elapsed_ns = 0;
    int result =
        kvm_clock_load(vm, section->payload.data, section->payload.len, &elapsed_ns, err);
    for (unsigned i = 0; result == 0 && i < vm->vcpu_count; i++) {
        section = section_find(state, "cpu", i, CORE_VERSION, err);
        result = section == NULL ? err->code
                                 : kvm_cpu_load(&vm->vcpus[i], section->payload.data,
                                                section->payload.len, elapsed_ns, err);
    }
    for (unsigned i = 0; result == 0 && i < CORE_SECTIONS; i++) {
        section = section_find(state, core_sections[i].name, 0, CORE_VERSION, err);
        result = section == NULL ? err->code
                                 : core_sections[i].load(vm, section->payload.data,
                                                         section->payload.len, err);
    }
    return result;
}

static int devices_load(struct vm *vm, const Drover__VmDeviceState *state,
                        struct error *err)
{
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        const struct device_ops *ops = device->ops;
        if (ops->save == NULL) {
            continue;
        }
        const Drover__DeviceSection *section =
            section_find(state, ops->name, device->instance, ops->version, err);
        if (section == NULL) {
            return err->code;
        }
        int result = ops->load(device, section->version, section->payload.data,
                               section->payload.len, err);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

static int state_load(struct vm *vm, const Drover__VmDeviceState *state,
                      struct error *err)
{
    if (state->version != STATE_VERSION) {
        return error_set(err, DROVER_EVERSION,
                         "the saved state has version %u, this program reads %u",
                         state->version, STATE_VERSION);
    }
    int result = machine_judge(vm, state->machine, err);
    result = result < 0 ? result : core_load(vm, state, err);
    return result < 0 ? result : devices_load(vm, state, err);
}

/* Saved once: whoever asks counts what loading takes, with what lies around it. */
static int rehearsal_save(struct vm *vm)
{
    CLEANUP(builder_free) struct state_builder *builder = calloc(1, sizeof(*builder));
    if (builder == NULL) {
        return -ENOMEM;
    }
    drover__vm_device_state__init(&builder->state);
    int result = core_save(vm, builder);
    if (result == 0) {
        builder->state.n_sections = builder->count;
        builder->state.sections = builder->pointers;
        vm->rehearsal = TAKE(builder);
    }
    return result;
}

int vm_rehearse_load(struct vm *vm, uint64_t *ret_load_ns)
{
    struct error err = {0};
    /* A guest that is only paused is left alone: its clocks would be set. */
    if (!vm_quiet(vm) || (vm_holds(vm) & VM_HOLD_INCOMING) == 0) {
        return DROVER_EWRONGSTATE;
    }
    int result = vm->rehearsal == NULL ? rehearsal_save(vm) : 0;
    uint64_t start_ns = clock_now_ns();
    result = result < 0 ? result : core_load(vm, &vm->rehearsal->state, &err);
    if (result == 0) {
        *ret_load_ns = clock_now_ns() - start_ns;
    }
    return result;
}

void vm_rehearsal_done(struct vm *vm)
{
    builder_free(&vm->rehearsal);
    vm->rehearsal = NULL;
}

int vm_load(struct vm *vm, const uint8_t *data, size_t size, struct error *err)
{
    CHECK(vm_quiet(vm));
    vm_rehearsal_done(vm);
    struct error own = {0};
    err = err == NULL ? &own : err;
    Drover__VmDeviceState *state = drover__vm_device_state__unpack(NULL, size, data);
    if (state == NULL) {
        return error_set(err, DROVER_EMALFORMED, "the saved state is malformed");
    }
    int result = state_load(vm, state, err);
    drover__vm_device_state__free_unpacked(state, NULL);
    return result;
}
