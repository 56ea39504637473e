/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one decision of each side: the go (sent by the source, obeyed by the target), or
 * never. Whoever moves first has decided for good; any thread.
 */
#ifndef DROVER_MIGRATION_GATE_H
#define DROVER_MIGRATION_GATE_H

#include <stdatomic.h>
#include <stdbool.h>

enum gate_decision {
    GATE_OPEN = 0,
    GATE_NEVER = 1, /* cancelled, failed, abandoned */
    GATE_GO = 2,
};

struct gate {
    atomic_int decision;
};

/* True if the decision is `decision` now, be it by this call or by an earlier one. */
static inline bool gate_decide(struct gate *gate, enum gate_decision decision)
{
    int expected = GATE_OPEN;
    return atomic_compare_exchange_strong(&gate->decision, &expected, (int)decision) ||
           expected == (int)decision;
}

static inline enum gate_decision gate_get(struct gate *gate)
{
    return (enum gate_decision)atomic_load(&gate->decision);
}

#endif
