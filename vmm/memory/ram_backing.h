/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's memory behind the guest's: made and mapped once, given back in parts while
 * the guest runs. For guest_ram.c only; offsets are bytes from the start of the mapping.
 */
#ifndef DROVER_VMM_MEMORY_RAM_BACKING_H
#define DROVER_VMM_MEMORY_RAM_BACKING_H

#include <stdbool.h>
#include <stdint.h>

struct error;

#define RAM_BACKING_HUGE_BYTES (UINT64_C(2) << 20)

enum ram_backing_kind {
    RAM_BACKING_SHARED,  /* a memfd: other processes can be given it */
    RAM_BACKING_HUGE,    /* a memfd of huge pages, all of them set aside */
    RAM_BACKING_PRIVATE, /* anonymous memory, the only one that KSM merges */
};

struct ram_backing {
    enum ram_backing_kind kind;
    int fd;         /* -1 where private */
    int pagemap_fd; /* where private; -1: can't be told */
    uint8_t *mapping;
    uint64_t size_bytes;
};

/* Nothing of it is touched. `err` says what to do. */
int ram_backing_make(struct ram_backing *backing, enum ram_backing_kind kind,
                     uint64_t size_bytes, struct error *err);
void ram_backing_done(struct ram_backing *backing);
/* All of it is made to be there, by several threads. */
int ram_backing_populate(struct ram_backing *backing, struct error *err);
/* A part that will be written soon: best effort. */
void ram_backing_back(struct ram_backing *backing, uint64_t offset, uint64_t size);
/* Gives pages back: they read as zero from then on. Nothing where huge. */
int ram_backing_discard(struct ram_backing *backing, uint64_t offset, uint64_t size);
/* The next range at or after `from` that is there: 1, 0 when there is none below `end`.
 */
int ram_backing_populated(const struct ram_backing *backing, uint64_t from, uint64_t end,
                          uint64_t *ret_start, uint64_t *ret_end);

#endif
