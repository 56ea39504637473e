# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/control/control.c vmm/control/control.h \
	vmm/control/control_client.c vmm/control/control_client.h \
	vmm/control/control_json.c \
	vmm/control/control_orders.c vmm/control/control_orders.h \
	vmm/control/control_request.c vmm/control/control_request.h
