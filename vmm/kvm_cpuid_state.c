/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID moves with the guest: what it found at boot must stay true, also on a host whose
 * kernel or processor offers more. A host that offers less is found out here, before the
 * guest runs on it.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/kvm_cpu_state.h"
#include "vmm/vm_internal.h"

/* Registers of CPUID whose bits are features, and the bits among them that follow from
 * what the guest itself set. */
static const struct feature_word {
    uint32_t function;
    uint32_t index;
    char reg; /* a, b, c, d */
    uint32_t ignored;
} feature_words[] = {
    {0x1, 0, 'c', 1u << 27 | 1u << 3}, /* OSXSAVE, MONITOR */
    {0x1, 0, 'd', 1u << 9 | 1u << 28}, /* APIC, HTT */
    {0x6, 0, 'a', 0},
    {0x7, 0, 'b', 0},
    {0x7, 0, 'c', 1u << 4}, /* OSPKE */
    {0x7, 0, 'd', 0},
    {0x7, 1, 'a', 0},
    {0xd, 0, 'a', 0},
    {0xd, 1, 'a', 0},
    {0x40000001, 0, 'a', 0},
    {0x80000001, 0, 'c', 0},
    {0x80000001, 0, 'd', 1u << 9},
    {0x80000008, 0, 'b', 0},
};

int kvm_cpuid_save(struct vcpu *vcpu, struct cpu_message *message)
{
    size_t size =
        sizeof(struct kvm_cpuid2) + CPU_CPUID_MAX * sizeof(struct kvm_cpuid_entry2);
    CLEANUP(cleanup_free) struct kvm_cpuid2 *cpuid = calloc(1, size);
    if (cpuid == NULL) {
        return -ENOMEM;
    }
    cpuid->nent = CPU_CPUID_MAX;
    if (ioctl(vcpu->fd, KVM_GET_CPUID2, cpuid) < 0) {
        return -errno;
    }
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *from = &cpuid->entries[i];
        Drover__CpuidEntry *to = &message->cpuid[i];
        drover__cpuid_entry__init(to);
        to->function = from->function;
        to->index = from->index;
        to->flags = from->flags;
        to->eax = from->eax;
        to->ebx = from->ebx;
        to->ecx = from->ecx;
        to->edx = from->edx;
        message->cpuid_pointers[i] = to;
    }
    message->state.n_cpuid = cpuid->nent;
    message->state.cpuid = message->cpuid_pointers;
    return 0;
}

static uint32_t word_of(const Drover__CpuState *state, const struct feature_word *word)
{
    for (size_t i = 0; i < state->n_cpuid; i++) {
        const Drover__CpuidEntry *entry = state->cpuid[i];
        if (entry->function == word->function && entry->index == word->index) {
            const uint32_t registers[] = {entry->eax, entry->ebx, entry->ecx, entry->edx};
            return registers[word->reg - 'a'];
        }
    }
    return 0;
}

static int features_judge(const Drover__CpuState *here, const Drover__CpuState *state,
                          struct error *err)
{
    for (char reg = 'b'; reg <= 'd'; reg++) {
        const struct feature_word vendor = {.function = 0, .reg = reg};
        if (word_of(here, &vendor) != word_of(state, &vendor)) {
            return error_set(
                err, DROVER_EBADINPUT,
                "the guest runs on a processor of another vendor: choose a host "
                "with the same kind of processor");
        }
    }
    for (unsigned i = 0; i < sizeof(feature_words) / sizeof(feature_words[0]); i++) {
        const struct feature_word *word = &feature_words[i];
        uint32_t missing = word_of(state, word) & ~word_of(here, word) & ~word->ignored;
        if (missing != 0) {
            return error_set(
                err, DROVER_EBADINPUT,
                "this host's processor or kernel lacks features that the guest was "
                "promised (CPUID 0x%x.%u e%cx bits 0x%x): choose another host",
                word->function, word->index, word->reg, missing);
        }
    }
    return 0;
}

/* Against what vCPU 0 was given when it was made: that is what this host offers. */
static int offer_judge(const struct vm *vm, const Drover__CpuState *state,
                       struct error *err)
{
    Drover__CpuState *here =
        drover__cpu_state__unpack(NULL, vm->power_on_cpu.size, vm->power_on_cpu.data);
    if (here == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    int result = features_judge(here, state, err);
    drover__cpu_state__free_unpacked(here, NULL);
    return result;
}

int kvm_cpuid_load(struct vcpu *vcpu, const Drover__CpuState *state, struct error *err)
{
    int result = offer_judge(vcpu->vm, state, err);
    if (result < 0) {
        return result;
    }
    size_t size =
        sizeof(struct kvm_cpuid2) + CPU_CPUID_MAX * sizeof(struct kvm_cpuid_entry2);
    CLEANUP(cleanup_free) struct kvm_cpuid2 *cpuid = calloc(1, size);
    if (cpuid == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    cpuid->nent = (uint32_t)state->n_cpuid;
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        const Drover__CpuidEntry *from = state->cpuid[i];
        cpuid->entries[i] = (struct kvm_cpuid_entry2){
            .function = from->function,
            .index = from->index,
            .flags = from->flags,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
    }
    if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0) {
        return error_set(err, DROVER_EMALFORMED,
                         "KVM refused the saved CPUID of vCPU %u: %s", vcpu->index,
                         err_text(errno));
    }
    return 0;
}
