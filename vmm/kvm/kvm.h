/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All that talks to /dev/kvm. kvm_vm.c: descriptors, memory slots, interrupts, dirty log.
 * kvm_vcpu.c: threads and the exit loop. kvm_cpuid.c: what processor the guest sees.
 * kvm_cpu_state.c and kvm_chip_state.c: save and load.
 */
#ifndef DROVER_VMM_KVM_KVM_H
#define DROVER_VMM_KVM_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct vcpu;
struct vm;

/* Opens KVM and makes the VM with irqchip, PIT and memory (vm->ram). DROVER_ENOKVM with
 * what to do. */
int kvm_vm_open(struct vm *vm, struct error *err);
void kvm_vm_close(struct vm *vm);

/*
 * Maps memory of this process (page-aligned) for the guest to read and execute; what it
 * writes there comes to the memory bus. Size 0 takes it away. Any thread; -errno.
 */
enum kvm_rom {
    KVM_ROM_CODE,
    KVM_ROM_VARIABLES,
};
int kvm_rom_set(struct vm *vm, enum kvm_rom rom, uint64_t gpa, const void *memory,
                uint64_t size);

/* Makes the vCPUs (no threads yet) with their CPUID. */
int kvm_vcpus_create(struct vm *vm, struct error *err);
int kvm_vcpus_start(struct vm *vm, struct error *err);
/* vm->ending_threads is set before. */
void kvm_vcpus_join(struct vm *vm);
void kvm_vcpus_close(struct vm *vm);
/* Puts all vCPUs out of the guest; any thread. */
void kvm_vcpus_kick(struct vm *vm);
void kvm_vcpu_kick(struct vcpu *vcpu);
/* Each vCPU's own timer; 0: none. Any thread. */
void kvm_vcpus_deadline_set(struct vm *vm, uint64_t deadline_ns);
/* Tells the guests' kernels that they stood still. VM is quiet. */
void kvm_vcpus_was_paused(struct vm *vm);

/* kvm_irqfd.c's part of the end. */
void kvm_irqfds_free(struct vm *vm);

int kvm_cpuid_set(struct vm *vm, struct vcpu *vcpu, struct error *err);

/* Registers at a boot entry; all vCPUs but the first wait for SIPI. */
struct kvm_boot_entry {
    uint64_t rip;
    uint64_t rsi; /* zero page, 64-bit entry */
    uint64_t rbx; /* hvm_start_info, 32-bit entry */
    bool is_64bit;
    uint64_t page_tables; /* CR3 of a 64-bit entry */
    uint64_t stack;
};
int kvm_vcpu_boot_set(struct vcpu *vcpu, const struct kvm_boot_entry *entry);

/* "cpu" sections. `elapsed_ns`: how long ago the state was saved, for the TSC. */
int kvm_cpu_save(struct vcpu *vcpu, struct buffer *out);
/*
 * A move has begun: from now on each vCPU saves itself, on its own thread, as soon as all are
 * out for the handover, and kvm_cpu_save() only what may have changed since. Under lock:
 * begin, if it is due, and run, which unlocks meanwhile.
 */
int kvm_cpus_prepare(struct vm *vm);
bool kvm_cpu_early_begin(struct vcpu *vcpu);
void kvm_cpu_early_run(struct vcpu *vcpu);
int kvm_cpu_load(struct vcpu *vcpu, const uint8_t *payload, size_t size,
                 uint64_t elapsed_ns, struct error *err);
/* Power-on state of `vcpu`, from that of vCPU 0. */
int kvm_cpu_reset(struct vcpu *vcpu, const uint8_t *payload, size_t size,
                  struct error *err);

/* "irqchip" (PICs, I/O APIC), "pit" and "clock" sections. */
int kvm_irqchip_save(struct vm *vm, struct buffer *out);
int kvm_irqchip_load(struct vm *vm, const uint8_t *payload, size_t size,
                     struct error *err);
int kvm_pit_save(struct vm *vm, struct buffer *out);
int kvm_pit_load(struct vm *vm, const uint8_t *payload, size_t size, struct error *err);
int kvm_clock_save(struct vm *vm, struct buffer *out);
/* Also tells how long ago it was saved, by the hosts' wall clocks; 0 if that makes no
 * sense. */
int kvm_clock_load(struct vm *vm, const uint8_t *payload, size_t size,
                   uint64_t *ret_elapsed_ns, struct error *err);
int kvm_irqchip_reset(struct vm *vm);

#endif
