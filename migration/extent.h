/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is sent of 2 MiB of guest memory: runs of pages that are left out, sent, or zero.
 * The pages of the data runs follow the message on the stream, in order, with nothing
 * between them. Pure, any thread.
 */
#ifndef DROVER_MIGRATION_EXTENT_H
#define DROVER_MIGRATION_EXTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXTENT_PAGES    512u /* 2 MiB */
#define EXTENT_RUNS_MAX EXTENT_PAGES

enum extent_run_kind {
    EXTENT_RUN_SKIP = 0,
    EXTENT_RUN_DATA = 1,
    EXTENT_RUN_ZERO = 2,
};

struct extent_run {
    enum extent_run_kind kind;
    uint16_t page_count; /* at least 1 */
};

struct extent {
    uint16_t region;
    bool checked;       /* `crc` is that of all the data (conversation version 1) */
    bool pages_checked; /* page_crcs holds that of each page of data */
    bool placed; /* its data went straight into memory, and does not follow */
    uint32_t crc;       /* CRC-32C */
    uint32_t coded_bytes; /* not 0: so many bytes follow, from which compress.h makes the
                             data */
    uint64_t first_page; /* in the region; a multiple of EXTENT_PAGES */
    uint16_t data_pages; /* sums over the runs */
    uint16_t zero_pages;
    uint16_t run_count;
    struct extent_run runs[EXTENT_RUNS_MAX];
    uint32_t page_crcs[EXTENT_PAGES]; /* the first data_pages are used */
};

void extent_init(struct extent *extent, uint16_t region, uint64_t first_page);
/* Adds pages at the end, joining them to a last run of the same kind. */
void extent_add(struct extent *extent, enum extent_run_kind kind, unsigned page_count);
/* The sums are right, and no run is empty, out of range, or like the one before it. */
bool extent_valid(const struct extent *extent);

#endif
