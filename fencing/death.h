/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a host is proven dead by its lease and its watchdog. Unknown means "still
 * alive": each condition that is not met keeps the host alive. Pure; time is
 * CLOCK_BOOTTIME ms of the leader.
 */
#ifndef DROVER_FENCING_DEATH_H
#define DROVER_FENCING_DEATH_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/cluster.pb-c.h"

struct timing;

enum death_verdict {
    DEATH_VERDICT_ALIVE,      /* as far as is known; ask again after ret_wait_ms */
    DEATH_VERDICT_UNPROVABLE, /* silent for long enough, but without a watchdog that could
                                 have reset it */
    DEATH_VERDICT_DEAD,
};

struct death_case {
    const Drover__HostRecord *host;
    uint64_t lead_ms;      /* this leader's term began */
    uint64_t granted_ms;   /* its last answer to the host; 0: none in this term */
    uint64_t confirmed_ms; /* a majority last confirmed that it leads; 0: never */
    bool pending;          /* a request of the host waits for its answer */
};

/* Fills the proof's numbers on DEAD (not its detail and judge). */
enum death_verdict death_judge(const struct timing *timing,
                               const struct death_case *known, uint64_t now_ms,
                               Drover__Proof *ret_proof, uint32_t *ret_wait_ms);

#endif
