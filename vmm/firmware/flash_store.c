/* SPDX-License-Identifier: Apache-2.0 */
/* Changed sectors of the flash, and their way into the file. */
#include "vmm/firmware/flash_store.h"

#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/firmware/vars_store.h"
#include "vmm/vm.h"

void flash_store_mark(struct flash_store *store, uint64_t offset, uint64_t size)
{
    for (uint64_t sector = offset / FLASH_SECTOR_SIZE;
         sector * FLASH_SECTOR_SIZE < offset + size; sector++) {
        store->dirty[sector / 8] |= (uint8_t)(1u << sector % 8);
    }
}

static bool sector_dirty(const struct flash_store *store, uint64_t sector)
{
    return (store->dirty[sector / 8] >> sector % 8 & 1) != 0;
}

/* One run of sectors; returns the sector behind it, or -errno. */
static int64_t run_write(struct flash_store *store, const uint8_t *variables,
                         uint64_t first, uint64_t count)
{
    uint64_t last = first;
    while (last < count && sector_dirty(store, last)) {
        last++;
    }
    uint64_t offset = first * FLASH_SECTOR_SIZE;
    int result = vars_store_write(store->file, offset, variables + offset,
                                  (last - first) * FLASH_SECTOR_SIZE);
    return result < 0 ? result : (int64_t)last;
}

static int failed(struct flash_store *store, struct vm *vm, int result)
{
    if (!store->failure_logged) {
        store->failure_logged = true;
        log_error(vm_log(vm),
                  "cannot write --vars %s: %s; UEFI variables are kept in memory vm=%s",
                  vars_store_path(store->file), err_text(result), vm_config(vm)->name);
    }
    return result;
}

static bool lease_is_over(struct vm *vm)
{
    return vm_config(vm)->ha && clock_now_ns() >= vm_lease_deadline_ns(vm);
}

int flash_store_flush(struct flash_store *store, struct vm *vm, const uint8_t *variables,
                      uint64_t variables_bytes)
{
    uint64_t count = variables_bytes / FLASH_SECTOR_SIZE;
    bool written = false;
    for (uint64_t sector = 0; store->file != NULL && sector < count; sector++) {
        if (!sector_dirty(store, sector)) {
            continue;
        }
        if (lease_is_over(vm)) {
            return 0;
        }
        int64_t next = run_write(store, variables, sector, count);
        if (next < 0) {
            return failed(store, vm, (int)next);
        }
        sector = (uint64_t)next;
        written = true;
    }
    int result = written ? vars_store_sync(store->file) : 0;
    if (result < 0) {
        return failed(store, vm, result);
    }
    memset(store->dirty, 0, sizeof(store->dirty));
    return 0;
}
