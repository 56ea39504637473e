/* SPDX-License-Identifier: Apache-2.0 */
/* A guest without KVM. */
#include "tests/unit/fake_guest.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"

#define SLICE_MS 1

static struct fake_guest *fake_of(struct migration_guest *guest)
{
    return (struct fake_guest *)guest; /* the first member */
}

static uint8_t *page_at(struct fake_guest *fake, uint64_t page)
{
    return fake->memory + page * MIGRATION_PAGE_SIZE;
}

static bool page_is_zeroed(const struct fake_guest *fake, uint64_t page)
{
    uint64_t generation = fake->generation[page];
    return generation == 0 || (fake->config.zeroes && (generation + page) % 4 == 0);
}

static void word_put(uint8_t *page, unsigned index, uint64_t value)
{
    __atomic_store_n((uint64_t *)(void *)page + index, value, __ATOMIC_RELAXED);
}

static uint64_t word_get(const uint8_t *page, unsigned index)
{
    return __atomic_load_n((const uint64_t *)(const void *)page + index,
                           __ATOMIC_RELAXED);
}

/* What word `index` of a page must hold. */
static uint64_t word_of(const struct fake_guest *fake, uint64_t page, unsigned index)
{
    uint64_t generation = fake->generation[page];
    if (page_is_zeroed(fake, page)) {
        return 0;
    }
    return (page * 0x9e3779b97f4a7c15u) ^ (generation << 20) ^ index;
}

#define WORDS (MIGRATION_PAGE_SIZE / 8)

static bool page_right(struct fake_guest *fake, uint64_t page);

/* False if it was told to end while it waited. */
static bool page_touch(struct fake_guest *fake, uint64_t page)
{
    if (!atomic_load(&fake->missing.begun) || atomic_load(&fake->missing.ended)) {
        return true;
    }
    CHECK(pthread_mutex_lock(&fake->missing.lock) == 0);
    bool told = false;
    while ((fake->missing.absent[page / 64] >> (page % 64) & 1) != 0 &&
           !atomic_load(&fake->quit) && !atomic_load(&fake->missing.ended)) {
        if (!told && fake->missing.touched_count < FAKE_TOUCHES_MAX) {
            fake->missing.touched[fake->missing.touched_count++] = page;
            CHECK(eventfd_write(fake->missing.touched_fd, 1) == 0);
            atomic_fetch_add(&fake->missing.waits, 1);
            told = true;
        }
        CHECK(pthread_cond_wait(&fake->missing.placed, &fake->missing.lock) == 0);
    }
    bool there = (fake->missing.absent[page / 64] >> (page % 64) & 1) == 0;
    CHECK(pthread_mutex_unlock(&fake->missing.lock) == 0);
    if (there && !page_right(fake, page)) {
        atomic_fetch_add(&fake->missing.lost, 1);
    }
    return there;
}

static void page_write(struct fake_guest *fake, uint64_t page)
{
    if (!page_touch(fake, page)) {
        return;
    }
    fake->generation[page]++;
    atomic_fetch_add(&fake->writes, 1);
    for (unsigned i = 0; i < WORDS; i++) {
        word_put(page_at(fake, page), i, word_of(fake, page, i));
    }
    if (atomic_load(&fake->logging)) {
        atomic_fetch_or(&fake->dirty[page / 64], UINT64_C(1) << (page % 64));
    }
}

static bool page_right(struct fake_guest *fake, uint64_t page)
{
    for (unsigned i = 0; i < WORDS; i++) {
        if (word_get(page_at(fake, page), i) != word_of(fake, page, i)) {
            return false;
        }
    }
    return true;
}

static void *writer_main(void *owner)
{
    struct fake_guest *fake = owner;
    uint64_t per_slice = fake->config.pages_per_second * SLICE_MS / 1000;
    uint64_t next = 0;
    while (!atomic_load(&fake->quit)) {
        bool run = atomic_load(&fake->run);
        atomic_store(&fake->running, run);
        /* Looked at again after `running` was set, as a vCPU does before it enters. */
        run = run && atomic_load(&fake->run);
        for (uint64_t i = 0; run && i < per_slice && fake->config.hot_pages > 0; i++) {
            page_write(fake, next);
            next = (next + 1) % fake->config.hot_pages;
        }
        if (!run) {
            atomic_store(&fake->running, false);
        }
        (void)usleep(SLICE_MS * 1000); /* a shorter sleep does no harm */
    }
    atomic_store(&fake->running, false);
    return NULL;
}

/* ---- operations -------------------------------------------------------------------- */

static unsigned region_count(struct migration_guest *guest)
{
    return 2;
}

static uint64_t region_first(const struct fake_guest *fake, unsigned index)
{
    return index == 0 ? 0 : fake->first_region_pages;
}

static uint64_t region_pages(const struct fake_guest *fake, unsigned index)
{
    return index == 0 ? fake->first_region_pages
                      : fake->config.page_count - fake->first_region_pages;
}

static void region(struct migration_guest *guest, unsigned index,
                   struct migration_region *ret_region)
{
    struct fake_guest *fake = fake_of(guest);
    ret_region->gpa = index == 0 ? 0 : UINT64_C(1) << 32;
    ret_region->size_bytes = region_pages(fake, index) * MIGRATION_PAGE_SIZE;
    ret_region->host = page_at(fake, region_first(fake, index));
}

static int config_save(struct migration_guest *guest, struct buffer *out)
{
    return buffer_append(out, "fake", 4);
}

static int config_compare(struct migration_guest *guest, const uint8_t *config,
                          size_t size, struct error *err)
{
    return size == 4 && memcmp(config, "fake", 4) == 0
               ? 0
               : error_set(err, DROVER_EBADINPUT, "another machine");
}

/* All of the first region's used part, and nothing of the second. */
static int populated(struct migration_guest *guest, unsigned index, uint64_t from,
                     uint64_t *ret_start, uint64_t *ret_end)
{
    uint64_t end = fake_of(guest)->config.used_pages * MIGRATION_PAGE_SIZE;
    if (index != 0 || from >= end) {
        return 0;
    }
    *ret_start = from;
    *ret_end = end;
    return 1;
}

static int dirty_start(struct migration_guest *guest)
{
    atomic_store(&fake_of(guest)->logging, true);
    return 0;
}

static void dirty_stop(struct migration_guest *guest)
{
    atomic_store(&fake_of(guest)->logging, false);
}

static int dirty_fetch(struct migration_guest *guest, unsigned index, uint64_t *bitmap,
                       uint64_t first_page, uint64_t page_count)
{
    struct fake_guest *fake = fake_of(guest);
    uint64_t base = region_first(fake, index) + first_page;
    for (uint64_t page = 0; page < page_count; page += 64) {
        bitmap[page / 64] |= atomic_exchange(&fake->dirty[(base + page) / 64], 0);
    }
    return 0;
}

static int dirty_peek(struct migration_guest *guest, unsigned index, uint64_t *bitmap)
{
    struct fake_guest *fake = fake_of(guest);
    uint64_t base = region_first(fake, index);
    for (uint64_t page = 0; page < region_pages(fake, index); page += 64) {
        bitmap[page / 64] |= atomic_load(&fake->dirty[(base + page) / 64]);
    }
    return 0;
}

static int dirty_forget(struct migration_guest *guest, unsigned index,
                        const uint64_t *bitmap, uint64_t first_page, uint64_t page_count)
{
    struct fake_guest *fake = fake_of(guest);
    uint64_t base = region_first(fake, index) + first_page;
    for (uint64_t page = 0; page < page_count; page += 64) {
        (void)atomic_fetch_and(&fake->dirty[(base + page) / 64], ~bitmap[page / 64]);
    }
    return 0;
}

static int stop_begin(struct migration_guest *guest)
{
    atomic_store(&fake_of(guest)->run, false);
    return 0;
}

static int stop_wait(struct migration_guest *guest, uint32_t wait_ms,
                     uint64_t *ret_stopped_ns)
{
    struct fake_guest *fake = fake_of(guest);
    for (uint32_t i = 0; i <= wait_ms; i++) {
        if (!atomic_load(&fake->running) && !fake->never_drains) {
            *ret_stopped_ns = clock_now_ns();
            return 0;
        }
        (void)usleep(1000); /* a shorter sleep does no harm */
    }
    return -EAGAIN;
}

/* What a guest has in its registers: what it believes to have written. */
static int save(struct migration_guest *guest, struct buffer *out)
{
    struct fake_guest *fake = fake_of(guest);
    CHECK(!atomic_load(&fake->running));
    return buffer_append(out, fake->generation,
                         fake->config.page_count * sizeof(uint64_t));
}

static int load(struct migration_guest *guest, const uint8_t *state, size_t size,
                struct error *err)
{
    struct fake_guest *fake = fake_of(guest);
    if (fake->load_error != 0 || size != fake->config.page_count * sizeof(uint64_t)) {
        return error_set(err, DROVER_EMALFORMED, "the state does not fit");
    }
    memcpy(fake->generation, state, size);
    for (uint64_t page = 0; fake->missing.load_touches && page < 40; page += 13) {
        (void)page_touch(fake, page);
    }
    return 0;
}

static int release(struct migration_guest *guest, struct error *err)
{
    atomic_store(&fake_of(guest)->locked, false);
    return 0;
}

static int may_hand_over(struct migration_guest *guest, struct error *err)
{
    int error = fake_of(guest)->may_hand_over_error;
    return error == 0 ? 0 : error_set(err, error, "no lease");
}

static void handed_over(struct migration_guest *guest)
{
    struct fake_guest *fake = fake_of(guest);
    CHECK(!atomic_load(&fake->running) && !atomic_load(&fake->locked));
    atomic_store(&fake->handed_over, true);
}

static void go_on(struct migration_guest *guest)
{
    struct fake_guest *fake = fake_of(guest);
    atomic_store(&fake->locked, true);
    atomic_store(&fake->handed_over, false);
    atomic_fetch_add(&fake->goes_on, 1);
    atomic_store(&fake->run, true);
}

static int claim(struct migration_guest *guest, struct error *err)
{
    struct fake_guest *fake = fake_of(guest);
    (void)usleep(fake->claim_sleep_ms * 1000); /* a shorter sleep does no harm */
    if (fake->claim_error != 0) {
        return error_set(err, fake->claim_error, "the disk is in use");
    }
    atomic_store(&fake->locked, true);
    return 0;
}

static void start(struct migration_guest *guest, uint64_t *ret_entered_ns)
{
    struct fake_guest *fake = fake_of(guest);
    CHECK(!atomic_load(&fake->abandoned) && atomic_load(&fake->locked));
    atomic_store(&fake->started, true);
    atomic_store(&fake->run, true);
    *ret_entered_ns = clock_now_ns();
}

static void announce(struct migration_guest *guest)
{
    atomic_fetch_add(&fake_of(guest)->announced, 1);
}

static void abandon(struct migration_guest *guest)
{
    struct fake_guest *fake = fake_of(guest);
    CHECK(!atomic_load(&fake->started));
    atomic_store(&fake->locked, false);
    atomic_store(&fake->abandoned, true);
}

/* ---- post-copy --------------------------------------------------------------------- */

static int missing_possible(struct migration_guest *guest, struct error *err)
{
    return fake_of(guest)->missing.impossible
               ? error_set(err, DROVER_EWRONGSTATE, "others share the memory")
               : 0;
}

static int missing_begin(struct migration_guest *guest, struct error *err)
{
    CHECK(!atomic_load(&fake_of(guest)->missing.begun));
    atomic_store(&fake_of(guest)->missing.begun, true);
    return 0;
}

static int missing_add(struct migration_guest *guest, unsigned index, uint64_t first_page,
                       uint64_t page_count)
{
    struct fake_guest *fake = fake_of(guest);
    CHECK(atomic_load(&fake->missing.begun) && !atomic_load(&fake->started));
    CHECK(first_page + page_count <= region_pages(fake, index));
    uint64_t first = region_first(fake, index) + first_page;
    CHECK(pthread_mutex_lock(&fake->missing.lock) == 0);
    for (uint64_t page = first; page < first + page_count; page++) {
        CHECK((fake->missing.absent[page / 64] >> (page % 64) & 1) == 0);
        fake->missing.absent[page / 64] |= UINT64_C(1) << (page % 64);
        memset(page_at(fake, page), 0xee, MIGRATION_PAGE_SIZE); /* nobody may see it */
    }
    CHECK(pthread_mutex_unlock(&fake->missing.lock) == 0);
    return 0;
}

static int missing_wait(struct migration_guest *guest, int stop_fd, unsigned *ret_region,
                        uint64_t *ret_page)
{
    struct fake_guest *fake = fake_of(guest);
    struct pollfd fds[] = {{.fd = fake->missing.touched_fd, .events = POLLIN},
                           {.fd = stop_fd, .events = POLLIN}};
    CHECK(poll(fds, 2, -1) > 0);
    if ((fds[1].revents & POLLIN) != 0) {
        return 0;
    }
    eventfd_t one;
    CHECK(eventfd_read(fake->missing.touched_fd, &one) == 0 && one == 1);
    CHECK(pthread_mutex_lock(&fake->missing.lock) == 0);
    uint64_t page = fake->missing.touched[--fake->missing.touched_count];
    CHECK(pthread_mutex_unlock(&fake->missing.lock) == 0);
    *ret_region = page < fake->first_region_pages ? 0 : 1;
    *ret_page = page - region_first(fake, *ret_region);
    return 1;
}

static int missing_place(struct migration_guest *guest, unsigned index,
                         uint64_t first_page, uint64_t page_count, const uint8_t *data)
{
    struct fake_guest *fake = fake_of(guest);
    CHECK(first_page + page_count <= region_pages(fake, index));
    uint64_t first = region_first(fake, index) + first_page;
    CHECK(pthread_mutex_lock(&fake->missing.lock) == 0);
    for (uint64_t page = first; page < first + page_count; page++) {
        if ((fake->missing.absent[page / 64] >> (page % 64) & 1) == 0) {
            continue;
        }
        if (data != NULL) {
            memcpy(page_at(fake, page), data + (page - first) * MIGRATION_PAGE_SIZE,
                   MIGRATION_PAGE_SIZE);
        } else {
            memset(page_at(fake, page), 0, MIGRATION_PAGE_SIZE);
        }
        fake->missing.absent[page / 64] &= ~(UINT64_C(1) << (page % 64));
    }
    CHECK(pthread_cond_broadcast(&fake->missing.placed) == 0);
    CHECK(pthread_mutex_unlock(&fake->missing.lock) == 0);
    return 0;
}

static void missing_end(struct migration_guest *guest)
{
    struct fake_guest *fake = fake_of(guest);
    CHECK(pthread_mutex_lock(&fake->missing.lock) == 0);
    atomic_store(&fake->missing.ended, true);
    CHECK(pthread_cond_broadcast(&fake->missing.placed) == 0);
    CHECK(pthread_mutex_unlock(&fake->missing.lock) == 0);
}

static const struct migration_guest_ops ops = {
    .region_count = region_count,
    .region = region,
    .config_save = config_save,
    .populated = populated,
    .dirty_start = dirty_start,
    .dirty_stop = dirty_stop,
    .dirty_fetch = dirty_fetch,
    .dirty_peek = dirty_peek,
    .dirty_forget = dirty_forget,
    .stop_begin = stop_begin,
    .stop_wait = stop_wait,
    .save = save,
    .release = release,
    .may_hand_over = may_hand_over,
    .handed_over = handed_over,
    .go_on = go_on,
    .config_compare = config_compare,
    .load = load,
    .claim = claim,
    .start = start,
    .announce = announce,
    .abandon = abandon,
    .missing_possible = missing_possible,
    .missing_begin = missing_begin,
    .missing_add = missing_add,
    .missing_wait = missing_wait,
    .missing_place = missing_place,
    .missing_end = missing_end,
};

void fake_guest_init(struct fake_guest *fake, const struct fake_guest_config *config,
                     bool live)
{
    memset(fake, 0, sizeof(*fake));
    fake->guest.ops = &ops;
    fake->config = *config;
    /* Regions end in the middle of an extent, and of a word of the bitmap. */
    fake->first_region_pages = config->page_count / 4 * 3 / 64 * 64;
    fake->memory = mmap(NULL, config->page_count * MIGRATION_PAGE_SIZE,
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fake->generation = calloc(config->page_count, sizeof(uint64_t));
    fake->dirty = calloc(config->page_count / 64 + 1, sizeof(*fake->dirty));
    fake->missing.absent = calloc(config->page_count / 64 + 1, sizeof(uint64_t));
    fake->missing.touched_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    CHECK(fake->missing.absent != NULL && fake->missing.touched_fd >= 0);
    CHECK(pthread_mutex_init(&fake->missing.lock, NULL) == 0);
    CHECK(pthread_cond_init(&fake->missing.placed, NULL) == 0);
    CHECK(fake->memory != MAP_FAILED && fake->generation != NULL && fake->dirty != NULL);
    CHECK(config->used_pages <= fake->first_region_pages &&
          config->hot_pages <= config->used_pages);
    for (uint64_t page = 0; live && page < config->used_pages; page++) {
        page_write(fake, page);
    }
    atomic_store(&fake->locked, live);
    atomic_store(&fake->run, live);
    CHECK(pthread_create(&fake->writer, NULL, writer_main, fake) == 0);
    fake->writer_started = true;
}

static void writer_stop(struct fake_guest *fake)
{
    atomic_store(&fake->quit, true);
    CHECK(pthread_mutex_lock(&fake->missing.lock) == 0);
    CHECK(pthread_cond_broadcast(&fake->missing.placed) == 0);
    CHECK(pthread_mutex_unlock(&fake->missing.lock) == 0);
    if (fake->writer_started) {
        CHECK(pthread_join(fake->writer, NULL) == 0);
        fake->writer_started = false;
    }
}

void fake_guest_done(struct fake_guest *fake)
{
    writer_stop(fake);
    CHECK(munmap(fake->memory, fake->config.page_count * MIGRATION_PAGE_SIZE) == 0);
    free(fake->generation);
    free(fake->dirty);
    free(fake->missing.absent);
    CHECK(close(fake->missing.touched_fd) == 0);
}

bool fake_guest_runs(struct fake_guest *fake)
{
    return atomic_load(&fake->run);
}

uint64_t fake_guest_wrong_pages(struct fake_guest *fake)
{
    writer_stop(fake);
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < fake->config.page_count; page++) {
        wrong += page_right(fake, page) ? 0 : 1;
    }
    return wrong;
}
