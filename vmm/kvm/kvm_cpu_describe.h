/* SPDX-License-Identifier: Apache-2.0 */
/* The processor in the description of the machine that a move begins with. */
#ifndef DROVER_VMM_KVM_KVM_CPU_DESCRIBE_H
#define DROVER_VMM_KVM_KVM_CPU_DESCRIBE_H

#include "proto/device_state.pb-c.h"

#define KVM_CPU_DESCRIPTION_MAX 48

struct error;
struct vm;

/* Memory of the entries that the description points to. */
struct kvm_cpu_description {
    Drover__CpuidEntry entries[KVM_CPU_DESCRIPTION_MAX];
    Drover__CpuidEntry *pointers[KVM_CPU_DESCRIPTION_MAX];
};

/* What the guest was told of its processor. Any thread, the guest may run. */
void kvm_cpu_describe(const struct vm *vm, struct kvm_cpu_description *description,
                      Drover__MachineConfig *machine);
/* 0, or what this host lacks for that guest. Hostile input. */
int kvm_cpu_compare(const struct vm *vm, const Drover__MachineConfig *theirs,
                    struct error *err);

#endif
