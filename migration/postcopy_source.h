/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's part of post-copy: after the go it keeps the guest's memory, which it
 * never runs again, and sends what the target lacks: first what somebody waits for there,
 * then the rest. A lost link is waited for: both sides keep what they have. For source.c,
 * rounds.c and handover.c; engine's thread but where said.
 */
#ifndef DROVER_MIGRATION_POSTCOPY_SOURCE_H
#define DROVER_MIGRATION_POSTCOPY_SOURCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/crc32c.h"
#include "migration/guest.h"
#include "migration/zero.h"

struct migration_source;

struct postcopy_source {
    bool agreed;  /* the target can, and pages were made absent there */
    bool entered; /* the go was sent, or may have been */
    uint64_t session;
    /* private */
    bool connects;   /* by itself; else a link is handed to it */
    bool done_heard; /* the target runs the guest */
    uint64_t stopped_ns, go_sent_ns;
    uint64_t *told[MIGRATION_REGIONS_MAX]; /* pages that the target knows to be missing */
    unsigned region;                       /* where the background goes on */
    uint64_t page;
    uint64_t pages_sent, pages_placed; /* over this link */
    uint64_t pages_after;              /* over all of them */
    uint64_t heard_ms, heard_bytes;
    uint64_t published_ms;
    zero_page_function is_zero;
    crc32c_function crc32c;
    struct {
        pthread_mutex_t lock;
        bool quit, proven; /* the one rules out the other: proven: the target runs */
        bool resume;
        int link_fd;
    } orders; /* any thread */
};

int postcopy_source_init(struct migration_source *source, bool connects);
void postcopy_source_done(struct migration_source *source);

/*
 * While the guest runs: asks the target, and tells it what is missing as far as it is
 * known. 0 with `agreed` set or, with the target's reason in `ret_why`, not. Else fills
 * source->err.
 */
int postcopy_source_ask(struct migration_source *source, struct error *ret_why);
/* The guest stands: tells what else is missing. Fills source->err. */
int postcopy_source_missing(struct migration_source *source);
/* What the target may send while READY is waited for: true if it was that, with the
 * result of serving it. */
bool postcopy_source_hears(struct migration_source *source, unsigned type,
                           const uint8_t *payload, size_t size, int *ret_result);
/*
 * From the go on, until the target has all, or somebody ends it. `link_error`: of sending
 * the go. Fills source->err, and moves the state but for the last time.
 */
int postcopy_source_run(struct migration_source *source, uint64_t stopped_ns,
                        uint64_t go_sent_ns, int link_error);
/* The thread shall end. False: the target is known to run the guest, and `if_unproven`.
 * Any thread. */
bool postcopy_source_quit(struct migration_source *source, bool if_unproven);

#endif
