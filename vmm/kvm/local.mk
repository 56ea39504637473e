# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/kvm/affinity.c vmm/kvm/affinity.h \
	vmm/kvm/kvm.h \
	vmm/kvm/kvm_boot.c \
	vmm/kvm/kvm_chip_state.c \
	vmm/kvm/kvm_cpu_describe.h \
	vmm/kvm/kvm_cpu_state.c vmm/kvm/kvm_cpu_state.h \
	vmm/kvm/kvm_cpuid.c \
	vmm/kvm/kvm_cpuid_state.c \
	vmm/kvm/kvm_irqfd.c \
	vmm/kvm/kvm_msr_state.c \
	vmm/kvm/kvm_throttle.c vmm/kvm/kvm_throttle.h \
	vmm/kvm/kvm_vcpu.c \
	vmm/kvm/kvm_vm.c
