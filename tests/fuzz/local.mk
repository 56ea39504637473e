# SPDX-License-Identifier: Apache-2.0
# Each runs for a moment under `make check`; by hand with more iterations and other seeds.

# ---- migration ----
check_PROGRAMS += tests/fuzz/fuzz_migration_stream
tests_fuzz_fuzz_migration_stream_SOURCES = tests/fuzz/fuzz_migration_stream.c
tests_fuzz_fuzz_migration_stream_LDADD = migration/libmigration.a proto/libproto.a \
	base/libbase.a $(ZLIB_LIBS) $(LZ4_LIBS)

if HAVE_RDMA
check_PROGRAMS += tests/fuzz/fuzz_migration_rdma
tests_fuzz_fuzz_migration_rdma_SOURCES = tests/fuzz/fuzz_migration_rdma.c
tests_fuzz_fuzz_migration_rdma_LDADD = migration/libmigration.a proto/libproto.a \
	base/libbase.a $(ZLIB_LIBS)
endif

# ---- vmm/virtio: libFuzzer, built with clang by tests/fuzz/run ----
EXTRA_DIST += tests/fuzz/run tests/fuzz/fuzz_vm.c tests/fuzz/fuzz_vm.h tests/fuzz/fuzz_ahci.c tests/fuzz/fuzz_virtio.c \
	tests/fuzz/fuzz_virtio_state.c tests/fuzz/fuzz_storage.c tests/fuzz/fuzz_virtqueue.c tests/fuzz/fuzz_net.c tests/fuzz/fuzz_vsock.c tests/fuzz/fuzz_platform.c tests/fuzz/fuzz_cdrom.c tests/fuzz/fuzz_net_vhost.c \
	tests/fuzz/fuzz_block_vhost.c tests/fuzz/fuzz_backend.c tests/fuzz/fuzz_backend.h tests/fuzz/fuzz_clock.c tests/fuzz/fuzz_clock.h tests/fuzz/fuzz_input.h tests/fuzz/fuzz_state.c tests/fuzz/fuzz_state.h tests/fuzz/fuzz_vhost_kernel.c \
	tests/fuzz/fuzz_vhost_kernel.h tests/fuzz/fuzz_replay.h tests/fuzz/make-seeds tests/fuzz/fuzz_snapshot.c tests/fuzz/corpus
EXTRA_DIST += tests/fuzz/fuzz_cpu.c
EXTRA_DIST += tests/fuzz/fuzz_firmware.c

# ---- node-agent: runs for a moment under `make check` ----
check_PROGRAMS += tests/fuzz/fuzz_api
tests_fuzz_fuzz_api_SOURCES = tests/fuzz/fuzz_api.c tests/unit/fake_backend.c tests/unit/fake_backend.h tests/unit/unit.h
tests_fuzz_fuzz_api_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
tests_fuzz_fuzz_api_LDADD = $(API_TEST_LIBS)
check_PROGRAMS += tests/fuzz/fuzz_move_opening
tests_fuzz_fuzz_move_opening_SOURCES = tests/fuzz/fuzz_move_opening.c
tests_fuzz_fuzz_move_opening_LDADD = $(AGENT_UNIT_LIBS)
