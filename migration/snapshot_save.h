/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a running guest's memory to a sparse file by several threads: all that it ever
 * touched while it runs, again what it dirtied meanwhile, and the last of that, with its
 * devices' state, while it stands shortly. The guest is unharmed however that ends.
 */
#ifndef DROVER_MIGRATION_SNAPSHOT_SAVE_H
#define DROVER_MIGRATION_SNAPSHOT_SAVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/snapshot_map.h"

struct buffer;
struct error;
struct migration_guest;

#define SNAPSHOT_THREADS_MAX 4

struct snapshot_figures {
    uint64_t total_us;
    uint64_t pause_us; /* from the last vCPU's exit until the guest may go on */
    uint64_t bytes_written;
    uint64_t pages_written;
    uint64_t pages_zero;
    uint32_t rounds; /* the last, standing one included */
};

struct snapshot_save_config {
    struct migration_guest *guest; /* borrowed */
    int memory_fd;                 /* an empty file; borrowed */
    unsigned threads;              /* 1 to SNAPSHOT_THREADS_MAX */
    uint32_t drain_ms;             /* how long the guest may take to stand */
    /* The guest stands and its state is saved: the last word on whether that counts. May
     * be NULL. */
    int (*standing)(void *owner, struct error *err);
    void *owner;
    const atomic_bool *cancel;           /* looked at now and then */
    _Atomic(uint64_t) *bytes_remaining;  /* progress; NULL: nobody looks */
};

/*
 * Blocks; on return all is in the file, and stable. Appends the devices' state to
 * `state`; `ret_map` is the caller's to free on success. One line in `err`.
 */
int snapshot_save(const struct snapshot_save_config *config, struct buffer *state,
                  struct snapshot_map *ret_map, struct snapshot_figures *ret_figures,
                  struct error *err);

#endif
