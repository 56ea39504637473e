/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by kvm_cpu_state.c, kvm_cpuid_state.c and kvm_msr_state.c only: a CpuState with
 * room for all that it points to. */
#ifndef DROVER_VMM_KVM_KVM_CPU_STATE_H
#define DROVER_VMM_KVM_KVM_CPU_STATE_H

#include <linux/kvm.h>
#include <stdbool.h>

#include "proto/device_state.pb-c.h"

#define CPU_GENERALS        16
#define CPU_SEGMENTS        10
#define CPU_CONTROLS        5
#define CPU_DEBUGS          6
#define CPU_INTERRUPT_WORDS 4
#define CPU_XCRS_MAX        16
#define CPU_MSRS_MAX        512
#define CPU_CPUID_MAX       256

struct error;
struct vcpu;
struct vm;

/* What a guest was told of its processor; vCPU 0's, the others differ in topology. */
struct kvm_cpu_promise {
    uint64_t arch_capabilities; /* MSR_IA32_ARCH_CAPABILITIES */
    uint32_t count;
    struct kvm_cpuid_entry2 entries[];
};

struct cpu_message {
    Drover__CpuState state;
    uint64_t general[CPU_GENERALS];
    Drover__CpuSegment segments[CPU_SEGMENTS];
    Drover__CpuSegment *segment_pointers[CPU_SEGMENTS];
    uint64_t control[CPU_CONTROLS];
    uint64_t interrupts[CPU_INTERRUPT_WORDS];
    uint64_t debug[CPU_DEBUGS];
    Drover__CpuXcr xcrs[CPU_XCRS_MAX];
    Drover__CpuXcr *xcr_pointers[CPU_XCRS_MAX];
    Drover__CpuMsr msrs[CPU_MSRS_MAX];
    Drover__CpuMsr *msr_pointers[CPU_MSRS_MAX];
    Drover__CpuidEntry cpuid[CPU_CPUID_MAX];
    Drover__CpuidEntry *cpuid_pointers[CPU_CPUID_MAX];
    Drover__CpuEvents events;
    struct kvm_xsave xsave;
    struct kvm_lapic_state lapic;
};

struct msr_batch {
    unsigned count;
    struct kvm_msr_entry entries[CPU_MSRS_MAX];
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entries[CPU_MSRS_MAX];
    } call;
};

/* What a vCPU is saved with; kept from the first look of a move on, so that in its pause
 * nothing is allocated, and nothing asked for that can't have changed. */
struct cpu_scratch {
    struct cpu_message message;
    struct msr_batch msrs; /* those that this vCPU has, once `known` */
    uint32_t cpuid_count, tsc_khz;
    bool known;            /* the three above */
};

/* All MSRs that KVM lists and lets be read. */
int kvm_msrs_save(struct vcpu *vcpu, struct cpu_scratch *scratch);
/* The TSC, and the deadline that is measured by it: into what kvm_msrs_save() has saved. */
int kvm_tsc_save(struct vcpu *vcpu, struct cpu_message *message);
int kvm_msrs_load(struct vcpu *vcpu, const Drover__CpuState *state, struct error *err);
/* What a baseline's guest finds in MSRs that tell about the processor. */
int kvm_baseline_msrs_set(struct vcpu *vcpu, struct error *err);
uint64_t kvm_arch_capabilities(struct vcpu *vcpu);
/* Keeps what vCPU 0 was made with: what this host offers, and what its guest has unless
 * one arrives. */
int kvm_cpu_promise_keep(struct vcpu *vcpu);
/*
 * The guest keeps the processor that it booted on. Load refuses, with the feature's
 * place, what this host can't offer; it must come first.
 */
int kvm_cpuid_save(struct vcpu *vcpu, struct cpu_scratch *scratch);
int kvm_cpuid_load(struct vcpu *vcpu, const Drover__CpuState *state, struct error *err);
/* Sets the TSC to what it was when saved plus the time since then: it never goes
 * backwards. */
int kvm_tsc_load(struct vcpu *vcpu, const Drover__CpuState *state, uint64_t elapsed_ns,
                 struct error *err);

#endif
