# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += fencing/libfencing.a
fencing_libfencing_a_SOURCES = \
	fencing/death.c fencing/death.h \
	fencing/keeper_policy.c fencing/keeper_policy.h \
	fencing/lease_grantor.c fencing/lease_grantor.h \
	fencing/lease_holder.c fencing/lease_holder.h \
	fencing/timing.c fencing/timing.h \
	fencing/watchdog_device.c fencing/watchdog_device.h
fencing_libfencing_a_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS)
EXTRA_DIST += docs/timing.md
