/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is missing at the target of a post-copy: the maps of it, the thread that asks for
 * what somebody touches, and the pages that come.
 */
#include "migration/postcopy_target_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/arrival.h"
#include "migration/status.h"
#include "migration/stream.h"
#include "migration/times.h"

#define WORD_PAGES 64u
#define TELL_PAGES 64u /* the source hears this often how far it got */
#define PUBLISH_MS 100u

static int maps_make(struct postcopy_target *postcopy)
{
    struct migration_guest *guest = postcopy->config.guest;
    postcopy->region_count = guest->ops->region_count(guest);
    for (unsigned i = 0; postcopy->staging == NULL && i < postcopy->region_count; i++) {
        struct migration_region where;
        guest->ops->region(guest, i, &where);
        uint64_t page_count = where.size_bytes / MIGRATION_PAGE_SIZE;
        uint64_t words = page_count / WORD_PAGES + 1;
        postcopy->regions[i].page_count = page_count;
        postcopy->regions[i].missing = calloc(words, sizeof(uint64_t));
        postcopy->regions[i].asked = calloc(words, sizeof(uint64_t));
        if (postcopy->regions[i].missing == NULL || postcopy->regions[i].asked == NULL) {
            return -ENOMEM;
        }
    }
    postcopy->staging =
        aligned_alloc(MIGRATION_PAGE_SIZE, WORD_PAGES * MIGRATION_PAGE_SIZE);
    postcopy->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return postcopy->staging == NULL ? -ENOMEM : postcopy->stop_fd < 0 ? -errno : 0;
}

static bool bit_get(const uint64_t *words, uint64_t bit)
{
    return (words[bit / 64] >> (bit % 64) & 1) != 0;
}

/* Asks for what somebody touches. Memory that is absent and not missing is zero. */
static void *fault_main(void *owner)
{
    struct postcopy_target *postcopy = owner;
    struct migration_guest *guest = postcopy->config.guest;
    unsigned region = 0;
    uint64_t page = 0;
    while (guest->ops->missing_wait(guest, postcopy->stop_fd, &region, &page) == 1) {
        CHECK(region < postcopy->region_count &&
              page < postcopy->regions[region].page_count);
        postcopy_lock(&postcopy->lock);
        bool missing = bit_get(postcopy->regions[region].missing, page);
        bool asked = bit_get(postcopy->regions[region].asked, page);
        if (missing) {
            postcopy->regions[region].asked[page / 64] |= UINT64_C(1) << (page % 64);
        }
        postcopy_unlock(&postcopy->lock);
        if (!missing) {
            (void)guest->ops->missing_place(guest, region, page, 1, NULL);
        } else if (!asked) {
            (void)postcopy_link_fetch(postcopy, region,
                                      page); /* or after the link is back */
        }
    }
    return NULL;
}

void postcopy_faults_stop(struct postcopy_target *postcopy)
{
    if (postcopy->fault_started) {
        (void)eventfd_write(postcopy->stop_fd, 1); /* full means that it is readable */
        CHECK(pthread_join(postcopy->fault_thread, NULL) == 0);
        postcopy->fault_started = false;
    }
}

int postcopy_missing_begin(struct postcopy_target *postcopy, struct error *err)
{
    struct migration_guest *guest = postcopy->config.guest;
    int rv = maps_make(postcopy);
    if (rv != 0) {
        return error_set(err, rv, "the target: %s", err_text(rv));
    }
    rv = guest->ops->missing_begin(guest, err);
    if (rv != 0) {
        return rv;
    }
    postcopy->begun = true;
    postcopy->linked = true;
    rv = -pthread_create(&postcopy->fault_thread, NULL, fault_main, postcopy);
    postcopy->fault_started = rv == 0;
    return rv != 0 ? error_set(err, rv, "can't start a thread: %s", err_text(rv)) : 0;
}

/* Takes the lowest run of ones off; where it begins. */
static unsigned run_take(uint64_t *bits, unsigned *ret_count)
{
    unsigned first = (unsigned)__builtin_ctzll(*bits);
    uint64_t from = ~(*bits >> first);
    unsigned count = from == 0 ? 64 : (unsigned)__builtin_ctzll(from);
    count = count > 64 - first ? 64 - first : count;
    *bits &= first + count == 64 ? 0 : UINT64_MAX << (first + count);
    *ret_count = count;
    return first;
}

/* Makes the pages of `fresh` absent that are not yet. */
static int word_add(struct postcopy_target *postcopy, unsigned region, uint64_t word,
                    uint64_t fresh)
{
    struct migration_guest *guest = postcopy->config.guest;
    int rv = 0;
    for (uint64_t bits = fresh; rv == 0 && bits != 0;) {
        unsigned count;
        unsigned first = run_take(&bits, &count);
        rv = guest->ops->missing_add(guest, region, word * WORD_PAGES + first, count);
    }
    arrival_vacated(postcopy->config.arrival, region, word, fresh);
    postcopy_lock(&postcopy->lock);
    postcopy->regions[region].missing[word] |= fresh;
    postcopy->missing_count += (uint64_t)__builtin_popcountll(fresh);
    postcopy_unlock(&postcopy->lock);
    return rv;
}

int postcopy_missing_take(struct postcopy_target *postcopy, const uint8_t *payload,
                          size_t size)
{
    struct wire_missing missing;
    if (wire_missing_decode(payload, size, &missing) != 0 ||
        missing.region >= postcopy->region_count ||
        !wire_missing_fits(&missing, postcopy->regions[missing.region].page_count)) {
        return error_set(postcopy->config.err, DROVER_EMALFORMED,
                         "the map of missing memory is malformed");
    }
    uint64_t page_count = postcopy->regions[missing.region].page_count;
    uint64_t first = missing.first_page / WORD_PAGES;
    for (uint32_t i = 0; i < missing.word_count; i++) {
        uint64_t word = wire_missing_within(&missing, i, page_count);
        word &= ~postcopy->regions[missing.region].missing[first + i];
        int rv = word == 0 ? 0 : word_add(postcopy, missing.region, first + i, word);
        if (rv != 0) {
            return error_set(postcopy->config.err, rv, "making memory absent: %s",
                             err_text(rv));
        }
    }
    return 0;
}

/* Places the runs of `mask`; `data` (NULL: zeros) has the pages of `all` in order. */
static int mask_place(struct postcopy_target *postcopy, const struct wire_pages *pages,
                      uint64_t all, uint64_t mask, const uint8_t *data)
{
    struct migration_guest *guest = postcopy->config.guest;
    int rv = 0;
    while (rv == 0 && mask != 0) {
        unsigned count;
        unsigned first = run_take(&mask, &count);
        uint64_t before = first == 0 ? 0 : all & (UINT64_MAX >> (64 - first));
        const uint8_t *at = data == NULL ? NULL
                                         : data + (size_t)__builtin_popcountll(before) *
                                                      MIGRATION_PAGE_SIZE;
        rv = guest->ops->missing_place(guest, pages->region, pages->first_page + first,
                                       count, at);
    }
    return rv;
}

static int placed_tell(struct postcopy_target *postcopy)
{
    if (postcopy->placed < postcopy->placed_told + TELL_PAGES) {
        return 0;
    }
    postcopy->placed_told = postcopy->placed;
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_placed_encode(&frame, postcopy->placed);
    return rv != 0 ? rv : postcopy_link_send(postcopy, &frame);
}

uint64_t postcopy_missing_left(struct postcopy_target *postcopy)
{
    postcopy_lock(&postcopy->lock);
    uint64_t count = postcopy->missing_count;
    postcopy_unlock(&postcopy->lock);
    return count;
}

void postcopy_pages_tell(struct postcopy_target *postcopy, bool now)
{
    uint64_t now_ms = clock_now_ms();
    if (!now && now_ms < postcopy->after.told_ms + PUBLISH_MS) {
        return;
    }
    postcopy->after.told_ms = now_ms;
    uint64_t left = postcopy_missing_left(postcopy);
    struct migration_status *status = status_board_lock(postcopy->config.board);
    status->bytes_remaining = left * MIGRATION_PAGE_SIZE;
    status_board_unlock(postcopy->config.board);
}

int postcopy_pages_take(struct postcopy_target *postcopy, const uint8_t *payload,
                        size_t size)
{
    struct wire_pages pages;
    if (wire_pages_decode(payload, size, &pages) != 0 ||
        pages.region >= postcopy->region_count) {
        return DROVER_EMALFORMED;
    }
    uint64_t page_count = postcopy->regions[pages.region].page_count;
    uint64_t all = pages.data | pages.zero;
    unsigned last = 63 - (unsigned)__builtin_clzll(all);
    if (pages.first_page >= page_count || last >= page_count - pages.first_page) {
        return DROVER_EMALFORMED;
    }
    size_t bytes = (size_t)__builtin_popcountll(pages.data) * MIGRATION_PAGE_SIZE;
    struct iovec iov = {.iov_base = postcopy->staging, .iov_len = bytes};
    int rv = bytes == 0 ? 0
                        : stream_in_pages(postcopy->config.in, &iov, 1, false,
                                          postcopy->config.times->idle_ms);
    if (rv == 0 && postcopy->crc32c(0, postcopy->staging, bytes) != pages.crc) {
        rv = DROVER_EMALFORMED;
    }
    /* Only this thread forgets what is missing: what is not has come, or was never lost.
     */
    uint64_t word = pages.first_page / WORD_PAGES;
    uint64_t missing = postcopy->regions[pages.region].missing[word];
    rv = rv != 0 ? rv
                 : mask_place(postcopy, &pages, pages.data, pages.data & missing,
                              postcopy->staging);
    rv = rv != 0 ? rv
                 : mask_place(postcopy, &pages, pages.zero, pages.zero & missing, NULL);
    if (rv != 0) {
        return rv;
    }
    postcopy_lock(&postcopy->lock);
    postcopy->regions[pages.region].missing[word] &= ~all;
    postcopy->regions[pages.region].asked[word] &= ~all;
    postcopy->missing_count -= (uint64_t)__builtin_popcountll(all & missing);
    postcopy_unlock(&postcopy->lock);
    postcopy->placed += (uint64_t)__builtin_popcountll(all);
    if (postcopy->runner.received_ns != 0) {
        postcopy->after.data += (unsigned)__builtin_popcountll(pages.data & missing);
        postcopy->after.zero += (unsigned)__builtin_popcountll(pages.zero & missing);
        postcopy->after.bytes += size + bytes;
        postcopy_pages_tell(postcopy, false);
    }
    return placed_tell(postcopy);
}
