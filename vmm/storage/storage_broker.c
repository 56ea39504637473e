/* SPDX-License-Identifier: Apache-2.0 */
/* Orders to the storage daemons' keeper. */
#include "vmm/storage/storage_broker.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "base/limits.h"
#include "vmm/jail/broker.h"
#include "vmm/storage/storage_keeper.h"

struct storage_broker {
    struct broker *broker;
    unsigned count;
    unsigned ids[LIMIT_VM_DISKS]; /* of the broker's entries */
};

static int order(void *owner, unsigned index, uint32_t number, int *ret_fd,
                 struct error *err)
{
    struct storage_broker *storage = owner;

    CHECK(index < storage->count);
    return broker_open(storage->broker, storage->ids[index], number, ret_fd, err);
}

static int order_without_answer(void *owner, unsigned index, uint32_t number,
                                struct error *err)
{
    int fd = -1;
    int ret = order(owner, index, number, &fd, err);

    if (fd >= 0) {
        (void)close(fd); /* none should have come */
    }
    return ret;
}

static int broker_start(void *owner, unsigned index, struct error *err)
{
    return order_without_answer(owner, index,
                                storage_order_encode(STORAGE_ORDER_START, 0), err);
}

static int broker_image_open(void *owner, unsigned index, uint64_t deadline_ms,
                             int *ret_fd, struct error *err)
{
    return order(owner, index, storage_order_encode(STORAGE_ORDER_OPEN, deadline_ms),
                 ret_fd, err);
}

static int broker_image_close(void *owner, unsigned index, uint64_t deadline_ms,
                              struct error *err)
{
    return order_without_answer(
        owner, index, storage_order_encode(STORAGE_ORDER_CLOSE, deadline_ms), err);
}

static void broker_kill(void *owner, unsigned index)
{
    /* Fails only when the launcher is gone; then the daemon is too, and this process. */
    (void)order_without_answer(owner, index, storage_order_encode(STORAGE_ORDER_KILL, 0),
                               NULL);
}

static const struct storage_ops ops = {
    .start = broker_start,
    .open = broker_image_open,
    .close = broker_image_close,
    .kill = broker_kill,
};

const struct storage_ops *storage_broker_ops(void)
{
    return &ops;
}

struct storage_broker *storage_broker_create(struct broker *broker)
{
    struct storage_broker *storage = calloc(1, sizeof(*storage));

    if (storage != NULL) {
        storage->broker = broker;
    }
    return storage;
}

void storage_broker_free(struct storage_broker *storage)
{
    free(storage);
}

int storage_broker_add(struct storage_broker *storage, const char *path,
                       unsigned *ret_index, struct error *err)
{
    int ret;

    CHECK(storage->count < LIMIT_VM_DISKS);
    ret = broker_allow(storage->broker, BROKER_STORAGE, path,
                       &storage->ids[storage->count]);
    if (ret < 0) {
        return error_set(err, ret, "disk %s can't be served by a storage daemon: %s",
                         path, err_text(ret));
    }
    *ret_index = storage->count++;
    return 0;
}
