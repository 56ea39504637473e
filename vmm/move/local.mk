# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/move/migrate.c vmm/move/migrate.h \
	vmm/move/migrate_guest.c vmm/move/migrate_guest.h \
	vmm/move/migrate_log.c vmm/move/migrate_log.h \
	vmm/move/migrate_missing.c vmm/move/migrate_missing.h \
	vmm/move/migrate_rdma.c vmm/move/migrate_rdma.h \
	vmm/move/snapshot.c vmm/move/snapshot.h \
	vmm/move/snapshot_folder.c vmm/move/snapshot_folder.h \
	vmm/move/snapshot_manifest.c vmm/move/snapshot_manifest.h \
	vmm/move/snapshot_pager.c vmm/move/snapshot_pager.h \
	vmm/move/snapshot_restore.c vmm/move/snapshot_restore.h
