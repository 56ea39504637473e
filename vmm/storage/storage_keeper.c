/* SPDX-License-Identifier: Apache-2.0 */
/* Storage daemons, by order. */
#include "vmm/storage/storage_keeper.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "vmm/storage/storage_daemon.h"
#include "vmm/storage/storage_process.h"
#include "vmm/storage/storage_starter.h"

#define ORDER_SHIFT 24
#define TIME_MASK   ((1u << ORDER_SHIFT) - 1)
#define TIME_SIGN   (1u << (ORDER_SHIFT - 1))

struct storage_keeper {
    unsigned count;
    struct storage_starter *starter; /* NULL: daemons are started by this process */
    struct storage_disk disks[LIMIT_VM_DISKS];
    struct storage_daemon *daemons[LIMIT_VM_DISKS]; /* NULL: never asked for */
};

uint32_t storage_order_encode(enum storage_order order, uint64_t deadline_ms)
{
    return (uint32_t)order << ORDER_SHIFT | ((uint32_t)deadline_ms & TIME_MASK);
}

/* Both are within hours of each other. */
uint64_t storage_order_deadline_ms(uint32_t number, uint64_t now_ms)
{
    uint32_t ahead = (number - (uint32_t)now_ms) & TIME_MASK;

    return (ahead & TIME_SIGN) != 0 ? now_ms : now_ms + ahead;
}

struct storage_keeper *storage_keeper_create(void)
{
    return calloc(1, sizeof(struct storage_keeper));
}

void storage_keeper_stop(void *owner)
{
    struct storage_keeper *keeper = owner;

    for (unsigned i = 0; i < keeper->count; i++) {
        storage_daemon_free(keeper->daemons[i]);
        keeper->daemons[i] = NULL;
    }
    storage_starter_free(keeper->starter);
    keeper->starter = NULL;
}

int storage_keeper_split(struct storage_keeper *keeper, struct error *err)
{
    if (keeper->count == 0 || !keeper->disks[0].jailed) {
        return 0;
    }
    int ret = storage_process_starter(&keeper->disks[0], &keeper->starter, err);
    for (unsigned i = 0; i < keeper->count; i++) {
        keeper->disks[i].starter = keeper->starter;
    }
    return ret;
}

void storage_keeper_free(struct storage_keeper *keeper)
{
    if (keeper != NULL) {
        storage_keeper_stop(keeper);
        free(keeper);
    }
}

void storage_keeper_add(struct storage_keeper *keeper, const struct storage_disk *disk)
{
    CHECK(keeper->count < LIMIT_VM_DISKS);
    keeper->disks[keeper->count++] = *disk;
}

int storage_keeper_handle(void *owner, unsigned index, const char *path, uint32_t number,
                          int *ret_fd, struct error *err)
{
    struct storage_keeper *keeper = owner;
    uint64_t now_ms = clock_now_ms();
    uint64_t deadline_ms = storage_order_deadline_ms(number, now_ms);
    int ret = 0;

    (void)path; /* is in the disk as well */
    *ret_fd = -1;
    if (index >= keeper->count || number >> ORDER_SHIFT > STORAGE_ORDER_KILL) {
        return error_set(err, DROVER_EBADINPUT, "there is no such disk, or order");
    }
    /* Whoever asks: nobody waits longer than that. */
    if (deadline_ms > now_ms + STORAGE_OPEN_MS) {
        deadline_ms = now_ms + STORAGE_OPEN_MS;
    }
    if (keeper->daemons[index] == NULL) {
        ret = storage_daemon_create(&keeper->disks[index], &keeper->daemons[index], err);
    }
    if (ret < 0) {
        return ret;
    }
    switch (number >> ORDER_SHIFT) {
    case STORAGE_ORDER_START:
        return storage_daemon_start(keeper->daemons[index], err);
    case STORAGE_ORDER_OPEN:
        return storage_daemon_open(keeper->daemons[index], deadline_ms, ret_fd, err);
    case STORAGE_ORDER_CLOSE:
        return storage_daemon_close(keeper->daemons[index], deadline_ms, err);
    default:
        storage_daemon_kill(keeper->daemons[index]);
        return 0;
    }
}
