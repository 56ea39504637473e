# SPDX-License-Identifier: Apache-2.0
# Each runs for a moment under `make check`; by hand with more iterations and other seeds.

# ---- migration ----
check_PROGRAMS += tests/fuzz/fuzz_migration_stream
tests_fuzz_fuzz_migration_stream_SOURCES = tests/fuzz/fuzz_migration_stream.c
tests_fuzz_fuzz_migration_stream_LDADD = migration/libmigration.a proto/libproto.a \
	base/libbase.a $(ZLIB_LIBS)
