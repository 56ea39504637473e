# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += consensus/libconsensus.a
consensus_libconsensus_a_SOURCES = \
	consensus/apply.h \
	consensus/apply_host.c \
	consensus/apply_loss.c \
	consensus/apply_request.c \
	consensus/apply_migration.c \
	consensus/apply_migration_end.c \
	consensus/apply_setting.c \
	consensus/apply_postcopy.c \
	consensus/apply_step.c consensus/apply_step.h \
	consensus/apply_token.c \
	consensus/apply_vm.c \
	consensus/cluster_state.c consensus/cluster_state.h \
	consensus/cluster_valid.c \
	consensus/placement.c consensus/placement.h \
	consensus/raft_fsm.c \
	consensus/raft_guard.c \
	consensus/raft_node.c consensus/raft_node.h \
	consensus/raft_private.h \
	consensus/raft_request.c \
	consensus/raft_status.c \
	consensus/raft_transport.c \
	consensus/text.c \
	consensus/vm_spec.c \
	consensus/vm_spec_options.c
consensus_libconsensus_a_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS) $(RAFT_CFLAGS) $(UV_CFLAGS)
