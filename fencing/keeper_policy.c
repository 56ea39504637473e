/* SPDX-License-Identifier: Apache-2.0 */
/* When the watchdog's keeper may feed: docs/timing.md, "Why a host that is called dead
 * does not run its VMs". */
#include "fencing/keeper_policy.h"

#include "base/check.h"
#include "fencing/timing.h"

void keeper_policy_init(struct keeper_policy *policy, uint32_t wanted_watchdog_ms,
                        uint32_t armed_watchdog_ms)
{
    CHECK(wanted_watchdog_ms > 0 && armed_watchdog_ms > 0);
    *policy = (struct keeper_policy){
        .feed_ms = wanted_watchdog_ms < armed_watchdog_ms ? wanted_watchdog_ms / 10
                                                          : armed_watchdog_ms / 10,
        .lead_ms = timing_feed_lead_ms(wanted_watchdog_ms, armed_watchdog_ms),
    };
    CHECK(policy->feed_ms > 0 && policy->feed_ms < policy->lead_ms);
}

void keeper_policy_lease(struct keeper_policy *policy, uint64_t deadline_ms)
{
    if (deadline_ms > policy->deadline_ms) {
        policy->deadline_ms = deadline_ms;
        policy->renewed = true;
        policy->asking = false; /* what was frozen may be thawed now */
        policy->all_frozen = false;
    }
}

/* ms from now until `from_ms` + `delay_ms`; 0: that is over. */
static uint32_t until(uint64_t from_ms, uint32_t delay_ms, uint64_t now_ms)
{
    uint64_t at_ms = from_ms + delay_ms;
    return at_ms > now_ms ? (uint32_t)(at_ms - now_ms) : 0;
}

enum keeper_step keeper_policy_next(const struct keeper_policy *policy, uint64_t now_ms,
                                    uint32_t *ret_wait_ms)
{
    uint32_t feed_due_ms =
        policy->ever_fed ? until(policy->fed_ms, policy->feed_ms, now_ms) : 0;
    *ret_wait_ms = 0;
    if (now_ms + policy->lead_ms < policy->deadline_ms) {
        if (feed_due_ms == 0 ||
            policy->renewed) { /* at once: the time for it may be short */
            return KEEPER_STEP_FEED;
        }
        *ret_wait_ms = feed_due_ms;
        return KEEPER_STEP_WAIT;
    }
    if (policy->all_frozen) {
        return KEEPER_STEP_FEED; /* each positive round allows one feed */
    }
    if (policy->asking) {
        *ret_wait_ms = policy->feed_ms;
        return KEEPER_STEP_WAIT;
    }
    uint32_t ask_due_ms =
        policy->round > 0 ? until(policy->asked_ms, policy->feed_ms, now_ms) : 0;
    if (ask_due_ms == 0) {
        return KEEPER_STEP_ASK;
    }
    *ret_wait_ms = ask_due_ms;
    return KEEPER_STEP_WAIT;
}

void keeper_policy_fed(struct keeper_policy *policy, uint64_t now_ms)
{
    policy->fed_ms = now_ms;
    policy->ever_fed = true;
    policy->renewed = false;
    policy->asking = false;
    policy->all_frozen = false;
}

uint64_t keeper_policy_ask(struct keeper_policy *policy, uint64_t now_ms)
{
    CHECK(!policy->asking);
    policy->asking = true;
    policy->all_frozen = false;
    policy->asked_ms = now_ms;
    return ++policy->round;
}

void keeper_policy_answered(struct keeper_policy *policy, uint64_t round, bool all_frozen)
{
    if (!policy->asking || round != policy->round) {
        return;
    }
    policy->asking = false;
    policy->all_frozen = all_frozen;
}

bool keeper_policy_vm_is_still(const Drover__VmStatus *status)
{
    if (status->lease_deadline_ns == 0) {
        /* Not set for HA: nobody starts it elsewhere on this host's silence. Or the order
         * to freeze at once, and then it says so. */
        return status->run_state != DROVER__VM_RUN_STATE__VM_RUN_FREEZING;
    }
    switch (status->run_state) {
    case DROVER__VM_RUN_STATE__VM_RUN_FROZEN:
    case DROVER__VM_RUN_STATE__VM_RUN_INCOMING: /* has no right to run without a lease */
    case DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER:
    case DROVER__VM_RUN_STATE__VM_RUN_STOPPED:
    case DROVER__VM_RUN_STATE__VM_RUN_FAILED:
        return true;
    default: /* also states that a later version may know */
        return false;
    }
}
