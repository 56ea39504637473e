/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages must still be sent, and the sending of them. */
#include "migration/pages.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "migration/stream.h"

#define WORD_PAGES   64u
#define EXTENT_WORDS (EXTENT_PAGES / WORD_PAGES)

static_assert(EXTENT_PAGES % WORD_PAGES == 0, "an extent is whole words of the bitmap");

static bool bit_get(const uint64_t *words, uint64_t bit)
{
    return (words[bit / 64] >> (bit % 64) & 1) != 0;
}

static void bit_set(uint64_t *words, uint64_t bit)
{
    words[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static void bit_clear(uint64_t *words, uint64_t bit)
{
    words[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}

/* Whole extents, so that no extent's words lie beyond the end. */
static uint64_t words_of(uint64_t page_count)
{
    return (page_count + EXTENT_PAGES - 1) / EXTENT_PAGES * EXTENT_WORDS;
}

static uint64_t count_bits(const uint64_t *words, uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        sum += (uint64_t)__builtin_popcountll(words[i]);
    }
    return sum;
}

int pages_init(struct pages *pages, struct migration_guest *guest)
{
    memset(pages, 0, sizeof(*pages));
    pages->guest = guest;
    pages->is_zero = zero_page_pick();
    pages->crc32c = crc32c_pick();
    pages->region_count = guest->ops->region_count(guest);
    CHECK(pages->region_count <= MIGRATION_REGIONS_MAX);
    for (unsigned i = 0; i < pages->region_count; i++) {
        struct pages_region *region = &pages->regions[i];
        guest->ops->region(guest, i, &region->where);
        CHECK(region->where.size_bytes % MIGRATION_PAGE_SIZE == 0);
        region->page_count = region->where.size_bytes / MIGRATION_PAGE_SIZE;
        region->pending = calloc(words_of(region->page_count), sizeof(uint64_t));
        region->held = calloc(words_of(region->page_count), sizeof(uint64_t));
        region->hot = calloc(words_of(region->page_count), sizeof(*region->hot));
        region->looked = calloc(words_of(region->page_count), sizeof(uint64_t));
        if (region->pending == NULL || region->held == NULL || region->hot == NULL ||
            region->looked == NULL) {
            pages_done(pages);
            return -ENOMEM;
        }
    }
    return 0;
}

void pages_done(struct pages *pages)
{
    for (unsigned i = 0; i < MIGRATION_REGIONS_MAX; i++) {
        free(pages->regions[i].pending);
        free(pages->regions[i].held);
        free((void *)pages->regions[i].hot);
        free(pages->regions[i].looked);
        pages->regions[i].pending = NULL;
        pages->regions[i].held = NULL;
        pages->regions[i].hot = NULL;
        pages->regions[i].looked = NULL;
    }
}

uint64_t pages_total_bytes(const struct pages *pages)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < pages->region_count; i++) {
        sum += pages->regions[i].where.size_bytes;
    }
    return sum;
}

static void set_range(struct pages_region *region, uint64_t start, uint64_t end)
{
    uint64_t first = start / MIGRATION_PAGE_SIZE;
    uint64_t last = (end + MIGRATION_PAGE_SIZE - 1) / MIGRATION_PAGE_SIZE;
    last = last < region->page_count ? last : region->page_count;
    while (first < last) {
        if (first % WORD_PAGES == 0 && last - first >= WORD_PAGES) {
            region->pending[first / WORD_PAGES] = UINT64_MAX;
            first += WORD_PAGES;
        } else {
            bit_set(region->pending, first);
            first++;
        }
    }
}

static int mark_region(struct pages *pages, unsigned index)
{
    struct migration_guest *guest = pages->guest;
    struct pages_region *region = &pages->regions[index];
    if (guest->ops->populated == NULL) {
        set_range(region, 0, region->where.size_bytes);
        return 0;
    }
    uint64_t at = 0;
    while (at < region->where.size_bytes) {
        uint64_t start = 0;
        uint64_t end = 0;
        int rv = guest->ops->populated(guest, index, at, &start, &end);
        if (rv <= 0) {
            return rv;
        }
        CHECK(start >= at && end > start);
        set_range(region, start, end);
        at = end;
    }
    return 0;
}

void pages_count_pending(struct pages *pages)
{
    uint64_t pending = 0;
    for (unsigned i = 0; i < pages->region_count; i++) {
        pending +=
            count_bits(pages->regions[i].pending, words_of(pages->regions[i].page_count));
    }
    pages->pending_count = pending;
}

int pages_mark_populated(struct pages *pages)
{
    struct migration_guest *guest = pages->guest;
    pages->pending_count = 0;
    pages->given_back =
        guest->ops->given_back != NULL ? guest->ops->given_back(guest) : 0;
    for (unsigned i = 0; i < pages->region_count; i++) {
        int rv = mark_region(pages, i);
        if (rv != 0) {
            return rv;
        }
        pages->pending_count +=
            count_bits(pages->regions[i].pending, words_of(pages->regions[i].page_count));
    }
    return 0;
}

static int dirty_into_pending(struct pages *pages, bool peek, uint64_t *ret_dirty_count)
{
    struct migration_guest *guest = pages->guest;
    uint64_t pending = 0;
    for (unsigned i = 0; i < pages->region_count; i++) {
        struct pages_region *region = &pages->regions[i];
        int rv = peek ? guest->ops->dirty_peek(guest, i, region->pending)
                      : guest->ops->dirty_fetch(guest, i, region->pending, 0,
                                                region->page_count);
        if (rv != 0) {
            return rv;
        }
        uint64_t words = (region->page_count + WORD_PAGES - 1) / WORD_PAGES;
        if (region->page_count % WORD_PAGES != 0) {
            /* Nothing behind the end, whatever the log says. */
            region->pending[words - 1] &=
                (UINT64_C(1) << (region->page_count % WORD_PAGES)) - 1;
        }
        pending += count_bits(region->pending, words);
    }
    CHECK(pending >= pages->pending_count);
    *ret_dirty_count = pending - pages->pending_count;
    pages->pending_count = pending;
    return 0;
}

int pages_fetch_dirty(struct pages *pages, uint64_t *ret_dirty_count)
{
    return dirty_into_pending(pages, false, ret_dirty_count);
}

int pages_peek_dirty(struct pages *pages, uint64_t *ret_dirty_count)
{
    return dirty_into_pending(pages, pages->guest->ops->dirty_forget != NULL,
                              ret_dirty_count);
}

int pages_defer_dirty(struct pages *pages)
{
    struct migration_guest *guest = pages->guest;
    if (guest->ops->dirty_forget == NULL) {
        return 0; /* what was fetched is not dirty any more */
    }
    pages->is_deferring = true;
    for (unsigned i = 0; i < pages->region_count; i++) {
        struct pages_region *region = &pages->regions[i];
        uint64_t words = words_of(region->page_count);
        memset(region->looked, 0, words * sizeof(uint64_t));
        int rv = guest->ops->dirty_peek(guest, i, region->looked);
        if (rv != 0) {
            return rv;
        }
        for (uint64_t word = 0; word < words; word++) {
            if (region->looked[word] != 0) {
                atomic_fetch_or_explicit(&region->hot[word], region->looked[word],
                                         memory_order_relaxed);
            }
        }
    }
    return 0;
}

static void defer_end(struct pages *pages)
{
    for (unsigned i = 0; pages->is_deferring && i < pages->region_count; i++) {
        uint64_t words = words_of(pages->regions[i].page_count);
        for (uint64_t word = 0; word < words; word++) {
            atomic_store_explicit(&pages->regions[i].hot[word], 0, memory_order_relaxed);
        }
    }
    pages->is_deferring = false;
}

/* Takes what of an extent is to be sent now. Nobody else has it. */
static void extent_take(struct pages_region *region, uint64_t first_page,
                        uint64_t ret_words[EXTENT_WORDS])
{
    uint64_t *pending = region->pending + first_page / WORD_PAGES;
    _Atomic(uint64_t) *hot = region->hot + first_page / WORD_PAGES;
    for (unsigned i = 0; i < EXTENT_WORDS; i++) {
        ret_words[i] = pending[i] & ~atomic_load_explicit(&hot[i], memory_order_relaxed);
        pending[i] = 0;
    }
}

/* What is sent now is not dirty any more; what is written from here on is. */
static int extent_forget(struct pages *pages, unsigned index, uint64_t first_page,
                         const uint64_t *words)
{
    struct migration_guest *guest = pages->guest;
    struct pages_region *region = &pages->regions[index];
    uint64_t left = region->page_count - first_page;
    if (guest->ops->dirty_forget == NULL) {
        return 0;
    }
    return guest->ops->dirty_forget(guest, index, words, first_page,
                                    left < EXTENT_PAGES ? left : EXTENT_PAGES);
}

/* Whether all that is pending is there: the kernel finds out by walking through much more
 * than an extent, which took most of a short pause. */
static bool all_there(const struct pages *pages)
{
    struct migration_guest *guest = pages->guest;
    return guest->ops->populated == NULL ||
           (guest->ops->given_back != NULL &&
            guest->ops->given_back(guest) == pages->given_back);
}

int pages_there(struct migration_guest *guest, unsigned index, uint64_t first_page,
                unsigned word_count, uint64_t *ret_there)
{
    uint64_t base = first_page * MIGRATION_PAGE_SIZE;
    uint64_t limit = base + (uint64_t)word_count * WORD_PAGES * MIGRATION_PAGE_SIZE;
    bool all = guest->ops->populated == NULL;
    memset(ret_there, all ? 0xff : 0, word_count * sizeof(*ret_there));
    for (uint64_t at = base; !all && at < limit;) {
        uint64_t start = 0;
        uint64_t end = 0;
        int rv = guest->ops->populated(guest, index, at, &start, &end);
        if (rv <= 0 || start >= limit) {
            return rv < 0 ? rv : 0;
        }
        CHECK(start >= at && end > start);
        end = end < limit ? end : limit;
        for (uint64_t page = (start - base) / MIGRATION_PAGE_SIZE;
             page < (end - base + MIGRATION_PAGE_SIZE - 1) / MIGRATION_PAGE_SIZE;
             page++) {
            bit_set(ret_there, page);
        }
        at = end;
    }
    return 0;
}

/* Of an extent. */
static int there_find(const struct pages *pages, unsigned index, uint64_t first_page,
                      uint64_t there[EXTENT_WORDS])
{
    if (all_there(pages)) {
        memset(there, 0xff, EXTENT_WORDS * sizeof(*there));
        return 0;
    }
    return pages_there(pages->guest, index, first_page, EXTENT_WORDS, there);
}

/* What becomes of a page that is to be sent. No two threads share a word of `held`. */
static enum extent_run_kind judge(const struct pages *pages, struct pages_region *region,
                                  uint64_t page, bool there)
{
    if (there && !pages->is_zero(region->where.host + page * MIGRATION_PAGE_SIZE)) {
        bit_set(region->held, page);
        return EXTENT_RUN_DATA;
    }
    if (bit_get(region->held, page)) {
        bit_clear(region->held, page);
        return EXTENT_RUN_ZERO;
    }
    return EXTENT_RUN_SKIP; /* the target's memory is zero from the start */
}

static uint32_t checksum(const struct pages *pages, const struct extent *extent,
                         const uint8_t *host)
{
    uint32_t crc = 0;
    for (unsigned i = 0; i < extent->run_count; i++) {
        size_t size = (size_t)extent->runs[i].page_count * MIGRATION_PAGE_SIZE;
        if (extent->runs[i].kind == EXTENT_RUN_DATA) {
            crc = pages->crc32c(crc, host, size);
        }
        host += size;
    }
    return crc;
}

/* Joins what becomes of each pending page to runs, and takes the checksums of the data
 * while it is in the cache. How many pages were zero. */
static uint64_t extent_fill(const struct pages *pages, struct pages_region *region,
                            const uint64_t *words, const uint64_t *there,
                            struct extent *extent)
{
    unsigned next = 0; /* first page that no run covers yet */
    uint64_t zero_count = 0;
    for (unsigned word = 0; word < EXTENT_WORDS; word++) {
        for (uint64_t bits = words[word]; bits != 0; bits &= bits - 1) {
            unsigned page = word * WORD_PAGES + (unsigned)__builtin_ctzll(bits);
            enum extent_run_kind kind =
                judge(pages, region, extent->first_page + page, bit_get(there, page));
            zero_count += kind != EXTENT_RUN_DATA;
            if (kind == EXTENT_RUN_SKIP) {
                continue;
            }
            if (kind == EXTENT_RUN_DATA && pages->page_checks) {
                extent->page_crcs[extent->data_pages] =
                    pages->crc32c(0,
                                  region->where.host +
                                      (extent->first_page + page) * MIGRATION_PAGE_SIZE,
                                  MIGRATION_PAGE_SIZE);
            }
            if (page > next) {
                extent_add(extent, EXTENT_RUN_SKIP, page - next);
            }
            extent_add(extent, kind, 1);
            next = page + 1;
        }
    }
    return zero_count;
}

static bool extent_pending(const struct pages *pages, unsigned index, uint64_t first_page)
{
    const uint64_t *words = pages->regions[index].pending + first_page / WORD_PAGES;
    uint64_t any = 0;
    for (unsigned i = 0; i < EXTENT_WORDS; i++) {
        any |= words[i];
    }
    return any != 0;
}

static int send_extent(struct pages *pages, unsigned index, uint64_t first_page,
                       bool standing, struct stream_out *out)
{
    struct pages_region *region = &pages->regions[index];
    struct extent extent;
    uint64_t words[EXTENT_WORDS];
    uint64_t there[EXTENT_WORDS];
    uint64_t pending =
        count_bits(region->pending + first_page / WORD_PAGES, EXTENT_WORDS);
    extent_take(region, first_page, words);
    atomic_fetch_sub(&pages->pending_count, pending);
    if (count_bits(words, EXTENT_WORDS) == 0) {
        return 0;
    }
    int rv = standing ? 0 : extent_forget(pages, index, first_page, words);
    rv = rv != 0 ? rv : there_find(pages, index, first_page, there);
    if (rv != 0) {
        return rv;
    }
    extent_init(&extent, (uint16_t)index, first_page);
    uint64_t zero_count = extent_fill(pages, region, words, there, &extent);
    atomic_fetch_add(&pages->zero_count, zero_count);
    atomic_fetch_add(&pages->sent_count, extent.data_pages);
    if (extent.run_count == 0) {
        return 0;
    }
    uint8_t *host = region->where.host + first_page * MIGRATION_PAGE_SIZE;
    extent.pages_checked = pages->page_checks;
    if (standing && !pages->page_checks) {
        extent.checked = true;
        extent.crc = checksum(pages, &extent, host);
    }
    return stream_out_extent(out, &extent, host);
}

void pages_deal_begin(struct pages *pages)
{
    defer_end(pages);
    atomic_store(&pages->next_extent, 0);
}

/* The region and first page of an extent by its number; false behind the last. */
static bool extent_find(const struct pages *pages, uint64_t number, unsigned *ret_index,
                        uint64_t *ret_first_page)
{
    for (unsigned i = 0; i < pages->region_count; i++) {
        uint64_t count = (pages->regions[i].page_count + EXTENT_PAGES - 1) / EXTENT_PAGES;
        if (number < count) {
            *ret_index = i;
            *ret_first_page = number * EXTENT_PAGES;
            return true;
        }
        number -= count;
    }
    return false;
}

int pages_deal(struct pages *pages, struct stream_out *out, bool standing,
               pages_tick tick, void *owner)
{
    unsigned index = 0;
    uint64_t first_page = 0;
    while (extent_find(pages, atomic_fetch_add(&pages->next_extent, 1), &index,
                       &first_page)) {
        if (!extent_pending(pages, index, first_page)) {
            continue; /* most of them, in all rounds but the first */
        }
        int rv = send_extent(pages, index, first_page, standing, out);
        if (rv == 0 && tick != NULL) {
            rv = tick(owner);
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

int pages_send(struct pages *pages, struct stream_out *out, bool standing,
               pages_tick tick, void *owner)
{
    pages_deal_begin(pages);
    int rv = pages_deal(pages, out, standing, tick, owner);
    CHECK(rv != 0 || atomic_load(&pages->pending_count) == 0);
    return rv != 0 ? rv : stream_out_flush(out);
}
