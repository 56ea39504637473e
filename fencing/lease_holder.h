/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of its lease: which requests are out, and until when the host may run
 * its VMs. A deadline counts from the moment that the request was sent, and is in force
 * once the log is applied here up to the index that came with the grant. Pure; time is
 * CLOCK_BOOTTIME ms. One thread.
 */
#ifndef DROVER_FENCING_LEASE_HOLDER_H
#define DROVER_FENCING_LEASE_HOLDER_H

#include <stdbool.h>
#include <stdint.h>

struct timing;

#define LEASE_HOLDER_REQUESTS 16 /* out at once; the oldest is forgotten first */
#define LEASE_HOLDER_GRANTS   8  /* granted, but the log isn't applied so far yet */

/* Visible to be embedded; all fields are private. */
struct lease_holder {
    uint32_t holder_ms, lead_ms;
    uint64_t last_sequence;
    struct {
        uint64_t sequence, sent_ms;
    } requests[LEASE_HOLDER_REQUESTS];
    struct {
        uint64_t deadline_ms, required_index;
    } grants[LEASE_HOLDER_GRANTS];
    uint64_t deadline_ms; /* in force; 0: none yet */
};

/* Sequences begin at a number that is drawn from `incarnation`, so that an answer to an
 * earlier run of the agent fits nothing. */
void lease_holder_init(struct lease_holder *holder, const struct timing *timing,
                       const char *incarnation);
/* A request leaves now; returns its sequence. */
uint64_t lease_holder_send(struct lease_holder *holder, uint64_t now_ms);
/* It was granted. Unknown sequences, and grants that are (nearly) over, are ignored. */
void lease_holder_granted(struct lease_holder *holder, uint64_t sequence,
                          uint64_t required_index, uint64_t now_ms);
/* Puts grants in force whose index is applied; true: the deadline has moved (always
 * forward). */
bool lease_holder_apply(struct lease_holder *holder, uint64_t applied_index,
                        uint64_t now_ms);
/* Held now? */
bool lease_holder_holds(const struct lease_holder *holder, uint64_t now_ms);

#endif
