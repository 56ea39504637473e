/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slows down the vCPUs that write most, and no others. Who writes is found out by letting
 * each run alone for a few milliseconds: a vCPU that dirties nothing then is told from one
 * that does also where the host is busy. (The other way round, one standing at a time, the
 * difference of two rates was mostly noise.) Engine's thread.
 */
#ifndef DROVER_MIGRATION_THROTTLE_H
#define DROVER_MIGRATION_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

struct migration_guest;

struct throttle {
    struct migration_guest *guest;
    unsigned vcpu_count;           /* 0: nobody can be throttled */
    bool measured;                 /* the shares are known */
    unsigned permille[LIMIT_VCPUS]; /* of all writes that vCPUs make */
    bool writer[LIMIT_VCPUS];      /* is throttled when anybody is */
    unsigned writers_permille;     /* what all of these make */
    unsigned percent;              /* in force */
};

void throttle_init(struct throttle *throttle, struct migration_guest *guest);
/*
 * Finds out who writes; the dirty log is on, nobody is throttled, and all together are
 * known to dirty so many pages a second. Pages that are seen
 * dirty meanwhile are ORed into keep[region].
 */
int throttle_measure(struct throttle *throttle, uint64_t pages_per_second,
                     uint64_t **keep);
/* From the shares: the fewest vCPUs that make nearly all writes. Pure. */
void throttle_choose(struct throttle *throttle);
/* The writers are kept out of the guest for so much of their time; 0 lifts it. */
int throttle_set(struct throttle *throttle, unsigned percent);

#endif
