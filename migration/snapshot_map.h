/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page map of a snapshot: what each page of its memory file is. On disk one u32 a page, big endian, the pages of all
 * regions in their order:
 *
 *      0       4       8
 *      +-------+-------+---
 *      | page0 | page1 |       0: the page is zero, and a hole in the memory file
 *      +-------+-------+---    else: CRC-32C of its 4096 bytes (1 where that would be 0)
 *
 * Entries of different pages may be written by different threads at a time.
 */
#ifndef DROVER_MIGRATION_SNAPSHOT_MAP_H
#define DROVER_MIGRATION_SNAPSHOT_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "migration/crc32c.h"

struct error;

struct snapshot_map {
    uint64_t page_count;
    uint64_t present_count; /* of a map that was read */
    uint32_t *entries;      /* big endian, as on disk */
    crc32c_function crc32c;
};

/* All pages are zero. -ENOMEM. */
int snapshot_map_init(struct snapshot_map *map, uint64_t page_count);
void snapshot_map_done(struct snapshot_map *map);
/* The entry of a page that is not zero. */
uint32_t snapshot_map_sum(const struct snapshot_map *map, const void *page);
void snapshot_map_set(struct snapshot_map *map, uint64_t page, uint32_t sum);
/* 0: the page is zero. */
uint32_t snapshot_map_get(const struct snapshot_map *map, uint64_t page);
/* Over the whole table. */
uint32_t snapshot_map_crc(const struct snapshot_map *map);
/* Writes the table to the start of the file; -errno. */
int snapshot_map_write(const struct snapshot_map *map, int fd);
/* Reads and judges one: `page_count` entries with that CRC. Hostile input. */
int snapshot_map_read(struct snapshot_map *map, int fd, uint64_t page_count, uint32_t crc,
                      struct error *err);

#endif
