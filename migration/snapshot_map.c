/* SPDX-License-Identifier: Apache-2.0 */
/* The page map: a table of checksums. */
#include "migration/snapshot_map.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "migration/guest.h"

int snapshot_map_init(struct snapshot_map *map, uint64_t page_count)
{
    *map = (struct snapshot_map){.page_count = page_count, .crc32c = crc32c_pick()};
    map->entries = calloc(page_count, sizeof(uint32_t));
    return map->entries == NULL ? -ENOMEM : 0;
}

void snapshot_map_done(struct snapshot_map *map)
{
    free(map->entries);
    map->entries = NULL;
    map->page_count = 0;
}

uint32_t snapshot_map_sum(const struct snapshot_map *map, const void *page)
{
    uint32_t crc = map->crc32c(0, page, MIGRATION_PAGE_SIZE);
    return crc == 0 ? 1 : crc;
}

void snapshot_map_set(struct snapshot_map *map, uint64_t page, uint32_t sum)
{
    CHECK(page < map->page_count);
    map->entries[page] = htonl(sum);
}

uint32_t snapshot_map_get(const struct snapshot_map *map, uint64_t page)
{
    CHECK(page < map->page_count);
    return ntohl(map->entries[page]);
}

uint32_t snapshot_map_crc(const struct snapshot_map *map)
{
    return map->crc32c(0, map->entries, map->page_count * sizeof(uint32_t));
}

int snapshot_map_write(const struct snapshot_map *map, int fd)
{
    const uint8_t *data = (const uint8_t *)map->entries;
    size_t size = map->page_count * sizeof(uint32_t);
    size_t done = 0;
    while (done < size) {
        ssize_t written = pwrite(fd, data + done, size - done, (off_t)done);
        if (written < 0 && errno != EINTR) {
            return -errno;
        }
        done += written > 0 ? (size_t)written : 0;
    }
    return 0;
}

static int read_whole(int fd, uint8_t *data, size_t size, struct error *err)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(fd, data + done, size - done, (off_t)done);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return error_set(err, -errno, "can't read the snapshot's page map: %s",
                             err_text(-errno));
        }
        if (got == 0) {
            return error_set(err, DROVER_EMALFORMED,
                             "the snapshot's page map is cut short: take another snapshot");
        }
        done += (size_t)got;
    }
    return 0;
}

int snapshot_map_read(struct snapshot_map *map, int fd, uint64_t page_count, uint32_t crc,
                      struct error *err)
{
    int rv = snapshot_map_init(map, page_count);
    if (rv != 0) {
        return error_set(err, rv, "out of memory for the snapshot's page map");
    }
    rv = read_whole(fd, (uint8_t *)map->entries, page_count * sizeof(uint32_t), err);
    if (rv == 0 && snapshot_map_crc(map) != crc) {
        rv = error_set(err, DROVER_EMALFORMED,
                       "the snapshot's page map is damaged: take another snapshot");
    }
    if (rv != 0) {
        snapshot_map_done(map);
        return rv;
    }
    for (uint64_t page = 0; page < page_count; page++) {
        map->present_count += map->entries[page] != 0 ? 1 : 0;
    }
    return 0;
}
