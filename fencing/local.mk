# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += fencing/libfencing.a
fencing_libfencing_a_SOURCES = \
	fencing/timing.c fencing/timing.h
EXTRA_DIST += docs/timing.md
