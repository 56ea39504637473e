# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/memory/guest_ram.c vmm/memory/guest_ram.h vmm/memory/guest_ram_internal.h \
	vmm/memory/guest_ram_dirty.c \
	vmm/memory/ram_backing.c vmm/memory/ram_backing.h
