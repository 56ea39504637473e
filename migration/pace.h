/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast all streams of a move may send together. Any thread.
 */
#ifndef DROVER_MIGRATION_PACE_H
#define DROVER_MIGRATION_PACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct pace {
    atomic_uint_least64_t waited_ns; /* by all threads together */
    atomic_uint_least64_t bytes_per_second; /* 0: no limit; set by pace_set() */
    /* private */
    int cancel_fd;                          /* borrowed; ends waits when readable */
    pthread_mutex_t lock;
    uint64_t next_ns; /* when what was sent has been paid for */
};

int pace_init(struct pace *pace, uint64_t bytes_per_second, int cancel_fd);
void pace_done(struct pace *pace);
/* May be called while others send: holds from the next sending on. 0: no limit. */
void pace_set(struct pace *pace, uint64_t bytes_per_second);
/*
 * Before something is sent: 0 when it may be, -EAGAIN when `wait_ms` were not enough
 * (call again), DROVER_ECANCELLED.
 */
int pace_wait(struct pace *pace, uint32_t wait_ms);
/* How long it may not be yet, in ms; 0: it may be. */
uint32_t pace_left_ms(struct pace *pace);
/* After it. */
void pace_sent(struct pace *pace, uint64_t bytes);

#endif
