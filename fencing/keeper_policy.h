/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the watchdog's keeper may feed. Until X before the lease's deadline
 * (timing_feed_lead_ms) it feeds unasked; from then on only right after a round in which
 * every VMM of the host was asked and none may still run. Pure; time is CLOCK_BOOTTIME
 * ms. The arithmetic is in docs/timing.md. One thread.
 *
 * The keeper's loop: call keeper_policy_next(); FEED: feed the device, then
 * keeper_policy_fed(); ASK: keeper_policy_ask(), ask all VMMs found from now on, then
 * keeper_policy_answered() once with that round. Call next() again after each of these,
 * after keeper_policy_lease(), and after *ret_wait_ms at the latest.
 */
#ifndef DROVER_FENCING_KEEPER_POLICY_H
#define DROVER_FENCING_KEEPER_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/control.pb-c.h"

/* Visible to be embedded; all fields are private. */
struct keeper_policy {
    uint32_t feed_ms, lead_ms;
    uint64_t deadline_ms; /* 0: never had a lease */
    uint64_t fed_ms;      /* last feed */
    uint64_t asked_ms;    /* start of the last round */
    uint64_t round;       /* number of the last round; 0: none yet */
    bool ever_fed, asking, all_frozen;
    bool renewed; /* a new lease came since the last feed */
};

enum keeper_step {
    KEEPER_STEP_WAIT,
    KEEPER_STEP_FEED,
    KEEPER_STEP_ASK,
};

/* `wanted`: timing.watchdog_ms; `armed`: what the device really has. */
void keeper_policy_init(struct keeper_policy *policy, uint32_t wanted_watchdog_ms,
                        uint32_t armed_watchdog_ms);
/* droverd's word. A deadline never moves backwards: an earlier one is ignored. */
void keeper_policy_lease(struct keeper_policy *policy, uint64_t deadline_ms);
enum keeper_step keeper_policy_next(const struct keeper_policy *policy, uint64_t now_ms,
                                    uint32_t *ret_wait_ms);
void keeper_policy_fed(struct keeper_policy *policy, uint64_t now_ms);
/* A round begins now; returns its number. The keeper gives each VMM at most `feed_ms` to
 * answer; silence is "may run". */
uint64_t keeper_policy_ask(struct keeper_policy *policy, uint64_t now_ms);
/* `all_frozen`: keeper_policy_vm_is_still() for each VMM that was there when the round
 * began, or its process is gone. An answer to any round but the last, or to one that a
 * feed or a new lease overtook, is ignored. */
void keeper_policy_answered(struct keeper_policy *policy, uint64_t round,
                            bool all_frozen);

/* This VMM neither executes guest instructions nor has I/O in flight, or is not bound to
 * a lease. */
bool keeper_policy_vm_is_still(const Drover__VmStatus *status);

#endif
