/* SPDX-License-Identifier: Apache-2.0 */
/* The proof by lease and watchdog: docs/timing.md, "Why a host that is called dead does
 * not run its VMs". */
#include "fencing/death.h"

#include "base/check.h"
#include "fencing/timing.h"

enum death_verdict death_judge(const struct timing *timing,
                               const struct death_case *known, uint64_t now_ms,
                               Drover__Proof *ret_proof, uint32_t *ret_wait_ms)
{
    uint64_t base_ms =
        known->granted_ms > known->lead_ms ? known->granted_ms : known->lead_ms;
    uint64_t watchdog_ms = known->host->watchdog_ms;
    bool armed = watchdog_ms > 0 && watchdog_ms <= timing_watchdog_max_ms(timing);
    uint32_t proof_ms =
        timing_proof_ms(timing, armed ? (uint32_t)watchdog_ms : timing->watchdog_ms);
    *ret_wait_ms = timing->renew_ms;
    if (known->host->state != DROVER__HOST_STATE__HOST_STATE_UP || known->host->witness) {
        return DEATH_VERDICT_ALIVE;
    }
    /* Whoever calls may have read the clock before it noted the other time. */
    uint64_t silent_ms = now_ms > base_ms ? now_ms - base_ms : 0;
    if (silent_ms < proof_ms) {
        *ret_wait_ms = (uint32_t)(proof_ms - silent_ms);
        return DEATH_VERDICT_ALIVE;
    }
    /* A leader that was stalled, or heard of nobody, first hears whether it still leads,
     * and who else is there. */
    if (known->pending || known->confirmed_ms + 2 * timing->renew_ms < now_ms) {
        *ret_wait_ms = timing->confirm_retry_ms;
        return DEATH_VERDICT_ALIVE;
    }
    if (!armed) {
        return DEATH_VERDICT_UNPROVABLE;
    }
    CHECK(proof_ms > timing->grantor_ms + watchdog_ms);
    ret_proof->kind = DROVER__PROOF_KIND__PROOF_LEASE_WATCHDOG;
    ret_proof->silent_ms = silent_ms;
    ret_proof->lease_ms = timing->lease_ms;
    ret_proof->watchdog_ms = watchdog_ms;
    ret_proof->margin_ms = timing->margin_ms;
    return DEATH_VERDICT_DEAD;
}
