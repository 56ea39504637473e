/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of guest memory that devices wrote: a bit each, set and fetched by any thread. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/check.h"
#include "vmm/memory/guest_ram_internal.h"

static uint64_t region_words(const struct guest_ram_region *region)
{
    return (region->size_bytes / GUEST_PAGE_SIZE + 63) / 64;
}

void guest_ram_mark_dirty(struct guest_ram *ram, uint64_t gpa, size_t size)
{
    if (size == 0 || !atomic_load_explicit(&ram->tracking, memory_order_acquire)) {
        return;
    }
    const struct guest_ram_region *region = guest_ram_region_find(ram, gpa, size);
    if (region == NULL) {
        return;
    }
    _Atomic(uint64_t) *dirty = ram->dirty[region - ram->regions];
    uint64_t first = (gpa - region->gpa) / GUEST_PAGE_SIZE;
    uint64_t last = (gpa - region->gpa + size - 1) / GUEST_PAGE_SIZE;
    for (uint64_t page = first; page <= last; page++) {
        atomic_fetch_or(&dirty[page / 64], UINT64_C(1) << (page % 64));
    }
}

int guest_ram_track_dirty(struct guest_ram *ram, bool on)
{
    if (!on) {
        atomic_store(&ram->tracking, false);
        return 0;
    }
    for (unsigned i = 0; i < ram->region_count; i++) {
        uint64_t words = region_words(&ram->regions[i]);
        if (ram->dirty[i] == NULL) {
            ram->dirty[i] = calloc(words, sizeof(uint64_t));
            if (ram->dirty[i] == NULL) {
                return -ENOMEM;
            }
        }
        for (uint64_t word = 0; word < words; word++) {
            atomic_store(&ram->dirty[i][word], 0);
        }
    }
    atomic_store_explicit(&ram->tracking, true, memory_order_release);
    return 0;
}

void guest_ram_fetch_dirty_range(struct guest_ram *ram, unsigned region_index,
                                 uint64_t *bitmap, uint64_t first_page,
                                 uint64_t page_count)
{
    const struct guest_ram_region *region = guest_ram_region(ram, region_index);
    CHECK(first_page % 64 == 0);
    CHECK(first_page + page_count <= region->size_bytes / GUEST_PAGE_SIZE);
    _Atomic(uint64_t) *dirty = ram->dirty[region_index];
    if (dirty == NULL) {
        return;
    }
    for (uint64_t word = 0; word < (page_count + 63) / 64; word++) {
        _Atomic(uint64_t) *from = &dirty[first_page / 64 + word];
        if (atomic_load_explicit(from, memory_order_relaxed) != 0) {
            bitmap[word] |= atomic_exchange(from, 0);
        }
    }
}

void guest_ram_fetch_dirty(struct guest_ram *ram, unsigned region_index, uint64_t *bitmap)
{
    const struct guest_ram_region *region = guest_ram_region(ram, region_index);
    guest_ram_fetch_dirty_range(ram, region_index, bitmap, 0,
                                region->size_bytes / GUEST_PAGE_SIZE);
}

void guest_ram_peek_dirty(struct guest_ram *ram, unsigned region_index, uint64_t *bitmap)
{
    const struct guest_ram_region *region = guest_ram_region(ram, region_index);
    uint64_t words = region_words(region);
    _Atomic(uint64_t) *dirty = ram->dirty[region_index];
    for (uint64_t word = 0; dirty != NULL && word < words; word++) {
        bitmap[word] |= atomic_load_explicit(&dirty[word], memory_order_acquire);
    }
}

void guest_ram_forget_dirty(struct guest_ram *ram, unsigned region_index,
                            const uint64_t *bitmap, uint64_t first_page,
                            uint64_t page_count)
{
    CHECK(first_page % 64 == 0);
    CHECK(first_page + page_count <=
          guest_ram_region(ram, region_index)->size_bytes / GUEST_PAGE_SIZE);
    _Atomic(uint64_t) *dirty = ram->dirty[region_index];
    for (uint64_t word = 0; dirty != NULL && word < (page_count + 63) / 64; word++) {
        _Atomic(uint64_t) *at = &dirty[first_page / 64 + word];
        if ((atomic_load_explicit(at, memory_order_relaxed) & bitmap[word]) != 0) {
            (void)atomic_fetch_and(at, ~bitmap[word]);
        }
    }
}
