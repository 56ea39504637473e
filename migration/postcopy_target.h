/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target's part of post-copy. From POSTCOPY_ASK on three threads work: the
 * engine's receives and places pages, one asks for what somebody touches, and one loads
 * the devices' state and starts the guest (both may touch memory that is not there). A
 * lost link is waited for: all that came is kept. For target.c; engine's thread but where
 * said.
 */
#ifndef DROVER_MIGRATION_POSTCOPY_TARGET_H
#define DROVER_MIGRATION_POSTCOPY_TARGET_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/crc32c.h"
#include "migration/guest.h"
#include "migration/wire_postcopy.h"

struct arrival;
struct gate;
struct migration_times;
struct status_board;
struct stream_in;
struct stream_out;
struct transport_link;
struct transport_listener;

/* What it shares with the rest of the target. All borrowed. */
struct postcopy_target_config {
    struct migration_guest *guest;
    const struct migration_times *times;
    uint64_t vm_id;
    struct gate *gate;
    struct status_board *board;
    struct transport_listener *listener;
    struct transport_link **link;
    struct stream_out *out;
    struct stream_in *in;
    struct arrival *arrival;
    const unsigned *placing; /* links that write straight into memory */
    int cancel_fd;
    struct error *err;
};

struct postcopy_target {
    struct postcopy_target_config config;
    uint64_t session; /* of HELLO */
    bool begun;       /* agreed upon: pages may be missing */
    /* private */
    pthread_mutex_t lock;     /* maps, runner */
    pthread_mutex_t out_lock; /* the link's outward side, and whether there is one */
    bool linked;
    struct {
        uint64_t page_count;
        uint64_t *missing; /* bit n: page n has not come */
        uint64_t *asked;   /* of these: somebody waits for it */
    } regions[MIGRATION_REGIONS_MAX];
    unsigned region_count;
    uint64_t missing_count;
    uint64_t placed, placed_told; /* over this link */
    struct {
        uint64_t data, zero; /* pages */
        uint64_t bytes;
        uint64_t told_ms;
    } after; /* what came after the go; engine's thread */
    uint64_t heard_ms, heard_bytes;
    uint8_t *staging;
    crc32c_function crc32c;
    int stop_fd;
    pthread_t fault_thread;
    bool fault_started;
    atomic_bool quit;
    struct {
        pthread_t thread;
        bool started;
        pthread_cond_t decided;
        uint8_t *state;
        size_t state_size;
        bool ready, failed, go, never; /* under lock, as the rest */
        uint64_t ready_ms;
        struct error err;
        struct wire_go order;
        uint64_t received_ns;
    } runner;
};

int postcopy_target_init(struct postcopy_target *postcopy,
                         const struct postcopy_target_config *config);
/* Its threads have ended. */
void postcopy_target_done(struct postcopy_target *postcopy);

/* POSTCOPY_ASK and MISSING: true if it was that, with the result; fills config.err. */
bool postcopy_target_hears(struct postcopy_target *postcopy, enum wire_type type,
                           const uint8_t *payload, size_t size, int *ret_result);
/*
 * Instead of load, READY and the wait for the go, once pages are missing: 0 when the go
 * was obeyed, and the guest is being started. Fills config.err; then the guest never
 * runs.
 */
int postcopy_target_arrive(struct postcopy_target *postcopy, const uint8_t *payload,
                           size_t size);
/* The gate is decided for never: ends the threads, and lets go who waits for memory. */
void postcopy_target_never(struct postcopy_target *postcopy);
/* After the go: until all is here, and the source knows; or until told to end. */
void postcopy_target_finish(struct postcopy_target *postcopy);
/* Ends it, whatever is missing. Any thread. */
void postcopy_target_quit(struct postcopy_target *postcopy);

#endif
