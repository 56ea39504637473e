# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += migration/libmigration.a
migration_libmigration_a_SOURCES = \
	migration/arrival.c migration/arrival.h \
	migration/arrival_streams.c migration/arrival_streams.h \
	migration/compress.c migration/compress.h \
	migration/crc32c.c migration/crc32c.h \
	migration/extent.c migration/extent.h \
	migration/dirty_rate.c migration/dirty_rate.h \
	migration/gate.h \
	migration/goals.c migration/goals.h \
	migration/guest.h \
	migration/handover.c \
	migration/pace.c migration/pace.h \
	migration/pages.c migration/pages.h \
	migration/placing.c migration/placing.h \
	migration/plan.c migration/plan.h \
	migration/postcopy_source.c migration/postcopy_source.h migration/postcopy_source_internal.h \
	migration/postcopy_source_link.c migration/postcopy_source_pages.c \
	migration/postcopy_target.c migration/postcopy_target.h migration/postcopy_target_internal.h \
	migration/postcopy_target_link.c migration/postcopy_target_pages.c migration/postcopy_target_run.c \
	migration/predict.c migration/predict.h \
	migration/probe.c migration/probe.h \
	migration/rounds.c \
	migration/snapshot_map.c migration/snapshot_map.h \
	migration/snapshot_save.c migration/snapshot_save.h \
	migration/source.c migration/source.h migration/source_internal.h \
	migration/source_links.c \
	migration/status.c migration/status.h \
	migration/stream.c migration/stream.h \
	migration/streams.c migration/streams.h \
	migration/target.c migration/target.h migration/target_internal.h \
	migration/target_greet.c \
	migration/target_start.c migration/target_start.h \
	migration/throttle.c migration/throttle.h \
	migration/times.c migration/times.h \
	migration/transport.c migration/transport.h migration/transport_handed.c \
	migration/transport_tcp.c \
	migration/transport_rdma.h \
	migration/transport_rdma_wire.c migration/transport_rdma_wire.h \
	migration/wire.c migration/wire.h migration/wire_fields.h \
	migration/wire_probe.c \
	migration/wire_streams.c \
	migration/wire_postcopy.c migration/wire_postcopy.h \
	migration/zero.c migration/zero.h
# The page path is worth it, whatever the rest of the tree is built with.
migration_libmigration_a_CFLAGS = $(AM_CFLAGS) -O2
# Its libraries are loaded by name when somebody asks for them, and linked by nobody.
if HAVE_RDMA
migration_libmigration_a_SOURCES += \
	migration/transport_rdma.c migration/transport_rdma_setup.h \
	migration/transport_rdma_connect.c migration/transport_rdma_internal.h \
	migration/transport_rdma_library.c migration/transport_rdma_library.h \
	migration/transport_rdma_link.c \
	migration/transport_rdma_memory.c migration/transport_rdma_memory.h \
	migration/transport_rdma_place.c
else
migration_libmigration_a_SOURCES += migration/transport_rdma_none.c
endif
