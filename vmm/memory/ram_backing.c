/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the host: memfd, huge pages, anonymous. */
#include "vmm/memory/ram_backing.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"

#define MIB              (UINT64_C(1) << 20)
#define PAGE_BYTES       4096u
#define POPULATE_THREADS 8u
#define POPULATE_BYTES   (64 * MIB) /* a thread's least part */

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)

/* ---- making ------------------------------------------------------------------------ */

static uint64_t number_read(const char *path)
{
    uint64_t number = 0;
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return 0;
    }
    if (fscanf(file, "%" SCNu64, &number) != 1) {
        number = 0;
    }
    (void)fclose(file); /* only read */
    return number;
}

#define HUGE_FOLDER "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static int huge_refuse(uint64_t size_bytes, struct error *err)
{
    uint64_t free_pages = number_read(HUGE_FOLDER "free_hugepages");
    uint64_t taken = number_read(HUGE_FOLDER "resv_hugepages");
    return error_set(err, DROVER_ELIMIT,
                     "--huge-pages: %" PRIu64 " MiB need %" PRIu64
                     " huge pages of 2 MiB, this host has %" PRIu64
                     " to give: set more aside by /proc/sys/vm/nr_hugepages, or leave "
                     "--huge-pages out",
                     size_bytes / MIB, size_bytes / RAM_BACKING_HUGE_BYTES,
                     free_pages > taken ? free_pages - taken : 0);
}

/* A place of the address space whose start suits huge pages; the caller maps over it. */
static uint8_t *place_reserve(uint64_t size_bytes)
{
    uint64_t whole = size_bytes + RAM_BACKING_HUGE_BYTES;
    uint8_t *place =
        mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) {
        return NULL;
    }
    uint64_t ahead = -(uintptr_t)place % RAM_BACKING_HUGE_BYTES;
    /* What lies around it; both fail only for ranges that were never mapped. */
    if (ahead > 0) {
        (void)munmap(place, ahead);
    }
    if (ahead < RAM_BACKING_HUGE_BYTES) {
        (void)munmap(place + ahead + size_bytes, RAM_BACKING_HUGE_BYTES - ahead);
    }
    return place + ahead;
}

static int file_make(struct ram_backing *backing)
{
    if (backing->kind == RAM_BACKING_PRIVATE) {
        return 0;
    }
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (backing->kind == RAM_BACKING_HUGE) {
        flags |= MFD_HUGETLB | MFD_HUGE_2MB;
    }
    backing->fd = memfd_create("guest-ram", flags);
    if (backing->fd < 0) {
        return -errno;
    }
    /* Whoever it is shared with can't cut it off under us. */
    return ftruncate(backing->fd, (off_t)backing->size_bytes) < 0 ||
                   fcntl(backing->fd, F_ADD_SEALS,
                         F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0
               ? -errno
               : 0;
}

static int memory_map(struct ram_backing *backing)
{
    int flags = MAP_FIXED;
    switch (backing->kind) {
    case RAM_BACKING_SHARED:
        flags |= MAP_SHARED | MAP_NORESERVE;
        break;
    case RAM_BACKING_HUGE:
        /* Set aside now: one that is missing later would be a SIGBUS. */
        flags |= MAP_SHARED;
        break;
    case RAM_BACKING_PRIVATE:
        flags |= MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        break;
    }
    uint8_t *place = place_reserve(backing->size_bytes);
    if (place == NULL) {
        return -ENOMEM;
    }
    void *mapping =
        mmap(place, backing->size_bytes, PROT_READ | PROT_WRITE, flags, backing->fd, 0);
    if (mapping == MAP_FAILED) {
        int result = -errno;
        (void)munmap(place, backing->size_bytes); /* was mapped just now */
        return result;
    }
    backing->mapping = mapping;
    return 0;
}

static int merging_begin(struct ram_backing *backing, struct error *err)
{
    if (madvise(backing->mapping, backing->size_bytes, MADV_MERGEABLE) < 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "--mergeable: this host's kernel has no KSM: leave it out");
    }
    backing->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    return 0; /* without it all pages count as populated */
}

int ram_backing_make(struct ram_backing *backing, enum ram_backing_kind kind,
                     uint64_t size_bytes, struct error *err)
{
    *backing = (struct ram_backing){
        .kind = kind, .fd = -1, .pagemap_fd = -1, .size_bytes = size_bytes};
    int result = file_make(backing);
    result = result < 0 ? result : memory_map(backing);
    if (result < 0 && kind == RAM_BACKING_HUGE) {
        result = huge_refuse(size_bytes, err);
    } else if (result < 0) {
        (void)error_set(err, result, "cannot make %" PRIu64 " MiB of guest memory: %s",
                        size_bytes / MIB, err_text(result));
    } else if (kind == RAM_BACKING_PRIVATE) {
        result = merging_begin(backing, err);
    } else if (kind == RAM_BACKING_SHARED) {
        /* Huge pages where the host's policy for shared memory is "advise". */
        (void)madvise(backing->mapping, size_bytes, MADV_HUGEPAGE);
    }
    if (result < 0) {
        ram_backing_done(backing);
        return result;
    }
    /* A core of the VMM is about the VMM; the guest's memory is the guest's own. */
    (void)madvise(backing->mapping, size_bytes, MADV_DONTDUMP);
    return 0;
}

void ram_backing_done(struct ram_backing *backing)
{
    if (backing->mapping != NULL) {
        (void)munmap(backing->mapping, backing->size_bytes); /* it is mapped */
        backing->mapping = NULL;
    }
    cleanup_fd(&backing->fd);
    cleanup_fd(&backing->pagemap_fd);
    backing->fd = -1;
    backing->pagemap_fd = -1;
}

/* ---- populating -------------------------------------------------------------------- */

struct part {
    pthread_t thread;
    uint8_t *start;
    uint64_t size_bytes;
    int result;
};

static void *part_populate(void *argument)
{
    struct part *part = argument;
    part->result = 0;
    if (madvise(part->start, part->size_bytes, MADV_POPULATE_WRITE) == 0) {
        return NULL;
    }
    part->result = -errno;
    if (errno == EINVAL) { /* before Linux 5.14; the memory is new, nothing is lost */
        memset(part->start, 0, part->size_bytes);
        part->result = 0;
    }
    return NULL;
}

int ram_backing_populate(struct ram_backing *backing, struct error *err)
{
    struct part parts[POPULATE_THREADS];
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t count = (backing->size_bytes + POPULATE_BYTES - 1) / POPULATE_BYTES;
    count = count > POPULATE_THREADS ? POPULATE_THREADS : count;
    count = processors > 0 && count > (uint64_t)processors ? (uint64_t)processors : count;
    uint64_t step =
        backing->size_bytes / count / RAM_BACKING_HUGE_BYTES * RAM_BACKING_HUGE_BYTES;
    int result = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t start = i * step;
        parts[i] = (struct part){
            .start = backing->mapping + start,
            .size_bytes = i + 1 == count ? backing->size_bytes - start : step,
        };
        /* The first part is done here, as is one that gets no thread. */
        if (i == 0 ||
            pthread_create(&parts[i].thread, NULL, part_populate, &parts[i]) != 0) {
            parts[i].thread = pthread_self();
        }
    }
    for (unsigned i = 0; i < count; i++) {
        if (pthread_equal(parts[i].thread, pthread_self())) {
            (void)part_populate(&parts[i]);
        } else {
            CHECK(pthread_join(parts[i].thread, NULL) == 0);
        }
        result = parts[i].result < 0 ? parts[i].result : result;
    }
    return result == 0
               ? 0
               : error_set(err, result,
                           "--prealloc: the host has not enough memory for %" PRIu64
                           " MiB: %s; give less with --memory",
                           backing->size_bytes / MIB, err_text(result));
}

void ram_backing_back(struct ram_backing *backing, uint64_t offset, uint64_t size)
{
    CHECK(offset + size <= backing->size_bytes);
    if (backing->kind != RAM_BACKING_HUGE) {
        /* Linux knows it since 5.14; and who has no memory for it learns that later. */
        (void)madvise(backing->mapping + offset, size, MADV_POPULATE_WRITE);
    }
}

/* ---- giving back ------------------------------------------------------------------- */

int ram_backing_discard(struct ram_backing *backing, uint64_t offset, uint64_t size)
{
    CHECK(offset % PAGE_BYTES == 0 && size % PAGE_BYTES == 0);
    CHECK(offset + size <= backing->size_bytes);
    int result = 0;
    switch (backing->kind) {
    case RAM_BACKING_SHARED:
        result = fallocate(backing->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)offset, (off_t)size);
        break;
    case RAM_BACKING_PRIVATE:
        result = madvise(backing->mapping + offset, size, MADV_DONTNEED);
        break;
    case RAM_BACKING_HUGE:
        break; /* who takes one away finds none when the guest wants it back */
    }
    return result < 0 ? -errno : 0;
}

/* ---- what is there ----------------------------------------------------------------- */

/* The memfd knows what is backed, also what is swapped out. Nobody else uses its
 * position. */
static int shared_populated(const struct ram_backing *backing, uint64_t from,
                            uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
    off_t data = lseek(backing->fd, (off_t)from, SEEK_DATA);
    if (data < 0) {
        return errno == ENXIO ? 0 : -errno;
    }
    if ((uint64_t)data >= end) {
        return 0;
    }
    off_t hole = lseek(backing->fd, data, SEEK_HOLE);
    if (hole < 0) {
        return -errno;
    }
    *ret_start = (uint64_t)data;
    *ret_end = (uint64_t)hole;
    return 1;
}

#define LOOK_PAGES 512u

/* One bit per page for LOOK_PAGES pages from `from` on, by the page tables. */
static int look(const struct ram_backing *backing, uint64_t from, uint64_t page_count,
                bool *ret_there)
{
    if (backing->kind == RAM_BACKING_HUGE) {
        unsigned char resident[LOOK_PAGES];
        if (mincore(backing->mapping + from, page_count * PAGE_BYTES, resident) < 0) {
            return -errno;
        }
        for (uint64_t i = 0; i < page_count; i++) {
            ret_there[i] = (resident[i] & 1) != 0;
        }
        return 0;
    }
    uint64_t entries[LOOK_PAGES];
    uint64_t first = ((uintptr_t)backing->mapping + from) / PAGE_BYTES;
    ssize_t size = (ssize_t)(page_count * sizeof(entries[0]));
    bool known =
        backing->pagemap_fd >= 0 && pread(backing->pagemap_fd, entries, (size_t)size,
                                          (off_t)(first * sizeof(entries[0]))) == size;
    for (uint64_t i = 0; i < page_count; i++) {
        ret_there[i] = !known || (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) != 0;
    }
    return 0;
}

static int looked_populated(const struct ram_backing *backing, uint64_t from,
                            uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
    bool there[LOOK_PAGES];
    bool found = false;
    for (uint64_t at = from / PAGE_BYTES * PAGE_BYTES; at < end;) {
        uint64_t page_count = (end - at) / PAGE_BYTES;
        page_count = page_count > LOOK_PAGES ? LOOK_PAGES : page_count;
        int result = look(backing, at, page_count, there);
        if (result < 0) {
            return result;
        }
        for (uint64_t i = 0; i < page_count; i++, at += PAGE_BYTES) {
            if (there[i] && !found) {
                found = true;
                *ret_start = at > from ? at : from;
            } else if (!there[i] && found) {
                *ret_end = at;
                return 1;
            }
        }
        if (found) {
            *ret_end = at; /* whoever wants more asks again from here */
            return 1;
        }
    }
    return 0;
}

int ram_backing_populated(const struct ram_backing *backing, uint64_t from, uint64_t end,
                          uint64_t *ret_start, uint64_t *ret_end)
{
    CHECK(end <= backing->size_bytes);
    if (from >= end) {
        return 0;
    }
    if (backing->kind != RAM_BACKING_SHARED) {
        return looked_populated(backing, from, end, ret_start, ret_end);
    }
    int result = shared_populated(backing, from, end, ret_start, ret_end);
    if (result > 0 && *ret_end > end) {
        *ret_end = end;
    }
    return result;
}
