# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/host/cgroup.c vmm/host/cgroup.h \
	vmm/host/event_loop.c vmm/host/event_loop.h \
	vmm/host/net_guard.c vmm/host/net_guard.h \
	vmm/host/ring.c vmm/host/ring.h \
	vmm/host/serial_host.c vmm/host/serial_host.h \
	vmm/host/unix_socket.c vmm/host/unix_socket.h
