# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/options/options.c vmm/options/options.h \
	vmm/options/options_cdrom.c vmm/options/options_cdrom.h \
	vmm/options/options_cpu.c vmm/options/options_cpu.h \
	vmm/options/options_disk.c vmm/options/options_disk.h \
	vmm/options/options_firmware.c vmm/options/options_firmware.h \
	vmm/options/options_net.c vmm/options/options_net.h \
	vmm/options/options_vsock.c vmm/options/options_vsock.h
