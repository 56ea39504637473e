/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who answers at which port or address. One sorted table per space (ports, memory).
 * Ranges are added at start and moved by PCI BAR writes (under the bus's own lock); vCPU
 * threads look up and call.
 */
#ifndef DROVER_VMM_BUS_BUS_H
#define DROVER_VMM_BUS_BUS_H

#include <stdint.h>

struct bus;

/* Called on a vCPU thread; size is 1, 2, 4 or 8. The handler does its own locking. A read
 * fills all `size` bytes. */
struct bus_ops {
    void (*read)(void *owner, uint64_t offset, uint8_t *data, unsigned size);
    void (*write)(void *owner, uint64_t offset, const uint8_t *data, unsigned size);
};

int bus_create(struct bus **ret_bus);
void bus_free(struct bus *bus);

/* -EEXIST if the range overlaps another. `ops` and `owner` are borrowed until
 * bus_remove(). */
int bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops,
            void *owner);
/* After it returns no handler of the range runs or will run. Not to be called by a
 * handler of the range. */
void bus_remove(struct bus *bus, uint64_t start);

/* Unclaimed reads give all ones, unclaimed writes vanish, as on a PC. */
void bus_read(struct bus *bus, uint64_t address, uint8_t *data, unsigned size);
void bus_write(struct bus *bus, uint64_t address, const uint8_t *data, unsigned size);

#endif
