/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's view of guest memory: which pages must still be sent, and the sending of
 * them. Zero pages are not sent; one that held data on the target before is sent as zero.
 * Engine's thread, but for pages_deal().
 */
#ifndef DROVER_MIGRATION_PAGES_H
#define DROVER_MIGRATION_PAGES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/crc32c.h"
#include "migration/guest.h"
#include "migration/zero.h"

struct stream_out;

struct pages_region {
    struct migration_region where;
    uint64_t page_count;
    uint64_t *pending; /* bit n: page n must be sent */
    uint64_t *held;    /* bit n: the target may hold something else than zeros there */
    _Atomic(uint64_t) *hot; /* bit n: left for the next round */
    uint64_t *looked;       /* what hot is made from */
};

struct pages {
    struct migration_guest *guest; /* borrowed */
    struct pages_region regions[MIGRATION_REGIONS_MAX];
    unsigned region_count;
    bool page_checks; /* a checksum of each page goes along; set once the target's version
                         is known */
    atomic_uint_least64_t pending_count;
    atomic_uint_least64_t sent_count; /* pages sent with their data */
    atomic_uint_least64_t zero_count; /* pages found zero */
    /* private */
    zero_page_function is_zero;
    crc32c_function crc32c;
    atomic_uint_least64_t next_extent; /* of all regions, to be dealt out */
    bool is_deferring; /* some of `hot` may be set */
    uint64_t given_back; /* how often the guest had, when populated pages were marked */
};

/* Called after each extent; an error ends the sending. */
typedef int (*pages_tick)(void *owner);

int pages_init(struct pages *pages, struct migration_guest *guest);
void pages_done(struct pages *pages);
uint64_t pages_total_bytes(const struct pages *pages);
/* Everything that the guest ever touched is pending. */
int pages_mark_populated(struct pages *pages);
/* After somebody else has marked pages pending, with nobody sending. */
void pages_count_pending(struct pages *pages);
/* What was written since the last call is pending; how many pages that were. */
int pages_fetch_dirty(struct pages *pages, uint64_t *ret_dirty_count);
/* The same, but it stays dirty until pages_deal() is about to read it: what is written
 * before that does not come twice. */
int pages_peek_dirty(struct pages *pages, uint64_t *ret_dirty_count);
/*
 * While it is dealt out, and the guest runs: what is pending and dirty again already is not
 * sent, but left to the next pages_peek_dirty(), so that what the guest writes all the time
 * does not go in each round. Until the next pages_deal_begin().
 */
int pages_defer_dirty(struct pages *pages);
/*
 * Which of the pages of `word_count` words are there to be read (bit 0: `first_page`). One
 * that the guest gave back is zero; reading it would back it again. -errno.
 */
int pages_there(struct migration_guest *guest, unsigned index, uint64_t first_page,
                unsigned word_count, uint64_t *ret_there);
/* Begins to deal out all that is pending. */
void pages_deal_begin(struct pages *pages);
/*
 * Sends extents that nobody else has taken, until none is left. Several threads at once,
 * each with its own stream. `standing`: the guest does not run. Not flushed. `tick` may
 * be NULL.
 */
int pages_deal(struct pages *pages, struct stream_out *out, bool standing,
               pages_tick tick, void *owner);
/* Sends all that is pending over one stream; nothing is then. Flushed on return. */
int pages_send(struct pages *pages, struct stream_out *out, bool standing,
               pages_tick tick, void *owner);

#endif
