# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += vmm/libvmm.a
vmm_libvmm_a_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS) $(URING_CFLAGS) $(JANSSON_CFLAGS)
vmm_libvmm_a_SOURCES = \
	vmm/bus.c vmm/bus.h \
	vmm/device.h \
	vmm/event_loop.c vmm/event_loop.h \
	vmm/guest_ram.c vmm/guest_ram.h \
	vmm/layout.h \
	vmm/migrate.h \
	vmm/pci.c vmm/pci.h vmm/pci_internal.h \
	vmm/pci_host.c \
	vmm/pci_msix.c \
	vmm/state.c vmm/state.h \
	vmm/vm.h

include vmm/virtio/local.mk
