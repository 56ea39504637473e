# SPDX-License-Identifier: Apache-2.0
# The whole cluster on a virtual clock: docs/safety.md.
check_PROGRAMS += tests/sim/sim_cluster
tests_sim_sim_cluster_SOURCES = tests/sim/sim.h \
	tests/sim/sim_agent.c \
	tests/sim/sim_check.c \
	tests/sim/sim_cluster.c \
	tests/sim/sim_core.c \
	tests/sim/sim_keeper.c \
	tests/sim/sim_move.c \
	tests/sim/sim_raft.c \
	tests/sim/sim_vmm.c \
	tests/sim/sim_world.c
tests_sim_sim_cluster_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS) $(RAFT_CFLAGS)
tests_sim_sim_cluster_LDADD = node-agent/libagent.a consensus/libconsensus.a fencing/libfencing.a \
	proto/libproto.a base/libbase.a $(RAFT_LIBS) $(PROTOBUF_C_LIBS) $(ZLIB_LIBS)
check_SCRIPTS += tests/sim/test_replay
EXTRA_DIST += tests/sim/test_replay docs/safety.md
