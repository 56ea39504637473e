# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += vmm/libvmm.a
vmm_libvmm_a_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS) $(URING_CFLAGS) $(JANSSON_CFLAGS)
vmm_libvmm_a_SOURCES = \
	vmm/device.h \
	vmm/layout.h \
	vmm/machine.c vmm/machine.h \
	vmm/process.c vmm/process.h \
	vmm/state.c vmm/state.h \
	vmm/vm.c vmm/vm.h vmm/vm_internal.h \
	vmm/vm_echo.c \
	vmm/vm_hold.c \
	vmm/vm_state.c

# From those that stand on nothing to those that stand on most (docs/architecture.md).
include vmm/memory/local.mk
include vmm/bus/local.mk
include vmm/cpu/local.mk
include vmm/host/local.mk
include vmm/jail/local.mk
include vmm/storage/local.mk
include vmm/devices/local.mk
include vmm/virtio/local.mk
include vmm/options/local.mk
include vmm/kvm/local.mk
include vmm/boot/local.mk
include vmm/firmware/local.mk
include vmm/move/local.mk
include vmm/control/local.mk

bin_PROGRAMS += drover-vmm
drover_vmm_SOURCES = vmm/main.c
drover_vmm_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS) $(JANSSON_CFLAGS)
VMM_LIBS = vmm/libvmm.a migration/libmigration.a proto/libproto.a base/libbase.a \
	$(PROTOBUF_C_LIBS) $(URING_LIBS) $(JANSSON_LIBS) $(ZLIB_LIBS) $(LZ4_LIBS)
drover_vmm_LDADD = $(VMM_LIBS)
