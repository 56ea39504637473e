/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest without KVM, for tests of the engine: memory that a thread of its own writes to
 * at a set rate, with a dirty log, and some "device state". Each written page holds what
 * its writer knows it must hold, so that after a move every page can be checked for lost
 * writes.
 */
#ifndef DROVER_TESTS_FAKE_GUEST_H
#define DROVER_TESTS_FAKE_GUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/guest.h"

#define FAKE_TOUCHES_MAX 64

struct fake_guest_config {
    uint64_t page_count;       /* in two regions of unequal size */
    uint64_t used_pages;       /* of the first region: written once at the start */
    uint64_t hot_pages;        /* of the used ones: written again and again */
    uint64_t pages_per_second; /* 0: nothing is written again */
    bool zeroes;               /* every fourth write makes the page zero */
};

struct fake_guest {
    struct migration_guest guest;
    struct fake_guest_config config;
    uint8_t *memory;
    uint64_t first_region_pages;
    atomic_uint_least64_t *dirty;
    /* What the writer wrote last to each page: part of the device state, as a guest's
     * registers would be. */
    uint64_t *generation;
    atomic_uint_least64_t writes;
    pthread_t writer;
    bool writer_started;
    atomic_bool run;  /* the "vCPU" may run */
    atomic_bool quit; /* the thread ends */
    atomic_bool running;
    atomic_bool logging;

    /* what the engine did */
    atomic_bool handed_over;
    atomic_bool abandoned;
    atomic_bool started; /* on the target, by the go */
    atomic_bool locked;  /* what only one side can hold */
    atomic_int goes_on;
    atomic_int announced;

    /* post-copy: pages that are absent; who touches one waits */
    struct {
        pthread_mutex_t lock;
        pthread_cond_t placed;
        uint64_t *absent;
        uint64_t touched[FAKE_TOUCHES_MAX]; /* not yet told to the engine */
        unsigned touched_count;
        int touched_fd;
        atomic_bool begun, ended;
        atomic_uint_least64_t waits;  /* how often somebody had to */
        atomic_uint_least64_t lost;   /* pages that did not hold what was written last */
        bool impossible;
        bool load_touches; /* loading the state touches pages, too */
    } missing;

    /* faults */
    int may_hand_over_error;
    int load_error;
    int claim_error;
    bool never_drains;
    uint32_t claim_sleep_ms;
};

/* `live`: has memory and runs. Else it waits for a move. Aborts on failure. */
void fake_guest_init(struct fake_guest *fake, const struct fake_guest_config *config,
                     bool live);
void fake_guest_done(struct fake_guest *fake);
bool fake_guest_runs(struct fake_guest *fake);
/* Stops the writer for good and counts the pages whose content is not what was last
 * written to them. */
uint64_t fake_guest_wrong_pages(struct fake_guest *fake);

#endif
