/* SPDX-License-Identifier: Apache-2.0 */
/* The leader's side of the leases. Why it is safe: docs/timing.md, "Why a new leader
 * can't be too early". */
#include "fencing/lease_grantor.h"

#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "fencing/timing.h"

void lease_grantor_init(struct lease_grantor *grantor, const struct timing *timing)
{
    *grantor = (struct lease_grantor){.confirm_retry_ms = timing->confirm_retry_ms};
    CHECK(grantor->confirm_retry_ms > 0);
}

void lease_grantor_lead(struct lease_grantor *grantor, uint64_t term, uint64_t now_ms)
{
    *grantor = (struct lease_grantor){
        .confirm_retry_ms = grantor->confirm_retry_ms,
        .term = term,
        .lead_ms = now_ms,
        .round = grantor->round,
    };
}

static struct lease_host *find(struct lease_grantor *grantor, uint64_t host_id)
{
    for (unsigned i = 0; i < grantor->host_count; i++) {
        if (grantor->hosts[i].host_id == host_id) {
            return &grantor->hosts[i];
        }
    }
    return NULL;
}

int lease_grantor_request(struct lease_grantor *grantor, const struct lease_ask *ask,
                          uint64_t now_ms)
{
    CHECK(grantor->term != 0);
    if (ask->host_id == 0 || ask->sequence == 0) {
        return DROVER_EBADINPUT;
    }
    struct lease_host *host = find(grantor, ask->host_id);
    if (host == NULL) {
        if (grantor->host_count == LIMIT_HOSTS) {
            return DROVER_ELIMIT;
        }
        host = &grantor->hosts[grantor->host_count++];
        *host = (struct lease_host){.host_id = ask->host_id};
    }
    host->heard_ms = now_ms;
    host->waiting = *ask;
    return 0;
}

void lease_grantor_confirmed(struct lease_grantor *grantor, uint64_t term, uint64_t round,
                             uint64_t voter_id, uint64_t now_ms)
{
    if (!grantor->round_open || term != grantor->term || round != grantor->round) {
        return;
    }
    for (unsigned i = 0; i < grantor->yes_count; i++) {
        if (grantor->yes[i] == voter_id) {
            return;
        }
    }
    if (grantor->yes_count < LIMIT_HOSTS) {
        grantor->yes[grantor->yes_count++] = voter_id;
    }
}

bool lease_grantor_round_due(struct lease_grantor *grantor, uint64_t now_ms,
                             uint64_t *ret_round)
{
    if (lease_grantor_wait_ms(grantor, now_ms) != 0) {
        return false;
    }
    if (!grantor->round_open) {
        for (unsigned i = 0; i < grantor->host_count; i++) {
            struct lease_host *host = &grantor->hosts[i];
            if (host->waiting.sequence != 0) {
                host->serving = host->waiting;
                host->waiting.sequence = 0;
            }
        }
        grantor->round_open = true;
        grantor->round++;
        grantor->yes_count = 0;
    }
    grantor->round_sent_ms = now_ms;
    *ret_round = grantor->round;
    return true;
}

static bool majority(const struct lease_grantor *grantor, const uint64_t *voters,
                     unsigned voter_count)
{
    unsigned yes = 0;
    for (unsigned v = 0; v < voter_count; v++) {
        for (unsigned i = 0; i < grantor->yes_count; i++) {
            yes += grantor->yes[i] == voters[v];
        }
    }
    CHECK(yes <= voter_count);
    return voter_count > 0 && yes > voter_count / 2;
}

bool lease_grantor_next(struct lease_grantor *grantor, const uint64_t *voters,
                        unsigned voter_count, uint64_t now_ms, struct lease_ask *ret_ask)
{
    if (!grantor->round_open || !majority(grantor, voters, voter_count)) {
        return false;
    }
    grantor->confirmed_ms = now_ms;
    for (unsigned i = 0; i < grantor->host_count; i++) {
        struct lease_host *host = &grantor->hosts[i];
        if (host->serving.sequence != 0) {
            *ret_ask = host->serving;
            host->serving.sequence = 0;
            return true;
        }
    }
    grantor->round_open = false;
    return false;
}

void lease_grantor_granted(struct lease_grantor *grantor, uint64_t host_id,
                           uint64_t now_ms)
{
    struct lease_host *host = find(grantor, host_id);
    CHECK(host != NULL && now_ms >= host->granted_ms);
    host->granted_ms = now_ms;
}

const struct lease_host *lease_grantor_host(const struct lease_grantor *grantor,
                                            uint64_t host_id)
{
    for (unsigned i = 0; i < grantor->host_count; i++) {
        if (grantor->hosts[i].host_id == host_id) {
            return &grantor->hosts[i];
        }
    }
    return NULL;
}

bool lease_grantor_pending(const struct lease_grantor *grantor, uint64_t host_id)
{
    const struct lease_host *host = lease_grantor_host(grantor, host_id);
    return host != NULL && (host->serving.sequence != 0 || host->waiting.sequence != 0);
}

uint32_t lease_grantor_wait_ms(const struct lease_grantor *grantor, uint64_t now_ms)
{
    if (grantor->term == 0) {
        return UINT32_MAX;
    }
    if (grantor->round_open) {
        uint64_t due_ms = grantor->round_sent_ms + grantor->confirm_retry_ms;
        return due_ms > now_ms ? (uint32_t)(due_ms - now_ms) : 0;
    }
    for (unsigned i = 0; i < grantor->host_count; i++) {
        if (grantor->hosts[i].waiting.sequence != 0) {
            return 0;
        }
    }
    return UINT32_MAX;
}
