/* SPDX-License-Identifier: Apache-2.0 */
/* Storage daemons of this process. */
#include "vmm/storage_local.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/limits.h"
#include "vmm/storage_daemon.h"

struct storage_local {
    unsigned count;
    struct storage_daemon *daemons[LIMIT_VM_DISKS];
};

static struct storage_daemon *find(void *owner, unsigned index)
{
    struct storage_local *local = owner;

    CHECK(index < local->count);
    return local->daemons[index];
}

static int local_start(void *owner, unsigned index, struct error *err)
{
    return storage_daemon_start(find(owner, index), err);
}

static int local_open(void *owner, unsigned index, uint64_t deadline_ms, int *ret_fd,
                      struct error *err)
{
    return storage_daemon_open(find(owner, index), deadline_ms, ret_fd, err);
}

static int local_close(void *owner, unsigned index, uint64_t deadline_ms,
                       struct error *err)
{
    return storage_daemon_close(find(owner, index), deadline_ms, err);
}

static void local_kill(void *owner, unsigned index)
{
    storage_daemon_kill(find(owner, index));
}

const struct storage_ops storage_local_ops = {
    .start = local_start,
    .open = local_open,
    .close = local_close,
    .kill = local_kill,
};

struct storage_local *storage_local_create(void)
{
    return calloc(1, sizeof(struct storage_local));
}

void storage_local_free(struct storage_local *local)
{
    if (local == NULL) {
        return;
    }
    for (unsigned i = 0; i < local->count; i++) {
        storage_daemon_free(local->daemons[i]);
    }
    free(local);
}

int storage_local_add(struct storage_local *local, const struct storage_disk *disk,
                      unsigned *ret_index, struct error *err)
{
    int ret;

    CHECK(local->count < LIMIT_VM_DISKS);
    ret = storage_daemon_create(disk, &local->daemons[local->count], err);
    if (ret == 0) {
        *ret_index = local->count++;
    }
    return ret;
}
