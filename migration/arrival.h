/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that arrives: extents are judged and put in place. Engine's thread.
 */
#ifndef DROVER_MIGRATION_ARRIVAL_H
#define DROVER_MIGRATION_ARRIVAL_H

#include <stdint.h>
#include <sys/uio.h>

#include "migration/crc32c.h"
#include "migration/extent.h"
#include "migration/guest.h"

struct error;
struct stream_in;
struct wire_hello;

struct arrival {
    struct {
        struct migration_region where;
        uint64_t page_count;
        uint64_t *held; /* bit n: page n may hold something else than zeros */
    } regions[MIGRATION_REGIONS_MAX];
    unsigned region_count;
    uint64_t pages_received;
    /* private */
    struct migration_guest *guest;
    crc32c_function crc32c;
    struct extent extent;
    struct iovec iov[EXTENT_PAGES];
};

int arrival_init(struct arrival *arrival, struct migration_guest *guest);
void arrival_done(struct arrival *arrival);
/* 0, or what differs between the two sides' memory. */
int arrival_compare(const struct arrival *arrival, const struct wire_hello *hello,
                    struct error *err);
/*
 * Takes an EXTENT message (`payload`) and the pages behind it. `standing`: the source's
 * guest does not run, so a checksum must be there and right.
 */
int arrival_extent(struct arrival *arrival, const uint8_t *payload, size_t size,
                   struct stream_in *in, bool standing, uint32_t idle_ms,
                   struct error *err);

#endif
