/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: its layout, checked access, and what is given back. Dirty pages:
 * guest_ram_dirty.c. */
#include "vmm/memory/guest_ram.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram_internal.h"

#define MIB (UINT64_C(1) << 20)

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

static int size_judge(const struct guest_ram_config *config, struct error *err)
{
    uint64_t size_bytes = config->size_bytes;
    if (size_bytes < MIB || size_bytes % GUEST_PAGE_SIZE != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "memory of %" PRIu64
                         " bytes: give a multiple of 4 KiB, at least 1M",
                         size_bytes);
    }
    if (config->huge_pages) {
        return size_bytes % RAM_BACKING_HUGE_BYTES == 0
                   ? 0
                   : error_set(err, DROVER_EBADINPUT,
                               "--huge-pages: --memory must be a multiple of 2M");
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
    ram->regions[0] = (struct guest_ram_region){
        .gpa = 0, .size_bytes = low, .host = ram->backing.mapping};
    ram->region_count = 1;
    if (ram->size_bytes > low) {
        ram->regions[1] = (struct guest_ram_region){
            .gpa = LAYOUT_HIGH_RAM_START,
            .size_bytes = ram->size_bytes - low,
            .host = ram->backing.mapping + low,
        };
        ram->region_count = 2;
    }
}

int guest_ram_create(uint64_t size_bytes, struct guest_ram **ret_ram, struct error *err)
{
    const struct guest_ram_config config = {.size_bytes = size_bytes};
    return guest_ram_create_config(&config, ret_ram, err);
}

int guest_ram_create_config(const struct guest_ram_config *config,
                            struct guest_ram **ret_ram, struct error *err)
{
    CHECK(!config->huge_pages || !config->mergeable);
    int result = size_judge(config, err);
    if (result < 0) {
        return result;
    }
    struct guest_ram *ram = calloc(1, sizeof(*ram));
    if (ram == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    enum ram_backing_kind kind = config->huge_pages  ? RAM_BACKING_HUGE
                                 : config->mergeable ? RAM_BACKING_PRIVATE
                                                     : RAM_BACKING_SHARED;
    result = ram_backing_make(&ram->backing, kind, config->size_bytes, err);
    if (result < 0) {
        free(ram);
        return result;
    }
    CHECK(pthread_mutex_init(&ram->filling_lock, NULL) == 0);
    CHECK(pthread_cond_init(&ram->filled, NULL) == 0);
    CHECK(pthread_mutex_init(&ram->found_lock, NULL) == 0);
    ram->size_bytes = config->size_bytes;
    ram->is_reserved = config->huge_pages || config->preallocated;
    regions_lay_out(ram);
    if (config->preallocated) {
        result = ram_backing_populate(&ram->backing, err);
        if (result < 0) {
            guest_ram_free(ram);
            return result;
        }
    }
    *ret_ram = ram;
    return 0;
}

void guest_ram_free(struct guest_ram *ram)
{
    if (ram == NULL) {
        return;
    }
    ram_backing_done(&ram->backing);
    for (unsigned i = 0; i < GUEST_RAM_REGIONS_MAX; i++) {
        free((void *)ram->dirty[i]);
    }
    (void)pthread_cond_destroy(&ram->filled); /* nobody uses them any more */
    (void)pthread_mutex_destroy(&ram->filling_lock);
    (void)pthread_mutex_destroy(&ram->found_lock);
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

uint64_t guest_ram_offset(const struct guest_ram *ram, unsigned index)
{
    return (uint64_t)(guest_ram_region(ram, index)->host - ram->backing.mapping);
}

const struct guest_ram_region *guest_ram_region_find(const struct guest_ram *ram,
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
    const struct guest_ram_region *region = guest_ram_region_find(ram, gpa, size);
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

void guest_ram_filling_set(struct guest_ram *ram, bool filling)
{
    CHECK(pthread_mutex_lock(&ram->filling_lock) == 0);
    atomic_store(&ram->filling, filling);
    CHECK(pthread_cond_broadcast(&ram->filled) == 0);
    CHECK(pthread_mutex_unlock(&ram->filling_lock) == 0);
}

static void filled_wait(struct guest_ram *ram)
{
    CHECK(pthread_mutex_lock(&ram->filling_lock) == 0);
    while (atomic_load(&ram->filling)) {
        CHECK(pthread_cond_wait(&ram->filled, &ram->filling_lock) == 0);
    }
    CHECK(pthread_mutex_unlock(&ram->filling_lock) == 0);
}

/* As ram_backing_populated(), and remembers. */
static int populated_find(struct guest_ram *ram, uint64_t from, uint64_t limit,
                          uint64_t *ret_start, uint64_t *ret_end)
{
    uint64_t discards = atomic_load(&ram->discards);
    CHECK(pthread_mutex_lock(&ram->found_lock) == 0);
    bool known = ram->found.discards == discards && from >= ram->found.start &&
                 from < ram->found.end;
    uint64_t known_end = ram->found.end < limit ? ram->found.end : limit;
    CHECK(pthread_mutex_unlock(&ram->found_lock) == 0);
    if (known) {
        *ret_start = from;
        *ret_end = known_end;
        return 1;
    }
    int result = ram_backing_populated(&ram->backing, from, limit, ret_start, ret_end);
    if (result > 0) {
        CHECK(pthread_mutex_lock(&ram->found_lock) == 0);
        ram->found.start = *ret_start;
        ram->found.end = *ret_end;
        ram->found.discards = discards;
        CHECK(pthread_mutex_unlock(&ram->found_lock) == 0);
    }
    return result;
}

int guest_ram_populated(struct guest_ram *ram, unsigned region_index, uint64_t from,
                        uint64_t *ret_start, uint64_t *ret_end)
{
    const struct guest_ram_region *region = guest_ram_region(ram, region_index);
    uint64_t first = (uint64_t)(region->host - ram->backing.mapping);
    uint64_t start = 0;
    uint64_t end = 0;
    if (from >= region->size_bytes) {
        return 0;
    }
    filled_wait(ram);
    int result =
        populated_find(ram, first + from, first + region->size_bytes, &start, &end);
    if (result > 0) {
        *ret_start = start - first;
        *ret_end = end - first;
    }
    return result;
}

uint64_t guest_ram_discards(const struct guest_ram *ram)
{
    return atomic_load(&ram->discards);
}

uint64_t guest_ram_resident(const struct guest_ram *ram)
{
    struct stat status;
    uint64_t size = guest_ram_size(ram);
    if (ram->backing.fd < 0 || fstat(ram->backing.fd, &status) < 0) {
        return size;
    }
    uint64_t resident = (uint64_t)status.st_blocks * 512;
    return resident < size ? resident : size;
}

int guest_ram_fd(struct guest_ram *ram)
{
    atomic_store(&ram->fd_asked, true);
    return ram->backing.fd;
}

bool guest_ram_is_shared(const struct guest_ram *ram)
{
    return atomic_load(&ram->fd_asked);
}

bool guest_ram_is_reserved(const struct guest_ram *ram)
{
    return ram->is_reserved;
}

bool guest_ram_can_discard(const struct guest_ram *ram)
{
    return ram->backing.kind != RAM_BACKING_HUGE && !atomic_load(&ram->filling) &&
           atomic_load(&ram->held) == 0;
}

void guest_ram_hold(struct guest_ram *ram, bool hold)
{
    if (!hold) {
        CHECK(atomic_fetch_sub(&ram->held, 1) > 0);
        return;
    }
    atomic_fetch_add(&ram->held, 1);
    /* Whoever had looked before is about to finish. */
    while (atomic_load(&ram->discarding) != 0) {
        (void)sched_yield(); /* it can't fail */
    }
}

int guest_ram_discard(struct guest_ram *ram, uint64_t gpa, uint64_t size)
{
    const struct guest_ram_region *region = guest_ram_region_find(ram, gpa, size);
    if (region == NULL) {
        return -EFAULT;
    }
    if (gpa % GUEST_PAGE_SIZE != 0 || size % GUEST_PAGE_SIZE != 0) {
        return -EINVAL;
    }
    uint64_t offset =
        (uint64_t)(region->host - ram->backing.mapping) + (gpa - region->gpa);
    atomic_fetch_add(&ram->discarding, 1);
    bool busy = atomic_load(&ram->filling) || atomic_load(&ram->held) != 0;
    int result = busy ? -EBUSY : ram_backing_discard(&ram->backing, offset, size);
    atomic_fetch_sub(&ram->discarding, 1);
    if (busy) {
        return result;
    }
    atomic_fetch_add(&ram->discards, 1);
    /* After it: whoever sends the page finds it zero. */
    guest_ram_mark_dirty(ram, gpa, size);
    return result;
}

int guest_ram_vacate(struct guest_ram *ram, uint64_t gpa, uint64_t size)
{
    const struct guest_ram_region *region = guest_ram_region_find(ram, gpa, size);
    if (region == NULL || guest_ram_is_huge(ram)) {
        return -EFAULT;
    }
    return ram_backing_discard(&ram->backing,
                               (uint64_t)(region->host - ram->backing.mapping) +
                                   (gpa - region->gpa),
                               size);
}

bool guest_ram_is_huge(const struct guest_ram *ram)
{
    return ram->backing.kind == RAM_BACKING_HUGE;
}

void guest_ram_zero(struct guest_ram *ram, uint64_t gpa, uint64_t size)
{
    uint8_t *host = guest_ram_pointer(ram, gpa, size);
    CHECK(host != NULL && gpa % GUEST_PAGE_SIZE == 0 && size % GUEST_PAGE_SIZE == 0);
    bool gives_back = guest_ram_can_discard(ram) && !ram->is_reserved;
    if (!gives_back || guest_ram_discard(ram, gpa, size) < 0) {
        memset(host, 0, size);
        guest_ram_mark_dirty(ram, gpa, size);
    }
}

void guest_ram_back(struct guest_ram *ram, uint64_t gpa, uint64_t size)
{
    const struct guest_ram_region *region = guest_ram_region_find(ram, gpa, size);
    if (region != NULL) {
        ram_backing_back(&ram->backing,
                         (uint64_t)(region->host - ram->backing.mapping) +
                             (gpa - region->gpa),
                         size);
    }
}
