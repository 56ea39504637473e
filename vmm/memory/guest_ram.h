/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's memory: mapped once (vmm/memory/ram_backing.h), laid out below and above
 * the PCI hole. The only way to it: every access is checked against the layout, and data
 * is copied once and then judged. After creation all functions may be called from any
 * thread; there is no lock, because the guest writes at any time anyway. Writes by
 * devices mark pages dirty for migration.
 */
#ifndef DROVER_VMM_MEMORY_GUEST_RAM_H
#define DROVER_VMM_MEMORY_GUEST_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct error;
struct guest_ram;

#define GUEST_PAGE_SIZE       4096u
#define GUEST_RAM_REGIONS_MAX 2

struct guest_ram_region {
    uint64_t gpa;        /* guest-physical start */
    uint64_t size_bytes; /* multiple of GUEST_PAGE_SIZE */
    uint8_t *host;       /* where it is mapped here */
};

struct guest_ram_config {
    uint64_t size_bytes;
    bool huge_pages;   /* of 2 MiB, set aside by the host's administrator */
    bool mergeable;    /* by KSM: then other processes can't be given it */
    bool preallocated; /* all of it is there from the start */
};

/* -ENOMEM or DROVER_ELIMIT, with what to do in `err`. The caller frees. */
int guest_ram_create_config(const struct guest_ram_config *config,
                            struct guest_ram **ret_ram, struct error *err);
/* With none of the options. */
int guest_ram_create(uint64_t size_bytes, struct guest_ram **ret_ram, struct error *err);
void guest_ram_free(struct guest_ram *ram);

uint64_t guest_ram_size(const struct guest_ram *ram);
unsigned guest_ram_region_count(const struct guest_ram *ram);
const struct guest_ram_region *guest_ram_region(const struct guest_ram *ram,
                                                unsigned index);

/* Copies; -EFAULT (and nothing copied) unless the whole range is memory. */
int guest_ram_read(const struct guest_ram *ram, uint64_t gpa, void *data, size_t size);
int guest_ram_write(struct guest_ram *ram, uint64_t gpa, const void *data, size_t size);

/* The memfd, in which a region's bytes begin where region->host - region 0's host says;
 * -1 when the memory is mergeable, and this process' own. Borrowed. Who will hand it to
 * another process asks before the VM starts. */
int guest_ram_fd(struct guest_ram *ram);
/* Bytes of the host's memory behind it, so far as that is cheap to know; else its size. Any
 * thread. */
uint64_t guest_ram_resident(const struct guest_ram *ram);
/* Where in it a region begins. */
uint64_t guest_ram_offset(const struct guest_ram *ram, unsigned index);
/* Somebody has asked for it. */
bool guest_ram_is_shared(const struct guest_ram *ram);

/*
 * While a snapshot's memory is still on its way here, nothing is given back, and
 * guest_ram_populated() waits. Any thread.
 */
void guest_ram_filling_set(struct guest_ram *ram, bool filling);

/*
 * A range for direct I/O (io_uring, readv): NULL unless all of it is memory in one
 * region. Data behind it may change at any time. After something was written into it,
 * call guest_ram_mark_dirty().
 */
void *guest_ram_pointer(const struct guest_ram *ram, uint64_t gpa, size_t size);
void guest_ram_mark_dirty(struct guest_ram *ram, uint64_t gpa, size_t size);

/*
 * Pages that devices (not vCPUs) wrote, while tracking is on. Fetch hands out the bitmap
 * of a region (bit n = page n; `bitmap` has (pages+63)/64 words, is OR-ed into) and
 * clears it atomically, word by word.
 */
int guest_ram_track_dirty(struct guest_ram *ram, bool on);
void guest_ram_fetch_dirty(struct guest_ram *ram, unsigned region_index,
                           uint64_t *bitmap);
/* The same for `page_count` pages from `first_page` (a multiple of 64) on; bit 0 of
 * `bitmap` is first_page. */
void guest_ram_fetch_dirty_range(struct guest_ram *ram, unsigned region_index,
                                 uint64_t *bitmap, uint64_t first_page,
                                 uint64_t page_count);
/* The two halves of that: looks, and clears what `bitmap` holds. */
void guest_ram_peek_dirty(struct guest_ram *ram, unsigned region_index, uint64_t *bitmap);
void guest_ram_forget_dirty(struct guest_ram *ram, unsigned region_index,
                            const uint64_t *bitmap, uint64_t first_page,
                            uint64_t page_count);

/*
 * The next range of a region, in bytes from its start and at or after `from`, that was
 * ever touched: 1, or 0 when there is none; -errno. Memory outside is zero, and reading
 * it would back it for nothing.
 */
int guest_ram_populated(struct guest_ram *ram, unsigned region_index, uint64_t from,
                        uint64_t *ret_start, uint64_t *ret_end);

/* How often something was given back to the host: as long as it does not change, what was
 * populated is. Any thread. */
uint64_t guest_ram_discards(const struct guest_ram *ram);

/* Whole pages that will be written soon: backs them with one system call. That it can't
 * shows when they are written. Any thread. */
void guest_ram_back(struct guest_ram *ram, uint64_t gpa, uint64_t size);

/*
 * Gives whole pages back to the host: from then on they read as zero, count as dirty, and
 * are outside of what guest_ram_populated() finds, until somebody writes to them. Any
 * thread. -EFAULT unless all of it is memory in one region, -EINVAL unless whole pages.
 * -EBUSY while it is filled or held. Huge pages stay and keep what they hold;
 * guest_ram_can_discard() is false in all three cases.
 */
int guest_ram_discard(struct guest_ram *ram, uint64_t gpa, uint64_t size);
/* As often as true, until as often false: nothing is given back. Devices may have the
 * pages. Any thread. */
void guest_ram_hold(struct guest_ram *ram, bool hold);
/* For whoever fills it: whole pages become absent, for the next access to fill again. */
int guest_ram_vacate(struct guest_ram *ram, uint64_t gpa, uint64_t size);
bool guest_ram_is_huge(const struct guest_ram *ram);
bool guest_ram_can_discard(const struct guest_ram *ram);
/* Huge pages or preallocated: what the guest merely does not use is not to be taken. */
bool guest_ram_is_reserved(const struct guest_ram *ram);
/* Whole pages within one region become zero, by giving them back where that is wanted. */
void guest_ram_zero(struct guest_ram *ram, uint64_t gpa, uint64_t size);

#endif
