# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/storage/block_disk.c vmm/storage/block_disk.h \
	vmm/storage/storage.h \
	vmm/storage/storage_broker.c vmm/storage/storage_broker.h \
	vmm/storage/storage_chain.c vmm/storage/storage_chain.h \
	vmm/storage/storage_daemon.c vmm/storage/storage_daemon.h \
	vmm/storage/storage_folder.c vmm/storage/storage_folder.h \
	vmm/storage/storage_format.c \
	vmm/storage/storage_jail.c vmm/storage/storage_jail.h \
	vmm/storage/storage_keeper.c vmm/storage/storage_keeper.h \
	vmm/storage/storage_names.c vmm/storage/storage_names.h \
	vmm/storage/storage_node.c vmm/storage/storage_node.h \
	vmm/storage/storage_process.c vmm/storage/storage_process.h \
	vmm/storage/storage_qmp.c vmm/storage/storage_qmp.h \
	vmm/storage/storage_root.c vmm/storage/storage_root.h \
	vmm/storage/storage_starter.c vmm/storage/storage_starter.h
