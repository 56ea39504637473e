# SPDX-License-Identifier: Apache-2.0
# Unit tests (cmocka). For a module `thing` of folder `base`:
#   check_PROGRAMS += tests/unit/test_thing
#   tests_unit_test_thing_SOURCES = tests/unit/test_thing.c
#   tests_unit_test_thing_LDADD = base/libbase.a $(UNIT_LIBS)
# Keep the blocks of one folder together.
UNIT_LIBS = $(CMOCKA_LIBS)

# ---- base, proto ----
check_PROGRAMS += tests/unit/test_buffer
tests_unit_test_buffer_SOURCES = tests/unit/test_buffer.c tests/unit/unit.h
tests_unit_test_buffer_LDADD = base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_clock
tests_unit_test_clock_SOURCES = tests/unit/test_clock.c tests/unit/unit.h
tests_unit_test_clock_LDADD = base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_err
tests_unit_test_err_SOURCES = tests/unit/test_err.c tests/unit/unit.h
tests_unit_test_err_LDADD = base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_id
tests_unit_test_id_SOURCES = tests/unit/test_id.c tests/unit/unit.h
tests_unit_test_id_LDADD = base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_log
tests_unit_test_log_SOURCES = tests/unit/test_log.c tests/unit/unit.h
tests_unit_test_log_LDADD = base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_recent
tests_unit_test_recent_SOURCES = tests/unit/test_recent.c tests/unit/unit.h
tests_unit_test_recent_LDADD = base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_state_table
tests_unit_test_state_table_SOURCES = tests/unit/test_state_table.c tests/unit/unit.h
tests_unit_test_state_table_LDADD = base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_frame
tests_unit_test_frame_SOURCES = tests/unit/test_frame.c
tests_unit_test_frame_LDADD = proto/libproto.a base/libbase.a $(ZLIB_LIBS) $(UNIT_LIBS)

# ---- migration ----
MIGRATION_TEST_LIBS = migration/libmigration.a proto/libproto.a base/libbase.a $(ZLIB_LIBS) $(LZ4_LIBS) \
	$(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_migration_move
tests_unit_test_migration_move_SOURCES = tests/unit/test_migration_move.c tests/unit/unit.h \
	tests/unit/fake_guest.c tests/unit/fake_guest.h \
	tests/unit/fault_transport.c tests/unit/fault_transport.h
tests_unit_test_migration_move_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_transport_handed
tests_unit_test_transport_handed_SOURCES = tests/unit/test_transport_handed.c tests/unit/unit.h
tests_unit_test_transport_handed_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_migration_postcopy
tests_unit_test_migration_postcopy_SOURCES = tests/unit/test_migration_postcopy.c \
	tests/unit/unit.h tests/unit/fake_guest.c tests/unit/fake_guest.h \
	tests/unit/fault_transport.c tests/unit/fault_transport.h
tests_unit_test_migration_postcopy_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_migration_target
tests_unit_test_migration_target_SOURCES = tests/unit/test_migration_target.c tests/unit/unit.h \
	tests/unit/fake_guest.c tests/unit/fake_guest.h
tests_unit_test_migration_target_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_migration_pages
tests_unit_test_migration_pages_SOURCES = tests/unit/test_migration_pages.c tests/unit/unit.h
tests_unit_test_migration_pages_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_migration_plan
tests_unit_test_migration_plan_SOURCES = tests/unit/test_migration_plan.c tests/unit/unit.h
tests_unit_test_migration_plan_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_migration_goals
tests_unit_test_migration_goals_SOURCES = tests/unit/test_migration_goals.c tests/unit/unit.h
tests_unit_test_migration_goals_LDADD = $(MIGRATION_TEST_LIBS)
if HAVE_RDMA
check_PROGRAMS += tests/unit/test_transport_rdma
tests_unit_test_transport_rdma_SOURCES = tests/unit/test_transport_rdma.c tests/unit/unit.h
tests_unit_test_transport_rdma_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_transport_rdma_listen
tests_unit_test_transport_rdma_listen_SOURCES = tests/unit/test_transport_rdma_listen.c tests/unit/unit.h
tests_unit_test_transport_rdma_listen_LDADD = $(MIGRATION_TEST_LIBS)
endif
check_PROGRAMS += tests/unit/test_migration_wire
tests_unit_test_migration_wire_SOURCES = tests/unit/test_migration_wire.c tests/unit/unit.h
tests_unit_test_migration_wire_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_migration_compress
tests_unit_test_migration_compress_SOURCES = tests/unit/test_migration_compress.c tests/unit/unit.h
tests_unit_test_migration_compress_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_migration_pace
tests_unit_test_migration_pace_SOURCES = tests/unit/test_migration_pace.c tests/unit/unit.h
tests_unit_test_migration_pace_LDADD = $(MIGRATION_TEST_LIBS)
check_PROGRAMS += tests/unit/test_migration_zero
tests_unit_test_migration_zero_SOURCES = tests/unit/test_migration_zero.c tests/unit/unit.h
tests_unit_test_migration_zero_LDADD = $(MIGRATION_TEST_LIBS)

# ---- consensus ----
CONSENSUS_LIBS = consensus/libconsensus.a proto/libproto.a base/libbase.a \
	$(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(RAFT_LIBS) $(UV_LIBS)
STATE_TEST_LIBS = consensus/libconsensus.a proto/libproto.a base/libbase.a \
	$(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_cluster_state
tests_unit_test_cluster_state_SOURCES = tests/unit/test_cluster_state.c \
	tests/unit/cluster_world.c tests/unit/cluster_world.h
tests_unit_test_cluster_state_LDADD = $(STATE_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cluster_state_vm
tests_unit_test_cluster_state_vm_SOURCES = tests/unit/test_cluster_state_vm.c \
	tests/unit/cluster_world.c tests/unit/cluster_world.h
tests_unit_test_cluster_state_vm_LDADD = $(STATE_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cluster_state_migration
tests_unit_test_cluster_state_migration_SOURCES = tests/unit/test_cluster_state_migration.c \
	tests/unit/cluster_world.c tests/unit/cluster_world.h
tests_unit_test_cluster_state_migration_LDADD = $(STATE_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cluster_state_postcopy
tests_unit_test_cluster_state_postcopy_SOURCES = tests/unit/test_cluster_state_postcopy.c \
	tests/unit/cluster_world.c tests/unit/cluster_world.h
tests_unit_test_cluster_state_postcopy_LDADD = $(STATE_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cluster_state_transport
tests_unit_test_cluster_state_transport_SOURCES = tests/unit/test_cluster_state_transport.c \
	tests/unit/cluster_world.c tests/unit/cluster_world.h
tests_unit_test_cluster_state_transport_LDADD = $(STATE_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cluster_state_loss
tests_unit_test_cluster_state_loss_SOURCES = tests/unit/test_cluster_state_loss.c \
	tests/unit/cluster_world.c tests/unit/cluster_world.h
tests_unit_test_cluster_state_loss_LDADD = $(STATE_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cluster_state_random
tests_unit_test_cluster_state_random_SOURCES = tests/unit/test_cluster_state_random.c \
	tests/unit/cluster_scribe.c tests/unit/cluster_scribe.h
tests_unit_test_cluster_state_random_LDADD = $(STATE_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cluster_state_memory
tests_unit_test_cluster_state_memory_SOURCES = tests/unit/test_cluster_state_memory.c \
	tests/unit/cluster_scribe.c tests/unit/cluster_scribe.h
tests_unit_test_cluster_state_memory_LDADD = $(STATE_TEST_LIBS)
check_PROGRAMS += tests/unit/test_placement
tests_unit_test_placement_SOURCES = tests/unit/test_placement.c \
	tests/unit/cluster_world.c tests/unit/cluster_world.h
tests_unit_test_placement_LDADD = $(STATE_TEST_LIBS)
tests_unit_test_cluster_state_memory_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=malloc,--wrap=calloc \
	-Wl,--wrap=realloc,--wrap=strdup
check_PROGRAMS += tests/unit/test_raft_node
tests_unit_test_raft_node_SOURCES = tests/unit/test_raft_node.c tests/unit/raft_cluster.c \
	tests/unit/raft_cluster.h
tests_unit_test_raft_node_LDADD = $(CONSENSUS_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_raft_node_disk
tests_unit_test_raft_node_disk_SOURCES = tests/unit/test_raft_node_disk.c \
	tests/unit/raft_cluster.c tests/unit/raft_cluster.h
tests_unit_test_raft_node_disk_LDADD = $(CONSENSUS_LIBS) $(UNIT_LIBS)

# ---- fencing ----
check_PROGRAMS += tests/unit/test_timing
tests_unit_test_timing_SOURCES = tests/unit/test_timing.c tests/unit/unit.h
tests_unit_test_timing_LDADD = fencing/libfencing.a base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_keeper_policy
tests_unit_test_keeper_policy_SOURCES = tests/unit/test_keeper_policy.c tests/unit/unit.h
tests_unit_test_keeper_policy_LDADD = fencing/libfencing.a proto/libproto.a base/libbase.a \
	$(PROTOBUF_C_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_watchdog_device
tests_unit_test_watchdog_device_SOURCES = tests/unit/test_watchdog_device.c tests/unit/unit.h
tests_unit_test_watchdog_device_LDADD = fencing/libfencing.a base/libbase.a $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_net_guard
tests_unit_test_net_guard_SOURCES = tests/unit/test_net_guard.c tests/unit/net_fixture.h \
	$(VIRTIO_TEST_SOURCES)
tests_unit_test_net_guard_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_vsock
VSOCK_TEST_SOURCES = tests/unit/vsock_fixture.c tests/unit/vsock_fixture.h $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_vsock_SOURCES = tests/unit/test_virtio_vsock.c $(VSOCK_TEST_SOURCES)
tests_unit_test_virtio_vsock_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_vsock_state
tests_unit_test_virtio_vsock_state_SOURCES = tests/unit/test_virtio_vsock_state.c $(VSOCK_TEST_SOURCES)
tests_unit_test_virtio_vsock_state_LDADD = $(VIRTIO_TEST_LIBS)

# ---- vmm ----

# ---- vmm/virtio ----
VIRTIO_TEST_SOURCES = tests/unit/fake_vm.c tests/unit/fake_vm.h \
	tests/unit/virtio_driver.c tests/unit/virtio_driver.h tests/unit/unit.h
VIRTIO_TEST_LIBS = vmm/libvmm.a proto/libproto.a base/libbase.a \
	$(URING_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_control_state
tests_unit_test_control_state_SOURCES = tests/unit/test_control_state.c tests/unit/unit.h
tests_unit_test_control_state_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_queue
tests_unit_test_virtio_queue_SOURCES = tests/unit/test_virtio_queue.c $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_queue_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_block
tests_unit_test_virtio_block_SOURCES = tests/unit/test_virtio_block.c tests/unit/block_driver.c \
	tests/unit/block_driver.h $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_block_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_block_state
tests_unit_test_virtio_block_state_SOURCES = tests/unit/test_virtio_block_state.c \
	tests/unit/block_driver.c tests/unit/block_driver.h $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_block_state_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_block_queues
tests_unit_test_virtio_block_queues_SOURCES = tests/unit/test_virtio_block_queues.c tests/unit/block_driver.c \
	tests/unit/block_driver.h $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_block_queues_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_backend
tests_unit_test_virtio_backend_SOURCES = tests/unit/test_virtio_backend.c tests/unit/block_driver.c \
	tests/unit/block_driver.h $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_backend_LDADD = $(VIRTIO_TEST_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/test_virtio_storage
tests_unit_test_virtio_storage_SOURCES = tests/unit/test_virtio_storage.c tests/unit/block_driver.c \
	tests/unit/block_driver.h $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_storage_CPPFLAGS = $(AM_CPPFLAGS) $(URING_CFLAGS)
tests_unit_test_virtio_storage_LDADD = $(VIRTIO_TEST_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/test_control_request
tests_unit_test_control_request_SOURCES = tests/unit/test_control_request.c tests/unit/unit.h
tests_unit_test_control_request_LDADD = $(VMM_TEST_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/test_storage_chain
tests_unit_test_storage_chain_SOURCES = tests/unit/test_storage_chain.c tests/unit/unit.h
tests_unit_test_storage_chain_LDADD = $(VMM_TEST_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/test_storage_folder
tests_unit_test_storage_folder_SOURCES = tests/unit/test_storage_folder.c tests/unit/unit.h
tests_unit_test_storage_folder_LDADD = $(VMM_TEST_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/test_storage_root
tests_unit_test_storage_root_SOURCES = tests/unit/test_storage_root.c tests/unit/unit.h
tests_unit_test_storage_root_LDADD = $(VMM_TEST_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/test_storage_qmp
tests_unit_test_storage_qmp_SOURCES = tests/unit/test_storage_qmp.c tests/unit/unit.h
tests_unit_test_storage_qmp_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_storage_qmp_LDADD = $(VMM_TEST_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/test_storage
tests_unit_test_storage_SOURCES = tests/unit/test_storage.c tests/unit/unit.h
tests_unit_test_storage_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_storage_LDADD = $(VMM_TEST_LIBS) $(JANSSON_LIBS)
check_PROGRAMS += tests/unit/test_virtio_disk
tests_unit_test_virtio_disk_SOURCES = tests/unit/test_virtio_disk.c $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_disk_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_balloon
tests_unit_test_virtio_balloon_SOURCES = tests/unit/test_virtio_balloon.c $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_balloon_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_pci
tests_unit_test_virtio_pci_SOURCES = tests/unit/test_virtio_pci.c $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_pci_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_net
tests_unit_test_virtio_net_SOURCES = tests/unit/test_virtio_net.c tests/unit/net_fixture.h \
	$(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_net_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_virtio_net_orders
tests_unit_test_virtio_net_orders_SOURCES = tests/unit/test_virtio_net_orders.c \
	tests/unit/net_fixture.h $(VIRTIO_TEST_SOURCES)
tests_unit_test_virtio_net_orders_LDADD = $(VIRTIO_TEST_LIBS)

# ---- vmm: CD-ROM ----
check_PROGRAMS += tests/unit/test_ahci
tests_unit_test_ahci_SOURCES = tests/unit/test_ahci.c tests/unit/ahci_driver.c \
	tests/unit/ahci_driver.h tests/unit/fake_vm.c tests/unit/fake_vm.h tests/unit/unit.h
tests_unit_test_ahci_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_firmware
tests_unit_test_firmware_SOURCES = tests/unit/test_firmware.c tests/unit/fake_vm.c tests/unit/fake_vm.h \
	tests/unit/unit.h
tests_unit_test_firmware_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_panic
tests_unit_test_panic_SOURCES = tests/unit/test_panic.c tests/unit/fake_vm.c tests/unit/fake_vm.h \
	tests/unit/unit.h
tests_unit_test_panic_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_atapi
tests_unit_test_atapi_SOURCES = tests/unit/test_atapi.c tests/unit/unit.h
tests_unit_test_atapi_LDADD = $(VIRTIO_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cdrom_image
tests_unit_test_cdrom_image_SOURCES = tests/unit/test_cdrom_image.c tests/unit/unit.h
tests_unit_test_cdrom_image_LDADD = $(VIRTIO_TEST_LIBS)

# ---- vmm ----
VMM_TEST_LIBS = vmm/libvmm.a proto/libproto.a base/libbase.a $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) \
	$(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_cgroup
tests_unit_test_cgroup_SOURCES = tests/unit/test_cgroup.c tests/unit/unit.h
tests_unit_test_cgroup_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_rate_limit
tests_unit_test_rate_limit_SOURCES = tests/unit/test_rate_limit.c tests/unit/unit.h
tests_unit_test_rate_limit_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_cpu_model
tests_unit_test_cpu_model_SOURCES = tests/unit/test_cpu_model.c tests/unit/unit.h
tests_unit_test_cpu_model_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_guest_ram
tests_unit_test_guest_ram_SOURCES = tests/unit/test_guest_ram.c tests/unit/unit.h
tests_unit_test_guest_ram_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_bus
tests_unit_test_bus_SOURCES = tests/unit/test_bus.c tests/unit/unit.h
tests_unit_test_bus_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_event_loop
tests_unit_test_event_loop_SOURCES = tests/unit/test_event_loop.c tests/unit/unit.h
tests_unit_test_event_loop_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_snapshot
tests_unit_test_snapshot_SOURCES = tests/unit/test_snapshot.c tests/unit/unit.h \
	tests/unit/fake_guest.c tests/unit/fake_guest.h
tests_unit_test_snapshot_LDADD = vmm/libvmm.a migration/libmigration.a $(VMM_TEST_LIBS) $(LZ4_LIBS)
check_PROGRAMS += tests/unit/test_unix_files
tests_unit_test_unix_files_SOURCES = tests/unit/test_unix_files.c tests/unit/unit.h
tests_unit_test_unix_files_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_pci
tests_unit_test_pci_SOURCES = tests/unit/test_pci.c tests/unit/unit.h
tests_unit_test_pci_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_acpi
tests_unit_test_acpi_SOURCES = tests/unit/test_acpi.c tests/unit/unit.h
tests_unit_test_acpi_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_options
tests_unit_test_options_SOURCES = tests/unit/test_options.c tests/unit/unit.h
tests_unit_test_options_LDADD = $(VMM_TEST_LIBS)
check_PROGRAMS += tests/unit/test_serial
tests_unit_test_serial_SOURCES = tests/unit/test_serial.c tests/unit/fake_vm.c tests/unit/fake_vm.h \
	tests/unit/unit.h
tests_unit_test_serial_LDADD = $(VMM_TEST_LIBS)

# ---- node-agent ----
DECIDE_LIBS = node-agent/libagent.a consensus/libconsensus.a fencing/libfencing.a \
	proto/libproto.a base/libbase.a $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_host_core
HOST_TEST_SOURCES = tests/unit/host_fixture.c tests/unit/host_fixture.h \
	tests/unit/small_cluster.c tests/unit/small_cluster.h tests/unit/unit.h
tests_unit_test_host_core_SOURCES = tests/unit/test_host_core.c $(HOST_TEST_SOURCES)
tests_unit_test_host_core_LDADD = $(DECIDE_LIBS)
check_PROGRAMS += tests/unit/test_host_migration
tests_unit_test_host_migration_SOURCES = tests/unit/test_host_migration.c $(HOST_TEST_SOURCES)
tests_unit_test_host_migration_LDADD = $(DECIDE_LIBS)
check_PROGRAMS += tests/unit/test_host_postcopy
tests_unit_test_host_postcopy_SOURCES = tests/unit/test_host_postcopy.c $(HOST_TEST_SOURCES)
tests_unit_test_host_postcopy_LDADD = $(DECIDE_LIBS)
check_PROGRAMS += tests/unit/test_controller
tests_unit_test_controller_SOURCES = tests/unit/test_controller.c \
	tests/unit/small_cluster.c tests/unit/small_cluster.h tests/unit/unit.h
tests_unit_test_controller_LDADD = $(DECIDE_LIBS)
noinst_PROGRAMS += tests/unit/fake_vmm
tests_unit_fake_vmm_SOURCES = tests/unit/fake_vmm.c
tests_unit_fake_vmm_LDADD = proto/libproto.a base/libbase.a $(PROTOBUF_C_LIBS) $(ZLIB_LIBS)
check_PROGRAMS += tests/unit/test_vmm_supervisor
tests_unit_test_vmm_supervisor_SOURCES = tests/unit/test_vmm_supervisor.c tests/unit/unit.h
tests_unit_test_vmm_supervisor_LDADD = node-agent/libagent.a proto/libproto.a base/libbase.a \
	$(UV_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_vmm_command
tests_unit_test_vmm_command_SOURCES = tests/unit/test_vmm_command.c tests/unit/unit.h
tests_unit_test_vmm_command_LDADD = node-agent/libagent.a proto/libproto.a base/libbase.a \
	$(UV_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_frame_link
tests_unit_test_frame_link_SOURCES = tests/unit/test_frame_link.c tests/unit/unit.h
tests_unit_test_frame_link_LDADD = node-agent/libagent.a proto/libproto.a base/libbase.a \
	$(UV_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_keeper
tests_unit_test_keeper_SOURCES = tests/unit/test_keeper.c tests/unit/unit.h
tests_unit_test_keeper_LDADD = node-agent/libagent.a fencing/libfencing.a proto/libproto.a base/libbase.a \
	$(UV_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_vmm_real
tests_unit_test_vmm_real_SOURCES = tests/unit/test_vmm_real.c tests/unit/unit.h
tests_unit_test_vmm_real_LDADD = node-agent/libagent.a proto/libproto.a base/libbase.a \
	$(UV_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
API_TEST_LIBS = node-agent/libagent.a consensus/libconsensus.a fencing/libfencing.a proto/libproto.a base/libbase.a \
	$(LWS_LIBS) $(JANSSON_LIBS) $(OPENSSL_LIBS) $(UV_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_json
tests_unit_test_json_SOURCES = tests/unit/test_json.c tests/unit/unit.h
tests_unit_test_json_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_json_LDADD = $(API_TEST_LIBS)
check_PROGRAMS += tests/unit/test_api_core
API_TEST_SOURCES = tests/unit/fake_backend.c tests/unit/fake_backend.h tests/unit/unit.h tests/unit/pki_fixture.h \
	tests/unit/api_fixture.h tests/unit/api_http_fixture.h
tests_unit_test_api_core_SOURCES = tests/unit/test_api_core.c $(API_TEST_SOURCES)
check_PROGRAMS += tests/unit/test_api_leader
tests_unit_test_api_leader_SOURCES = tests/unit/test_api_leader.c $(API_TEST_SOURCES)
tests_unit_test_api_leader_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_api_leader_LDADD = $(API_TEST_LIBS)
tests_unit_test_api_core_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_api_core_LDADD = $(API_TEST_LIBS)
check_PROGRAMS += tests/unit/test_api_http
check_PROGRAMS += tests/unit/test_api_console
tests_unit_test_api_console_SOURCES = tests/unit/test_api_console.c $(API_TEST_SOURCES)
tests_unit_test_api_console_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(CURL_CFLAGS)
tests_unit_test_api_console_LDADD = $(API_TEST_LIBS) $(CURL_LIBS)
tests_unit_test_api_http_SOURCES = tests/unit/test_api_http.c $(API_TEST_SOURCES)
tests_unit_test_api_http_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS) $(CURL_CFLAGS)
tests_unit_test_api_http_LDADD = $(API_TEST_LIBS) $(CURL_LIBS)
check_PROGRAMS += tests/unit/test_tap
tests_unit_test_tap_SOURCES = tests/unit/test_tap.c tests/unit/unit.h
tests_unit_test_tap_LDADD = node-agent/libagent.a vmm/libvmm.a base/libbase.a $(UNIT_LIBS)
check_SCRIPTS += tests/unit/test_openapi
EXTRA_DIST += tests/unit/test_openapi docs/api.md docs/openapi.yaml
check_PROGRAMS += tests/unit/test_join_token
tests_unit_test_join_token_SOURCES = tests/unit/test_join_token.c tests/unit/unit.h
tests_unit_test_join_token_LDADD = node-agent/libagent.a proto/libproto.a base/libbase.a \
	$(OPENSSL_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)

# ---- cli ----
check_PROGRAMS += tests/unit/test_cli
tests_unit_test_cli_SOURCES = tests/unit/test_cli.c
tests_unit_test_cli_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_cli_LDADD = cli/libcli.a base/libbase.a $(CURL_LIBS) $(JANSSON_LIBS) $(FYAML_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_table
tests_unit_test_table_SOURCES = tests/unit/test_table.c
tests_unit_test_table_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_table_LDADD = cli/libcli.a base/libbase.a $(CURL_LIBS) $(JANSSON_LIBS) $(FYAML_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_vm_file
tests_unit_test_vm_file_SOURCES = tests/unit/test_vm_file.c
tests_unit_test_vm_file_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_vm_file_LDADD = cli/libcli.a base/libbase.a $(CURL_LIBS) $(JANSSON_LIBS) $(FYAML_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_vm_spec
tests_unit_test_vm_spec_SOURCES = tests/unit/test_vm_spec.c
tests_unit_test_vm_spec_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_unit_test_vm_spec_LDADD = cli/libcli.a base/libbase.a $(CURL_LIBS) $(JANSSON_LIBS) $(FYAML_LIBS) $(UNIT_LIBS)

# ---- the tree itself ----
check_SCRIPTS += tests/unit/test_includes
EXTRA_DIST += tests/unit/test_includes tests/tidy

# ---- node-agent: the agent ----
AGENT_UNIT_LIBS = node-agent/libagent.a consensus/libconsensus.a fencing/libfencing.a \
	proto/libproto.a base/libbase.a $(OPENSSL_LIBS) $(UV_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS) $(UNIT_LIBS)
check_PROGRAMS += tests/unit/test_config
tests_unit_test_config_SOURCES = tests/unit/test_config.c tests/unit/unit.h
tests_unit_test_config_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_link_speed
tests_unit_test_link_speed_SOURCES = tests/unit/test_link_speed.c tests/unit/unit.h
tests_unit_test_link_speed_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_pki
tests_unit_test_pki_SOURCES = tests/unit/test_pki.c tests/unit/unit.h
tests_unit_test_pki_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_peers
tests_unit_test_peers_SOURCES = tests/unit/test_peers.c tests/unit/pki_fixture.h tests/unit/unit.h
tests_unit_test_peers_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_tls_secrets
tests_unit_test_tls_secrets_SOURCES = tests/unit/test_tls_secrets.c tests/unit/unit.h
tests_unit_test_tls_secrets_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_moves
tests_unit_test_moves_SOURCES = tests/unit/test_moves.c \
	tests/unit/moves_fixture.c tests/unit/moves_fixture.h tests/unit/pki_fixture.h tests/unit/unit.h
tests_unit_test_moves_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_moves_opening
tests_unit_test_moves_opening_SOURCES = tests/unit/test_moves_opening.c \
	tests/unit/moves_fixture.c tests/unit/moves_fixture.h tests/unit/pki_fixture.h tests/unit/unit.h
tests_unit_test_moves_opening_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_join
tests_unit_test_join_SOURCES = tests/unit/test_join.c tests/unit/pki_fixture.h tests/unit/unit.h
tests_unit_test_join_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_propose
tests_unit_test_propose_SOURCES = tests/unit/test_propose.c tests/unit/unit.h
tests_unit_test_propose_LDADD = $(AGENT_UNIT_LIBS)
check_PROGRAMS += tests/unit/test_state_dir
tests_unit_test_state_dir_SOURCES = tests/unit/test_state_dir.c tests/unit/unit.h
tests_unit_test_state_dir_LDADD = $(AGENT_UNIT_LIBS)
