/* SPDX-License-Identifier: Apache-2.0 */
/* MSRs and the TSC of a vCPU, saved and loaded. */
#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "vmm/kvm/kvm_cpu_state.h"
#include "vmm/vm_internal.h"

#define MSR_TSC               0x10u
#define MSR_DEADLINE          0x6e0u
#define MSR_MICROCODE         0x8bu
#define MSR_ARCH_CAPABILITIES 0x10au
#define MICROCODE_BASELINE    (UINT64_C(1) << 32)

/* The TSC goes its own way; counters of performance and of nested guests are not offered
 * to the guest. */
static bool is_saved(uint32_t index)
{
    bool is_counter =
        (index >= 0xc1 && index <= 0xc8) || (index >= 0x186 && index <= 0x18d) ||
        (index >= 0x309 && index <= 0x30c) || (index >= 0x38d && index <= 0x390) ||
        (index >= 0x4c1 && index <= 0x4c8) || index == 0x345 || index == 0x3f1 ||
        (index >= 0xc0010000 && index <= 0xc0010007) ||
        (index >= 0xc0010200 && index <= 0xc001020b) ||
        (index >= 0xc0000300 && index <= 0xc0000302);
    bool is_nested = index >= 0x480 && index <= 0x493;
    return index != MSR_TSC && !is_counter && !is_nested;
}

struct msr_indices {
    struct kvm_msr_list list;
    uint32_t room[CPU_MSRS_MAX];
};

struct one_msr {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
};

static int msr_get(struct vcpu *vcpu, uint32_t index, uint64_t *ret_value)
{
    struct one_msr one = {.head = {.nmsrs = 1}, .entry = {.index = index}};
    int count = ioctl(vcpu->fd, KVM_GET_MSRS, &one);
    if (count != 1) {
        return count < 0 ? -errno : DROVER_ENOTFOUND;
    }
    *ret_value = one.entry.data;
    return 0;
}

static int msr_set(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
    struct one_msr one = {.head = {.nmsrs = 1}, .entry = {.index = index, .data = value}};
    int count = ioctl(vcpu->fd, KVM_SET_MSRS, &one);
    if (count != 1) {
        return count < 0 ? -errno : DROVER_EBADINPUT;
    }
    return 0;
}

/*
 * No promise that the processor is safe from anything (the CPUID bit of that MSR is not
 * shown either), and a microcode that is nobody's. MSR_PLATFORM_INFO is KVM's own, the
 * same everywhere.
 */
int kvm_baseline_msrs_set(struct vcpu *vcpu, struct error *err)
{
    static const struct {
        uint32_t index;
        uint64_t value;
    } fixed[] = {{MSR_ARCH_CAPABILITIES, 0}, {MSR_MICROCODE, MICROCODE_BASELINE}};
    for (unsigned i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
        uint64_t present = 0;
        /* A KVM without the MSR shows the guest none. */
        if (msr_get(vcpu, fixed[i].index, &present) < 0 || present == fixed[i].value) {
            continue;
        }
        int result = msr_set(vcpu, fixed[i].index, fixed[i].value);
        if (result < 0) {
            return error_set(err, DROVER_ENOKVM, "KVM refused MSR 0x%x of vCPU %u: %s",
                             fixed[i].index, vcpu->index, err_text(result));
        }
    }
    return 0;
}

uint64_t kvm_arch_capabilities(struct vcpu *vcpu)
{
    uint64_t value = 0;
    return msr_get(vcpu, MSR_ARCH_CAPABILITIES, &value) < 0 ? 0 : value;
}

int kvm_tsc_save(struct vcpu *vcpu, struct cpu_message *message)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entries[2];
    } call = {.head = {.nmsrs = 2},
              .entries = {{.index = MSR_TSC}, {.index = MSR_DEADLINE}}};
    int count = ioctl(vcpu->fd, KVM_GET_MSRS, &call);
    if (count < 1) {
        return count < 0 ? -errno : DROVER_ENOTFOUND;
    }
    message->state.tsc = call.entries[0].data;
    for (size_t i = 0; count == 2 && i < message->state.n_msrs; i++) {
        if (message->msrs[i].index == MSR_DEADLINE) {
            message->msrs[i].value = call.entries[1].data;
        }
    }
    return 0;
}

/* What this KVM lists, as far as it is saved; the TSC is not. */
static int msrs_list(struct vcpu *vcpu, struct msr_batch *ret_batch)
{
    CLEANUP(cleanup_free) struct msr_indices *indices = calloc(1, sizeof(*indices));
    if (indices == NULL) {
        return -ENOMEM;
    }
    indices->list.nmsrs = CPU_MSRS_MAX;
    if (ioctl(vcpu->vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &indices->list) < 0) {
        return -errno;
    }
    for (uint32_t i = 0; i < indices->list.nmsrs && i < CPU_MSRS_MAX; i++) {
        uint32_t index = indices->list.indices[i];
        if (is_saved(index)) {
            ret_batch->entries[ret_batch->count++].index = index;
        }
    }
    return 0;
}

/*
 * As many in one call as KVM takes, because each call costs. It stops at the first one
 * that it refuses; returns how many it took before.
 */
static unsigned msrs_call(struct vcpu *vcpu, unsigned long request,
                          struct msr_batch *batch, unsigned first)
{
    unsigned rest = batch->count - first;
    batch->call.head.nmsrs = rest;
    memcpy(batch->call.entries, batch->entries + first, rest * sizeof(batch->entries[0]));
    int taken = ioctl(vcpu->fd, request, &batch->call);
    unsigned done = taken < 0 ? 0 : (unsigned)taken < rest ? (unsigned)taken : rest;
    memcpy(batch->entries + first, batch->call.entries, done * sizeof(batch->entries[0]));
    return done;
}

/* Those that are listed, but that this guest's CPUID does not have, are left out. */
static void msrs_read(struct vcpu *vcpu, struct msr_batch *batch)
{
    unsigned count = 0;
    for (unsigned i = 0; i < batch->count; i++) {
        unsigned done = msrs_call(vcpu, KVM_GET_MSRS, batch, i);
        memmove(&batch->entries[count], &batch->entries[i], done * sizeof(batch->entries[0]));
        count += done;
        i += done; /* now one that was refused */
    }
    batch->count = count;
}

int kvm_msrs_save(struct vcpu *vcpu, struct cpu_scratch *scratch)
{
    struct msr_batch *batch = &scratch->msrs;
    struct cpu_message *message = &scratch->message;
    bool whole = scratch->known && msrs_call(vcpu, KVM_GET_MSRS, batch, 0) == batch->count;
    if (!whole) {
        batch->count = 0;
        int result = msrs_list(vcpu, batch);
        if (result < 0) {
            return result;
        }
        msrs_read(vcpu, batch);
        int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
        scratch->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    }
    for (unsigned i = 0; i < batch->count; i++) {
        drover__cpu_msr__init(&message->msrs[i]);
        message->msrs[i].index = batch->entries[i].index;
        message->msrs[i].value = batch->entries[i].data;
        message->msr_pointers[i] = &message->msrs[i];
    }
    message->state.n_msrs = batch->count;
    message->state.msrs = message->msr_pointers;
    message->state.tsc_khz = scratch->tsc_khz;
    return 0;
}

/* One that KVM refused. One that was never used (zero) may be unknown here. */
static bool refusal_matters(struct vcpu *vcpu, const struct kvm_msr_entry *entry)
{
    uint64_t present = 0;
    return entry->data != 0 &&
           (msr_get(vcpu, entry->index, &present) < 0 || present != entry->data);
}

static int msrs_set(struct vcpu *vcpu, struct msr_batch *batch, struct error *err)
{
    for (unsigned i = 0; i < batch->count; i++) {
        i += msrs_call(vcpu, KVM_SET_MSRS, batch, i);
        const struct kvm_msr_entry *refused = &batch->entries[i];
        if (i < batch->count && refusal_matters(vcpu, refused)) {
            return error_set(err, DROVER_EMALFORMED,
                             "this host's KVM refused MSR 0x%x = 0x%llx of vCPU %u: do "
                             "both hosts have the same processor?",
                             refused->index, (unsigned long long)refused->data,
                             vcpu->index);
        }
    }
    return 0;
}

int kvm_msrs_load(struct vcpu *vcpu, const Drover__CpuState *state, struct error *err)
{
    CLEANUP(cleanup_free) struct msr_batch *batch = calloc(1, sizeof(*batch));
    if (batch == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    uint64_t deadline = 0;
    for (size_t i = 0; i < state->n_msrs; i++) {
        const Drover__CpuMsr *msr = state->msrs[i];
        if (msr->index == MSR_DEADLINE) {
            deadline = msr->value; /* means something only after all else */
        } else if (is_saved(msr->index) && batch->count < CPU_MSRS_MAX) {
            batch->entries[batch->count++] =
                (struct kvm_msr_entry){.index = msr->index, .data = msr->value};
        }
    }
    int result = msrs_set(vcpu, batch, err);
    if (result < 0) {
        return result;
    }
    /* Zero too: it disarms. */
    if (msr_set(vcpu, MSR_DEADLINE, deadline) < 0 && deadline != 0) {
        return error_set(err, DROVER_EMALFORMED, "KVM refused the timer of vCPU %u",
                         vcpu->index);
    }
    return 0;
}

static uint64_t ticks_of(uint64_t elapsed_ns, uint32_t khz)
{
    /* In two parts, so that nothing overflows. */
    return elapsed_ns / NS_PER_MS * khz + elapsed_ns % NS_PER_MS * khz / NS_PER_MS;
}

int kvm_tsc_load(struct vcpu *vcpu, const Drover__CpuState *state, uint64_t elapsed_ns,
                 struct error *err)
{
    int here_khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
    uint32_t khz = state->tsc_khz;
    /* A guest that counts ticks notices a host with another clock, unless the processor
     * can scale. KVM tolerates 250 ppm. */
    if (khz != 0 && here_khz > 0 && khz != (uint32_t)here_khz) {
        (void)ioctl(vcpu->fd, KVM_SET_TSC_KHZ,
                    (unsigned long)khz); /* kvm-clock copes if it can't */
    }
    uint64_t tsc = state->tsc + ticks_of(elapsed_ns, khz);
    if (msr_set(vcpu, MSR_TSC, tsc) < 0) {
        return error_set(err, DROVER_EMALFORMED, "KVM refused the TSC of vCPU %u",
                         vcpu->index);
    }
    return 0;
}
