/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processor that a guest sees: a baseline (cpu_model.c) or the host's, as far as KVM
 * supports it, minus what could not be saved (nested virtualization, performance
 * counters, AMX), with this machine's topology: one socket of single-threaded cores.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/cpu/cpu_model.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_cpu_state.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/vm_internal.h"

#define CPUID_ENTRIES_MAX 256

#define LEAF1_ECX_VMX          (1u << 5)
#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_HYPERVISOR   (1u << 31)
#define LEAF1_EDX_HTT          (1u << 28)
#define LEAF7_EDX_AMX          (1u << 22 | 1u << 24 | 1u << 25)
#define LEAF81_ECX_CMP_LEGACY  (1u << 1)
#define LEAF81_ECX_SVM         (1u << 2)

static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;
    while ((1u << bits) < count) {
        bits++;
    }
    return bits;
}

static void leaf_1(const struct vm *vm, const struct vcpu *vcpu,
                   struct kvm_cpuid_entry2 *entry)
{
    entry->ebx &= 0x0000ffff;
    entry->ebx |= (uint32_t)vcpu->index << 24 | (uint32_t)vm->vcpu_count << 16;
    entry->ecx &= ~LEAF1_ECX_VMX;
    entry->ecx |= LEAF1_ECX_HYPERVISOR;
    entry->edx &= ~LEAF1_EDX_HTT;
    if (vm->vcpu_count > 1) {
        entry->edx |= LEAF1_EDX_HTT;
    }
}

/* Caches: who shares them. The first two levels are a core's own, further ones are the
 * socket's. */
static void leaf_cache(const struct vm *vm, struct kvm_cpuid_entry2 *entry)
{
    if ((entry->eax & 0x1f) == 0) {
        return;
    }
    unsigned level = entry->eax >> 5 & 7;
    unsigned sharing = level >= 3 ? (1u << bits_for(vm->vcpu_count)) - 1 : 0;
    entry->eax = (entry->eax & 0x00003fff) | sharing << 14;
    if (entry->function == 4) {
        entry->eax |= ((1u << bits_for(vm->vcpu_count)) - 1) << 26;
    }
}

static void leaf_topology(const struct vm *vm, const struct vcpu *vcpu,
                          struct kvm_cpuid_entry2 *entry)
{
    entry->ebx = 0;
    entry->eax = 0;
    entry->ecx = entry->index;
    if (entry->index == 0) {
        entry->ebx = 1;
        entry->ecx |= 1u << 8; /* level of threads */
    } else if (entry->index == 1) {
        entry->eax = bits_for(vm->vcpu_count);
        entry->ebx = vm->vcpu_count;
        entry->ecx |= 2u << 8; /* level of cores */
    }
    entry->edx = vcpu->index;
}

static void entry_adjust(const struct vm *vm, const struct vcpu *vcpu, bool is_amd,
                         struct kvm_cpuid_entry2 *entry)
{
    switch (entry->function) {
    case 0x1:
        leaf_1(vm, vcpu, entry);
        break;
    case 0x4:
    case 0x8000001d:
        leaf_cache(vm, entry);
        break;
    case 0x7:
        if (entry->index == 0) { /* AMX needs more room than is saved, and a permission */
            entry->edx &= ~LEAF7_EDX_AMX;
        }
        break;
    case 0xa: /* no performance counters: their state is not saved */
        entry->eax = 0;
        entry->ebx = 0;
        entry->ecx = 0;
        entry->edx = 0;
        break;
    case 0xb:
    case 0x1f:
        leaf_topology(vm, vcpu, entry);
        break;
    case 0x80000001:
        entry->ecx &= ~LEAF81_ECX_SVM;
        if (is_amd && vm->vcpu_count > 1) {
            entry->ecx |= LEAF81_ECX_CMP_LEGACY;
        }
        break;
    case 0x80000008:
        if (is_amd || vm->config.cpu_model == CPU_MODEL_HOST) {
            entry->ecx = bits_for(vm->vcpu_count) << 12 | (vm->vcpu_count - 1);
        }
        break;
    case 0x8000000a: /* SVM features */
        entry->eax = 0;
        entry->ebx = 0;
        entry->ecx = 0;
        entry->edx = 0;
        break;
    case 0x8000001e:
        entry->eax = vcpu->index;
        entry->ebx = vcpu->index & 0xff;
        entry->ecx = 0;
        break;
    default:
        break;
    }
}

/* Physical address bits that the guest's memory needs. */
static unsigned address_bits(const struct vm *vm)
{
    const struct guest_ram_region *last =
        guest_ram_region(vm->ram, guest_ram_region_count(vm->ram) - 1);
    uint64_t end = last->gpa + last->size_bytes;
    unsigned bits = 32;
    while (bits < 64 && end > UINT64_C(1) << bits) {
        bits++;
    }
    return bits;
}

/* The processor of --cpu, without topology, into `cpuid`, which holds what KVM supports.
 */
static int model_apply(const struct vm *vm, struct kvm_cpuid2 *cpuid, struct error *err)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        /* KVM tells of this one by a capability only. */
        if (cpuid->entries[i].function == 0x1 &&
            ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0) {
            cpuid->entries[i].ecx |= LEAF1_ECX_TSC_DEADLINE;
        }
    }
    if (vm->config.cpu_model == CPU_MODEL_HOST) {
        return 0;
    }
    CLEANUP(cleanup_free)
    struct kvm_cpuid_entry2 *entries = calloc(CPU_MODEL_ENTRIES_MAX, sizeof(*entries));
    size_t count = 0;
    if (entries == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    int result = cpu_model_build(vm->config.cpu_model, cpuid->entries, cpuid->nent,
                                 address_bits(vm), entries, &count, err);
    if (result == 0) {
        memcpy(cpuid->entries, entries, count * sizeof(*entries));
        cpuid->nent = (uint32_t)count;
    }
    return result;
}

int kvm_cpuid_set(struct vm *vm, struct vcpu *vcpu, struct error *err)
{
    size_t size =
        sizeof(struct kvm_cpuid2) + CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2);
    CLEANUP(cleanup_free) struct kvm_cpuid2 *cpuid = calloc(1, size);
    if (cpuid == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    cpuid->nent = CPUID_ENTRIES_MAX;
    if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
        return error_set(err, DROVER_ENOKVM, "KVM does not tell its CPUID: %s",
                         err_text(errno));
    }
    int result = model_apply(vm, cpuid, err);
    if (result < 0) {
        return result;
    }
    bool is_amd = cpu_model_is_amd(cpuid->entries, cpuid->nent);
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        entry_adjust(vm, vcpu, is_amd, &cpuid->entries[i]);
    }
    if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0) {
        return error_set(err, DROVER_ENOKVM, "KVM refused the CPUID of vCPU %u: %s",
                         vcpu->index, err_text(errno));
    }
    if (vm->config.cpu_model != CPU_MODEL_HOST) {
        result = kvm_baseline_msrs_set(vcpu, err);
    }
    if (result == 0 && vcpu->index == 0) {
        result = kvm_cpu_promise_keep(vcpu);
        if (result < 0) {
            return error_set(err, result, "cannot read the CPUID of a new vCPU: %s",
                             err_text(result));
        }
    }
    return result;
}
