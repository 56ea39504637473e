/* SPDX-License-Identifier: Apache-2.0 */
/* VMs that are wanted and that nobody owns get a host; those that controller_evacuate.c
 * names are moved. */
#include <stdio.h>

#include "base/check.h"
#include "base/err.h"
#include "consensus/cluster_state.h"
#include "consensus/placement.h"
#include "node-agent/controller_private.h"

struct view_owner {
    const struct controller *controller;
    const struct cluster_state *arriving; /* NULL: not a move */
    uint64_t now_ms;
};

static bool usable(const void *owner, uint64_t host_id)
{
    const struct view_owner *view = owner;
    return controller_host_usable(view->controller, host_id, view->now_ms) &&
           (view->arriving == NULL ||
            controller_moves_to(view->arriving, host_id) < CONTROLLER_MOVES_PER_HOST);
}

struct controller_try *controller_try_find(struct controller *controller, uint64_t vm_id)
{
    for (unsigned i = 0; i < controller->try_count; i++) {
        if (controller->tries[i].vm_id == vm_id) {
            return &controller->tries[i];
        }
    }
    return NULL;
}

static void try_drop(struct controller *controller, struct controller_try *attempt)
{
    *attempt = controller->tries[--controller->try_count];
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static struct controller_try *try_get(struct controller *controller, uint64_t vm_id)
{
    struct controller_try *attempt = controller_try_find(controller, vm_id);
    if (attempt != NULL || controller->try_count == CONTROLLER_TRIES_MAX) {
        return attempt;
    }
    attempt = &controller->tries[controller->try_count++];
    *attempt = (struct controller_try){.vm_id = vm_id};
    return attempt;
}

static void back_off(struct controller *controller, struct controller_try *attempt,
                     uint64_t now_ms)
{
    unsigned doublings = attempt->failures < CONTROLLER_BACKOFF_MAX
                             ? attempt->failures
                             : CONTROLLER_BACKOFF_MAX;
    attempt->next_ms = now_ms + ((uint64_t)controller->timing.retry_ms << doublings);
    attempt->failures++;
}

bool controller_assign_done(struct controller *controller, uint64_t proposal_id,
                            int error, uint64_t now_ms)
{
    for (unsigned i = 0; i < controller->try_count; i++) {
        struct controller_try *attempt = &controller->tries[i];
        if (attempt->proposal_id != proposal_id || proposal_id == 0) {
            continue;
        }
        attempt->proposal_id = 0;
        if (error == 0 && !attempt->move) {
            try_drop(controller, attempt);
        } else {
            back_off(controller, attempt, now_ms); /* a move may yet be aborted */
        }
        return true;
    }
    return false;
}

static unsigned flights(const struct controller *controller)
{
    unsigned count = 0;
    for (unsigned i = 0; i < controller->try_count; i++) {
        count += controller->tries[i].proposal_id != 0;
    }
    return count;
}

bool controller_wants_host(const Drover__VmRecord *vm)
{
    return vm->wanted == DROVER__VM_WANTED__VM_WANTED_RUNNING ||
           vm->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED;
}

static uint64_t propose_assign(struct controller *controller,
                               const struct cluster_state *state,
                               const Drover__VmRecord *vm, uint64_t host_id)
{
    char why[ERROR_TEXT_SIZE];
    if (vm->proof_index != 0) {
        (void)snprintf(why, sizeof(why), "its last host was proven dead (log entry %llu)",
                       (unsigned long long)vm->proof_index);
    } else {
        (void)snprintf(why, sizeof(why), "it is wanted, and no host had it");
    }
    Drover__VmAssign assign = DROVER__VM_ASSIGN__INIT;
    assign.vm_id = vm->vm_id;
    assign.expected_epoch_high = vm->epoch_high;
    assign.host_id = host_id;
    assign.why = why;
    assign.machine = placement_machine(state, vm);
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_ASSIGN;
    command.vm_assign = &assign;
    return controller_propose(controller, &command);
}

/* One VM that needs a host now; returns ms until it wants another look. */
static uint32_t place(struct controller *controller, const struct cluster_state *state,
                      const Drover__VmRecord *vm, uint64_t now_ms)
{
    struct controller_try *attempt = try_get(controller, vm->vm_id);
    if (attempt == NULL || attempt->proposal_id != 0) {
        return controller->timing.renew_ms;
    }
    if (now_ms < attempt->next_ms) {
        return (uint32_t)(attempt->next_ms - now_ms);
    }
    bool moves = vm->owner_host_id != 0;
    struct view_owner owner = {controller, moves ? state : NULL, now_ms};
    struct placement_view view = {usable, &owner};
    uint64_t host_id = placement_choose(state, &view, vm, vm->owner_host_id, NULL);
    if (host_id == 0) {
        attempt->next_ms = now_ms + controller->timing.confirm_retry_ms;
        return controller->timing
            .confirm_retry_ms; /* a host's first lease of this term may be near */
    }
    attempt->move = moves;
    attempt->proposal_id = moves ? controller_propose_move(controller, vm, host_id)
                                 : propose_assign(controller, state, vm, host_id);
    return controller->timing.renew_ms;
}

/* VMs without a host first: they stand. */
static uint32_t place_homeless(struct controller *controller,
                               const struct cluster_state *state, uint64_t now_ms)
{
    const Drover__ClusterState *view = cluster_state_view(state);
    uint32_t wait_ms = controller->timing.lease_ms;
    for (size_t i = 0; i < view->n_vms && flights(controller) < CONTROLLER_FLIGHTS_MAX;
         i++) {
        const Drover__VmRecord *vm = view->vms[i];
        struct controller_try *attempt = controller_try_find(controller, vm->vm_id);
        if (vm->owner_host_id == 0 && controller_wants_host(vm)) {
            wait_ms = smaller(wait_ms, place(controller, state, vm, now_ms));
        } else if (attempt != NULL && attempt->proposal_id == 0 &&
                   now_ms >= attempt->next_ms &&
                   !controller_must_move(controller, state, vm)) {
            try_drop(controller, attempt);
        }
    }
    return wait_ms;
}

static uint32_t place_evacuated(struct controller *controller,
                                const struct cluster_state *state, uint64_t now_ms)
{
    uint32_t wait_ms = controller->timing.lease_ms;
    const Drover__VmRecord *vm;
    /* Each turn begins a move, or puts the VM off. */
    while (flights(controller) < CONTROLLER_FLIGHTS_MAX &&
           controller->try_count < CONTROLLER_TRIES_MAX &&
           (vm = controller_evacuate_next(controller, state, now_ms, &wait_ms)) != NULL) {
        wait_ms = smaller(wait_ms, place(controller, state, vm, now_ms));
    }
    return wait_ms;
}

uint32_t controller_assign(struct controller *controller,
                           const struct cluster_state *state, uint64_t now_ms)
{
    uint32_t wait_ms = place_homeless(controller, state, now_ms);
    return smaller(wait_ms, place_evacuated(controller, state, now_ms));
}
