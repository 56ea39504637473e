/* SPDX-License-Identifier: Apache-2.0 */
/* The VMs that concern this host, and their VMMs. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "node-agent/host_core_private.h"

/* Where it is, or would be. */
static size_t position(const struct host_core *core, uint64_t vm_id)
{
    size_t low = 0;
    size_t high = core->vm_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (core->vms[middle].vm_id < vm_id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

struct host_vm *host_table_find(const struct host_core *core, uint64_t vm_id)
{
    size_t at = position(core, vm_id);
    return at < core->vm_count && core->vms[at].vm_id == vm_id ? &core->vms[at] : NULL;
}

struct host_vm *host_table_get(struct host_core *core, uint64_t vm_id)
{
    CHECK(vm_id != 0);
    size_t at = position(core, vm_id);
    if (at < core->vm_count && core->vms[at].vm_id == vm_id) {
        return &core->vms[at];
    }
    if (core->vm_count == core->vm_capacity) {
        size_t capacity = core->vm_capacity * 2 + 8;
        struct host_vm *larger = realloc(core->vms, capacity * sizeof(*larger));
        if (larger == NULL) {
            return NULL;
        }
        core->vms = larger;
        core->vm_capacity = capacity;
    }
    memmove(core->vms + at + 1, core->vms + at,
            (core->vm_count - at) * sizeof(*core->vms));
    core->vm_count++;
    core->vms[at] = (struct host_vm){.vm_id = vm_id};
    return &core->vms[at];
}

void host_table_drop(struct host_core *core, struct host_vm *vm)
{
    CHECK(vm->vmm_count == 0);
    size_t at = (size_t)(vm - core->vms);
    CHECK(at < core->vm_count);
    core->vm_count--;
    memmove(vm, vm + 1, (core->vm_count - at) * sizeof(*vm));
}

struct host_vmm *host_vmm_find(struct host_vm *vm, uint64_t epoch)
{
    for (unsigned i = 0; i < vm->vmm_count; i++) {
        if (vm->vmms[i].epoch == epoch) {
            return &vm->vmms[i];
        }
    }
    return NULL;
}

struct host_vmm *host_vmm_add(struct host_vm *vm, uint64_t epoch, uint64_t now_ms)
{
    CHECK(epoch != 0 && host_vmm_find(vm, epoch) == NULL);
    if (vm->vmm_count == HOST_VMMS_MAX) {
        return NULL;
    }
    struct host_vmm *vmm = &vm->vmms[vm->vmm_count++];
    *vmm = (struct host_vmm){.epoch = epoch, .since_ms = now_ms};
    return vmm;
}

void host_vmm_drop(struct host_vm *vm, struct host_vmm *vmm)
{
    if (vmm->status != NULL) {
        drover__vm_status__free_unpacked(vmm->status, NULL);
    }
    *vmm = vm->vmms[--vm->vmm_count];
}

Drover__VmRunState host_vmm_state(const struct host_vmm *vmm)
{
    return vmm->status != NULL ? vmm->status->run_state
                               : DROVER__VM_RUN_STATE__VM_RUN_UNSPECIFIED;
}

void host_table_free(struct host_core *core)
{
    for (size_t i = 0; i < core->vm_count; i++) {
        while (core->vms[i].vmm_count > 0) {
            host_vmm_drop(&core->vms[i], &core->vms[i].vmms[0]);
        }
    }
    free(core->vms);
    core->vms = NULL;
    core->vm_count = core->vm_capacity = 0;
}
