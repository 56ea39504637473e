# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/jail/broker.c vmm/jail/broker.h \
	vmm/jail/broker_list.c vmm/jail/broker_list.h \
	vmm/jail/broker_wire.c vmm/jail/broker_wire.h \
	vmm/jail/jail.c vmm/jail/jail.h \
	vmm/jail/jail_world.c vmm/jail/jail_world.h \
	vmm/jail/launcher.c vmm/jail/launcher.h \
	vmm/jail/rights.c vmm/jail/rights.h \
	vmm/jail/seccomp.c vmm/jail/seccomp.h

# The filters of the jail, as arrays; their maker runs here, on the machine that builds.
noinst_PROGRAMS += vmm/jail/seccomp_generate
vmm_jail_seccomp_generate_SOURCES = \
	vmm/jail/seccomp_generate.c vmm/jail/seccomp_generate.h \
	vmm/jail/seccomp_generate_launcher.c \
	vmm/jail/seccomp_generate_storage.c \
	vmm/jail/seccomp_generate_vmm.c
vmm_jail_seccomp_generate_CFLAGS = $(AM_CFLAGS) $(SECCOMP_CFLAGS)
vmm_jail_seccomp_generate_LDADD = $(SECCOMP_LIBS)
vmm/jail/seccomp_filters.h: vmm/jail/seccomp_generate$(EXEEXT)
	$(AM_V_GEN)vmm/jail/seccomp_generate$(EXEEXT) > $@.new && mv $@.new $@
BUILT_SOURCES += vmm/jail/seccomp_filters.h
CLEANFILES += vmm/jail/seccomp_filters.h
