# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/firmware/firmware.c vmm/firmware/firmware.h \
	vmm/firmware/firmware_boot.c \
	vmm/firmware/firmware_image.c vmm/firmware/firmware_image.h \
	vmm/firmware/firmware_options.c \
	vmm/firmware/flash.c vmm/firmware/flash.h \
	vmm/firmware/flash_store.c vmm/firmware/flash_store.h \
	vmm/firmware/fw_cfg.c vmm/firmware/fw_cfg.h \
	vmm/firmware/smbios.c vmm/firmware/smbios.h \
	vmm/firmware/vars_store.c vmm/firmware/vars_store.h
