/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID moves with the guest: what it found at boot must stay true, also on a host whose
 * kernel or processor offers more. A host that offers less is found out here, before the
 * guest runs on it.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/cpu/cpu_model.h"
#include "vmm/kvm/kvm_cpu_describe.h"
#include "vmm/kvm/kvm_cpu_state.h"
#include "vmm/vm_internal.h"

/* Registers of CPUID whose bits are features, and the bits among them that follow from
 * what the guest itself set. */
static const struct feature_word {
    struct cpu_word word;
    uint32_t ignored;
} feature_words[] = {
    {{0x1, 0, 'c'}, 1u << 27 | 1u << 3}, /* OSXSAVE, MONITOR */
    {{0x1, 0, 'd'}, 1u << 9 | 1u << 28}, /* APIC, HTT */
    {{0x6, 0, 'a'}, 0},
    {{0x7, 0, 'b'}, 0},
    {{0x7, 0, 'c'}, 1u << 4}, /* OSPKE */
    {{0x7, 0, 'd'}, 0},
    {{0x7, 1, 'a'}, 0},
    {{0xd, 0, 'a'}, 0},
    {{0xd, 1, 'a'}, 0},
    {{0x40000001, 0, 'a'}, 0},
    {{0x80000001, 0, 'c'}, 0},
    {{0x80000001, 0, 'd'}, 1u << 9},
    {{0x80000008, 0, 'b'}, 0},
};
#define FEATURE_WORDS (sizeof(feature_words) / sizeof(feature_words[0]))

/* It is the same from the guest's boot on, but for what KVM itself keeps up to date. */
int kvm_cpuid_save(struct vcpu *vcpu, struct cpu_scratch *scratch)
{
    struct cpu_message *message = &scratch->message;
    if (scratch->known) {
        message->state.n_cpuid = scratch->cpuid_count;
        message->state.cpuid = message->cpuid_pointers;
        return 0;
    }
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
    scratch->cpuid_count = cpuid->nent;
    message->state.n_cpuid = cpuid->nent;
    message->state.cpuid = message->cpuid_pointers;
    return 0;
}

/* Bits of MSR_IA32_ARCH_CAPABILITIES that say that something need not be feared. */
#define ARCH_SAFE                                                                        \
    (UINT64_C(0x3b) | UINT64_C(1) << 6 | UINT64_C(1) << 8 | UINT64_C(7) << 13 |          \
     UINT64_C(1) << 17 | UINT64_C(1) << 20 | UINT64_C(1) << 24 | UINT64_C(3) << 26 |     \
     UINT64_C(1) << 62)
#define MSR_ARCH_CAPABILITIES 0x10au

static const struct cpu_word arch_word = {0x7, 0, 'd'};
#define ARCH_BIT   (1u << 29)
#define NAMES_SIZE 72

static uint32_t word_of(const struct kvm_cpu_promise *promise,
                        const struct cpu_word *word)
{
    return cpu_model_word(promise->entries, promise->count, word);
}

/* The names of what `guest` has and `here` has not; true if there is anything. */
static bool missing_find(const struct kvm_cpu_promise *here,
                         const struct kvm_cpu_promise *guest, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        const struct cpu_word *word = &feature_words[i].word;
        uint32_t missing =
            word_of(guest, word) & ~word_of(here, word) & ~feature_words[i].ignored;
        char names[NAMES_SIZE];
        if (missing == 0) {
            continue;
        }
        cpu_model_names(word, missing, names, sizeof(names));
        if (used + strlen(names) + sizeof(", ...") > size) {
            (void)snprintf(text + used, size - used, ", ..."); /* fits */
            break;
        }
        used += (size_t)snprintf(text + used, size - used, "%s%s", used == 0 ? "" : ", ",
                                 names);
    }
    return used > 0;
}

/* Where the processor puts the components of the XSAVE area. */
static bool xsave_same(const struct kvm_cpu_promise *here,
                       const struct kvm_cpu_promise *guest)
{
    const struct cpu_word components = {0xd, 0, 'a'};
    uint32_t used = word_of(guest, &components);
    for (uint32_t i = 2; i < 32; i++) {
        const struct cpu_word size = {0xd, i, 'a'};
        const struct cpu_word offset = {0xd, i, 'b'};
        if ((used >> i & 1) != 0 && (word_of(guest, &size) != word_of(here, &size) ||
                                     word_of(guest, &offset) != word_of(here, &offset))) {
            return false;
        }
    }
    return true;
}

static int promise_judge(const struct kvm_cpu_promise *here,
                         const struct kvm_cpu_promise *guest, struct error *err)
{
    for (char reg = 'b'; reg <= 'd'; reg++) {
        const struct cpu_word vendor = {.function = 0, .reg = reg};
        if (word_of(here, &vendor) != word_of(guest, &vendor)) {
            return error_set(
                err, DROVER_EBADINPUT,
                "the guest runs on a processor of another vendor: choose a host with the "
                "same kind of processor");
        }
    }
    char names[2 * NAMES_SIZE];
    if (missing_find(here, guest, names, sizeof(names))) {
        return error_set(err, DROVER_EBADINPUT,
                         "this host's processor or kernel lacks %s, which the guest has: "
                         "choose another host, or start such guests with --cpu "
                         "x86-64-v2 or -v3",
                         names);
    }
    if (!xsave_same(here, guest)) {
        return error_set(err, DROVER_EBADINPUT,
                         "this host's processor saves vector registers in another layout "
                         "than the guest's: choose a host of the same vendor, or start "
                         "such guests with --cpu x86-64-v3");
    }
    uint64_t feared = guest->arch_capabilities & ~here->arch_capabilities & ARCH_SAFE;
    if ((word_of(guest, &arch_word) & ARCH_BIT) != 0 && feared != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "this host's processor is vulnerable where the guest's was not "
                         "(arch-capabilities 0x%" PRIx64
                         "): choose another host, or start such guests with --cpu "
                         "x86-64-v2 or -v3",
                         feared);
    }
    return 0;
}

static void promise_take(struct kvm_cpu_promise *promise,
                         Drover__CpuidEntry *const *entries, size_t count)
{
    CHECK(count <= CPU_CPUID_MAX);
    promise->count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        promise->entries[i] = (struct kvm_cpuid_entry2){
            .function = entries[i]->function,
            .index = entries[i]->index,
            .flags = entries[i]->flags,
            .eax = entries[i]->eax,
            .ebx = entries[i]->ebx,
            .ecx = entries[i]->ecx,
            .edx = entries[i]->edx,
        };
    }
}

static struct kvm_cpu_promise *promise_make(size_t count)
{
    return calloc(1, sizeof(struct kvm_cpu_promise) +
                         count * sizeof(struct kvm_cpuid_entry2));
}

int kvm_cpu_promise_keep(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    size_t size =
        sizeof(struct kvm_cpuid2) + CPU_CPUID_MAX * sizeof(struct kvm_cpuid_entry2);
    CHECK(vm->offered_cpu == NULL && vm->guest_cpu == NULL);
    CLEANUP(cleanup_free) struct kvm_cpuid2 *cpuid = calloc(1, size);
    if (cpuid == NULL) {
        return -ENOMEM;
    }
    /* What KVM made of it, not what it was given. */
    cpuid->nent = CPU_CPUID_MAX;
    if (ioctl(vcpu->fd, KVM_GET_CPUID2, cpuid) < 0) {
        return -errno;
    }
    vm->offered_cpu = promise_make(cpuid->nent);
    vm->guest_cpu = promise_make(cpuid->nent);
    if (vm->offered_cpu == NULL || vm->guest_cpu == NULL) {
        return -ENOMEM;
    }
    struct kvm_cpu_promise *promises[] = {vm->offered_cpu, vm->guest_cpu};
    for (unsigned i = 0; i < 2; i++) {
        promises[i]->count = cpuid->nent;
        promises[i]->arch_capabilities = kvm_arch_capabilities(vcpu);
        memcpy(promises[i]->entries, cpuid->entries,
               cpuid->nent * sizeof(cpuid->entries[0]));
    }
    return 0;
}

/* ---- before a move ----------------------------------------------------------------- */

static bool is_told(const struct kvm_cpuid_entry2 *entry)
{
    bool told = entry->function == 0 || (entry->function == 0xd && entry->index >= 2);
    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        told = told || (entry->function == feature_words[i].word.function &&
                        entry->index == feature_words[i].word.index);
    }
    return told;
}

void kvm_cpu_describe(const struct vm *vm, struct kvm_cpu_description *description,
                      Drover__MachineConfig *machine)
{
    const struct kvm_cpu_promise *promise = vm->guest_cpu;
    size_t count = 0;
    for (uint32_t i = 0; i < promise->count && count < KVM_CPU_DESCRIPTION_MAX; i++) {
        const struct kvm_cpuid_entry2 *from = &promise->entries[i];
        if (!is_told(from)) {
            continue;
        }
        Drover__CpuidEntry *to = &description->entries[count];
        drover__cpuid_entry__init(to);
        to->function = from->function;
        to->index = from->index;
        to->flags = from->flags;
        to->eax = from->eax;
        to->ebx = from->ebx;
        to->ecx = from->ecx;
        to->edx = from->edx;
        description->pointers[count++] = to;
    }
    machine->cpu_model = (char *)cpu_model_name(vm->config.cpu_model); /* only read */
    machine->n_cpu_features = count;
    machine->cpu_features = description->pointers;
    machine->arch_capabilities = promise->arch_capabilities;
}

int kvm_cpu_compare(const struct vm *vm, const Drover__MachineConfig *theirs,
                    struct error *err)
{
    const char *ours = cpu_model_name(vm->config.cpu_model);
    if (theirs->n_cpu_features > CPU_CPUID_MAX) {
        return error_set(err, DROVER_EMALFORMED,
                         "the description of the processor is garbled");
    }
    if (theirs->cpu_model[0] == '\0' && theirs->n_cpu_features == 0) {
        /* Release 0.1 says nothing of its processor here; what the guest was promised is
         * in its state, and judged there. It knew one model only. */
        return vm->config.cpu_model == CPU_MODEL_HOST
                   ? 0
                   : error_set(err, DROVER_EBADINPUT,
                               "the guest comes from release 0.1, the target has --cpu "
                               "%s: start it with --cpu host",
                               ours);
    }
    if (strcmp(theirs->cpu_model, ours) != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest has --cpu %.20s, the target --cpu %s: start it with "
                         "the same",
                         theirs->cpu_model, ours);
    }
    CLEANUP(cleanup_free)
    struct kvm_cpu_promise *guest = promise_make(theirs->n_cpu_features);
    if (guest == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    promise_take(guest, theirs->cpu_features, theirs->n_cpu_features);
    guest->arch_capabilities = theirs->arch_capabilities;
    return promise_judge(vm->offered_cpu, guest, err);
}

/* ---- at its end -------------------------------------------------------------------- */

/* What vCPU 0 brings is kept, for the guest's next move. */
static int guest_judge(struct vm *vm, const Drover__CpuState *state, unsigned index,
                       struct error *err)
{
    CLEANUP(cleanup_free) struct kvm_cpu_promise *guest = promise_make(state->n_cpuid);
    if (guest == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    promise_take(guest, state->cpuid, state->n_cpuid);
    for (size_t i = 0; i < state->n_msrs; i++) {
        if (state->msrs[i]->index == MSR_ARCH_CAPABILITIES) {
            guest->arch_capabilities = state->msrs[i]->value;
        }
    }
    int result = promise_judge(vm->offered_cpu, guest, err);
    if (result == 0 && index == 0) {
        free(vm->guest_cpu);
        vm->guest_cpu = TAKE(guest);
    }
    return result;
}

/* What KVM itself keeps up to date, from CR4, XCR0 and the APIC's base: these are loaded
 * after CPUID. */
static uint32_t settled(const struct kvm_cpuid_entry2 *entry, char reg, uint32_t value)
{
    static const struct {
        struct cpu_word word;
        uint32_t bits;
    } kept[] = {
        {{0x1, 0, 'c'}, 1u << 27}, /* OSXSAVE */
        {{0x1, 0, 'd'}, 1u << 9},  /* APIC */
        {{0x7, 0, 'c'}, 1u << 4},  /* OSPKE */
        {{0xd, 0, 'b'}, UINT32_MAX},
        {{0xd, 1, 'b'}, UINT32_MAX},
    };
    for (unsigned i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        if (kept[i].word.function == entry->function &&
            kept[i].word.index == entry->index && kept[i].word.reg == reg) {
            value &= ~kept[i].bits;
        }
    }
    return value;
}

static bool entry_same(const struct kvm_cpuid_entry2 *one,
                       const struct kvm_cpuid_entry2 *other)
{
    return one->function == other->function && one->index == other->index &&
           one->flags == other->flags && one->eax == other->eax &&
           settled(one, 'b', one->ebx) == settled(one, 'b', other->ebx) &&
           settled(one, 'c', one->ecx) == settled(one, 'c', other->ecx) &&
           settled(one, 'd', one->edx) == settled(one, 'd', other->edx);
}

/* Whether it has this CPUID already: to ask takes a tenth of the time that setting it
 * does, which was a third of all loading. */
static bool cpuid_is_set(struct vcpu *vcpu, const struct kvm_cpuid2 *wanted)
{
    size_t size =
        sizeof(struct kvm_cpuid2) + CPU_CPUID_MAX * sizeof(struct kvm_cpuid_entry2);
    CLEANUP(cleanup_free) struct kvm_cpuid2 *present = calloc(1, size);
    if (present == NULL) {
        return false;
    }
    present->nent = CPU_CPUID_MAX;
    bool same =
        ioctl(vcpu->fd, KVM_GET_CPUID2, present) == 0 && present->nent == wanted->nent;
    for (uint32_t i = 0; same && i < wanted->nent; i++) {
        same = entry_same(&present->entries[i], &wanted->entries[i]);
    }
    return same;
}

int kvm_cpuid_load(struct vcpu *vcpu, const Drover__CpuState *state, struct error *err)
{
    int result = guest_judge(vcpu->vm, state, vcpu->index, err);
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
    if (!cpuid_is_set(vcpu, cpuid) && ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0) {
        return error_set(err, DROVER_EMALFORMED,
                         "KVM refused the saved CPUID of vCPU %u: %s", vcpu->index,
                         err_text(errno));
    }
    return 0;
}
