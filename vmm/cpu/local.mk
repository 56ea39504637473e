# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/cpu/cpu_features.c vmm/cpu/cpu_features.h \
	vmm/cpu/cpu_model.c vmm/cpu/cpu_model.h
