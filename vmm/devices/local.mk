# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/devices/acpi_power.c \
	vmm/devices/ahci.c vmm/devices/ahci.h vmm/devices/ahci_internal.h \
	vmm/devices/ahci_command.c \
	vmm/devices/ahci_io.c \
	vmm/devices/ahci_port.c \
	vmm/devices/ahci_state.c \
	vmm/devices/atapi.c vmm/devices/atapi.h vmm/devices/atapi_internal.h \
	vmm/devices/atapi_disc.c \
	vmm/devices/cdrom_image.c vmm/devices/cdrom_image.h \
	vmm/devices/i8042.c \
	vmm/devices/lpc.c \
	vmm/devices/panic.c vmm/devices/panic.h \
	vmm/devices/platform.h \
	vmm/devices/rtc.c \
	vmm/devices/serial.c vmm/devices/serial.h
