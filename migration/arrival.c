/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that arrives. */
#include "migration/arrival.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/check.h"
#include "base/err.h"
#include "migration/compress.h"
#include "migration/stream.h"
#include "migration/wire.h"

#define BACK_PAGES_MIN 8u /* a system call costs less than so many faults */
/* What is received and then looked at in one go: it is still in the cache. */
#define WINDOW_PAGES 64u

int arrival_init(struct arrival *arrival, struct migration_guest *guest)
{
    memset(arrival, 0, sizeof(*arrival));
    arrival->guest = guest;
    arrival->crc32c = crc32c_pick();
    arrival->region_count = guest->ops->region_count(guest);
    CHECK(arrival->region_count <= MIGRATION_REGIONS_MAX);
    for (unsigned i = 0; i < arrival->region_count; i++) {
        guest->ops->region(guest, i, &arrival->regions[i].where);
        uint64_t page_count = arrival->regions[i].where.size_bytes / MIGRATION_PAGE_SIZE;
        arrival->regions[i].page_count = page_count;
        arrival->regions[i].held = calloc(page_count / 64 + 1, sizeof(uint64_t));
        arrival->regions[i].suspect = calloc(page_count / 64 + 1, sizeof(uint64_t));
        if (arrival->regions[i].held == NULL || arrival->regions[i].suspect == NULL) {
            arrival_done(arrival);
            return -ENOMEM;
        }
    }
    return 0;
}

void arrival_done(struct arrival *arrival)
{
    for (unsigned i = 0; i < MIGRATION_REGIONS_MAX; i++) {
        free(arrival->regions[i].held);
        free(arrival->regions[i].suspect);
        arrival->regions[i].held = NULL;
        arrival->regions[i].suspect = NULL;
    }
}

int arrival_compare(const struct arrival *arrival, const struct wire_hello *hello,
                    struct error *err)
{
    if (hello->region_count != arrival->region_count) {
        return error_set(err, DROVER_EBADINPUT,
                         "memory differs: %u regions come, %u are here; start the target "
                         "with the same --memory",
                         hello->region_count, arrival->region_count);
    }
    for (unsigned i = 0; i < arrival->region_count; i++) {
        const struct migration_region *where = &arrival->regions[i].where;
        if (hello->regions[i].gpa != where->gpa ||
            hello->regions[i].size_bytes != where->size_bytes) {
            return error_set(err, DROVER_EBADINPUT,
                             "memory differs: region %u has %" PRIu64
                             " bytes at 0x%" PRIx64 ", here %" PRIu64 " at 0x%" PRIx64
                             "; start the target with the same --memory",
                             i, hello->regions[i].size_bytes, hello->regions[i].gpa,
                             where->size_bytes, where->gpa);
        }
    }
    return 0;
}

/* No two threads take the same page from an honest source. A hostile one can only harm
 * its own guest by that: all changes to the bitmaps are atomic. */
static bool bit_get(const atomic_uint_least64_t *words, uint64_t bit)
{
    return (atomic_load_explicit(&words[bit / 64], memory_order_relaxed) >> (bit % 64) &
            1) != 0;
}

static void bit_set(atomic_uint_least64_t *words, uint64_t bit)
{
    (void)atomic_fetch_or_explicit(&words[bit / 64], UINT64_C(1) << (bit % 64),
                                   memory_order_relaxed);
}

static void bit_clear(atomic_uint_least64_t *words, uint64_t bit)
{
    if (bit_get(words, bit)) {
        (void)atomic_fetch_and_explicit(&words[bit / 64], ~(UINT64_C(1) << (bit % 64)),
                                        memory_order_relaxed);
    }
}

/* Data comes. Where none ever was the memory is backed first, many pages at once: else
 * each of them costs a fault. */
static void mark(struct arrival *arrival, unsigned index, uint64_t first, uint64_t count)
{
    struct migration_guest *guest = arrival->guest;
    atomic_uint_least64_t *held = arrival->regions[index].held;
    for (uint64_t page = first; page < first + count;) {
        if (bit_get(held, page)) {
            page++;
            continue;
        }
        uint64_t start = page;
        for (; page < first + count && !bit_get(held, page); page++) {
            bit_set(held, page);
        }
        if (guest->ops->back != NULL && page - start >= BACK_PAGES_MIN) {
            guest->ops->back(guest, index, start, page - start);
        }
    }
}

/* Memory that was never written is zero already, and is not touched: it would be backed
 * for nothing. */
static void clear(struct arrival *arrival, unsigned index, uint64_t first, uint64_t count)
{
    atomic_uint_least64_t *held = arrival->regions[index].held;
    for (uint64_t page = first; page < first + count;) {
        bit_clear(arrival->regions[index].suspect, page);
        if (!bit_get(held, page)) {
            page++;
            continue;
        }
        uint64_t start = page;
        for (; page < first + count && bit_get(held, page); page++) {
            bit_clear(held, page);
            bit_clear(arrival->regions[index].suspect, page);
        }
        if (arrival->guest->ops->clear != NULL) {
            arrival->guest->ops->clear(arrival->guest, index, start, page - start);
        } else {
            memset(arrival->regions[index].where.host + start * MIGRATION_PAGE_SIZE, 0,
                   (page - start) * MIGRATION_PAGE_SIZE);
        }
    }
}

static bool fits(const struct arrival *arrival, const struct extent *extent)
{
    if (extent->region >= arrival->region_count) {
        return false;
    }
    uint64_t page_count = arrival->regions[extent->region].page_count;
    uint64_t pages = 0;
    for (unsigned i = 0; i < extent->run_count; i++) {
        pages += extent->runs[i].page_count;
    }
    return extent->first_page <= page_count && pages <= page_count - extent->first_page;
}

/* Zeroes what is to be zero, and backs what data comes for. */
static void prepare(struct arrival *arrival, const struct extent *extent)
{
    uint64_t page = extent->first_page;
    for (unsigned i = 0; i < extent->run_count; i++) {
        uint64_t pages = extent->runs[i].page_count;
        if (extent->runs[i].kind == EXTENT_RUN_DATA) {
            mark(arrival, extent->region, page, pages);
        } else if (extent->runs[i].kind == EXTENT_RUN_ZERO) {
            clear(arrival, extent->region, page, pages);
        }
        page += pages;
    }
}

/* Where the data of pages [first, end) of an extent lies; `iov` has EXTENT_PAGES entries,
 * whose count is returned. */
static unsigned pieces(const struct arrival *arrival, const struct extent *extent,
                       unsigned first, unsigned end, struct iovec *iov)
{
    uint8_t *host = arrival->regions[extent->region].where.host +
                    extent->first_page * MIGRATION_PAGE_SIZE;
    unsigned page = 0;
    unsigned count = 0;
    for (unsigned i = 0; i < extent->run_count; i++) {
        unsigned next = page + extent->runs[i].page_count;
        unsigned from = page > first ? page : first;
        unsigned to = next < end ? next : end;
        if (extent->runs[i].kind == EXTENT_RUN_DATA && from < to) {
            iov[count++] =
                (struct iovec){.iov_base = host + (size_t)from * MIGRATION_PAGE_SIZE,
                               .iov_len = (size_t)(to - from) * MIGRATION_PAGE_SIZE};
        }
        page = next;
    }
    CHECK(count <= EXTENT_PAGES);
    return count;
}

/* Of all data as one. */
static uint32_t checksum(const struct arrival *arrival, const struct extent *extent)
{
    const uint8_t *at = arrival->regions[extent->region].where.host +
                        extent->first_page * MIGRATION_PAGE_SIZE;
    uint32_t crc = 0;
    for (unsigned i = 0; i < extent->run_count; i++) {
        size_t size = (size_t)extent->runs[i].page_count * MIGRATION_PAGE_SIZE;
        if (extent->runs[i].kind == EXTENT_RUN_DATA) {
            crc = arrival->crc32c(crc, at, size);
        }
        at += size;
    }
    return crc;
}

/* Looks at the checksums of the pages of `iov`, the first of which is that of number
 * `*next`, and counts on; how many were wrong. */
static unsigned pages_check(struct arrival *arrival, const struct extent *extent,
                            const struct iovec *iov, unsigned count, unsigned *next)
{
    const uint8_t *region = arrival->regions[extent->region].where.host;
    atomic_uint_least64_t *suspect = arrival->regions[extent->region].suspect;
    unsigned wrong = 0;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *at = iov[i].iov_base;
        const uint8_t *end = at + iov[i].iov_len;
        for (; at < end; at += MIGRATION_PAGE_SIZE) {
            uint64_t page = (uint64_t)(at - region) / MIGRATION_PAGE_SIZE;
            uint32_t crc = extent->page_crcs[(*next)++];
            if (arrival->crc32c(0, at, MIGRATION_PAGE_SIZE) == crc) {
                bit_clear(suspect, page);
            } else {
                bit_set(suspect, page);
                wrong++;
            }
        }
    }
    return wrong;
}

/* Reads the data of an extent straight into place, and looks at it part by part. */
static int receive(struct arrival *arrival, const struct extent *extent,
                   struct stream_in *in, uint32_t idle_ms, unsigned *ret_wrong)
{
    struct iovec iov[EXTENT_PAGES];
    unsigned step = extent->data_pages <= WINDOW_PAGES ? EXTENT_PAGES : WINDOW_PAGES;
    unsigned left = extent->data_pages;
    unsigned next = 0;
    for (unsigned first = 0; left > 0; first += step) {
        CHECK(first < EXTENT_PAGES); /* the extent is valid */
        unsigned count = pieces(arrival, extent, first, first + step, iov);
        for (unsigned i = 0; i < count; i++) {
            left -= (unsigned)(iov[i].iov_len / MIGRATION_PAGE_SIZE);
        }
        int rv = count == 0 ? 0 : stream_in_pages(in, iov, count, left > 0, idle_ms);
        if (rv != 0) {
            return rv;
        }
        if (extent->pages_checked) {
            count = pieces(arrival, extent, first, first + step, iov);
            *ret_wrong += pages_check(arrival, extent, iov, count, &next);
        }
    }
    return 0;
}

/* Makes the pages of what a coder made of them. */
static int decode(struct arrival *arrival, const struct extent *extent,
                  struct stream_in *in, uint32_t idle_ms)
{
    uint8_t *at = arrival->regions[extent->region].where.host +
                  extent->first_page * MIGRATION_PAGE_SIZE;
    const uint8_t *data = NULL;
    size_t left = extent->coded_bytes;
    int rv = stream_in_coded(in, left, idle_ms, &data);
    for (unsigned i = 0; i < extent->run_count && rv == 0; i++) {
        uint8_t *end = at + (size_t)extent->runs[i].page_count * MIGRATION_PAGE_SIZE;
        bool is_data = extent->runs[i].kind == EXTENT_RUN_DATA;
        for (; is_data && at < end && rv == 0; at += MIGRATION_PAGE_SIZE) {
            int used = compress_page_decode(data, left, at);
            rv = used < 0 ? used : 0;
            data += used < 0 ? 0 : used;
            left -= used < 0 ? 0 : (size_t)used;
        }
        at = end;
    }
    return rv != 0 ? rv : left != 0 ? DROVER_EMALFORMED : 0;
}

int arrival_extent(struct arrival *arrival, const uint8_t *payload, size_t size,
                   struct stream_in *in, bool standing, uint32_t idle_ms,
                   struct error *err)
{
    struct extent extent;
    int rv = wire_extent_decode(payload, size, &extent);
    if (rv != 0 || !fits(arrival, &extent) || (extent.placed && !in->places) ||
        (standing && !extent.checked && !extent.pages_checked)) {
        return error_set(err, DROVER_EMALFORMED, "memory came with a malformed map");
    }
    unsigned wrong = 0;
    bool comes = extent.coded_bytes == 0 && !extent.placed;
    prepare(arrival, &extent);
    atomic_fetch_add(&arrival->pages_received, extent.data_pages);
    if (comes) {
        rv = receive(arrival, &extent, in, idle_ms, &wrong);
    } else if (extent.coded_bytes != 0) {
        rv = decode(arrival, &extent, in, idle_ms);
    }
    if (rv != 0) {
        return error_set(err, rv, "receiving memory: %s", err_text(rv));
    }
    if (extent.pages_checked && !comes) {
        struct iovec iov[EXTENT_PAGES];
        unsigned next = 0;
        unsigned count = pieces(arrival, &extent, 0, EXTENT_PAGES, iov);
        wrong = pages_check(arrival, &extent, iov, count, &next);
    }
    /* What was coded was a copy: no write of the guest's explains a wrong one. */
    bool bad = wrong != 0 && (standing || extent.coded_bytes != 0);
    if (extent.checked && !extent.pages_checked) {
        bad = checksum(arrival, &extent) != extent.crc;
    }
    return bad ? error_set(err, DROVER_EMALFORMED, "memory came with a wrong checksum")
               : 0;
}

void arrival_vacated(struct arrival *arrival, unsigned region, uint64_t word,
                     uint64_t bits)
{
    (void)atomic_fetch_and(&arrival->regions[region].held[word], ~bits);
    (void)atomic_fetch_and(&arrival->regions[region].suspect[word], ~bits);
}

uint64_t arrival_suspects(const struct arrival *arrival)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < arrival->region_count; i++) {
        for (uint64_t word = 0; word <= arrival->regions[i].page_count / 64; word++) {
            sum += (uint64_t)__builtin_popcountll(
                atomic_load(&arrival->regions[i].suspect[word]));
        }
    }
    return sum;
}
