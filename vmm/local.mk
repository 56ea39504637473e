# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += vmm/libvmm.a
vmm_libvmm_a_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS) $(URING_CFLAGS) $(JANSSON_CFLAGS)
vmm_libvmm_a_SOURCES = \
	vmm/acpi.c vmm/acpi.h vmm/acpi_internal.h \
	vmm/acpi_dsdt.c \
	vmm/acpi_loader.c \
	vmm/acpi_power.c \
	vmm/affinity.c vmm/affinity.h \
	vmm/ahci.c vmm/ahci.h vmm/ahci_internal.h \
	vmm/ahci_command.c \
	vmm/ahci_io.c \
	vmm/ahci_port.c \
	vmm/ahci_state.c \
	vmm/aml.c vmm/aml.h \
	vmm/atapi.c vmm/atapi.h vmm/atapi_internal.h \
	vmm/atapi_disc.c \
	vmm/boot.c vmm/boot.h vmm/boot_internal.h \
	vmm/boot_bzimage.c \
	vmm/boot_pvh.c \
	vmm/broker.c vmm/broker.h \
	vmm/broker_list.c vmm/broker_list.h \
	vmm/broker_wire.c vmm/broker_wire.h \
	vmm/bus.c vmm/bus.h \
	vmm/cgroup.c vmm/cgroup.h \
	vmm/cdrom_image.c vmm/cdrom_image.h \
	vmm/control.c vmm/control.h \
	vmm/control_client.c vmm/control_client.h \
	vmm/control_json.c \
	vmm/control_orders.c vmm/control_orders.h \
	vmm/cpu_features.c vmm/cpu_features.h \
	vmm/cpu_model.c vmm/cpu_model.h \
	vmm/device.h \
	vmm/event_loop.c vmm/event_loop.h \
	vmm/firmware.c vmm/firmware.h \
	vmm/firmware_boot.c \
	vmm/firmware_image.c vmm/firmware_image.h \
	vmm/firmware_options.c \
	vmm/flash.c vmm/flash.h \
	vmm/fw_cfg.c vmm/fw_cfg.h \
	vmm/guest_ram.c vmm/guest_ram.h \
	vmm/i8042.c \
	vmm/jail.c vmm/jail.h \
	vmm/jail_world.c vmm/jail_world.h \
	vmm/kvm.h \
	vmm/kvm_boot.c \
	vmm/kvm_chip_state.c \
	vmm/kvm_cpu_describe.h \
	vmm/kvm_cpu_state.c vmm/kvm_cpu_state.h \
	vmm/kvm_cpuid.c \
	vmm/kvm_cpuid_state.c \
	vmm/kvm_irqfd.c \
	vmm/kvm_msr_state.c \
	vmm/kvm_throttle.c vmm/kvm_throttle.h \
	vmm/kvm_vcpu.c \
	vmm/kvm_vm.c \
	vmm/launcher.c vmm/launcher.h \
	vmm/layout.h \
	vmm/lpc.c \
	vmm/machine.c vmm/machine.h \
	vmm/migrate.c vmm/migrate.h \
	vmm/migrate_missing.c vmm/migrate_missing.h \
	vmm/migrate_guest.c vmm/migrate_guest.h \
	vmm/migrate_rdma.c vmm/migrate_rdma.h \
	vmm/options.c vmm/options.h \
	vmm/options_cdrom.c vmm/options_cdrom.h \
	vmm/options_cpu.c vmm/options_cpu.h \
	vmm/options_disk.c vmm/options_disk.h \
	vmm/options_firmware.c vmm/options_firmware.h \
	vmm/options_net.c vmm/options_net.h \
	vmm/options_vsock.c vmm/options_vsock.h \
	vmm/panic.c vmm/panic.h \
	vmm/pci.c vmm/pci.h vmm/pci_internal.h \
	vmm/pci_host.c \
	vmm/pci_msi.c \
	vmm/pci_msix.c \
	vmm/platform.h \
	vmm/process.c vmm/process.h \
	vmm/rate_limit.c vmm/rate_limit.h \
	vmm/ram_backing.c vmm/ram_backing.h \
	vmm/ring.c vmm/ring.h \
	vmm/rtc.c \
	vmm/seccomp.c vmm/seccomp.h \
	vmm/serial.c vmm/serial.h \
	vmm/serial_host.c vmm/serial_host.h \
	vmm/smbios.c vmm/smbios.h \
	vmm/snapshot.c vmm/snapshot.h \
	vmm/snapshot_folder.c vmm/snapshot_folder.h \
	vmm/snapshot_manifest.c vmm/snapshot_manifest.h \
	vmm/snapshot_pager.c vmm/snapshot_pager.h \
	vmm/snapshot_restore.c vmm/snapshot_restore.h \
	vmm/state.c vmm/state.h \
	vmm/storage.h \
	vmm/storage_broker.c vmm/storage_broker.h \
	vmm/storage_daemon.c vmm/storage_daemon.h \
	vmm/storage_folder.c vmm/storage_folder.h \
	vmm/storage_format.c \
	vmm/storage_keeper.c vmm/storage_keeper.h \
	vmm/storage_node.c vmm/storage_node.h \
	vmm/storage_qmp.c vmm/storage_qmp.h \
	vmm/unix_socket.c vmm/unix_socket.h \
	vmm/vars_store.c vmm/vars_store.h \
	vmm/vm.c vmm/vm.h vmm/vm_internal.h \
	vmm/vm_echo.c vmm/vm_hold.c \
	vmm/vm_state.c

include vmm/virtio/local.mk

# The filters of the jail, as arrays; their maker runs here, on the machine that builds.
noinst_PROGRAMS += vmm/seccomp_generate
vmm_seccomp_generate_SOURCES = vmm/seccomp_generate.c
vmm_seccomp_generate_CFLAGS = $(AM_CFLAGS) $(SECCOMP_CFLAGS)
vmm_seccomp_generate_LDADD = $(SECCOMP_LIBS)
vmm/seccomp_filters.h: vmm/seccomp_generate$(EXEEXT)
	$(AM_V_GEN)vmm/seccomp_generate$(EXEEXT) > $@.new && mv $@.new $@
BUILT_SOURCES += vmm/seccomp_filters.h
CLEANFILES += vmm/seccomp_filters.h

bin_PROGRAMS += drover-vmm
drover_vmm_SOURCES = vmm/main.c
drover_vmm_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS) $(JANSSON_CFLAGS)
VMM_LIBS = vmm/libvmm.a migration/libmigration.a proto/libproto.a base/libbase.a \
	$(PROTOBUF_C_LIBS) $(URING_LIBS) $(JANSSON_LIBS) $(ZLIB_LIBS) $(LZ4_LIBS)
drover_vmm_LDADD = $(VMM_LIBS)
