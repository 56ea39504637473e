# SPDX-License-Identifier: Apache-2.0
noinst_LIBRARIES += base/libbase.a
base_libbase_a_SOURCES = \
	base/buffer.c base/buffer.h \
	base/check.c base/check.h \
	base/cleanup.h \
	base/clock.c base/clock.h \
	base/err.c base/err.h \
	base/id.c base/id.h \
	base/limits.h \
	base/log.c base/log.h \
	base/recent.c base/recent.h \
	base/state_table.c base/state_table.h \
	base/text.c base/text.h
