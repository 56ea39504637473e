/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's data streams: each has a connection and a thread of its own, which sends
 * what is dealt out of a round. The control stream is not among them. Engine's thread.
 */
#ifndef DROVER_MIGRATION_STREAMS_H
#define DROVER_MIGRATION_STREAMS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/compress.h"
#include "migration/stream.h"
#include "migration/wire.h"

struct migration_guest;
struct pages;
struct streams;

struct streams_data {
    struct streams *set;
    struct transport_link *link;
    struct stream_out out;
    pthread_t thread;
    bool started;
};

enum streams_order {
    STREAMS_WAIT, /* the threads only keep their connections alive */
    STREAMS_ROUND,
    STREAMS_END, /* says that nothing more comes; the threads end */
    STREAMS_QUIT,
};

struct streams {
    unsigned count; /* one less than the move has */
    /* private */
    struct pages *pages;
    uint32_t keepalive_ms;
    int cancel_fd; /* borrowed; made readable when a thread fails, and by streams_stop() */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum streams_order order;
    uint32_t round;
    uint32_t idle_ms;
    uint64_t order_number; /* grows with each order */
    unsigned busy;         /* threads that have not done it yet */
    int error;             /* the first one */
    struct streams_data data[MIGRATION_STREAMS_MAX - 1];
};

/* No streams yet. Done once: -errno. */
int streams_init(struct streams *set, struct pages *pages, int cancel_fd,
                 uint32_t keepalive_ms);
/* Stops. */
void streams_done(struct streams *set);
/* Takes `link`, and says JOIN on it; the number of streams must be below the maximum. */
int streams_add(struct streams *set, struct transport_link *link, uint64_t session,
                uint32_t idle_ms, struct pace *pace);
/* What is sent is made smaller, where that helps; before start. */
int streams_compress(struct streams *set, struct compress_cache *cache,
                     enum compress_mode mode);
/* Closes those beyond the first `count`, and starts the threads of the others. */
int streams_start(struct streams *set, unsigned count);
/* Before start: those of the links that can put data straight into the target's memory
 * do; how many. */
unsigned streams_place(struct streams *set, struct migration_guest *guest);
/* The threads take part in what pages_deal_begin() has begun, and end the round. */
void streams_round(struct streams *set, uint32_t round, uint32_t idle_ms);
/* Waits up to `wait_ms`: 0 when all have sent the end of the round, -EAGAIN, or the first
 * error of any. */
int streams_wait(struct streams *set, uint32_t wait_ms);
/* Says that nothing more comes. Returns at once. */
void streams_end(struct streams *set);
/* The first error of any thread; 0: none. */
int streams_error(struct streams *set);
/* Ends the threads wherever they are, and closes the connections. */
void streams_stop(struct streams *set);
uint64_t streams_bytes_sent(const struct streams *set);
uint64_t streams_bytes_placed(const struct streams *set);

#endif
