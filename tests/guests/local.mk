# SPDX-License-Identifier: Apache-2.0

# Small guests that run directly on /dev/kvm, by the PVH entry. Built for no system: no flags of ours but these.
TEST_GUESTS = tests/guests/checker.elf tests/guests/hello.elf tests/guests/reset.elf tests/guests/timer.elf \
	tests/guests/dirtier.elf tests/guests/block.elf
GUEST_CFLAGS = -std=gnu17 -m64 -O2 -Wall -Wextra -ffreestanding -fno-pie -fno-stack-protector \
	-fcf-protection=none -mno-red-zone -mgeneral-regs-only -fno-asynchronous-unwind-tables
GUEST_LINK = -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,max-page-size=4096 \
	-Wl,-z,noexecstack -Wl,--no-warn-rwx-segments
GUEST_PARTS = tests/guests/start.S tests/guests/guest.c tests/guests/guest.h tests/guests/guest.lds
noinst_DATA += $(TEST_GUESTS)
CLEANFILES += $(TEST_GUESTS)
EXTRA_DIST += $(GUEST_PARTS) $(TEST_GUESTS:.elf=.c)
$(TEST_GUESTS): tests/guests/%.elf: tests/guests/%.c $(GUEST_PARTS)
	$(AM_V_CC)$(MKDIR_P) tests/guests && $(CC) $(GUEST_CFLAGS) $(GUEST_LINK) \
	    -T $(top_srcdir)/tests/guests/guest.lds -o $@ $(top_srcdir)/tests/guests/start.S \
	    $(top_srcdir)/tests/guests/guest.c $<
EXTRA_DIST += tests/kvm/cases_disk.py tests/kvm/test_vmm tests/kvm/process.py tests/kvm/cases_input.py tests/kvm/cases_lease.py \
	tests/kvm/cases_machine.py

noinst_PROGRAMS += tests/kvm/state
tests_kvm_state_SOURCES = tests/kvm/state.c
tests_kvm_state_LDADD = $(VMM_LIBS)
EXTRA_DIST += tests/kvm/cases_state.py
