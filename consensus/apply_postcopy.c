/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Post-copy: after MigrationDone the guest runs with its owner, and may still need memory
 * that is with the VMM it came from. The record says where (VmRecord.dependence), so that
 * the VMM there is kept, across restarts of both agents; and whether that is lost for good.
 * It ends by the owner's word alone: all has come, or the VMM that needed it has ended.
 * None of this is about the right to run the VM: that is the owner's from MigrationDone on.
 */
#include <errno.h>

#include "base/check.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

bool apply_postcopy_known(const struct apply_step *step)
{
    for (size_t i = 0; i < step->record->n_hosts; i++) {
        if (!step_host(step, step->record->hosts[i]->host_id)->postcopy) {
            return false;
        }
    }
    return true;
}

int apply_dependence_begin(struct apply_step *step, Drover__VmRecord *vm,
                           const Drover__MigrationDone *order)
{
    CHECK(vm->migration != NULL && vm->migration->next_epoch == order->next_epoch);
    const Drover__Migration *migration = vm->migration;
    apply_dependence_clear(vm);
    if (!order->depends || migration->postcopy ==
                               DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NEVER) {
        return 0;
    }
    Drover__Dependence none = DROVER__DEPENDENCE__INIT;
    Drover__Dependence *dependence = record_copy(&none);
    if (dependence == NULL) {
        step->no_memory = true;
        return -ENOMEM;
    }
    dependence->host_id = migration->source_host_id;
    dependence->source_epoch = vm->epoch;
    dependence->epoch = migration->next_epoch;
    dependence->lost = migration->source_dead;
    vm->dependence = dependence;
    return 0;
}

void apply_dependence_clear(Drover__VmRecord *vm)
{
    record_free(vm->dependence);
    vm->dependence = NULL;
}

/* The VMM with the memory is gone, for certain. */
static int lose(struct apply_step *step, size_t position, const char *how)
{
    if (step_vm_at(step, position)->dependence->lost) {
        return 0;
    }
    Drover__VmRecord *vm = step_edit_vm_at(step, position);
    if (vm == NULL) {
        return -ENOMEM;
    }
    vm->dependence->lost = true;
    char name[STEP_NAME_SIZE];
    step_event(step, "migration.source_lost", step_subject_of(vm, vm->dependence->host_id, vm->epoch),
               "host %s, where memory of VM '%s' still was, %s: unless all has come, the "
               "VM starts anew",
               step_host_name(step, vm->dependence->host_id, name), vm->spec->name, how);
    return 0;
}

int apply_death_to_dependence(struct apply_step *step, size_t position, uint64_t host_id,
                              const Drover__Proof *proof)
{
    const Drover__VmRecord *vm = step_vm_at(step, position);
    if (vm->dependence == NULL || vm->dependence->host_id != host_id ||
        !apply_proof_covers(proof, vm)) {
        return 0;
    }
    return lose(step, position, "is dead");
}

int apply_reboot_to_dependence(struct apply_step *step, size_t position, uint64_t host_id)
{
    const Drover__VmRecord *vm = step_vm_at(step, position);
    return vm->dependence != NULL && vm->dependence->host_id == host_id
               ? lose(step, position, "was reset")
               : 0;
}

static int refuse_unknown(struct apply_step *step, uint64_t vm_id)
{
    return step_refuse(step, DROVER_ECONFLICT,
                       "VM number %llu depends on no other host (any more)",
                       (unsigned long long)vm_id);
}

int apply_migration_source_lost(struct apply_step *step,
                                const Drover__MigrationSourceLost *order)
{
    int rv = apply_check_speaker(step, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    const Drover__VmRecord *vm = step_vm(step, order->vm_id);
    if (vm == NULL || vm->dependence == NULL || vm->dependence->epoch != order->epoch ||
        vm->dependence->host_id != order->host_id) {
        return refuse_unknown(step, order->vm_id);
    }
    return lose(step, (size_t)record_vm_position(step->record, order->vm_id),
                "has lost its VMM");
}

/* What was told when the guest had left; `before` may be NULL. */
static void figures_inherit(struct apply_step *step, Drover__MigrationFigures *figures,
                            const Drover__MigrationFigures *before)
{
    record_clear_string(&figures->notice); /* whatever a target put there */
    if (before == NULL) {
        return;
    }
    if (before->notice[0] != '\0') {
        step_set_text(step, &figures->notice, before->notice);
    }
    /* Its agent may have been started since. */
    if (figures->source_encryption == DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_UNKNOWN) {
        figures->source_encryption = before->source_encryption;
    }
    if (figures->target_encryption == DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_UNKNOWN) {
        figures->target_encryption = before->target_encryption;
    }
}

int apply_migration_complete(struct apply_step *step,
                             const Drover__MigrationComplete *order)
{
    int rv = apply_check_speaker(step, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    const Drover__VmRecord *before = step_vm(step, order->vm_id);
    if (before == NULL || before->dependence == NULL ||
        before->dependence->epoch != order->epoch ||
        before->owner_host_id != order->host_id) {
        return refuse_unknown(step, order->vm_id);
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    char name[STEP_NAME_SIZE];
    (void)step_host_name(step, vm->dependence->host_id, name);
    if (order->lost) {
        step_event(step, "migration.lost", step_subject_of(vm, order->host_id, vm->epoch),
                   "VM '%s' ended before all its memory had come from host %s, and starts "
                   "anew if it is wanted%s%s",
                   vm->spec->name, name, order->reason[0] == '\0' ? "" : ": ",
                   order->reason);
    } else {
        step_event(step, "migration.complete", step_subject_of(vm, order->host_id, vm->epoch),
                   "all memory of VM '%s' has come from host %s", vm->spec->name, name);
    }
    if (order->figures != NULL) {
        Drover__MigrationFigures *figures = record_copy(order->figures);
        if (figures == NULL) {
            return -ENOMEM;
        }
        figures_inherit(step, figures, vm->last_migration);
        record_free(vm->last_migration);
        vm->last_migration = figures;
    }
    apply_dependence_clear(vm);
    return 0;
}
