/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target's data streams: connections that joined, each with a thread that takes
 * memory from it. The control stream is not among them. What comes is judged as hostile.
 * Engine's thread.
 */
#ifndef DROVER_MIGRATION_ARRIVAL_STREAMS_H
#define DROVER_MIGRATION_ARRIVAL_STREAMS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/stream.h"
#include "migration/times.h"
#include "migration/wire.h"

struct arrival;
struct arrival_streams;

struct arrival_stream {
    struct arrival_streams *set;
    struct wire_join join;
    struct transport_link *link; /* NULL: the place is free */
    struct stream_in in;
    pthread_t thread;
    bool started;
    uint32_t round; /* the last one that ended on it */
};

struct arrival_streams {
    unsigned count; /* that have joined */
    /* private */
    struct arrival *arrival;
    struct migration_times times;
    int cancel_fd; /* borrowed; made readable when a thread fails, and by stop() */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct error err; /* the first one */
    struct arrival_stream streams[MIGRATION_STREAMS_MAX - 1];
};

/* Done once: -errno. */
int arrival_streams_init(struct arrival_streams *set, struct arrival *arrival,
                         const struct migration_times *times, int cancel_fd);
/* Stops. */
void arrival_streams_done(struct arrival_streams *set);
/* A connection that said JOIN, maybe before HELLO came: takes `link` and `in` (both are
 * the caller's no more), or returns DROVER_ELIMIT. */
int arrival_streams_take(struct arrival_streams *set, const struct wire_join *join,
                         struct transport_link *link, struct stream_in *in);
/* Closes those that belong to another move. */
void arrival_streams_keep(struct arrival_streams *set, uint64_t session);
/* Accepts connections until `count` data streams have joined, and starts their threads. */
int arrival_streams_start(struct arrival_streams *set, unsigned count, uint64_t session,
                          struct transport_listener *listener, struct error *err);
/* How many of them may put data straight into memory. */
unsigned arrival_streams_placing(const struct arrival_streams *set);
/* After end: from now on none may. */
void arrival_streams_seal(struct arrival_streams *set);
/* Waits up to `wait_ms`: 0 when the round has ended on all, -EAGAIN, or the first error
 * of any. */
int arrival_streams_wait(struct arrival_streams *set, uint32_t round, uint32_t wait_ms,
                         struct error *err);
/* Waits until the source has said on each that nothing more comes, or an error. */
int arrival_streams_end(struct arrival_streams *set, struct error *err);
/* The first error of any thread; 0: none. */
int arrival_streams_error(struct arrival_streams *set, struct error *err);
/* Ends the threads wherever they are, and closes the connections. */
void arrival_streams_stop(struct arrival_streams *set);
uint64_t arrival_streams_bytes(const struct arrival_streams *set);

#endif
