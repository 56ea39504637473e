/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sorted table of ranges. A lookup takes the lock shortly and counts itself as the
 * range's user; the handler runs without the lock, so that a slow one holds up nobody,
 * and so that it may move other ranges.
 */
#include "vmm/bus/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"

#define BUS_RANGES_MAX    128
#define BUS_REMOVE_NAP_NS 20000

struct bus_range {
    uint64_t start;
    uint64_t size;
    const struct bus_ops *ops;
    void *owner;
    atomic_uint users; /* lookups whose handler has not returned */
};

struct bus {
    pthread_mutex_t lock; /* of the table */
    unsigned count;
    struct bus_range *ranges[BUS_RANGES_MAX]; /* sorted by start */
};

int bus_create(struct bus **ret_bus)
{
    struct bus *bus = calloc(1, sizeof(*bus));
    if (bus == NULL) {
        return -ENOMEM;
    }
    CHECK(pthread_mutex_init(&bus->lock, NULL) == 0);
    *ret_bus = bus;
    return 0;
}

void bus_free(struct bus *bus)
{
    if (bus == NULL) {
        return;
    }
    for (unsigned i = 0; i < bus->count; i++) {
        CHECK(bus->ranges[i]->users == 0);
        free(bus->ranges[i]);
    }
    (void)pthread_mutex_destroy(&bus->lock); /* nobody uses it any more */
    free(bus);
}

/* Index of the first range that starts above `address`. */
static unsigned position_above(const struct bus *bus, uint64_t address)
{
    unsigned low = 0;
    unsigned high = bus->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (bus->ranges[middle]->start <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static int range_insert(struct bus *bus, struct bus_range *range)
{
    unsigned at = position_above(bus, range->start);
    if (at > 0) {
        const struct bus_range *below = bus->ranges[at - 1];
        if (range->start - below->start < below->size) {
            return -EEXIST;
        }
    }
    if (at < bus->count && bus->ranges[at]->start - range->start < range->size) {
        return -EEXIST;
    }
    if (bus->count == BUS_RANGES_MAX) {
        return -ENOSPC;
    }
    memmove(&bus->ranges[at + 1], &bus->ranges[at],
            (bus->count - at) * sizeof(bus->ranges[0]));
    bus->ranges[at] = range;
    bus->count++;
    return 0;
}

int bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops,
            void *owner)
{
    CHECK(size > 0 && start + (size - 1) >= start);
    CHECK(ops != NULL && ops->read != NULL && ops->write != NULL);
    struct bus_range *range = malloc(sizeof(*range));
    if (range == NULL) {
        return -ENOMEM;
    }
    *range = (struct bus_range){.start = start, .size = size, .ops = ops, .owner = owner};
    CHECK(pthread_mutex_lock(&bus->lock) == 0);
    int result = range_insert(bus, range);
    CHECK(pthread_mutex_unlock(&bus->lock) == 0);
    if (result < 0) {
        free(range);
    }
    return result;
}

void bus_remove(struct bus *bus, uint64_t start)
{
    CHECK(pthread_mutex_lock(&bus->lock) == 0);
    unsigned above = position_above(bus, start);
    CHECK(above > 0 && bus->ranges[above - 1]->start == start);
    struct bus_range *range = bus->ranges[above - 1];
    memmove(&bus->ranges[above - 1], &bus->ranges[above],
            (bus->count - above) * sizeof(bus->ranges[0]));
    bus->count--;
    CHECK(pthread_mutex_unlock(&bus->lock) == 0);
    while (atomic_load(&range->users) != 0) {
        /* Handlers are short and removals rare: waiting like this is simpler than a
         * condition. */
        (void)nanosleep(&(struct timespec){.tv_nsec = BUS_REMOVE_NAP_NS}, NULL);
    }
    free(range);
}

static struct bus_range *range_get(struct bus *bus, uint64_t address, unsigned size)
{
    struct bus_range *found = NULL;
    CHECK(pthread_mutex_lock(&bus->lock) == 0);
    unsigned above = position_above(bus, address);
    if (above > 0) {
        struct bus_range *range = bus->ranges[above - 1];
        uint64_t offset = address - range->start;
        if (offset < range->size && size <= range->size - offset) {
            atomic_fetch_add(&range->users, 1);
            found = range;
        }
    }
    CHECK(pthread_mutex_unlock(&bus->lock) == 0);
    return found;
}

void bus_read(struct bus *bus, uint64_t address, uint8_t *data, unsigned size)
{
    struct bus_range *range = range_get(bus, address, size);
    if (range == NULL) {
        memset(data, 0xff, size);
        return;
    }
    range->ops->read(range->owner, address - range->start, data, size);
    atomic_fetch_sub(&range->users, 1);
}

void bus_write(struct bus *bus, uint64_t address, const uint8_t *data, unsigned size)
{
    struct bus_range *range = range_get(bus, address, size);
    if (range == NULL) {
        return;
    }
    range->ops->write(range->owner, address - range->start, data, size);
    atomic_fetch_sub(&range->users, 1);
}
