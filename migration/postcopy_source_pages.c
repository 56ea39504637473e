/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the source of a post-copy still has to send: what the target asks for with what
 * lies beside it, and the rest block by block.
 */
#include "migration/postcopy_source_internal.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "migration/wire_postcopy.h"

#define WORD_PAGES 64u
/* What comes along with a page that somebody waits for: the rest of its 64 KiB. */
#define NEIGHBOURS 16u

/* Sends the pages of `mask`, a part of what is pending in one word. */
static int pages_answer(struct migration_source *source, unsigned index,
                        uint64_t first_page, uint64_t mask)
{
    struct postcopy_source *postcopy = &source->postcopy;
    struct pages *pages = &source->pages;
    uint8_t *host = pages->regions[index].where.host + first_page * MIGRATION_PAGE_SIZE;
    struct wire_pages message = {.region = (uint16_t)index, .first_page = first_page};
    struct iovec iov[1 + WORD_PAGES];
    unsigned count = 1;
    uint64_t there = 0;
    int rv = pages_there(source->config.guest, index, first_page, 1, &there);
    for (uint64_t bits = mask; rv == 0 && bits != 0; bits &= bits - 1) {
        unsigned page = (unsigned)__builtin_ctzll(bits);
        uint8_t *data = host + (size_t)page * MIGRATION_PAGE_SIZE;
        if ((there >> page & 1) == 0 || postcopy->is_zero(data)) {
            message.zero |= UINT64_C(1) << page;
            continue;
        }
        message.data |= UINT64_C(1) << page;
        message.crc = postcopy->crc32c(message.crc, data, MIGRATION_PAGE_SIZE);
        iov[count++] = (struct iovec){.iov_base = data, .iov_len = MIGRATION_PAGE_SIZE};
    }
    CLEANUP(buffer_done) struct buffer frame = {0};
    rv = rv != 0 ? rv : wire_pages_encode(&frame, &message);
    iov[0] = (struct iovec){.iov_base = frame.data, .iov_len = frame.size};
    rv = rv != 0 ? rv : stream_out_vector(&source->out, iov, count);
    if (rv == 0) {
        pace_sent(&source->pace,
                  frame.size + (count - 1) * (uint64_t)MIGRATION_PAGE_SIZE);
        unsigned sent = (unsigned)__builtin_popcountll(mask);
        pages->regions[index].pending[first_page / WORD_PAGES] &= ~mask;
        pages->pending_count -= sent;
        pages->sent_count += count - 1;
        pages->zero_count += sent - (count - 1);
        postcopy->pages_sent += sent;
        postcopy->pages_after += postcopy->entered ? sent : 0;
    }
    return rv;
}

static int fetch_serve(struct migration_source *source, const uint8_t *payload,
                       size_t size)
{
    struct wire_fetch fetch;
    struct pages *pages = &source->pages;
    if (wire_fetch_decode(payload, size, &fetch) != 0 ||
        fetch.region >= pages->region_count ||
        fetch.page >= pages->regions[fetch.region].page_count) {
        return DROVER_EMALFORMED;
    }
    uint64_t first_page = fetch.page / WORD_PAGES * WORD_PAGES;
    uint64_t pending = pages->regions[fetch.region].pending[fetch.page / WORD_PAGES];
    unsigned bit = (unsigned)(fetch.page % WORD_PAGES);
    if ((pending >> bit & 1) == 0) {
        return 0; /* it is on its way */
    }
    uint64_t block = ((UINT64_C(1) << NEIGHBOURS) - 1) << bit / NEIGHBOURS * NEIGHBOURS;
    /* What lies ahead in the background is most likely wanted next. */
    source->postcopy.region = fetch.region;
    source->postcopy.page = first_page;
    return pages_answer(source, fetch.region, first_page, pending & block);
}

bool postcopy_source_hears(struct migration_source *source, unsigned type,
                           const uint8_t *payload, size_t size, int *ret_result)
{
    if (!source->postcopy.agreed || (type != WIRE_FETCH && type != WIRE_PLACED)) {
        return false;
    }
    if (type == WIRE_FETCH) {
        *ret_result = fetch_serve(source, payload, size);
    } else {
        *ret_result = wire_placed_decode(payload, size, &source->postcopy.pages_placed);
    }
    return true;
}

int postcopy_source_background(struct migration_source *source)
{
    struct postcopy_source *postcopy = &source->postcopy;
    struct pages *pages = &source->pages;
    CHECK(pages->pending_count > 0);
    for (;;) {
        const struct pages_region *region = &pages->regions[postcopy->region];
        if (postcopy->page >= region->page_count) {
            postcopy->region = (postcopy->region + 1) % pages->region_count;
            postcopy->page = 0;
            continue;
        }
        uint64_t first_page = postcopy->page;
        uint64_t pending = region->pending[first_page / WORD_PAGES];
        postcopy->page += WORD_PAGES;
        if (pending != 0) {
            return pages_answer(source, postcopy->region, first_page, pending);
        }
    }
}

int postcopy_source_lacks(struct migration_source *source, const uint8_t *payload,
                          size_t size)
{
    struct wire_missing missing;
    struct pages *pages = &source->pages;
    if (wire_missing_decode(payload, size, &missing) != 0 ||
        missing.region >= pages->region_count ||
        !wire_missing_fits(&missing, pages->regions[missing.region].page_count)) {
        return DROVER_EMALFORMED;
    }
    struct pages_region *region = &pages->regions[missing.region];
    uint64_t first = missing.first_page / WORD_PAGES;
    for (uint32_t i = 0; i < missing.word_count; i++) {
        uint64_t word = wire_missing_within(&missing, i, region->page_count);
        pages->pending_count +=
            (uint64_t)__builtin_popcountll(word & ~region->pending[first + i]);
        region->pending[first + i] |= word;
    }
    return 0;
}
