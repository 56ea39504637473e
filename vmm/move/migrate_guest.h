/* SPDX-License-Identifier: Apache-2.0 */
/* What migrate.c and migrate_guest.c share. */
#ifndef DROVER_VMM_MOVE_MIGRATE_GUEST_H
#define DROVER_VMM_MOVE_MIGRATE_GUEST_H

#include <stdbool.h>

#include "migration/guest.h"
#include "vmm/vm.h"

/* The VM as the engine sees it. Owned by the engine's thread while a move is under way.
 */
struct migrate_guest {
    struct migration_guest guest; /* first */
    struct vm *vm;
    enum vm_hold hold; /* by which it stands: VM_HOLD_HANDOVER or VM_HOLD_SNAPSHOT */
    int quiet_fd;  /* eventfd: the VM became quiet */
    bool tracking; /* the dirty log is on */
    int uffd;      /* of an arrival, or -1; borrowed */
    bool missing;  /* memory may be absent (migrate_missing.c) */
};

int migrate_guest_init(struct migrate_guest *guest, struct vm *vm, enum vm_hold hold);
void migrate_guest_done(struct migrate_guest *guest);

#endif
