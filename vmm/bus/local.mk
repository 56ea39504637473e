# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/bus/bus.c vmm/bus/bus.h \
	vmm/bus/pci.c vmm/bus/pci.h vmm/bus/pci_internal.h \
	vmm/bus/pci_host.c \
	vmm/bus/pci_msi.c \
	vmm/bus/pci_msix.c
