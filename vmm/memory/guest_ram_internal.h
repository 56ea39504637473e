/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by guest_ram.c and guest_ram_dirty.c only. */
#ifndef DROVER_VMM_MEMORY_GUEST_RAM_INTERNAL_H
#define DROVER_VMM_MEMORY_GUEST_RAM_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/memory/guest_ram.h"
#include "vmm/memory/ram_backing.h"

struct guest_ram {
    struct ram_backing backing;
    atomic_bool fd_asked;
    pthread_mutex_t filling_lock;
    pthread_cond_t filled;
    atomic_uint held;       /* how often; nothing is given back then */
    atomic_uint discarding; /* calls under way */
    atomic_bool filling;    /* written under filling_lock */
    bool is_reserved; /* the guest's for good: what it does not use is not given back */
    uint64_t size_bytes;
    unsigned region_count;
    struct guest_ram_region regions[GUEST_RAM_REGIONS_MAX];
    atomic_bool tracking;
    /*
     * The range that guest_ram_populated() found last: the kernel finds the end of a
     * range by walking all of it, and callers ask for one small part after the other.
     * Good as long as nothing was given back since.
     */
    pthread_mutex_t found_lock;
    struct {
        uint64_t start, end; /* in the backing; empty: none */
        uint64_t discards;
    } found;
    atomic_uint_least64_t discards; /* how often something was given back */
    /* One bit per page; made by the first guest_ram_track_dirty(true), kept until the
     * end. */
    _Atomic(uint64_t) *_Atomic dirty[GUEST_RAM_REGIONS_MAX];
};

/* The region that all of the range lies in, or NULL. */
const struct guest_ram_region *guest_ram_region_find(const struct guest_ram *ram,
                                                     uint64_t gpa, size_t size);

#endif
