/* SPDX-License-Identifier: Apache-2.0 */
/* Rounds over the dirty log, as in a move, but into a file and by several threads. */
#include "migration/snapshot_save.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/extent.h"
#include "migration/pages.h"

#define PAGE        ((size_t)MIGRATION_PAGE_SIZE)
#define NS_PER_US   1000u
#define ROUNDS_MAX  8u
/* What is left may cost the guest this much of a pause... */
#define PAUSE_GOAL_US 20000u
/* ...and rounds go on only while each leaves less than this part of the one before. */
#define SHRINK_NUMERATOR   7u
#define SHRINK_DENOMINATOR 10u
/* The stack is small: the threads hold nothing but counters. */
#define STACK_BYTES (64u * 1024u)

struct save {
    const struct snapshot_save_config *config;
    struct pages pages;
    uint64_t first_page[MIGRATION_REGIONS_MAX]; /* of each region, in the file */
    struct snapshot_map *map;
    struct error *err;
    uint64_t started_ns;
    uint64_t bytes_per_s; /* of the rounds so far */
    struct snapshot_figures figures;

    /* of the round that runs */
    _Atomic(uint64_t) next_unit;
    _Atomic(uint64_t) written;
    _Atomic(uint64_t) zero;
    atomic_int error;
};

/* ---- one page after the other ------------------------------------------------------ */

static int write_at(int fd, const uint8_t *data, size_t size, uint64_t offset)
{
    while (size > 0) {
        ssize_t written = pwrite(fd, data, size, (off_t)offset);
        if (written < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        data += written;
        size -= (size_t)written;
        offset += (size_t)written;
    }
    return 0;
}

/* A page that held data in an earlier round is zero now. */
static int hole_make(int fd, const uint8_t *zeros, uint64_t offset)
{
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)PAGE) == 0) {
        return 0;
    }
    return write_at(fd, zeros, PAGE, offset);
}

/* A run of pending pages. It is copied first: what is written and what is summed must be
 * the same, whatever the guest does meanwhile. */
static int run_write(struct save *save, unsigned index, uint64_t page, unsigned count,
                     uint8_t *copy)
{
    struct pages_region *region = &save->pages.regions[index];
    int fd = save->config->memory_fd;
    memcpy(copy, region->where.host + page * PAGE, count * PAGE);
    unsigned begin = 0; /* of the pages that wait to be written together */
    int rv = 0;
    for (unsigned i = 0; i <= count && rv == 0; i++) {
        bool zero = i < count && save->pages.is_zero(copy + i * PAGE);
        uint64_t in_file = save->first_page[index] + page;
        if (i == count || zero) {
            rv = write_at(fd, copy + begin * PAGE, (i - begin) * PAGE,
                          (in_file + begin) * PAGE);
            atomic_fetch_add(&save->written, i - begin);
            begin = i + 1;
        }
        if (i == count) {
            break;
        }
        uint64_t bit = UINT64_C(1) << (page + i) % 64;
        uint64_t *held = &region->held[(page + i) / 64];
        if (!zero) {
            snapshot_map_set(save->map, in_file + i,
                             snapshot_map_sum(save->map, copy + i * PAGE));
            *held |= bit;
            continue;
        }
        atomic_fetch_add(&save->zero, 1);
        snapshot_map_set(save->map, in_file + i, 0);
        if ((*held & bit) != 0 && rv == 0) {
            rv = hole_make(fd, copy + i * PAGE, (in_file + i) * PAGE);
        }
        *held &= ~bit;
    }
    return rv;
}

/* The pending pages of one unit, EXTENT_PAGES of a region: no two threads share a word of
 * its bitmaps. */
static int unit_write(struct save *save, unsigned index, uint64_t first, uint8_t *copy)
{
    uint64_t *pending = save->pages.regions[index].pending;
    uint64_t page = first;
    while (page < first + EXTENT_PAGES) {
        uint64_t word = pending[page / 64] >> page % 64;
        if (word == 0) {
            page += 64 - page % 64;
            continue;
        }
        page += (unsigned)__builtin_ctzll(word);
        uint64_t end = page;
        while (end < first + EXTENT_PAGES && (pending[end / 64] >> end % 64 & 1) != 0) {
            end++;
        }
        int rv = run_write(save, index, page, (unsigned)(end - page), copy);
        if (rv != 0) {
            return rv;
        }
        page = end;
    }
    memset(pending + first / 64, 0, EXTENT_PAGES / 64 * sizeof(uint64_t));
    return 0;
}

/* ---- a round ----------------------------------------------------------------------- */

/* The region and page of unit number `unit`; false behind the last. */
static bool unit_find(const struct save *save, uint64_t unit, unsigned *ret_index,
                      uint64_t *ret_first)
{
    for (unsigned i = 0; i < save->pages.region_count; i++) {
        uint64_t units =
            (save->pages.regions[i].page_count + EXTENT_PAGES - 1) / EXTENT_PAGES;
        if (unit < units) {
            *ret_index = i;
            *ret_first = unit * EXTENT_PAGES;
            return true;
        }
        unit -= units;
    }
    return false;
}

static void *writer(void *owner)
{
    struct save *save = owner;
    uint8_t *copy = NULL;
    if (posix_memalign((void **)&copy, PAGE, EXTENT_PAGES * PAGE) != 0) {
        atomic_store(&save->error, -ENOMEM);
        return NULL;
    }
    unsigned index = 0;
    uint64_t first = 0;
    while (atomic_load(&save->error) == 0 &&
           unit_find(save, atomic_fetch_add(&save->next_unit, 1), &index, &first)) {
        if (atomic_load(save->config->cancel)) {
            atomic_store(&save->error, DROVER_ECANCELLED);
            break;
        }
        int rv = unit_write(save, index, first, copy);
        if (rv != 0) {
            atomic_store(&save->error, rv);
        }
    }
    free(copy);
    return NULL;
}

static unsigned helpers_start(struct save *save, pthread_t *threads)
{
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0);
    unsigned started = 0;
    /* Fewer do as well: this thread is one of them. */
    while (started + 1 < save->config->threads &&
           pthread_create(&threads[started], &attributes, writer, save) == 0) {
        started++;
    }
    (void)pthread_attr_destroy(&attributes); /* can't fail */
    return started;
}

/* Writes all that is pending. */
static int round_write(struct save *save)
{
    pthread_t threads[SNAPSHOT_THREADS_MAX];
    uint64_t begin_ns = clock_now_ns();
    atomic_store(&save->next_unit, 0);
    atomic_store(&save->written, 0);
    unsigned started = helpers_start(save, threads);
    (void)writer(save);
    for (unsigned i = 0; i < started; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    int rv = atomic_load(&save->error);
    if (rv != 0) {
        return rv == DROVER_ECANCELLED
                   ? error_set(save->err, rv, "cancelled")
                   : error_set(save->err, rv, "can't write the memory: %s", err_text(rv));
    }
    uint64_t pages = atomic_load(&save->written);
    uint64_t took_ns = clock_now_ns() - begin_ns;
    save->pages.pending_count = 0;
    save->figures.pages_written += pages;
    save->figures.bytes_written += pages * PAGE;
    save->figures.rounds++;
    if (pages != 0 && took_ns != 0) {
        save->bytes_per_s = pages * PAGE * NS_PER_S / took_ns;
    }
    return 0;
}

static int dirty_fetch(struct save *save)
{
    uint64_t count = 0;
    int rv = pages_fetch_dirty(&save->pages, &count);
    if (rv != 0) {
        return error_set(save->err, rv, "reading the dirty log: %s", err_text(rv));
    }
    if (save->config->bytes_remaining != NULL) {
        atomic_store(save->config->bytes_remaining, save->pages.pending_count * PAGE);
    }
    return 0;
}

/* While the guest runs: until little is left, or it does not get less. */
static int rounds_run(struct save *save)
{
    uint64_t before = UINT64_MAX;
    for (;;) {
        uint64_t pending = save->pages.pending_count;
        int rv = round_write(save);
        rv = rv != 0 ? rv : dirty_fetch(save);
        if (rv != 0) {
            return rv;
        }
        uint64_t left = save->pages.pending_count;
        uint64_t left_us = save->bytes_per_s == 0
                               ? 0
                               : left * PAGE * 1000000u / save->bytes_per_s;
        bool shrinks =
            left < pending / SHRINK_DENOMINATOR * SHRINK_NUMERATOR && left < before;
        if (left_us <= PAUSE_GOAL_US || !shrinks ||
            save->figures.rounds == ROUNDS_MAX - 1) {
            return 0;
        }
        before = left;
    }
}

/* ---- the whole --------------------------------------------------------------------- */

static int guest_stop(struct save *save, uint64_t *ret_stopped_ns)
{
    struct migration_guest *guest = save->config->guest;
    int rv = guest->ops->stop_begin(guest);
    rv = rv != 0 ? rv : guest->ops->stop_wait(guest, save->config->drain_ms, ret_stopped_ns);
    if (rv == -EAGAIN) {
        return error_set(save->err, DROVER_ETIMEDOUT2,
                         "the guest's I/O was not drained within %u ms: are its disks slow?",
                         save->config->drain_ms);
    }
    return rv != 0 ? error_set(save->err, rv, "can't stop the guest: %s", err_text(rv)) : 0;
}

/* The guest stands: the last pages and the state. */
static int standing_save(struct save *save, struct buffer *state)
{
    struct migration_guest *guest = save->config->guest;
    int rv = dirty_fetch(save);
    rv = rv != 0 ? rv : round_write(save);
    if (rv != 0) {
        return rv;
    }
    rv = guest->ops->save(guest, state);
    if (rv != 0) {
        return error_set(save->err, rv, "can't save the devices' state: %s",
                         err_text(rv));
    }
    return save->config->standing == NULL
               ? 0
               : save->config->standing(save->config->owner, save->err);
}

static int stop_and_save(struct save *save, struct buffer *state)
{
    struct migration_guest *guest = save->config->guest;
    uint64_t ordered_ns = clock_now_ns();
    uint64_t stopped_ns = 0;
    int rv = guest_stop(save, &stopped_ns);
    rv = rv != 0 ? rv : standing_save(save, state);
    /* One that was paused before has stood for long. */
    stopped_ns = stopped_ns > ordered_ns ? stopped_ns : ordered_ns;
    save->figures.pause_us = (clock_now_ns() - stopped_ns) / NS_PER_US;
    guest->ops->go_on(guest);
    return rv;
}

static int prepare(struct save *save)
{
    uint64_t page_count = 0;
    for (unsigned i = 0; i < save->pages.region_count; i++) {
        save->first_page[i] = page_count;
        page_count += save->pages.regions[i].page_count;
    }
    int rv = snapshot_map_init(save->map, page_count);
    if (rv != 0) {
        return error_set(save->err, rv, "out of memory for the snapshot's page map");
    }
    if (ftruncate(save->config->memory_fd, (off_t)(page_count * PAGE)) != 0) {
        rv = -errno;
        return error_set(save->err, rv, "can't make the memory's file: %s", err_text(rv));
    }
    return 0;
}

static int run(struct save *save, struct buffer *state)
{
    struct migration_guest *guest = save->config->guest;
    int rv = prepare(save);
    if (rv != 0) {
        return rv;
    }
    rv = guest->ops->dirty_start(guest);
    rv = rv != 0 ? rv : pages_mark_populated(&save->pages);
    if (rv != 0) {
        (void)error_set(save->err, rv, "reading the dirty log: %s", err_text(rv));
    } else {
        rv = rounds_run(save);
        rv = rv != 0 ? rv : stop_and_save(save, state);
    }
    guest->ops->dirty_stop(guest);
    if (rv == 0 && fdatasync(save->config->memory_fd) != 0) {
        rv = -errno;
        (void)error_set(save->err, rv, "can't write the memory: %s", err_text(rv));
    }
    return rv;
}

int snapshot_save(const struct snapshot_save_config *config, struct buffer *state,
                  struct snapshot_map *ret_map, struct snapshot_figures *ret_figures,
                  struct error *err)
{
    CHECK(config->threads >= 1 && config->threads <= SNAPSHOT_THREADS_MAX);
    struct snapshot_map map = {0};
    struct save *save = calloc(1, sizeof(*save));
    if (save == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    save->config = config;
    save->map = &map;
    save->err = err;
    save->started_ns = clock_now_ns();
    int rv = pages_init(&save->pages, config->guest);
    if (rv != 0) {
        (void)error_set(err, rv, "out of memory");
    } else {
        rv = run(save, state);
        pages_done(&save->pages);
    }
    save->figures.pages_zero = atomic_load(&save->zero);
    save->figures.total_us = (clock_now_ns() - save->started_ns) / NS_PER_US;
    *ret_figures = save->figures;
    free(save);
    if (rv != 0) {
        snapshot_map_done(&map);
        return rv;
    }
    *ret_map = map;
    return 0;
}
