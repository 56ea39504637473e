# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/boot/acpi.c vmm/boot/acpi.h vmm/boot/acpi_internal.h \
	vmm/boot/acpi_dsdt.c \
	vmm/boot/acpi_loader.c \
	vmm/boot/aml.c vmm/boot/aml.h \
	vmm/boot/boot.c vmm/boot/boot.h vmm/boot/boot_internal.h \
	vmm/boot/boot_bzimage.c \
	vmm/boot/boot_pvh.c
