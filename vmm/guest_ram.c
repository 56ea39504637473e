/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: a memfd that is mapped once; nothing of it is touched in advance. */
#include "vmm/guest_ram.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/layout.h"

#define MIB (UINT64_C(1) << 20)

struct guest_ram {
    int fd;
    uint8_t *mapping;
    uint64_t size_bytes;
    unsigned region_count;
    struct guest_ram_region regions[GUEST_RAM_REGIONS_MAX];
    atomic_bool tracking;
    /* One bit per page; made by the first guest_ram_track_dirty(true), kept until the
     * end. */
    _Atomic(uint64_t) *_Atomic dirty[GUEST_RAM_REGIONS_MAX];
};

static uint64_t region_words(const struct guest_ram_region *region)
{
    return (region->size_bytes / GUEST_PAGE_SIZE + 63) / 64;
}

/* What the host could give without swapping; UINT64_MAX when it can't be told. */
static uint64_t host_available_bytes(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    if (file == NULL) {
        return UINT64_MAX;
    }
    char line[128];
    uint64_t kib = UINT64_MAX / 1024;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1) {
            break;
        }
    }
    (void)fclose(file); /* only read */
    return kib * 1024;
}

static int size_judge(uint64_t size_bytes, struct error *err)
{
    if (size_bytes < MIB || size_bytes % GUEST_PAGE_SIZE != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "memory of %" PRIu64
                         " bytes: give a multiple of 4 KiB, at least 1M",
                         size_bytes);
    }
    uint64_t available = host_available_bytes();
    if (size_bytes > available) {
        return error_set(err, DROVER_ELIMIT,
                         "%" PRIu64
                         " MiB of guest memory do not fit: this host has %" PRIu64
                         " MiB available; give less with --memory or stop other VMs",
                         size_bytes / MIB, available / MIB);
    }
    return 0;
}

static void regions_lay_out(struct guest_ram *ram)
{
    uint64_t low =
        ram->size_bytes < LAYOUT_LOW_RAM_END ? ram->size_bytes : LAYOUT_LOW_RAM_END;
    ram->regions[0] =
        (struct guest_ram_region){.gpa = 0, .size_bytes = low, .host = ram->mapping};
    ram->region_count = 1;
    if (ram->size_bytes > low) {
        ram->regions[1] = (struct guest_ram_region){
            .gpa = LAYOUT_HIGH_RAM_START,
            .size_bytes = ram->size_bytes - low,
            .host = ram->mapping + low,
        };
        ram->region_count = 2;
    }
}

int guest_ram_create(uint64_t size_bytes, struct guest_ram **ret_ram, struct error *err)
{
    int result = size_judge(size_bytes, err);
    if (result < 0) {
        return result;
    }
    CLEANUP(cleanup_fd) int fd = memfd_create("guest-ram", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size_bytes) < 0) {
        result = -errno;
        return error_set(err, result, "cannot make %" PRIu64 " MiB of guest memory: %s",
                         size_bytes / MIB, err_text(result));
    }
    struct guest_ram *ram = calloc(1, sizeof(*ram));
    if (ram == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    void *mapping =
        mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (mapping == MAP_FAILED) {
        result = -errno;
        free(ram);
        return error_set(err, result, "cannot map %" PRIu64 " MiB of guest memory: %s",
                         size_bytes / MIB, err_text(result));
    }
    ram->mapping = mapping;
    ram->size_bytes = size_bytes;
    ram->fd = take_fd(&fd);
    regions_lay_out(ram);
    /* A core of the VMM is about the VMM; the guest's memory is the guest's own. */
    (void)madvise(mapping, size_bytes, MADV_DONTDUMP);
    *ret_ram = ram;
    return 0;
}

void guest_ram_free(struct guest_ram *ram)
{
    if (ram == NULL) {
        return;
    }
    (void)munmap(ram->mapping, ram->size_bytes); /* fails only for ranges never mapped */
    cleanup_fd(&ram->fd);
    for (unsigned i = 0; i < GUEST_RAM_REGIONS_MAX; i++) {
        free((void *)ram->dirty[i]);
    }
    free(ram);
}

uint64_t guest_ram_size(const struct guest_ram *ram)
{
    return ram->size_bytes;
}

unsigned guest_ram_region_count(const struct guest_ram *ram)
{
    return ram->region_count;
}

const struct guest_ram_region *guest_ram_region(const struct guest_ram *ram,
                                                unsigned index)
{
    CHECK(index < ram->region_count);
    return &ram->regions[index];
}

static const struct guest_ram_region *region_find(const struct guest_ram *ram,
                                                  uint64_t gpa, size_t size)
{
    for (unsigned i = 0; i < ram->region_count; i++) {
        const struct guest_ram_region *region = &ram->regions[i];
        if (gpa >= region->gpa && gpa - region->gpa <= region->size_bytes &&
            size <= region->size_bytes - (gpa - region->gpa)) {
            return region;
        }
    }
    return NULL;
}

void *guest_ram_pointer(const struct guest_ram *ram, uint64_t gpa, size_t size)
{
    const struct guest_ram_region *region = region_find(ram, gpa, size);
    return region == NULL ? NULL : region->host + (gpa - region->gpa);
}

int guest_ram_read(const struct guest_ram *ram, uint64_t gpa, void *data, size_t size)
{
    const void *from = guest_ram_pointer(ram, gpa, size);
    if (from == NULL) {
        return -EFAULT;
    }
    memcpy(data, from, size);
    return 0;
}

int guest_ram_write(struct guest_ram *ram, uint64_t gpa, const void *data, size_t size)
{
    void *to = guest_ram_pointer(ram, gpa, size);
    if (to == NULL) {
        return -EFAULT;
    }
    memcpy(to, data, size);
    guest_ram_mark_dirty(ram, gpa, size);
    return 0;
}

void guest_ram_mark_dirty(struct guest_ram *ram, uint64_t gpa, size_t size)
{
    if (size == 0 || !atomic_load_explicit(&ram->tracking, memory_order_acquire)) {
        return;
    }
    const struct guest_ram_region *region = region_find(ram, gpa, size);
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

int guest_ram_populated(const struct guest_ram *ram, unsigned region_index, uint64_t from,
                        uint64_t *ret_start, uint64_t *ret_end)
{
    CHECK(region_index < ram->region_count);
    const struct guest_ram_region *region = &ram->regions[region_index];
    uint64_t first = (uint64_t)(region->host - ram->mapping);
    uint64_t last = first + region->size_bytes;
    if (from >= region->size_bytes) {
        return 0;
    }
    /* The memfd knows what is backed, also what is swapped out. Nobody else uses its
     * position. */
    off_t data = lseek(ram->fd, (off_t)(first + from), SEEK_DATA);
    if (data < 0) {
        return errno == ENXIO ? 0 : -errno;
    }
    if ((uint64_t)data >= last) {
        return 0;
    }
    off_t hole = lseek(ram->fd, data, SEEK_HOLE);
    if (hole < 0) {
        return -errno;
    }
    uint64_t end = (uint64_t)hole < last ? (uint64_t)hole : last;
    *ret_start = (uint64_t)data - first;
    *ret_end = end - first;
    return 1;
}
