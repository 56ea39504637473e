/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast the link is and what the target needs to load a guest, before a byte of memory
 * is sent: bytes that mean nothing go to the target, which answers. Engine's threads.
 */
#ifndef DROVER_MIGRATION_PROBE_H
#define DROVER_MIGRATION_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/recent.h"

struct error;
struct migration_guest;
struct migration_source;
struct stream_out;

/* The source's part, embedded by it; zeros at first. */
struct probe {
    struct buffer frame, last_frame; /* the second asks for an answer */
    struct buffer state_frame;       /* so does this one, which is as long as a state */
    size_t state_bytes;              /* set before */
    unsigned rehearsals;             /* that were made */
    unsigned next_count;             /* frames of the next burst; 0: not begun */
    bool thorough; /* set before: a better measurement is worth some time */
    bool over;
    uint64_t round_trip_us; /* shortest of those that were all but empty */
    uint64_t bytes_per_second;
    unsigned long_count, slow_count; /* of bursts that tell it */
    uint64_t spent_us;
    uint64_t told_us;      /* by the target's word: all that it does in the pause */
    struct recent load_us; /* of it, as it was rehearsed */
    uint64_t enter_us;     /* by its word: from the go to the first entry */
    struct recent trip_us; /* there and back, beside that */
};

void probe_done(struct probe *probe);
/* A dirty_rate_meanwhile: one burst if it may fit into `us`. Fills source->err. */
int probe_step(void *source, uint64_t us);
/* The rest of it, whatever it takes. */
int probe_finish(struct migration_source *source);
/* `count` rehearsals more; `anew`: what earlier ones have shown is forgotten. Fills
 * source->err. */
int probe_rehearse(struct migration_source *source, unsigned count, bool anew);
/* Once more, and thoroughly this time. */
int probe_again(struct migration_source *source);

/* The target's part: a PROBE came. */
struct probe_answer {
    uint64_t load_us;  /* 0: not known yet */
    uint64_t enter_us; /* from the go on */
    bool tried;
};
int probe_answer(struct probe_answer *answer, struct migration_guest *guest,
                 struct stream_out *out, const uint8_t *payload, size_t size,
                 struct error *err);

#endif
