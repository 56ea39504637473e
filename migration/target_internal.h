/* SPDX-License-Identifier: Apache-2.0 */
/* The target's struct, for target*.c only. Owned by the engine's thread, but for gate and
 * board. */
#ifndef DROVER_MIGRATION_TARGET_INTERNAL_H
#define DROVER_MIGRATION_TARGET_INTERNAL_H

#include <pthread.h>

#include "migration/arrival.h"
#include "migration/arrival_streams.h"
#include "migration/gate.h"
#include "migration/postcopy_target.h"
#include "migration/probe.h"
#include "migration/stream.h"
#include "migration/target.h"

struct migration_target {
    struct migration_target_config config;
    struct transport_listener *listener;
    int cancel_fd;
    pthread_t thread;
    bool thread_started;
    struct gate gate;
    struct status_board board;

    /* the engine's thread only */
    struct transport_link *link; /* the control stream's */
    struct stream_out out;
    struct stream_in in;
    struct arrival arrival;
    struct arrival_streams streams; /* all others */
    unsigned placing;               /* links that placing_begin() was true for */
    uint16_t version;               /* of the conversation */
    uint64_t session;
    struct postcopy_target postcopy;
    struct probe_answer probe;
    struct error err; /* why the guest will not run here */
};

/* Until somebody has said a proper hello. Fills target->err. */
int target_greet(struct migration_target *target);
/* REFUSE or ABORT, with target->err as the reason; never waits. */
void target_say(struct migration_target *target, enum wire_type type);
void target_close_link(struct migration_target *target);

#endif
