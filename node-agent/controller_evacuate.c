/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which VM leaves a draining host next. Several move at once, but not all: each gets its
 * share of the link, and a guest that writes faster than its share never gets away.
 * Those that take least time go first, so that at any moment as many as can be are away.
 */
#include "consensus/cluster_state.h"
#include "node-agent/controller_private.h"

/* To weigh what guests write against what they hold, a link has to be assumed. */
#define ASSUMED_BYTES_PER_SECOND UINT64_C(1000000000)
/* One that writes as fast as that, or faster, counts so many times what it holds. */
#define BUSY_FACTOR_MAX 16u

uint64_t controller_propose_move(struct controller *controller,
                                 const Drover__VmRecord *vm, uint64_t host_id)
{
    Drover__MigrationBegin begin = DROVER__MIGRATION_BEGIN__INIT;
    begin.vm_id = vm->vm_id;
    begin.expected_epoch = vm->epoch;
    begin.target_host_id = host_id;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_BEGIN;
    command.migration_begin = &begin;
    return controller_propose(controller, &command);
}

/* The owner has said that the guest is there. One that has just ended must be given up,
 * not moved: each attempt would keep its owner from saying so. */
static bool seen_running(const struct controller *controller, const Drover__VmRecord *vm)
{
    uint64_t host_id = 0, at_ms = 0;
    const Drover__VmStatus *status =
        controller_observed(controller, vm->vm_id, &host_id, &at_ms);
    return status != NULL && host_id == vm->owner_host_id && status->epoch == vm->epoch &&
           (status->run_state == DROVER__VM_RUN_STATE__VM_RUN_RUNNING ||
            status->run_state == DROVER__VM_RUN_STATE__VM_RUN_PAUSED);
}

/* A running VM whose host is being drained, and that is not on its way yet. */
bool controller_must_move(const struct controller *controller,
                          const struct cluster_state *state, const Drover__VmRecord *vm)
{
    if (vm->owner_host_id == 0 || vm->migration != NULL ||
        vm->started_epoch != vm->epoch || !controller_wants_host(vm)) {
        return false;
    }
    const Drover__HostRecord *owner = cluster_state_host(state, vm->owner_host_id);
    return owner != NULL && owner->draining &&
           owner->state == DROVER__HOST_STATE__HOST_STATE_UP &&
           seen_running(controller, vm);
}


unsigned controller_moves_to(const struct cluster_state *state, uint64_t host_id)
{
    const Drover__ClusterState *view = cluster_state_view(state);
    unsigned count = 0;
    for (size_t i = 0; i < view->n_vms; i++) {
        const Drover__Migration *migration = view->vms[i]->migration;
        count += migration != NULL && migration->target_host_id == host_id;
    }
    return count;
}

struct departures {
    uint64_t host_id;
    unsigned count; /* moves under way, or proposed */
};

/* Of each host of the cluster. */
static void departures_count(struct controller *controller,
                             const struct cluster_state *state,
                             struct departures departures[LIMIT_HOSTS])
{
    const Drover__ClusterState *view = cluster_state_view(state);
    for (size_t i = 0; i < LIMIT_HOSTS; i++) {
        departures[i] = (struct departures){
            .host_id = i < view->n_hosts ? view->hosts[i]->host_id : 0};
    }
    for (size_t i = 0; i < view->n_vms; i++) {
        const Drover__VmRecord *vm = view->vms[i];
        const struct controller_try *attempt =
            controller_try_find(controller, vm->vm_id);
        bool leaves = vm->migration != NULL || (attempt != NULL && attempt->move &&
                                                attempt->proposal_id != 0);
        for (size_t j = 0; leaves && j < LIMIT_HOSTS; j++) {
            departures[j].count += departures[j].host_id == vm->owner_host_id;
        }
    }
}

static bool may_leave(const struct departures departures[LIMIT_HOSTS], uint64_t host_id)
{
    for (size_t i = 0; i < LIMIT_HOSTS; i++) {
        if (departures[i].host_id == host_id) {
            return departures[i].count < CONTROLLER_MOVES_PER_HOST;
        }
    }
    return false;
}

uint64_t controller_move_cost(const Drover__VmRecord *vm, const Drover__VmStatus *status)
{
    uint64_t bytes = vm->spec->memory_bytes;
    uint64_t dirty = 0;
    if (status != NULL && status->memory_resident_bytes != 0) {
        bytes = status->memory_resident_bytes;
    }
    if (status != NULL) {
        dirty = status->dirty_bytes_per_second;
    }
    /* Round after round it sends 1 + q + q^2 + ... of what it holds. */
    uint64_t left =
        dirty < ASSUMED_BYTES_PER_SECOND ? ASSUMED_BYTES_PER_SECOND - dirty : 0;
    double factor = left * BUSY_FACTOR_MAX <= ASSUMED_BYTES_PER_SECOND
                        ? BUSY_FACTOR_MAX
                        : (double)ASSUMED_BYTES_PER_SECOND / (double)left;
    return (uint64_t)((double)bytes * factor);
}

const Drover__VmRecord *controller_evacuate_next(struct controller *controller,
                                                 const struct cluster_state *state,
                                                 uint64_t now_ms, uint32_t *wait_ms)
{
    const Drover__ClusterState *view = cluster_state_view(state);
    const Drover__VmRecord *best = NULL;
    uint64_t best_cost = UINT64_MAX;
    struct departures departures[LIMIT_HOSTS];
    departures_count(controller, state, departures);
    for (size_t i = 0; i < view->n_vms; i++) {
        const Drover__VmRecord *vm = view->vms[i];
        if (!controller_must_move(controller, state, vm)) {
            continue;
        }
        const struct controller_try *attempt =
            controller_try_find(controller, vm->vm_id);
        if (attempt != NULL && attempt->proposal_id != 0) {
            continue;
        }
        if (attempt != NULL && now_ms < attempt->next_ms) {
            uint64_t left_ms = attempt->next_ms - now_ms;
            *wait_ms = left_ms < *wait_ms ? (uint32_t)left_ms : *wait_ms;
            continue;
        }
        uint64_t host_id = 0;
        uint64_t at_ms = 0;
        uint64_t cost = controller_move_cost(
            vm, controller_observed(controller, vm->vm_id, &host_id, &at_ms));
        if (cost < best_cost && may_leave(departures, vm->owner_host_id)) {
            best = vm;
            best_cost = cost;
        }
    }
    return best;
}
