/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Post-copy, from the side of the host that has the guest and of the one where memory of
 * it still is. From MigrationDone on the record says of whom the guest depends
 * (consensus/apply_postcopy.c). What each side does:
 *
 *   source   keeps its VMM, which runs no guest, until that says that all has gone, or the
 *            record says that nobody needs it; makes a new connection whenever the last one
 *            is lost; states when no such VMM is left   -> MigrationSourceLost
 *   owner    states when nothing is missing any more, or the VMM that missed it is gone
 *                                                       -> MigrationComplete
 *            gives the guest up once its memory is lost for good: the VM then starts as
 *            one that crashed
 */
#include <string.h>

#include "base/check.h"
#include "node-agent/host_core_private.h"

/* What a lost source had sent is there by then, or never comes. */
#define REST_MS 30000u
/* So long may a VMM take to give its guest up before it is told to end. */
#define GIVE_UP_MS 10000u

static Drover__VmMigrationState move_state(const struct host_vmm *vmm)
{
    return vmm->status != NULL && vmm->status->migration != NULL
               ? vmm->status->migration->state
               : DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE;
}

/* ---- source --------------------------------------------------------------------------
 */

bool host_memory_here(const struct host_core *core, const Drover__VmRecord *record)
{
    return record != NULL && record->dependence != NULL &&
           record->dependence->host_id == core->identity.host_id;
}

bool host_memory_kept(const struct host_core *core, const Drover__VmRecord *record,
                      const struct host_vmm *vmm)
{
    if (!host_memory_here(core, record) ||
        record->dependence->source_epoch != vmm->epoch ||
        record->dependence->epoch != record->epoch) {
        return false;
    }
    if (vmm->status == NULL) {
        return true; /* not known yet */
    }
    /* Rule: only what has handed the guest over is kept. */
    return host_vmm_state(vmm) == DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER &&
           move_state(vmm) != DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE;
}

void host_order_links(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                      uint64_t now_ms)
{
    Drover__VmMigrationState state = move_state(vmm);
    bool waits = state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY ||
                 state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN;
    if (!waits || !vmm->status->migration->interrupted ||
        host_vmm_state(vmm) != DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER) {
        return;
    }
    Drover__ControlMigrateLinks links = DROVER__CONTROL_MIGRATE_LINKS__INIT;
    HOST_ORDER(core, vm, vmm, migrate_links, MIGRATE_LINKS, &links, now_ms);
    host_wake_at(core, now_ms + core->timing.retry_ms);
}

void host_memory_reconcile(struct host_core *core, struct host_vm *vm,
                           const Drover__VmRecord *record, uint64_t now_ms)
{
    const Drover__Dependence *dependence = record->dependence;
    CHECK(host_memory_here(core, record));
    CHECK(record->owner_host_id != core->identity.host_id);
    struct host_vmm *vmm = host_vmm_find(vm, dependence->source_epoch);
    if (vmm != NULL) {
        if (host_memory_kept(core, record, vmm)) {
            host_order_links(core, vm, vmm, now_ms);
        }
        return;
    }
    /* One that had sent all takes nothing with it: the owner says so by itself. */
    bool sent = vm->gone.epoch == dependence->source_epoch && vm->gone.sent;
    if (dependence->lost || sent) {
        return;
    }
    Drover__MigrationSourceLost lost = DROVER__MIGRATION_SOURCE_LOST__INIT;
    lost.epoch = dependence->epoch;
    HOST_STATE(core, vm, migration_source_lost, MIGRATION_SOURCE_LOST, &lost, now_ms);
}

/* ---- owner ---------------------------------------------------------------------------
 */

enum host_need host_need_judge(const Drover__VmRecord *record, const struct host_vm *vm,
                               const struct host_vmm *vmm)
{
    if (record->dependence == NULL) {
        return HOST_NEED_NONE;
    }
    if (vmm == NULL) {
        /* What is on its way out may still be the one. */
        return vm->vmm_count == 0 ? HOST_NEED_DIED : HOST_NEED_WAITS;
    }
    if (vmm->status == NULL) {
        return HOST_NEED_WAITS;
    }
    const Drover__VmMigrationStatus *move = vmm->status->migration;
    switch (move_state(vmm)) {
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE:
        return HOST_NEED_DIED; /* this one was started since */
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE:
        return HOST_NEED_COMPLETE;
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY:
        return record->dependence->lost && move->interrupted ? HOST_NEED_HOPELESS
                                                             : HOST_NEED_WAITS;
    default:
        return HOST_NEED_WAITS; /* it has just entered, or is at its end */
    }
}

static void state_complete(struct host_core *core, struct host_vm *vm,
                           const struct host_vmm *vmm, const Drover__VmRecord *record,
                           uint64_t now_ms)
{
    bool died = host_need_judge(record, vm, vmm) == HOST_NEED_DIED;
    Drover__MigrationComplete complete = DROVER__MIGRATION_COMPLETE__INIT;
    complete.epoch = record->epoch;
    complete.lost = died;
    if (died && vm->gone.epoch == record->epoch) {
        complete.reason = vm->gone.reason;
    }
    Drover__MigrationFigures figures;
    complete.figures = !died && host_figures(vmm, &figures) ? &figures : NULL;
    HOST_STATE(core, vm, migration_complete, MIGRATION_COMPLETE, &complete, now_ms);
}

static void order_give_up(struct host_core *core, struct host_vm *vm,
                          struct host_vmm *vmm, const Drover__VmRecord *record,
                          uint64_t now_ms)
{
    /* Rule: a guest is given up only when the record says that its memory is lost. */
    CHECK(record->dependence->lost && record->dependence->epoch == vmm->epoch);
    vmm->give_up_ms = vmm->give_up_ms == 0 ? now_ms : vmm->give_up_ms;
    if (now_ms - vmm->give_up_ms < GIVE_UP_MS) {
        host_order_cancel(core, vm, vmm, now_ms); /* it knows best what to say of it */
    } else {
        host_order_quit(core, vm, vmm, now_ms); /* who does not heed that is killed */
    }
    host_wake_at(core, now_ms + core->timing.retry_ms);
}

/* Nothing comes any more but what was on its way: a VMM that does not see that its
 * connection is gone, or says nothing at all any more, does not keep its guest from being
 * started again. */
static void wait_for_the_rest(struct host_core *core, struct host_vm *vm,
                              struct host_vmm *vmm, const Drover__VmRecord *record,
                              uint64_t now_ms)
{
    if (vmm == NULL || !record->dependence->lost ||
        record->dependence->epoch != vmm->epoch) {
        return;
    }
    vmm->lost_ms = vmm->lost_ms == 0 ? now_ms : vmm->lost_ms;
    if (now_ms - vmm->lost_ms < REST_MS) {
        host_wake_at(core, vmm->lost_ms + REST_MS);
        return;
    }
    order_give_up(core, vm, vmm, record, now_ms);
}

void host_need_reconcile(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                         const Drover__VmRecord *record, uint64_t now_ms)
{
    switch (host_need_judge(record, vm, vmm)) {
    case HOST_NEED_NONE:
        break;
    case HOST_NEED_WAITS:
        wait_for_the_rest(core, vm, vmm, record, now_ms);
        break;
    case HOST_NEED_HOPELESS:
        order_give_up(core, vm, vmm, record, now_ms);
        break;
    case HOST_NEED_COMPLETE:
    case HOST_NEED_DIED:
        state_complete(core, vm, vmm, record, now_ms);
        break;
    }
}
