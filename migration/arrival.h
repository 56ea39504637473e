/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that arrives: extents are judged and put in place. Several threads may take
 * extents at once, each from its own stream; all else is for the engine's thread.
 */
#ifndef DROVER_MIGRATION_ARRIVAL_H
#define DROVER_MIGRATION_ARRIVAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

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
        /* Bit n: page n may hold something else than zeros. */
        atomic_uint_least64_t *held;
        /* Bit n: page n came with a checksum that did not fit, as the guest wrote to it
         * while it was sent: it must come again. */
        atomic_uint_least64_t *suspect;
    } regions[MIGRATION_REGIONS_MAX];
    unsigned region_count;
    atomic_uint_least64_t pages_received;
    /* private */
    struct migration_guest *guest;
    crc32c_function crc32c;
};

int arrival_init(struct arrival *arrival, struct migration_guest *guest);
void arrival_done(struct arrival *arrival);
/* 0, or what differs between the two sides' memory. */
int arrival_compare(const struct arrival *arrival, const struct wire_hello *hello,
                    struct error *err);
/*
 * Takes an EXTENT message (`payload`) and the pages behind it. `standing`: the source's
 * guest does not run, so checksums must be there and right. While it runs, a page whose
 * checksum is wrong is suspect until it has come again.
 */
int arrival_extent(struct arrival *arrival, const uint8_t *payload, size_t size,
                   struct stream_in *in, bool standing, uint32_t idle_ms,
                   struct error *err);
/* The pages of `bits` in a word of the map are absent now, and come by other ways. */
void arrival_vacated(struct arrival *arrival, unsigned region, uint64_t word,
                     uint64_t bits);
/* Pages that came torn, and did not come again since. */
uint64_t arrival_suspects(const struct arrival *arrival);

#endif
