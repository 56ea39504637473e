/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All times of the cluster, derived from one: the lease L. No other file has a time-out
 * of the cluster's in it. The reasoning for each is in docs/timing.md. Pure.
 */
#ifndef DROVER_FENCING_TIMING_H
#define DROVER_FENCING_TIMING_H

#include <stdint.h>

struct error;

#define TIMING_LEASE_MS_DEFAULT 5000u
#define TIMING_LEASE_MS_MIN     2000u
#define TIMING_LEASE_MS_MAX     60000u
#define TIMING_DRIFT_PPM        10000u /* two clocks of hosts differ by less than 1 % */

struct timing {
    uint32_t lease_ms;         /* L */
    uint32_t renew_ms;         /* L/5: how often a host asks */
    uint32_t holder_ms;        /* what the host counts, from sending: L less drift */
    uint32_t grantor_ms;       /* what the leader counts, from answering: L more drift */
    uint32_t watchdog_ms;      /* armed time-out: 2/5 L in whole seconds, at least 1 s */
    uint32_t margin_ms;        /* added to a proof by lease and watchdog */
    uint32_t feed_ms;          /* keeper: how often it feeds and asks the VMMs, at most */
    uint32_t heartbeat_ms;     /* raft: L/50 */
    uint32_t election_ms;      /* raft: L/10 */
    uint32_t confirm_retry_ms; /* leader: asks voters again */
    uint32_t freeze_grace_ms;  /* how long after the deadline a VMM may take to confirm
                                  that it is frozen */
    uint32_t suspect_ms;       /* silence after which a host is shown as suspect */
    uint32_t peer_idle_ms; /* an agents' connection that is silent this long is cut and
                              dialled again */
    uint32_t
        migration_idle_ms;  /* a migration stream that is silent this long has failed */
    uint32_t stop_grace_ms; /* power button until hard stop: 60 s, not derived from L */
    uint32_t retry_ms; /* first delay before a failed start is tried again; doubles up to
                          32 times it */
};

/* DROVER_EBADINPUT outside MIN..MAX. */
int timing_from_lease(uint32_t lease_ms, struct timing *ret_timing, struct error *err);
/* The table, one "name = value" per line, into `text` (cut to size). */
void timing_print(const struct timing *timing, char *text, unsigned size);
/*
 * How long before the lease's deadline the keeper stops feeding without asking the VMMs.
 * It leaves the VMMs freeze_grace_ms after the deadline, and pays for a keeper that
 * stalls between its look at the clock and its feed.
 */
uint32_t timing_feed_lead_ms(uint32_t wanted_watchdog_ms, uint32_t armed_watchdog_ms);
/* Silence (since the leader's last answer, or its term's start) after which lease and
 * watchdog have both run out. `watchdog_ms` must be in 1..timing_watchdog_max_ms(): ask
 * before, if it came from elsewhere. */
uint32_t timing_proof_ms(const struct timing *timing, uint32_t watchdog_ms);
/* The longest time-out that is accepted of a device which can't do watchdog_ms; with a
 * longer one the host counts as without. */
uint32_t timing_watchdog_max_ms(const struct timing *timing);

#endif
