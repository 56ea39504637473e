/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The six invariants of the design ("What must never happen"), looked at after every
 * event and every command: 1 two copies of a VM never run at once        2 no
 * acknowledged write or command is lost 3 a failed migration does not harm the VM     4
 * no reset where freezing would have been enough 5 nothing crashes (a CHECK of the
 * product's)  6 no VM starts elsewhere without a recorded proof
 */
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "tests/sim/sim.h"

/* ---- after every event ---------------------------------------------------------------
 */

/* Invariant 2, guest writes: what runs must hold the memory that ran last. */
static void check_memory(struct sim *sim, struct sim_vmm *vmm)
{
    struct sim_vm *vm = sim_vm_find(sim, vmm->vm_id);
    if (vm == NULL || vm->deleted) {
        sim_fail(sim, "invariant 1: vm%" PRIu64 " runs and is deleted", vmm->vm_id);
        return;
    }
    if (vmm->mem == 0) {
        vmm->mem = ++sim->last_id; /* boots from its disks */
        vm->mem = vmm->mem;
        vm->powered_off = false;
        sim->restarts++;
        return;
    }
    if (vmm->mem_parent != 0 && vm->mem == vmm->mem_parent) {
        vm->mem = vmm->mem;
        vmm->mem_parent = 0;
    }
    if (vm->mem != vmm->mem) {
        sim_fail(sim,
                 "invariant 2: h%u vm%" PRIu64 ".%" PRIu64
                 " runs on memory that is older than what ran after it",
                 vmm->host, vmm->vm_id, vmm->epoch);
    }
}

void sim_check(struct sim *sim)
{
    const struct sim_vmm *active[SIM_VMS_MAX * 64] = {0};
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        struct sim_vmm *vmm = &sim->vmms[i];
        if (!sim_vmm_active(sim, vmm)) {
            continue;
        }
        CHECK(vmm->vm_id < SIM_VMS_MAX * 64);
        const struct sim_vmm *other = active[vmm->vm_id];
        if (other != NULL) {
            sim_fail(sim,
                     "invariant 1: vm%" PRIu64 " runs on h%u (epoch %" PRIu64
                     ") and on h%u (epoch %" PRIu64 ")",
                     vmm->vm_id, other->host, other->epoch, vmm->host, vmm->epoch);
        }
        active[vmm->vm_id] = vmm;
        if (sim_vmm_executes(sim, vmm)) {
            check_memory(sim, vmm);
        }
    }
}

/* ---- orders and resets ---------------------------------------------------------------
 */

/* Invariant 3: nobody ends a source's VMM whose memory a guest elsewhere still needs. */
static void check_needed(struct sim *sim, const struct sim_vmm *vmm,
                         const Drover__VmRecord *record)
{
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        const struct sim_vmm *other = &sim->vmms[i];
        bool needs = other->life != 0 && other->vm_id == vmm->vm_id &&
                     other->state == SIM_VMM_GUEST && other->move.target &&
                     other->move.attempt == vmm->move.attempt && !other->quitting &&
                     other->move.state ==
                         DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY;
        if (needs && record->owner_host_id == other->host + 1u &&
            record->epoch == other->epoch &&
            sim_vm_find(sim, vmm->vm_id)->excused_epoch != other->epoch) {
            sim_fail(sim,
                     "invariant 3: h%u quits vm%" PRIu64 ".%" PRIu64
                     ", whose memory h%u still needs",
                     vmm->host, vmm->vm_id, vmm->epoch, other->host);
        }
    }
}

void sim_check_quit(struct sim *sim, const struct sim_vmm *vmm)
{
    const struct sim_host *host = &sim->hosts[vmm->host];
    const Drover__VmRecord *record = cluster_state_vm(sim->truth, vmm->vm_id);
    const struct sim_vm *vm = sim_vm_find(sim, vmm->vm_id);
    if (record != NULL && vmm->state == SIM_VMM_HANDED_OVER) {
        check_needed(sim, vmm, record);
    }
    if (!host->agent_alive || record == NULL || vmm->state != SIM_VMM_GUEST ||
        record->owner_host_id != vmm->host + 1u || record->epoch != vmm->epoch ||
        sim->now_ms - vm->wanted_ms < 100) {
        return;
    }
    if (record->wanted == DROVER__VM_WANTED__VM_WANTED_RUNNING ||
        record->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED) {
        sim_fail(sim, "invariant 3: h%u quits vm%" PRIu64 ".%" PRIu64 ", which is wanted",
                 vmm->host, vmm->vm_id, vmm->epoch);
    }
}

void sim_check_reset(struct sim *sim, unsigned host)
{
    const struct sim_host *at = &sim->hosts[host];
    uint64_t recently_ms = 3 * (uint64_t)sim->timing.watchdog_ms;
    bool hurt =
        (at->keeper_hurt_ms != 0 && sim->now_ms - at->keeper_hurt_ms < recently_ms) ||
        at->stalled_until_ms + recently_ms > sim->now_ms;
    bool frozen_in_time = true;
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        const struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->life != 0 && vmm->host == host && vmm->ha &&
            vmm->state == SIM_VMM_GUEST) {
            frozen_in_time &= vmm->freeze_ms < sim->timing.freeze_grace_ms / 2;
        }
    }
    if (!hurt && frozen_in_time && sim->mutation == SIM_MUTATION_NONE) {
        sim_fail(sim, "invariant 4: h%u was reset, and all its VMs froze in time", host);
    }
}

/* ---- commands ------------------------------------------------------------------------
 */

struct before {
    uint64_t owner, epoch, next_epoch, source, target;
    uint64_t memory_epoch; /* of the VMM that keeps memory which the owner needs */
    bool migrating, target_dead;
};

static void check_dead(struct sim *sim, const Drover__HostDead *dead)
{
    sim->deaths++;
    unsigned host = (unsigned)dead->host_id - 1;
    const Drover__HostRecord *record = cluster_state_host(sim->truth, dead->host_id);
    if (record->proof == NULL || record->proof_index == 0) {
        sim_fail(sim, "invariant 6: h%u is dead without a proof", host);
    }
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        const struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->life != 0 && vmm->host == host && vmm->ha && sim_vmm_active(sim, vmm)) {
            sim_fail(sim,
                     "invariant 1: h%u is called dead, and vm%" PRIu64 ".%" PRIu64
                     " still runs there",
                     host, vmm->vm_id, vmm->epoch);
        }
    }
}

static bool lives(const struct sim *sim, uint64_t vm_id, uint64_t epoch, bool with_guest)
{
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        const struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->life != 0 && vmm->vm_id == vm_id && vmm->epoch == epoch &&
            (vmm->state == SIM_VMM_GUEST || !with_guest)) {
            return true;
        }
    }
    return false;
}

static void check_abort(struct sim *sim, const Drover__MigrationAbort *abort)
{
    sim->aborts++;
    bool by_target =
        abort->by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET ||
        abort->by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE;
    bool by_source = abort->by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE;
    if (by_target && lives(sim, abort->vm_id, abort->next_epoch, false)) {
        sim_fail(sim,
                 "invariant 1: the target of vm%" PRIu64 ".%" PRIu64 " says it is gone",
                 abort->vm_id, abort->next_epoch);
    }
    if (by_source && lives(sim, abort->vm_id, abort->next_epoch, true)) {
        sim_fail(sim,
                 "invariant 1: the source says that it never sends, and vm%" PRIu64
                 ".%" PRIu64 " has the guest",
                 abort->vm_id, abort->next_epoch);
    }
}

/* Invariant 6: the right leaves a host only by its own word, or by a recorded proof of
 * its death. */
static void check_owner(struct sim *sim, const Drover__Command *command,
                        const struct before *before, const Drover__VmRecord *now)
{
    if (now == NULL || before->owner == 0 || before->owner == now->owner_host_id) {
        return;
    }
    const Drover__HostRecord *last = cluster_state_host(sim->truth, before->owner);
    bool own_word = command->what_case == DROVER__COMMAND__WHAT_VM_STOPPED &&
                    command->vm_stopped->host_id == before->owner;
    bool moved = command->what_case == DROVER__COMMAND__WHAT_MIGRATION_DONE &&
                 before->migrating && now->owner_host_id == before->target;
    bool proven = last != NULL && last->state == DROVER__HOST_STATE__HOST_STATE_DEAD &&
                  last->proof != NULL && now->proof_index != 0 &&
                  now->proof_index == last->proof_index;
    if (!own_word && !moved && !proven) {
        sim_fail(sim, "invariant 6: vm%" PRIu64 " left h%" PRIu64 " by command %d",
                 now->vm_id, before->owner - 1, (int)command->what_case);
    }
    if (now->owner_host_id == 0 && lives(sim, now->vm_id, before->epoch, true) &&
        own_word) {
        sim_fail(sim, "invariant 1: h%" PRIu64 " gave vm%" PRIu64 " up and still has it",
                 before->owner - 1, now->vm_id);
    }
}

/* Invariant 3: memory is called lost by its host only when it is. */
static void check_postcopy(struct sim *sim, const Drover__Command *command,
                           const struct before *before, struct sim_vm *vm)
{
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_DONE &&
        command->migration_done->vm_id == vm->vm_id && before->target_dead) {
        vm->excused_epoch = command->migration_done->next_epoch;
    }
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_SOURCE_LOST &&
        command->migration_source_lost->vm_id == vm->vm_id &&
        lives(sim, vm->vm_id, before->memory_epoch, false)) {
        sim_fail(sim, "invariant 3: the memory of vm%" PRIu64 ".%" PRIu64 " is not lost",
                 vm->vm_id, before->memory_epoch);
    }
}

/* Invariant 2, commands: what a user was told, or a guest did, is what the record says.
 */
static void follow_wanted(struct sim *sim, const Drover__Command *command,
                          uint64_t result_id)
{
    struct sim_vm *vm = NULL;
    if (command->what_case == DROVER__COMMAND__WHAT_VM_CREATE) {
        sim->creating--;
        for (unsigned i = 0; i < SIM_VMS_MAX && vm == NULL; i++) {
            vm = sim->vms[i].vm_id == 0 || sim->vms[i].deleted ? &sim->vms[i] : NULL;
        }
        CHECK(vm != NULL);
        *vm = (struct sim_vm){.vm_id = result_id, .wanted = command->vm_create->wanted};
    } else if (command->what_case == DROVER__COMMAND__WHAT_VM_SET_WANTED) {
        vm = sim_vm_find(sim, command->vm_set_wanted->vm_id);
        if (vm != NULL && !vm->deleted) {
            vm->wanted = command->vm_set_wanted->wanted;
        }
    } else if (command->what_case == DROVER__COMMAND__WHAT_VM_DELETE) {
        vm = sim_vm_find(sim, command->vm_delete->vm_id);
        vm->deleted = true;
    } else if (command->what_case == DROVER__COMMAND__WHAT_VM_STOPPED &&
               command->vm_stopped->guest_powered_off) {
        vm = sim_vm_find(sim, command->vm_stopped->vm_id);
        if (!vm->powered_off) {
            sim_fail(sim, "invariant 2: vm%" PRIu64 " did not power off by itself",
                     vm->vm_id);
        }
        vm->wanted = DROVER__VM_WANTED__VM_WANTED_STOPPED;
    }
    if (vm != NULL) {
        vm->wanted_ms = sim->now_ms;
    }
}

static void check_wanted(struct sim *sim)
{
    for (unsigned i = 0; i < SIM_VMS_MAX; i++) {
        const struct sim_vm *vm = &sim->vms[i];
        const Drover__VmRecord *record =
            vm->vm_id != 0 ? cluster_state_vm(sim->truth, vm->vm_id) : NULL;
        if (vm->vm_id == 0 || vm->deleted) {
            continue;
        }
        bool killed = vm->wanted == DROVER__VM_WANTED__VM_WANTED_KILLED &&
                      record != NULL &&
                      record->wanted == DROVER__VM_WANTED__VM_WANTED_STOPPED;
        if (record == NULL || (record->wanted != vm->wanted && !killed)) {
            sim_fail(sim, "invariant 2: vm%" PRIu64 " is not wanted as was acknowledged",
                     vm->vm_id);
        }
    }
}

static uint64_t vm_of(const Drover__Command *command)
{
    switch (command->what_case) {
    case DROVER__COMMAND__WHAT_VM_STOPPED:
        return command->vm_stopped->vm_id;
    case DROVER__COMMAND__WHAT_MIGRATION_DONE:
        return command->migration_done->vm_id;
    case DROVER__COMMAND__WHAT_MIGRATION_ABORT:
        return command->migration_abort->vm_id;
    case DROVER__COMMAND__WHAT_VM_ASSIGN:
        return command->vm_assign->vm_id;
    default:
        return 0;
    }
}

/* Invariant 2: what was done and is asked again is answered as before. What a user wants
 * is not followed again, so doing it again would be seen. */
static void check_repeated(struct sim *sim, const struct apply_result *result,
                           uint64_t subject_id)
{
    if (result->error != 0 || result->result_id != subject_id) {
        sim_fail(sim, "invariant 2: a repeated request is answered otherwise: %s",
                 result->text);
    }
}

void sim_check_command(struct sim *sim, const Drover__Command *command)
{
    struct sim_entry *entry = &sim->log[sim->log_count - 1];
    struct before before[SIM_VMS_MAX] = {0};
    for (unsigned i = 0; i < SIM_VMS_MAX; i++) {
        const Drover__VmRecord *vm = cluster_state_vm(sim->truth, sim->vms[i].vm_id);
        if (sim->vms[i].vm_id != 0 && vm != NULL) {
            before[i] = (struct before){.owner = vm->owner_host_id, .epoch = vm->epoch};
            if (vm->migration != NULL) {
                before[i].migrating = true;
                before[i].target = vm->migration->target_host_id;
                before[i].target_dead = vm->migration->target_dead;
            }
            if (vm->dependence != NULL) {
                before[i].memory_epoch = vm->dependence->source_epoch;
            }
        }
    }
    const Drover__RequestRecord *repeated =
        cluster_state_request(sim->truth, command->request_id);
    uint64_t subject_id = repeated != NULL ? repeated->subject_id : 0;
    struct apply_result result = {0};
    CHECK(cluster_state_apply(sim->truth, entry->index, entry->data, entry->size,
                              &result) == 0);
    entry->error = result.error;
    entry->result_id = result.result_id;
    sim_trace(sim, "log %" PRIu64 ": %d vm%" PRIu64 " -> %d %s", entry->index,
              (int)command->what_case, vm_of(command), result.error, result.text);
    if (repeated != NULL) {
        check_repeated(sim, &result, subject_id);
        check_wanted(sim);
        return;
    }
    if (result.error != 0) {
        return;
    }
    if (command->what_case == DROVER__COMMAND__WHAT_HOST_DEAD) {
        check_dead(sim, command->host_dead);
    }
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_ABORT) {
        check_abort(sim, command->migration_abort);
    }
    for (unsigned i = 0; i < SIM_VMS_MAX; i++) {
        if (sim->vms[i].vm_id != 0) {
            check_owner(sim, command, &before[i],
                        cluster_state_vm(sim->truth, sim->vms[i].vm_id));
            check_postcopy(sim, command, &before[i], &sim->vms[i]);
        }
    }
    follow_wanted(sim, command, result.result_id);
    check_wanted(sim);
    struct error err = {0};
    if (!cluster_state_valid(sim->truth, &err)) {
        sim_fail(sim, "the state is not valid: %s", err.text);
    }
}

void sim_check_result(const struct sim *sim, uint64_t index, int *ret_error,
                      uint64_t *ret_result_id)
{
    for (size_t i = sim->log_count; i-- > 0;) {
        if (sim->log[i].index == index) {
            *ret_error = sim->log[i].error;
            *ret_result_id = sim->log[i].result_id;
            return;
        }
    }
    CHECK(false); /* applied, but not in the log */
}

/* ---- after healing -------------------------------------------------------------------
 */

static const char *vm_unsettled(struct sim *sim, const Drover__VmRecord *record)
{
    unsigned running = 0, any = 0;
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        const struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->life == 0 || vmm->vm_id != record->vm_id) {
            continue;
        }
        any++;
        bool here =
            record->owner_host_id == vmm->host + 1u && record->epoch == vmm->epoch;
        bool paused = record->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED;
        running += here && (paused ? vmm->paused && vmm->state == SIM_VMM_GUEST
                                   : sim_vmm_executes(sim, vmm));
    }
    if (record->migration != NULL) {
        return "its migration has not ended";
    }
    if (record->dependence != NULL) {
        return "memory of it is still elsewhere";
    }
    if (record->wanted == DROVER__VM_WANTED__VM_WANTED_RUNNING ||
        record->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED) {
        return running != 1 ? "it does not run"
               : any != 1   ? "it has too many VMMs"
                            : NULL;
    }
    return any != 0 || record->owner_host_id != 0 ? "it has not stopped" : NULL;
}

bool sim_settled(struct sim *sim, char *ret_why, size_t size)
{
    const Drover__ClusterState *view = cluster_state_view(sim->truth);
    for (size_t i = 0; i < view->n_hosts; i++) {
        if (view->hosts[i]->state != DROVER__HOST_STATE__HOST_STATE_UP) {
            (void)snprintf(ret_why, size, "h%zu is not up", i);
            return false;
        }
    }
    for (size_t i = 0; i < view->n_vms; i++) {
        const char *why = vm_unsettled(sim, view->vms[i]);
        if (why != NULL) {
            (void)snprintf(ret_why, size,
                           "vm%" PRIu64 ": %s (owner %" PRIu64 ", epoch %" PRIu64
                           ", wanted %d)",
                           view->vms[i]->vm_id, why, view->vms[i]->owner_host_id,
                           view->vms[i]->epoch, (int)view->vms[i]->wanted);
            return false;
        }
    }
    return true;
}
