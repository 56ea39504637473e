/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every time that the engine waits, from one base: how long a peer may be silent while
 * the guest stands. As long as it runs on the source nothing is urgent, and a peer that
 * only stalls is given more. Both sides should have the same base; safety does not depend
 * on it.
 */
#ifndef DROVER_MIGRATION_TIMES_H
#define DROVER_MIGRATION_TIMES_H

#include <stdint.h>

#define MIGRATION_PATIENCE_MS     2000u
#define MIGRATION_PATIENCE_MS_MIN 20u
#define MIGRATION_PATIENCE_MS_MAX 60000u

struct migration_times {
    uint32_t idle_ms;     /* no byte from or to the peer for so long: it is gone */
    uint32_t standing_ms; /* the same, for what the source sends while the guest stands */
    uint32_t keepalive_ms; /* whoever has nothing to say says so this often */
    uint32_t connect_ms;
    uint32_t drain_ms; /* vCPUs out and I/O drained in a handover */
    uint32_t ready_ms; /* source: from the device state sent to the go sent, at most */
    uint32_t go_ms;   /* target: from ready sent to the go received, else it never runs */
    uint32_t done_ms; /* source: from the go sent to done received, else "unknown" */
};

/* `patience_ms` 0 means MIGRATION_PATIENCE_MS; it is clamped to MIN and MAX. */
struct migration_times migration_times_from(uint32_t patience_ms);

#endif
