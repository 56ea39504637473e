/* SPDX-License-Identifier: Apache-2.0 */
/* A host's decisions: its membership and its lease here; its VMs in host_vm.c and
 * host_migration.c. */
#include "node-agent/host_core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/host_core_private.h"
#include "proto/machine.h"

int host_core_create(const struct timing *timing,
                     const struct host_core_identity *identity,
                     const struct host_core_ops *ops, void *owner,
                     struct host_core **ret_core)
{
    CHECK(identity->host_id != 0 && identity->boot_id[0] != '\0' &&
          identity->incarnation[0] != '\0');
    struct host_core *core = calloc(1, sizeof(*core));
    if (core == NULL) {
        return -ENOMEM;
    }
    core->timing = *timing;
    core->identity = *identity;
    core->ops = ops;
    core->owner = owner;
    lease_holder_init(&core->lease, timing, identity->incarnation);
    *ret_core = core;
    return 0;
}

void host_core_free(struct host_core *core)
{
    if (core != NULL) {
        host_table_free(core);
        free(core);
    }
}

void host_wake_at(struct host_core *core, uint64_t at_ms)
{
    if (at_ms < core->wake_ms) {
        core->wake_ms = at_ms;
    }
}

/* ---- VMMs ----------------------------------------------------------------------------
 */

static Drover__VmStatus *status_copy(const Drover__VmStatus *status)
{
    size_t size = drover__vm_status__get_packed_size(status);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return NULL;
    }
    CHECK(drover__vm_status__pack(status, packed) == size);
    return drover__vm_status__unpack(NULL, size, packed);
}

/* A state of the engine that a target has only after the go. */
static bool move_shows_go(const Drover__VmStatus *status)
{
    return status->migration != NULL &&
           (status->migration->state ==
                DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE ||
            status->migration->state ==
                DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY);
}

/* That a guest came in for good: said by the VMM in a state that it has only after the
 * go. */
static bool shows_go(const Drover__VmStatus *status)
{
    switch (status->run_state) {
    case DROVER__VM_RUN_STATE__VM_RUN_RUNNING:
    case DROVER__VM_RUN_STATE__VM_RUN_PAUSED:
    case DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER:
        return true;
    case DROVER__VM_RUN_STATE__VM_RUN_FROZEN:
    case DROVER__VM_RUN_STATE__VM_RUN_FREEZING:
    case DROVER__VM_RUN_STATE__VM_RUN_STOPPED:
        return status->guest_powered_off || move_shows_go(status);
    case DROVER__VM_RUN_STATE__VM_RUN_FAILED: /* its first entry, maybe */
        return move_shows_go(status);
    default:
        return false;
    }
}

/*
 * That no guest came in, or ever will. A guest that got the go may fail at its first
 * entry, before the engine tells that it is done: in a handover, failed is no answer.
 * One that is lost in post-copy ends as STOPPED.
 */
static bool shows_never(const Drover__VmStatus *status)
{
    bool undecided =
        move_shows_go(status) ||
        (status->migration != NULL &&
         status->migration->state ==
             DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER);
    return status->run_state == DROVER__VM_RUN_STATE__VM_RUN_FAILED && !undecided;
}

void host_core_vmm_status(struct host_core *core, const Drover__VmStatus *status,
                          uint64_t now_ms)
{
    if (status->vm_id == 0 || status->epoch == 0) {
        return; /* not ours: somebody runs it by hand */
    }
    struct host_vm *vm = host_table_get(core, status->vm_id);
    if (vm == NULL) {
        core->ops->note(core->owner, "short of memory: a VMM's status is lost");
        return;
    }
    struct host_vmm *vmm = host_vmm_find(vm, status->epoch);
    if (vmm == NULL) {
        vmm = host_vmm_add(vm, status->epoch, now_ms);
    }
    Drover__VmStatus *copy = vmm != NULL ? status_copy(status) : NULL;
    if (copy == NULL) {
        core->ops->note(core->owner,
                        "too many VMMs, or short of memory: a status is lost");
        return;
    }
    core->hurry |= host_vmm_state(vmm) != copy->run_state;
    if (vmm->status != NULL) {
        drover__vm_status__free_unpacked(vmm->status, NULL);
    }
    vmm->status = copy;
    if (copy->guest_panicked_unix_ms != 0) {
        core->hurry |= vm->panic_unix_ms != copy->guest_panicked_unix_ms;
        vm->panic_unix_ms = copy->guest_panicked_unix_ms;
        vm->panic_epoch = copy->epoch;
    }
    vmm->cancels_seen = vmm->cancels;
    vmm->unheard = 0;
    vmm->unheard_ms = 0;
    vmm->got_go |= shows_go(copy);
    vmm->failed |= shows_never(copy);
}

static void back_off(struct host_core *core, struct host_vm *vm, bool ran,
                     uint64_t lived_ms, uint64_t now_ms)
{
    uint64_t longest_ms = (uint64_t)core->timing.retry_ms << HOST_BACKOFF_MAX;
    if (ran && lived_ms > longest_ms) {
        vm->failures = 0;
    }
    unsigned doublings =
        vm->failures < HOST_BACKOFF_MAX ? vm->failures : HOST_BACKOFF_MAX;
    vm->start_again_ms = now_ms + ((uint64_t)core->timing.retry_ms << doublings);
    vm->failures++;
    /* One that never ran has a reason that a person can mend. */
    vm->problem = !ran || vm->failures >= HOST_CRASHES_TO_TELL;
}

void host_core_vmm_gone(struct host_core *core, uint64_t vm_id, uint64_t epoch,
                        const char *reason, bool guest_powered_off, uint64_t now_ms)
{
    struct host_vm *vm = host_table_find(core, vm_id);
    struct host_vmm *vmm = vm != NULL ? host_vmm_find(vm, epoch) : NULL;
    if (vmm == NULL) {
        return;
    }
    core->hurry = true;
    if (vm->gone.epoch <= epoch) {
        bool off =
            guest_powered_off || (vmm->status != NULL && vmm->status->guest_powered_off);
        bool asked = vmm->pressed_ms != 0 &&
                     now_ms - vmm->pressed_ms < 2 * (uint64_t)core->timing.stop_grace_ms;
        vm->gone = (struct host_gone){
            .epoch = epoch,
            .had_guest = vmm->got_go || off,
            .failed = vmm->failed,
            .sent = vmm->status != NULL && vmm->status->migration != NULL &&
                    vmm->status->migration->state ==
                        DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE,
            .powered_off = off && !asked,
        };
        (void)snprintf(vm->gone.reason, sizeof(vm->gone.reason), "%s", reason);
        if (vmm->ordered_ms[HOST_ORDER_QUIT] == 0 && !off) {
            back_off(core, vm, vm->gone.had_guest, now_ms - vmm->since_ms, now_ms);
        }
    }
    host_vmm_drop(vm, vmm);
}

void host_core_vmm_order_failed(struct host_core *core, uint64_t vm_id, uint64_t epoch,
                                int error, const char *text, uint64_t now_ms)
{
    struct host_vm *vm = host_table_find(core, vm_id);
    struct host_vmm *vmm = vm != NULL ? host_vmm_find(vm, epoch) : NULL;
    char note[ERROR_TEXT_SIZE];
    (void)snprintf(note, sizeof(note), "vm=%llu epoch=%llu: an order failed: %s (%s)",
                   (unsigned long long)vm_id, (unsigned long long)epoch, text,
                   err_text(error));
    core->ops->note(core->owner, note);
    if (vmm != NULL) {
        /* It may have been that one; the others are repeated until they show. */
        vmm->lease_ms = 0;
    }
}

void host_core_move_unsent(struct host_core *core, uint64_t vm_id, uint64_t next_epoch,
                           const char *reason, uint64_t now_ms)
{
    struct host_vm *vm = host_table_find(core, vm_id);
    (void)now_ms;
    if (vm == NULL || vm->ordered_epoch != next_epoch || vm->never_sends >= next_epoch) {
        return; /* another one has been ordered since, or this one is given up already */
    }
    vm->never_sends = next_epoch;
    (void)snprintf(vm->unsent_reason, sizeof(vm->unsent_reason), "%s", reason);
}

/* Rule: what one connection lacks, the move lacks. */
static Drover__MoveEncryption encryption_add(Drover__MoveEncryption all,
                                             Drover__MoveEncryption one)
{
    bool known = one == DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL ||
                 one == DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY;
    return !known || all == DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY ? all : one;
}

void host_core_move_encrypted(struct host_core *core, uint64_t vm_id, uint64_t epoch,
                              Drover__MoveEncryption source,
                              Drover__MoveEncryption target)
{
    struct host_vm *vm = host_table_find(core, vm_id);
    struct host_vmm *vmm = vm == NULL ? NULL : host_vmm_find(vm, epoch);
    if (vmm != NULL) {
        vmm->source_encryption = encryption_add(vmm->source_encryption, source);
        vmm->target_encryption = encryption_add(vmm->target_encryption, target);
    }
}

void host_core_scan_done(struct host_core *core, uint64_t now_ms)
{
    core->scan_done = true;
    core->hurry = true;
}

/* ---- statements ----------------------------------------------------------------------
 */

void host_state(struct host_core *core, struct host_vm *vm,
                const Drover__Command *command, uint64_t now_ms)
{
    CHECK(core->settled);
    if (vm->proposal_id != 0) {
        return;
    }
    if (now_ms < vm->state_again_ms) {
        host_wake_at(core, vm->state_again_ms);
        return;
    }
    vm->proposal_id = ++core->last_proposal;
    core->ops->propose(core->owner, vm->proposal_id, command);
}

void host_core_proposal_done(struct host_core *core, uint64_t proposal_id, int error,
                             const char *text, uint64_t now_ms)
{
    /* After success, the log still has to come here; a refusal is for good unless the
     * record changes. */
    uint64_t again_ms =
        now_ms + (error == 0 ? core->timing.renew_ms : core->timing.confirm_retry_ms);
    if (proposal_id == 0) {
        return;
    }
    if (proposal_id == core->up_proposal) {
        core->up_proposal = 0;
        core->up_again_ms = again_ms;
        return;
    }
    for (size_t i = 0; i < core->vm_count; i++) {
        if (core->vms[i].proposal_id == proposal_id) {
            core->vms[i].proposal_id = 0;
            core->vms[i].state_again_ms = again_ms;
            return;
        }
    }
}

/* ---- membership and lease ------------------------------------------------------------
 */

static bool known_as_up(const struct host_core *core, const Drover__HostRecord *record)
{
    return record != NULL && record->state == DROVER__HOST_STATE__HOST_STATE_UP &&
           strcmp(record->boot_id, core->identity.boot_id) == 0 &&
           strcmp(record->incarnation, core->identity.incarnation) == 0;
}

static void report_up(struct host_core *core, uint64_t now_ms)
{
    if (core->up_proposal != 0) {
        return;
    }
    if (now_ms < core->up_again_ms) {
        host_wake_at(core, core->up_again_ms);
        return;
    }
    const struct host_core_identity *identity = &core->identity;
    Drover__HostUp up = DROVER__HOST_UP__INIT;
    up.host_id = identity->host_id;
    up.boot_id = (char *)(uintptr_t)identity->boot_id; /* only packed from */
    up.incarnation = (char *)(uintptr_t)identity->incarnation;
    up.version = (char *)(uintptr_t)identity->version;
    up.memory_bytes = identity->memory_bytes;
    up.cpus = identity->cpus;
    up.watchdog_ms = identity->watchdog_ms;
    up.machine_newest = MACHINE_NEWEST;
    up.postcopy = true;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_UP;
    command.host_up = &up;
    core->up_proposal = ++core->last_proposal;
    core->ops->propose(core->owner, core->up_proposal, &command);
}

static void send_request(struct host_core *core, uint64_t now_ms)
{
    size_t count = 0;
    for (size_t i = 0; i < core->vm_count; i++) {
        count += core->vms[i].vmm_count;
    }
    CLEANUP(cleanup_free)
    Drover__VmStatus **statuses = calloc(count + 1, sizeof(*statuses));
    Drover__LeaseRequest request = DROVER__LEASE_REQUEST__INIT;
    for (size_t i = 0; statuses != NULL && i < core->vm_count; i++) {
        for (unsigned v = 0; v < core->vms[i].vmm_count; v++) {
            if (core->vms[i].vmms[v].status != NULL) {
                statuses[request.n_vms++] = core->vms[i].vmms[v].status;
            }
        }
    }
    request.host_id = core->identity.host_id;
    request.boot_id = (char *)(uintptr_t)core->identity.boot_id; /* only packed from */
    request.incarnation = (char *)(uintptr_t)core->identity.incarnation;
    request.sequence = lease_holder_send(&core->lease, now_ms);
    request.vms = statuses;
    core->asked_ms = now_ms;
    core->hurry = false;
    core->ops->send_lease_request(core->owner, &request);
}

static void renew(struct host_core *core, uint64_t now_ms)
{
    uint32_t pause_ms =
        core->hurry ? core->timing.confirm_retry_ms : core->timing.renew_ms;
    uint64_t due_ms = core->asked_ms == 0 ? now_ms : core->asked_ms + pause_ms;
    if (now_ms >= due_ms) {
        send_request(core, now_ms);
        due_ms = now_ms + core->timing.renew_ms;
    }
    host_wake_at(core, due_ms);
}

void host_core_lease_reply(struct host_core *core, const Drover__LeaseReply *reply,
                           uint64_t now_ms)
{
    if (reply->granted) {
        lease_holder_granted(&core->lease, reply->sequence, reply->required_index,
                             now_ms);
        return;
    }
    char note[ERROR_TEXT_SIZE];
    (void)snprintf(note, sizeof(note), "lease refused: %s", reply->reason);
    core->ops->note(core->owner, note);
}

/* ---- the round -----------------------------------------------------------------------
 */

/* Those that the state gives to this host, or sends to it, join those that have a VMM
 * here. */
static void take_in(struct host_core *core, const struct cluster_state *state)
{
    const Drover__ClusterState *view = cluster_state_view(state);
    for (size_t i = 0; i < view->n_vms; i++) {
        const Drover__VmRecord *record = view->vms[i];
        bool owned = record->owner_host_id == core->identity.host_id;
        bool received = record->migration != NULL &&
                        record->migration->target_host_id == core->identity.host_id;
        bool concerned = owned || received || host_memory_here(core, record);
        if (concerned && host_table_get(core, record->vm_id) == NULL) {
            core->ops->note(core->owner, "short of memory: a VM has to wait");
        }
    }
}

/* Whose source has been told to send, or will be in this round. */
static unsigned moves_out(const struct host_core *core, const struct cluster_state *state)
{
    const Drover__ClusterState *view = cluster_state_view(state);
    unsigned count = 0;
    for (size_t i = 0; i < view->n_vms; i++) {
        const Drover__Migration *migration = view->vms[i]->migration;
        count += migration != NULL &&
                 migration->source_host_id == core->identity.host_id &&
                 migration->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_READY;
    }
    return count;
}

static void reconcile(struct host_core *core, const struct cluster_state *state,
                      uint64_t now_ms)
{
    take_in(core, state);
    core->moves_out = moves_out(core, state);
    for (size_t i = 0; i < core->vm_count;) {
        struct host_vm *vm = &core->vms[i];
        const Drover__VmRecord *record = cluster_state_vm(state, vm->vm_id);
        if (record == NULL && vm->vmm_count == 0 && vm->proposal_id == 0) {
            host_table_drop(core, vm); /* its id never comes again */
            continue;
        }
        host_vm_reconcile(core, vm, record, now_ms);
        i++;
    }
}

uint32_t host_core_tick(struct host_core *core, const struct cluster_state *state,
                        uint64_t now_ms)
{
    core->wake_ms = now_ms + core->timing.renew_ms;
    const Drover__HostRecord *record = cluster_state_host(state, core->identity.host_id);
    core->up = known_as_up(core, record);
    if (record != NULL && !core->up) {
        report_up(core, now_ms);
    }
    /* The keeper hears of a new deadline before any VMM does. */
    if (lease_holder_apply(&core->lease, cluster_state_applied_index(state), now_ms)) {
        core->ops->lease_changed(core->owner, core->lease.deadline_ms * NS_PER_MS);
    }
    core->settled =
        core->scan_done && core->up && lease_holder_holds(&core->lease, now_ms);
    if (core->settled) {
        reconcile(core, state, now_ms);
        host_wake_at(core, core->lease.deadline_ms);
    }
    if (core->up) {
        renew(core, now_ms);
    }
    return core->wake_ms > now_ms ? (uint32_t)(core->wake_ms - now_ms) : 1;
}

uint64_t host_core_lease_deadline_ms(const struct host_core *core)
{
    return core->lease.deadline_ms;
}
