/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One VM that this host owns: what its record wants, against what its VMM says. Called
 * only when settled: the lease is in force, so the state here is at least as new as the
 * one by which the leader gave it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "node-agent/host_core_private.h"

/* A lease that did not reach its VMM is sent again after this part of its time. */
#define LEASE_AGAIN 20u
/* When a VMM is taken for hung: at least so many leases long, so much time, and so many
 * orders. */
#define SILENT_LEASES 4u
#define SILENT_MS_MIN 20000u
#define SILENT_ORDERS 6u

/* ---- orders --------------------------------------------------------------------------
 */

void host_order(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                enum host_order kind, Drover__ControlRequest *request, uint64_t now_ms)
{
    uint64_t again_ms = vmm->ordered_ms[kind] + core->timing.retry_ms;
    if (vmm->ordered_ms[kind] != 0 && now_ms < again_ms && kind != HOST_ORDER_LEASE) {
        host_wake_at(core, again_ms);
        return;
    }
    vmm->ordered_ms[kind] = now_ms;
    request->vm_id = vm->vm_id;
    request->epoch = vmm->epoch;
    core->ops->order_vmm(core->owner, vm->vm_id, vmm->epoch, request);
}

void host_order_quit(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                     uint64_t now_ms)
{
    Drover__ControlQuit quit = DROVER__CONTROL_QUIT__INIT;
    HOST_ORDER(core, vm, vmm, quit, QUIT, &quit, now_ms);
}

void host_order_cancel(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                       uint64_t now_ms)
{
    Drover__ControlMigrateCancel cancel = DROVER__CONTROL_MIGRATE_CANCEL__INIT;
    HOST_ORDER(core, vm, vmm, migrate_cancel, MIGRATE_CANCEL, &cancel, now_ms);
}

static void order_pause(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                        bool pause, uint64_t now_ms)
{
    Drover__ControlPause pausing = DROVER__CONTROL_PAUSE__INIT;
    Drover__ControlResume resuming = DROVER__CONTROL_RESUME__INIT;
    Drover__ControlRequest request = DROVER__CONTROL_REQUEST__INIT;
    if (pause) {
        request.order_case = DROVER__CONTROL_REQUEST__ORDER_PAUSE;
        request.pause = &pausing;
    } else {
        request.order_case = DROVER__CONTROL_REQUEST__ORDER_RESUME;
        request.resume = &resuming;
    }
    host_order(core, vm, vmm, pause ? HOST_ORDER_PAUSE : HOST_ORDER_RESUME, &request,
               now_ms);
}

static void order_reclaim(struct host_core *core, struct host_vm *vm,
                          struct host_vmm *vmm, const Drover__VmRecord *record,
                          uint64_t now_ms)
{
    /* Rule: only when the migration is over, and owner and epoch are still ours. */
    CHECK(record->migration == NULL && record->epoch == vmm->epoch);
    CHECK(record->owner_host_id == core->identity.host_id);
    Drover__ControlReclaim reclaim = DROVER__CONTROL_RECLAIM__INIT;
    HOST_ORDER(core, vm, vmm, reclaim, RECLAIM, &reclaim, now_ms);
}

/* This VMM's epoch has the right to run here, by the record. */
static bool entitled(const struct host_core *core, const Drover__VmRecord *record,
                     uint64_t epoch)
{
    uint64_t self = core->identity.host_id;
    const Drover__Migration *migration = record->migration;
    bool owns = record->owner_host_id == self && record->epoch == epoch;
    bool receives = migration != NULL && migration->target_host_id == self &&
                    migration->next_epoch == epoch && !migration->target_dead;
    return owns || receives;
}

void host_extend(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                 const Drover__VmRecord *record, uint64_t now_ms)
{
    if (!record->spec->ha || vmm->status == NULL ||
        vmm->lease_ms == core->lease.deadline_ms) {
        return;
    }
    /* One whose process has ended, but is not taken down yet, refuses each at once. */
    uint64_t last_ms = vmm->ordered_ms[HOST_ORDER_LEASE];
    uint64_t again_ms = last_ms + core->timing.lease_ms / LEASE_AGAIN;
    if (last_ms != 0 && now_ms < again_ms) {
        host_wake_at(core, again_ms);
        return;
    }
    /* Rules: known to the cluster, a lease in force, and a record that says so; never
     * what was given up. */
    CHECK(core->settled && core->up && lease_holder_holds(&core->lease, now_ms));
    CHECK(entitled(core, record, vmm->epoch) && vmm->epoch > vm->given_up_epoch);
    CHECK(vmm->lease_ms < core->lease.deadline_ms);
    Drover__ControlLease lease = DROVER__CONTROL_LEASE__INIT;
    lease.deadline_ns = core->lease.deadline_ms * NS_PER_MS;
    vmm->lease_ms = core->lease.deadline_ms;
    vmm->unheard_ms = vmm->unheard == 0 ? now_ms : vmm->unheard_ms;
    vmm->unheard++;
    HOST_ORDER(core, vm, vmm, lease, LEASE, &lease, now_ms);
}

/*
 * A VMM that answers none of its leases has frozen its guest for want of them, or hangs
 * itself: it is told to end (and killed, if it does not hear that either), so that the VM
 * is started again. Counted too, as time alone passes while this agent itself was
 * stopped.
 */
static bool end_if_silent(struct host_core *core, struct host_vm *vm,
                          struct host_vmm *vmm, uint64_t now_ms)
{
    uint64_t patience_ms = (uint64_t)SILENT_LEASES * core->timing.lease_ms;
    if (patience_ms < SILENT_MS_MIN) {
        patience_ms = SILENT_MS_MIN;
    }
    if (vmm->unheard < SILENT_ORDERS || now_ms - vmm->unheard_ms < patience_ms) {
        return false;
    }
    if (vmm->ordered_ms[HOST_ORDER_QUIT] == 0) {
        char note[ERROR_TEXT_SIZE];
        (void)snprintf(note, sizeof(note),
                       "VM %" PRIu64 ": its VMM has answered nothing for %" PRIu64
                       " s: it is ended, and the VM started again",
                       vm->vm_id, (now_ms - vmm->unheard_ms) / MS_PER_S);
        core->ops->note(core->owner, note);
    }
    host_order_quit(core, vm, vmm, now_ms);
    return true;
}

void host_start(struct host_core *core, struct host_vm *vm,
                const Drover__VmRecord *record, uint64_t epoch, uint64_t now_ms)
{
    if (now_ms < vm->start_again_ms) {
        host_wake_at(core, vm->start_again_ms);
        return;
    }
    /* Rules: as for extending; and nothing of this VM is left here. */
    CHECK(core->settled && core->scan_done && lease_holder_holds(&core->lease, now_ms));
    CHECK(entitled(core, record, epoch) && epoch > vm->given_up_epoch);
    CHECK(vm->vmm_count == 0);
    bool incoming = record->owner_host_id != core->identity.host_id;
    CHECK(incoming || record->migration == NULL);
    struct host_vmm *vmm = host_vmm_add(vm, epoch, now_ms);
    CHECK(vmm != NULL);
    core->ops->start_vmm(core->owner, record, epoch, incoming);
}

/* ---- statements of an owner ----------------------------------------------------------
 */

static void state_started(struct host_core *core, struct host_vm *vm,
                          const Drover__VmRecord *record, uint64_t now_ms)
{
    Drover__VmStarted started = DROVER__VM_STARTED__INIT;
    started.epoch = record->epoch;
    HOST_STATE(core, vm, vm_started, VM_STARTED, &started, now_ms);
}

static void state_stopped(struct host_core *core, struct host_vm *vm,
                          const Drover__VmRecord *record, uint64_t now_ms)
{
    CHECK(vm->vmm_count == 0 && record->migration == NULL);
    bool known = vm->gone.epoch == record->epoch;
    Drover__VmStopped stopped = DROVER__VM_STOPPED__INIT;
    stopped.epoch = record->epoch;
    stopped.guest_powered_off = known && vm->gone.powered_off;
    stopped.reason = known ? vm->gone.reason : (char *)(uintptr_t) "";
    /* Rule: from the first time that this is said, the epoch is never started here again.
     */
    if (vm->given_up_epoch < record->epoch) {
        vm->given_up_epoch = record->epoch;
    }
    HOST_STATE(core, vm, vm_stopped, VM_STOPPED, &stopped, now_ms);
}

static void state_problem(struct host_core *core, struct host_vm *vm,
                          const Drover__VmRecord *record, uint64_t now_ms)
{
    if (strcmp(record->last_error, vm->gone.reason) == 0 || vm->gone.reason[0] == '\0') {
        vm->problem = false;
        return;
    }
    Drover__VmProblem problem = DROVER__VM_PROBLEM__INIT;
    problem.epoch = record->epoch;
    problem.text = vm->gone.reason;
    if (vm->proposal_id == 0 && now_ms >= vm->state_again_ms) {
        vm->problem =
            false; /* told once: a lost one is told again with the next failure */
    }
    HOST_STATE(core, vm, vm_problem, VM_PROBLEM, &problem, now_ms);
}

/*
 * Tells of the guest's last crash what the record does not have yet. True while that is
 * under way: the VM is not given up, nor started again, before it is told. Each minute
 * once: a guest that crashes all the time must not fill the log.
 */
static bool state_panicked(struct host_core *core, struct host_vm *vm,
                           const Drover__VmRecord *record, uint64_t now_ms)
{
    if (vm->panic_unix_ms == 0 || vm->panic_epoch != record->epoch ||
        vm->panic_unix_ms == record->last_panic_unix_ms) {
        return false;
    }
    if (now_ms < vm->panic_again_ms) {
        host_wake_at(core, vm->panic_again_ms);
        return false;
    }
    Drover__VmPanicked panicked = DROVER__VM_PANICKED__INIT;
    panicked.epoch = record->epoch;
    panicked.at_unix_ms = vm->panic_unix_ms;
    HOST_STATE(core, vm, vm_panicked, VM_PANICKED, &panicked, now_ms);
    return true;
}

static void panic_told(const struct host_core *core, struct host_vm *vm, const Drover__VmRecord *record,
                       uint64_t now_ms)
{
    if (vm->panic_unix_ms != 0 && vm->panic_unix_ms == record->last_panic_unix_ms &&
        vm->panic_told_ms != vm->panic_unix_ms) {
        vm->panic_told_ms = vm->panic_unix_ms;
        vm->panic_again_ms = now_ms + HOST_PANIC_RENEWALS * (uint64_t)core->timing.renew_ms;
    }
}

/* ---- wanted and observed -------------------------------------------------------------
 */

static bool wants_to_run(const Drover__VmRecord *record)
{
    return record->wanted == DROVER__VM_WANTED__VM_WANTED_RUNNING ||
           record->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED;
}

static void without_vmm(struct host_core *core, struct host_vm *vm,
                        const Drover__VmRecord *record, uint64_t now_ms)
{
    bool powered_off = vm->gone.epoch == record->epoch && vm->gone.powered_off;
    if (!wants_to_run(record) || powered_off || record->epoch <= vm->given_up_epoch) {
        state_stopped(core, vm, record, now_ms);
        return;
    }
    if (vm->problem) {
        state_problem(core, vm, record, now_ms);
    }
    host_start(core, vm, record, record->epoch, now_ms);
}

/* Power button, and the switch when the grace is over. */
static void stop_softly(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                        uint64_t now_ms)
{
    uint64_t pressed_ms = vmm->ordered_ms[HOST_ORDER_POWER_BUTTON];
    if (pressed_ms == 0) {
        if (vmm->status->paused_wanted) {
            order_pause(core, vm, vmm, false,
                        now_ms); /* a paused guest feels no button */
        }
        Drover__ControlPowerButton button = DROVER__CONTROL_POWER_BUTTON__INIT;
        vmm->pressed_ms = now_ms;
        HOST_ORDER(core, vm, vmm, power_button, POWER_BUTTON, &button, now_ms);
        host_wake_at(core, now_ms + core->timing.stop_grace_ms);
        return;
    }
    if (now_ms >= pressed_ms + core->timing.stop_grace_ms) {
        host_order_quit(core, vm, vmm, now_ms);
    } else {
        host_wake_at(core, pressed_ms + core->timing.stop_grace_ms);
    }
}

/* How much memory the guest shall have, against what its VMM was told last. */
static void order_balloon(struct host_core *core, struct host_vm *vm,
                          struct host_vmm *vmm, const Drover__VmRecord *record,
                          uint64_t now_ms)
{
    const Drover__VmBalloonStatus *balloon = vmm->status->balloon;
    uint64_t wanted =
        record->balloon_bytes != 0 ? record->balloon_bytes : record->spec->memory_bytes;
    if (balloon == NULL || balloon->target_bytes == wanted) {
        return;
    }
    Drover__ControlBalloon order = DROVER__CONTROL_BALLOON__INIT;
    order.memory_bytes = wanted;
    HOST_ORDER(core, vm, vmm, balloon, BALLOON, &order, now_ms);
}

/* A VMM that has the guest, against what is wanted of it. */
static void steer(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                  const Drover__VmRecord *record, uint64_t now_ms)
{
    bool runs = host_vmm_state(vmm) == DROVER__VM_RUN_STATE__VM_RUN_RUNNING ||
                host_vmm_state(vmm) == DROVER__VM_RUN_STATE__VM_RUN_PAUSED;
    if (runs &&
        (record->started_epoch != record->epoch || record->last_error[0] != '\0')) {
        state_started(core, vm, record, now_ms);
    }
    switch (record->wanted) {
    case DROVER__VM_WANTED__VM_WANTED_KILLED:
        host_order_quit(core, vm, vmm, now_ms);
        break;
    case DROVER__VM_WANTED__VM_WANTED_STOPPED:
        stop_softly(core, vm, vmm, now_ms);
        break;
    case DROVER__VM_WANTED__VM_WANTED_RUNNING:
    case DROVER__VM_WANTED__VM_WANTED_PAUSED: {
        bool pause = record->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED;
        vmm->ordered_ms[HOST_ORDER_POWER_BUTTON] = 0; /* the next stop is a new one */
        if (!!vmm->status->paused_wanted != pause) {
            order_pause(core, vm, vmm, pause, now_ms);
        }
        order_balloon(core, vm, vmm, record, now_ms);
        break;
    }
    default:
        break;
    }
}

static void owner_reconcile(struct host_core *core, struct host_vm *vm,
                            struct host_vmm *vmm, const Drover__VmRecord *record,
                            uint64_t now_ms)
{
    panic_told(core, vm, record, now_ms);
    host_need_reconcile(core, vm, vmm, record, now_ms);
    if (state_panicked(core, vm, record, now_ms) && vmm == NULL) {
        return;
    }
    if (vmm == NULL) {
        if (vm->vmm_count ==
            0) { /* else old ones are on their way out: their I/O first */
            without_vmm(core, vm, record, now_ms);
        }
        return;
    }
    if (vmm->status == NULL) {
        return;
    }
    switch (host_vmm_state(vmm)) {
    case DROVER__VM_RUN_STATE__VM_RUN_RUNNING:
    case DROVER__VM_RUN_STATE__VM_RUN_PAUSED:
    case DROVER__VM_RUN_STATE__VM_RUN_FROZEN:
    case DROVER__VM_RUN_STATE__VM_RUN_FREEZING:
        host_extend(core, vm, vmm, record, now_ms);
        if (end_if_silent(core, vm, vmm, now_ms)) {
            break;
        }
        steer(core, vm, vmm, record, now_ms);
        break;
    case DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER:
        order_reclaim(core, vm, vmm, record, now_ms);
        break;
    case DROVER__VM_RUN_STATE__VM_RUN_FAILED:
        host_order_quit(core, vm, vmm, now_ms);
        break;
    default: /* STOPPED ends by itself; INCOMING is an old word */
        break;
    }
}

void host_vm_reconcile(struct host_core *core, struct host_vm *vm,
                       const Drover__VmRecord *record, uint64_t now_ms)
{
    CHECK(core->settled);
    uint64_t self = core->identity.host_id;
    const Drover__Migration *migration = record != NULL ? record->migration : NULL;
    bool owns = record != NULL && record->owner_host_id == self;
    bool receives = migration != NULL && migration->target_host_id == self;
    CHECK(!(owns && receives));
    uint64_t epoch = owns ? record->epoch : receives ? migration->next_epoch : 0;
    for (unsigned i = 0; i < vm->vmm_count; i++) {
        if (vm->vmms[i].epoch != epoch &&
            !host_memory_kept(core, record, &vm->vmms[i])) {
            host_order_quit(core, vm, &vm->vmms[i], now_ms);
        }
    }
    if (host_memory_here(core, record)) {
        host_memory_reconcile(core, vm, record, now_ms);
    }
    if (epoch == 0) {
        return;
    }
    struct host_vmm *vmm = host_vmm_find(vm, epoch);
    if (receives) {
        host_target_reconcile(core, vm, vmm, record, now_ms);
    } else if (migration != NULL) {
        host_source_reconcile(core, vm, vmm, record, now_ms);
    } else {
        owner_reconcile(core, vm, vmm, record, now_ms);
    }
}
