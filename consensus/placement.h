/* SPDX-License-Identifier: Apache-2.0 */
/* Which host shall run a VM. Pure. */
#ifndef DROVER_CONSENSUS_PLACEMENT_H
#define DROVER_CONSENSUS_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/cluster.pb-c.h"

struct cluster_state;
struct error;

/*
 * The version of the machine (proto/machine.h) that a VM has, or that it would be given
 * now: the newest that all hosts offer, whatever their state, so that each of them can
 * take the VM later; but what the VM's description asks for decides first.
 */
uint32_t placement_machine(const struct cluster_state *state, const Drover__VmRecord *vm);

/* The leader's knowledge beside the replicated state: may `host_id` be given a VM now
 * (its lease is current)? */
struct placement_view {
    bool (*usable)(const void *owner, uint64_t host_id);
    const void *owner;
};

/*
 * Chooses the host for `vm`: up, usable, not draining, no witness, not `except_host_id`
 * (0: none), with memory for it and its machine; the one with most memory left, then the lowest id.
 * Returns its id, or 0 with the reason in `err` (DROVER_ENOCAPACITY).
 */
uint64_t placement_choose(const struct cluster_state *state,
                          const struct placement_view *view, const Drover__VmRecord *vm,
                          uint64_t except_host_id, struct error *err);

/* Whether a given host could take it; 0 or DROVER_ENOCAPACITY / DROVER_EWRONGSTATE
 * with the reason. */
int placement_check(const struct cluster_state *state, const struct placement_view *view,
                    const Drover__VmRecord *vm, uint64_t host_id, struct error *err);

#endif
