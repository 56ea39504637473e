/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leader's side of the leases: requests wait here until a confirm round that began
 * after they came was answered by a majority of the voters; and here is known when each
 * host was last answered. Pure; time is CLOCK_BOOTTIME ms. One thread.
 *
 * One round at a time. A request that comes while a round is under way waits for the next
 * one.
 */
#ifndef DROVER_FENCING_LEASE_GRANTOR_H
#define DROVER_FENCING_LEASE_GRANTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/id.h"
#include "base/limits.h"

struct timing;

struct lease_ask {
    uint64_t host_id;
    uint64_t sequence; /* as the host counts them; 0: none */
    char boot_id[ID_TEXT_SIZE];
    char incarnation[ID_TEXT_SIZE];
};

/* What is known of one host in this term. */
struct lease_host {
    uint64_t host_id;
    uint64_t heard_ms;        /* last request; 0: none in this term */
    uint64_t granted_ms;      /* last answer that gave a lease; 0: none in this term */
    struct lease_ask serving; /* came before the round under way began */
    struct lease_ask waiting; /* the newest that came since */
};

/* Visible to be embedded; all fields are private. */
struct lease_grantor {
    uint32_t confirm_retry_ms;
    uint64_t term; /* 0: does not lead */
    uint64_t lead_ms;
    uint64_t confirmed_ms; /* when a round was last confirmed; 0: not in this term */
    uint64_t round;        /* number of the last round: grows over all terms */
    bool round_open;
    uint64_t round_sent_ms;
    uint64_t yes[LIMIT_HOSTS]; /* voters that said yes in the open round */
    unsigned yes_count;
    struct lease_host hosts[LIMIT_HOSTS];
    unsigned host_count;
};

void lease_grantor_init(struct lease_grantor *grantor, const struct timing *timing);
/* Leads from now: all that was known is forgotten. Term 0: does not lead. */
void lease_grantor_lead(struct lease_grantor *grantor, uint64_t term, uint64_t now_ms);
/* Remembers the request; DROVER_EBADINPUT: sequence 0 or ids of a wrong size;
 * DROVER_ELIMIT: more hosts than there may be. */
int lease_grantor_request(struct lease_grantor *grantor, const struct lease_ask *ask,
                          uint64_t now_ms);
/* A voter's yes. Of another round or term: ignored. */
void lease_grantor_confirmed(struct lease_grantor *grantor, uint64_t term, uint64_t round,
                             uint64_t voter_id, uint64_t now_ms);
/* True: send a confirm request of this round to all voters now (a new round, or the same
 * one again). */
bool lease_grantor_round_due(struct lease_grantor *grantor, uint64_t now_ms,
                             uint64_t *ret_round);
/* True, once for each: the request may be answered now. Call until false, whenever a yes
 * came. */
bool lease_grantor_next(struct lease_grantor *grantor, const uint64_t *voters,
                        unsigned voter_count, uint64_t now_ms, struct lease_ask *ret_ask);
/* The lease was given. */
void lease_grantor_granted(struct lease_grantor *grantor, uint64_t host_id,
                           uint64_t now_ms);
/* NULL: nothing known. */
const struct lease_host *lease_grantor_host(const struct lease_grantor *grantor,
                                            uint64_t host_id);
/* It has asked and was not answered yet. */
bool lease_grantor_pending(const struct lease_grantor *grantor, uint64_t host_id);
/* ms until lease_grantor_round_due() may say more; UINT32_MAX: nothing waits. */
uint32_t lease_grantor_wait_ms(const struct lease_grantor *grantor, uint64_t now_ms);

#endif
