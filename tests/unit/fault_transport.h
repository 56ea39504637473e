/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP with one fault: the Nth call on one side's link goes wrong in a chosen way, and the
 * link stays dead.
 */
#ifndef DROVER_TESTS_FAULT_TRANSPORT_H
#define DROVER_TESTS_FAULT_TRANSPORT_H

#include <stdatomic.h>

#include "migration/transport.h"

enum fault_side {
    FAULT_SOURCE,
    FAULT_TARGET,
};

enum fault_mode {
    FAULT_NONE,
    FAULT_CUT_BEFORE, /* the connection breaks instead of the call */
    FAULT_CUT_HALF,   /* half of what is sent arrives, then it breaks */
    FAULT_CUT_AFTER,  /* the call succeeds, then it breaks */
    FAULT_SILENCE, /* from here on nothing comes and goes, and nobody is told: a power cut
                    */
    FAULT_CALL,    /* `call` is called, then all goes on */
    FAULT_MODES,
};

struct fault_plan {
    enum fault_side side;
    enum fault_mode mode;
    bool on_send; /* else on recv */
    atomic_int countdown;
    atomic_bool fired;
    void (*call)(void *owner);
    /* Each send of either side, with how long it may wait; may be NULL. */
    void (*sends)(void *owner, enum fault_side side, uint32_t idle_ms);
    void *owner;
};

/* The plan is borrowed by all links made from now on; one test at a time. */
const struct transport_ops *fault_transport(struct fault_plan *plan);

#endif
