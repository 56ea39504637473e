/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processor that a guest sees: the host's, as far as KVM supports it, minus what
 * could not be saved (nested virtualization, performance counters), with this machine's
 * topology: one socket of single-threaded cores.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/kvm.h"
#include "vmm/vm_internal.h"

#define CPUID_ENTRIES_MAX 256

#define LEAF1_ECX_VMX          (1u << 5)
#define LEAF1_ECX_X2APIC       (1u << 21)
#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_HYPERVISOR   (1u << 31)
#define LEAF1_EDX_HTT          (1u << 28)
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
    if (ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0) {
        entry->ecx |= LEAF1_ECX_TSC_DEADLINE;
    }
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

static void entry_adjust(const struct vm *vm, const struct vcpu *vcpu,
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
        break;
    case 0x80000008:
        entry->ecx = bits_for(vm->vcpu_count) << 12 | (vm->vcpu_count - 1);
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
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        entry_adjust(vm, vcpu, &cpuid->entries[i]);
    }
    if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0) {
        return error_set(err, DROVER_ENOKVM, "KVM refused the CPUID of vCPU %u: %s",
                         vcpu->index, err_text(errno));
    }
    return 0;
}
