# SPDX-License-Identifier: Apache-2.0

# Small guests that run directly on /dev/kvm, by the PVH entry. Built for no system: no flags of ours but these.
TEST_GUESTS = tests/guests/checker.elf tests/guests/hello.elf tests/guests/reset.elf tests/guests/timer.elf \
	tests/guests/dirtier.elf tests/guests/block.elf tests/guests/cdrom.elf tests/guests/crash.elf tests/guests/exits.elf tests/guests/echo.elf tests/guests/disks.elf tests/guests/writers.elf \
	tests/guests/feeder.elf
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
EXTRA_DIST += tests/kvm/cases_cdrom.py tests/kvm/cases_panic.py tests/kvm/cases_disk.py tests/kvm/cases_storage.py tests/kvm/test_vmm tests/kvm/process.py tests/kvm/cases_input.py tests/kvm/cases_lease.py tests/kvm/cases_limits.py \
	tests/kvm/cases_machine.py

noinst_PROGRAMS += tests/kvm/state
tests_kvm_state_SOURCES = tests/kvm/state.c
tests_kvm_state_LDADD = $(VMM_LIBS)
EXTRA_DIST += tests/kvm/cases_state.py tests/kvm/cases_snapshot.py

# The two that need nothing of start.S.
noinst_DATA += tests/guests/first.elf tests/guests/first.rom
CLEANFILES += tests/guests/first.elf tests/guests/first.rom
EXTRA_DIST += tests/guests/first.S
tests/guests/first.elf: tests/guests/first.S tests/guests/guest.lds
	$(AM_V_CC)$(MKDIR_P) tests/guests && $(CC) $(GUEST_CFLAGS) $(GUEST_LINK) \
	    -T $(top_srcdir)/tests/guests/guest.lds -o $@ $(top_srcdir)/tests/guests/first.S
tests/guests/first.rom: tests/guests/first.S
	$(AM_V_CC)$(MKDIR_P) tests/guests && $(CC) $(GUEST_CFLAGS) -DAS_FIRMWARE -nostdlib -static -no-pie \
	    -Wl,--build-id=none -Wl,-Ttext=0 -Wl,--oformat=binary -Wl,-e,0 -o $@ $(top_srcdir)/tests/guests/first.S

# What a VMM that a guest has taken over can reach (cases_jail.py).
noinst_PROGRAMS += tests/kvm/jail_probe
tests_kvm_jail_probe_SOURCES = tests/kvm/jail_probe.c
tests_kvm_jail_probe_LDADD = $(VMM_LIBS)
EXTRA_DIST += tests/kvm/cases_jail.py
# The same of its storage daemons.
noinst_PROGRAMS += tests/kvm/storage_probe
tests_kvm_storage_probe_SOURCES = tests/kvm/storage_probe.c
tests_kvm_storage_probe_LDADD = $(VMM_LIBS)
