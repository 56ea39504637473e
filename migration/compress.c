/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages made smaller. A coded page:
 *
 *      0            2
 *      +------------+-----------
 *      | kind, size | size bytes      kind: the two upper bits; big endian
 *      +------------+-----------
 *      kind 0: as it is. 1: lz4. 2: changes, each a skip (u16), a count (u16), and `count`
 *      bytes that replace what is there.
 */
#include "migration/compress.h"

#include <errno.h>
#include <lz4.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/extent.h"
#include "migration/guest.h"

#define PAGE       MIGRATION_PAGE_SIZE
#define SIZE_MASK  0x3fffu
#define KIND_SHIFT 14
/* Changes that take more than this are left to lz4. */
#define DELTA_BYTES_MAX (PAGE / 2)
/* What is not at least so much smaller goes as it is. */
#define LZ4_BYTES_MAX (PAGE - PAGE / 8)
/* AUTO: every so many extents, so many pages are tried. */
#define TRY_EXTENTS 8u
#define TRY_PAGES   16u
/* AUTO: on if it would be this much faster (in quarters), off if it hardly is. */
#define GAIN_ON  8u
#define GAIN_OFF 4u

enum kind {
    KIND_PLAIN = 0,
    KIND_LZ4 = 1,
    KIND_DELTA = 2,
};

/* Direct-mapped by page; a set is an extent's worth of pages, so a thread has a set to
 * itself while it codes an extent. */
struct compress_cache {
    uint64_t set_count;
    uint8_t *pages; /* set_count * EXTENT_PAGES pages, mapped, taken as they are used */
    struct set {
        pthread_mutex_t lock;
        uint64_t keys[EXTENT_PAGES]; /* region and page, plus one; 0: none */
    } *sets;
};

struct compress_coder {
    struct compress_cache *cache;
    enum compress_mode mode;
    crc32c_function crc32c;
    bool on;
    uint32_t extents;          /* since the last try */
    double link_rate;          /* bytes of memory a second that go uncoded; 0: unknown */
    uint64_t plain, coded, ns; /* sums since the last judgement */
    uint8_t copy[PAGE];
    void *state; /* lz4's */
    uint8_t *data;
};

int compress_cache_create(uint64_t bytes_max, struct compress_cache **ret_cache)
{
    struct compress_cache *cache = calloc(1, sizeof(*cache));
    if (cache == NULL) {
        return -ENOMEM;
    }
    cache->set_count = bytes_max / ((uint64_t)EXTENT_PAGES * PAGE);
    cache->set_count = cache->set_count == 0 ? 1 : cache->set_count;
    cache->sets = calloc(cache->set_count, sizeof(*cache->sets));
    void *pages = mmap(NULL, cache->set_count * EXTENT_PAGES * PAGE,
                       PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cache->pages = pages == MAP_FAILED ? NULL : pages;
    if (cache->sets == NULL || cache->pages == NULL) {
        compress_cache_free(cache);
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < cache->set_count; i++) {
        CHECK(pthread_mutex_init(&cache->sets[i].lock, NULL) == 0);
    }
    *ret_cache = cache;
    return 0;
}

void compress_cache_free(struct compress_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    if (cache->pages != NULL) {
        (void)munmap(cache->pages, cache->set_count * EXTENT_PAGES * PAGE); /* mapped */
    }
    free(cache->sets);
    free(cache);
}

int compress_coder_create(struct compress_cache *cache, enum compress_mode mode,
                          struct compress_coder **ret_coder)
{
    struct compress_coder *coder = calloc(1, sizeof(*coder));
    if (coder == NULL) {
        return -ENOMEM;
    }
    *coder = (struct compress_coder){.cache = cache,
                                     .mode = mode,
                                     .crc32c = crc32c_pick(),
                                     .on = mode == COMPRESS_ALWAYS};
    coder->state = malloc((size_t)LZ4_sizeofState());
    coder->data = malloc(COMPRESS_BYTES_MAX);
    if (coder->state == NULL || coder->data == NULL) {
        compress_coder_free(coder);
        return -ENOMEM;
    }
    *ret_coder = coder;
    return 0;
}

void compress_coder_free(struct compress_coder *coder)
{
    if (coder != NULL) {
        free(coder->state);
        free(coder->data);
        free(coder);
    }
}

bool compress_wanted(const struct compress_coder *coder)
{
    return coder != NULL && coder->on;
}

/* ---- coding ------------------------------------------------------------------------ */

static void put_u16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static unsigned get_u16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

/* What differs between two pages, in words; 0 if that takes too much (or nothing does:
 * the page is the same, and one empty change says so). */
static size_t delta_code(const uint8_t *from, const uint8_t *to, uint8_t *out)
{
    size_t size = 0;
    size_t done = 0;
    for (size_t at = 0; at < PAGE;) {
        if (memcmp(from + at, to + at, 8) == 0) {
            at += 8;
            continue;
        }
        size_t start = at;
        while (at < PAGE && memcmp(from + at, to + at, 8) != 0) {
            at += 8;
        }
        if (size + 4 + (at - start) > DELTA_BYTES_MAX) {
            return 0;
        }
        put_u16(out + size, (unsigned)(start - done));
        put_u16(out + size + 2, (unsigned)(at - start));
        memcpy(out + size + 4, to + start, at - start);
        size += 4 + (at - start);
        done = at;
    }
    if (size == 0) {
        memset(out, 0, 4);
        size = 4;
    }
    return size;
}

/* Codes coder->copy; `before`: what the target has, or NULL. How many bytes. */
static size_t page_code(struct compress_coder *coder, const uint8_t *before, uint8_t *out)
{
    size_t size = before == NULL ? 0 : delta_code(before, coder->copy, out + 2);
    enum kind kind = KIND_DELTA;
    if (size == 0) {
        kind = KIND_LZ4;
        size = (size_t)LZ4_compress_fast_extState(coder->state, (const char *)coder->copy,
                                                  (char *)out + 2, (int)PAGE,
                                                  (int)LZ4_BYTES_MAX, 1);
    }
    if (size == 0) {
        kind = KIND_PLAIN;
        size = PAGE;
        memcpy(out + 2, coder->copy, PAGE);
    }
    put_u16(out, (unsigned)kind << KIND_SHIFT | (unsigned)size);
    return 2 + size;
}

static struct set *set_of(const struct compress_cache *cache, const struct extent *extent,
                          uint8_t **ret_pages)
{
    uint64_t number = extent->first_page / EXTENT_PAGES * MIGRATION_REGIONS_MAX;
    number = (number + extent->region) % cache->set_count;
    *ret_pages = cache->pages + number * EXTENT_PAGES * PAGE;
    return &cache->sets[number];
}

static uint64_t key_of(const struct extent *extent, unsigned page)
{
    return ((extent->first_page + page) * MIGRATION_REGIONS_MAX + extent->region) + 1;
}

/* The RACES_BY_DESIGN of the page path: the guest writes meanwhile. */
__attribute__((no_sanitize_thread)) static void page_copy(uint8_t *to,
                                                          const uint8_t *from)
{
    memcpy(to, from, PAGE);
}

const uint8_t *compress_extent(struct compress_coder *coder, struct extent *extent,
                               const uint8_t *host, size_t *ret_size)
{
    uint8_t *pages;
    struct set *set = set_of(coder->cache, extent, &pages);
    size_t size = 0;
    unsigned page = 0;
    unsigned next = 0;
    CHECK(pthread_mutex_lock(&set->lock) == 0);
    for (unsigned i = 0; i < extent->run_count; i++) {
        unsigned end = page + extent->runs[i].page_count;
        for (; extent->runs[i].kind == EXTENT_RUN_DATA && page < end; page++) {
            uint8_t *known = pages + (size_t)page * PAGE;
            bool is_known = set->keys[page] == key_of(extent, page);
            page_copy(coder->copy, host + (size_t)page * PAGE);
            extent->page_crcs[next++] = coder->crc32c(0, coder->copy, PAGE);
            size += page_code(coder, is_known ? known : NULL, coder->data + size);
            memcpy(known, coder->copy, PAGE);
            set->keys[page] = key_of(extent, page);
        }
        for (; page < end; page++) {
            bool zero = extent->runs[i].kind == EXTENT_RUN_ZERO;
            set->keys[page] = zero && set->keys[page] == key_of(extent, page)
                                  ? 0
                                  : set->keys[page];
        }
    }
    CHECK(pthread_mutex_unlock(&set->lock) == 0);
    coder->coded += size;
    *ret_size = size;
    return coder->data;
}

void compress_forget(struct compress_coder *coder, const struct extent *extent)
{
    uint8_t *pages;
    struct set *set = set_of(coder->cache, extent, &pages);
    unsigned page = 0;
    CHECK(pthread_mutex_lock(&set->lock) == 0);
    for (unsigned i = 0; i < extent->run_count; i++) {
        unsigned end = page + extent->runs[i].page_count;
        for (; page < end; page++) {
            if (extent->runs[i].kind != EXTENT_RUN_SKIP &&
                set->keys[page] == key_of(extent, page)) {
                set->keys[page] = 0;
            }
        }
    }
    CHECK(pthread_mutex_unlock(&set->lock) == 0);
}

/* ---- when ---------------------------------------------------------------------------
 */

/* Codes a few pages for a try: whether coding would carry more memory than the link takes
 * as it is. */
static void try_it(struct compress_coder *coder, const struct extent *extent,
                   const uint8_t *host)
{
    uint64_t start_ns = clock_now_ns();
    size_t coded = 0;
    unsigned count = 0;
    unsigned page = 0;
    for (unsigned i = 0; i < extent->run_count && count < TRY_PAGES; i++) {
        unsigned end = page + extent->runs[i].page_count;
        bool data = extent->runs[i].kind == EXTENT_RUN_DATA;
        for (; data && page < end && count < TRY_PAGES; page++, count++) {
            page_copy(coder->copy, host + (size_t)page * PAGE);
            coded += page_code(coder, NULL, coder->data);
        }
        page = end;
    }
    uint64_t ns = clock_now_ns() - start_ns;
    if (count < TRY_PAGES || ns == 0) {
        return;
    }
    double plain = (double)count * PAGE;
    double code_rate = plain * (double)NS_PER_S / (double)ns;
    double sent_rate = coder->link_rate * plain / (double)coded;
    double rate = code_rate < sent_rate ? code_rate : sent_rate;
    coder->on = rate * 4 > coder->link_rate * GAIN_ON;
}

void compress_sent(struct compress_coder *coder, const struct extent *extent,
                   const uint8_t *host, uint64_t ns)
{
    if (coder->mode != COMPRESS_AUTO) {
        return;
    }
    coder->plain += (uint64_t)extent->data_pages * PAGE;
    coder->ns += ns;
    coder->extents++;
    if (coder->extents < TRY_EXTENTS || coder->ns == 0) {
        return;
    }
    double rate = (double)coder->plain * (double)NS_PER_S / (double)coder->ns;
    if (coder->on) {
        coder->on = rate * 4 > coder->link_rate * GAIN_OFF;
    } else {
        coder->link_rate = rate;
        try_it(coder, extent, host);
    }
    coder->extents = 0;
    coder->plain = 0;
    coder->coded = 0;
    coder->ns = 0;
}

/* ---- decoding ---------------------------------------------------------------------- */

static bool delta_apply(const uint8_t *data, size_t size, uint8_t *page)
{
    size_t at = 0;
    while (size > 0) {
        if (size < 4) {
            return false;
        }
        size_t skip = get_u16(data);
        size_t count = get_u16(data + 2);
        if (count > size - 4 || skip > PAGE - at || count > PAGE - at - skip) {
            return false;
        }
        memcpy(page + at + skip, data + 4, count);
        at += skip + count;
        data += 4 + count;
        size -= 4 + count;
    }
    return true;
}

int compress_page_decode(const uint8_t *data, size_t size, uint8_t *page)
{
    if (size < 2) {
        return DROVER_EMALFORMED;
    }
    unsigned tag = get_u16(data);
    size_t coded = tag & SIZE_MASK;
    data += 2;
    if (coded > size - 2) {
        return DROVER_EMALFORMED;
    }
    bool right = false;
    switch (tag >> KIND_SHIFT) {
    case KIND_PLAIN:
        right = coded == PAGE;
        memcpy(page, data, right ? PAGE : 0);
        break;
    case KIND_LZ4:
        right = LZ4_decompress_safe((const char *)data, (char *)page, (int)coded,
                                    (int)PAGE) == (int)PAGE;
        break;
    case KIND_DELTA:
        right = delta_apply(data, coded, page);
        break;
    default:
        break;
    }
    return right ? (int)(2 + coded) : DROVER_EMALFORMED;
}
