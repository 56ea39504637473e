/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps single vCPUs out of the guest for a part of their time, each by its own timer.
 * The lease's timers and holds are not touched, and have their way at any time: a vCPU
 * that stands is out of the guest already, and looks at them before it enters again.
 */
#ifndef DROVER_VMM_KVM_KVM_THROTTLE_H
#define DROVER_VMM_KVM_KVM_THROTTLE_H

#include <stdbool.h>

struct vcpu;

/* The vCPU's own thread, first thing: -errno. */
int kvm_throttle_create(struct vcpu *vcpu);
/* After the thread was joined. */
void kvm_throttle_done(struct vcpu *vcpu);
/*
 * The vCPU's own thread, before each entry and after immediate_exit was cleared: true if
 * it may enter now. False: it has stood for a while, or somebody wants it; all questions
 * are asked again.
 */
bool kvm_throttle_pass(struct vcpu *vcpu);

#endif
