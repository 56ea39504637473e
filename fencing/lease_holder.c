/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of its lease. */
#include "fencing/lease_holder.h"

#include "base/check.h"
#include "fencing/timing.h"

/* FNV-1a: spreads runs of the agent over the upper half of the sequences. */
static uint32_t spread(const char *text)
{
    uint32_t hash = 2166136261u;
    for (; *text != '\0'; text++) {
        hash = (hash ^ (uint8_t)*text) * 16777619u;
    }
    return hash;
}

void lease_holder_init(struct lease_holder *holder, const struct timing *timing,
                       const char *incarnation)
{
    *holder = (struct lease_holder){
        .holder_ms = timing->holder_ms,
        /* Time for the keeper to hear of it and to feed, before it must ask the VMMs
           first. */
        .lead_ms = timing_feed_lead_ms(timing->watchdog_ms, timing->watchdog_ms) +
                   timing->feed_ms,
        .last_sequence = (uint64_t)spread(incarnation) << 32,
    };
    CHECK(holder->lead_ms < holder->holder_ms);
}

uint64_t lease_holder_send(struct lease_holder *holder, uint64_t now_ms)
{
    uint64_t sequence = ++holder->last_sequence;
    unsigned slot = (unsigned)(sequence % LEASE_HOLDER_REQUESTS);
    holder->requests[slot].sequence = sequence;
    holder->requests[slot].sent_ms = now_ms;
    return sequence;
}

/* Nearly over counts as over: docs/timing.md, the keeper's worst case. */
static bool worth_having(const struct lease_holder *holder, uint64_t deadline_ms,
                         uint64_t now_ms)
{
    return deadline_ms > holder->deadline_ms && deadline_ms > now_ms + holder->lead_ms;
}

void lease_holder_granted(struct lease_holder *holder, uint64_t sequence,
                          uint64_t required_index, uint64_t now_ms)
{
    unsigned slot = (unsigned)(sequence % LEASE_HOLDER_REQUESTS);
    if (sequence == 0 || holder->requests[slot].sequence != sequence) {
        return;
    }
    CHECK(holder->requests[slot].sent_ms <= now_ms);
    uint64_t deadline_ms = holder->requests[slot].sent_ms + holder->holder_ms;
    holder->requests[slot].sequence = 0; /* a doubled answer changes nothing */
    if (!worth_having(holder, deadline_ms, now_ms)) {
        return;
    }
    unsigned worst = 0;
    for (unsigned i = 0; i < LEASE_HOLDER_GRANTS; i++) {
        if (holder->grants[i].deadline_ms < holder->grants[worst].deadline_ms) {
            worst = i;
        }
    }
    if (holder->grants[worst].deadline_ms < deadline_ms) {
        holder->grants[worst].deadline_ms = deadline_ms;
        holder->grants[worst].required_index = required_index;
    }
}

bool lease_holder_apply(struct lease_holder *holder, uint64_t applied_index,
                        uint64_t now_ms)
{
    uint64_t before_ms = holder->deadline_ms;
    for (unsigned i = 0; i < LEASE_HOLDER_GRANTS; i++) {
        uint64_t deadline_ms = holder->grants[i].deadline_ms;
        if (deadline_ms == 0) {
            continue;
        }
        if (!worth_having(holder, deadline_ms, now_ms)) {
            holder->grants[i].deadline_ms = 0;
        } else if (holder->grants[i].required_index <= applied_index) {
            holder->deadline_ms = deadline_ms;
            holder->grants[i].deadline_ms = 0;
        }
    }
    CHECK(holder->deadline_ms >= before_ms);
    return holder->deadline_ms != before_ms;
}

bool lease_holder_holds(const struct lease_holder *holder, uint64_t now_ms)
{
    return now_ms < holder->deadline_ms;
}
