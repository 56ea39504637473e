# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += fencing/libfencing.a
fencing_libfencing_a_SOURCES = \
	fencing/keeper_policy.c fencing/keeper_policy.h \
	fencing/timing.c fencing/timing.h \
	fencing/watchdog_device.c fencing/watchdog_device.h
fencing_libfencing_a_CFLAGS = $(AM_CFLAGS) $(PROTOBUF_C_CFLAGS)
EXTRA_DIST += docs/timing.md
