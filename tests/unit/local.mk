# SPDX-License-Identifier: Apache-2.0
# Unit tests (cmocka). For a module `thing` of folder `base`:
#   check_PROGRAMS += tests/unit/test_thing
#   tests_unit_test_thing_SOURCES = tests/unit/test_thing.c
#   tests_unit_test_thing_LDADD = base/libbase.a $(UNIT_LIBS)
# Keep the blocks of one folder together.
UNIT_LIBS = $(CMOCKA_LIBS)

# ---- base, proto ----

# ---- migration ----

# ---- consensus ----

# ---- fencing ----

# ---- vmm ----

# ---- vmm/virtio ----

# ---- node-agent ----

# ---- cli ----
