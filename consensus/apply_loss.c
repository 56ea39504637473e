/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What deaths and resets do to VMs, those in a migration above all. After the go only the
 * target knows whether the guest runs there, so:
 *
 *   both alive   BY_SOURCE (never sent the go)       owner keeps the VM, same epoch
 *                BY_TARGET (never got the go)        owner keeps the VM, same epoch
 *                MigrationDone by the target         target owns it, next epoch
 *                BY_TARGET_UNSURE (its VMM is gone)  as if the target were dead
 *   source dead  the target's word                   on BY_TARGET its proof takes the VM
 *   target dead  BY_SOURCE                           owner keeps the VM, same epoch
 *                BY_SOURCE_AFTER_TARGET_DIED         owner starts it anew, new epoch
 *   both dead    at once, by their proofs            nobody owns it
 *
 * A host that came back with another boot has lost the VMM that could know: it may not
 * speak for it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

static struct step_subject subject_of(const Drover__VmRecord *vm, uint64_t host_id,
                                      uint64_t epoch)
{
    return (struct step_subject){.host_id = host_id, .vm_id = vm->vm_id, .epoch = epoch};
}

void apply_clear_migration(Drover__VmRecord *vm)
{
    record_free(vm->migration);
    vm->migration = NULL;
}

void apply_take_from_dead(struct apply_step *step, Drover__VmRecord *vm,
                          const Drover__HostRecord *host)
{
    CHECK(host->state == DROVER__HOST_STATE__HOST_STATE_DEAD);
    CHECK(vm->owner_host_id == host->host_id && vm->migration == NULL);
    if (vm->spec->ha) {
        CHECK(host->proof_index != 0 && apply_proof_covers(host->proof, vm));
        vm->owner_host_id = 0;
        vm->proof_index = host->proof_index;
        apply_dependence_clear(vm);
        if (vm->wanted == DROVER__VM_WANTED__VM_WANTED_KILLED) {
            vm->wanted = DROVER__VM_WANTED__VM_WANTED_STOPPED; /* it is */
        }
        record_clear_string(&vm->last_error);
        step_event(step, "vm.taken", subject_of(vm, host->host_id, vm->epoch),
                   "VM '%s' was taken from the dead host '%s' (proof: log entry %llu)",
                   vm->spec->name, host->name, (unsigned long long)host->proof_index);
        return;
    }
    char text[ERROR_TEXT_SIZE];
    (void)snprintf(
        text, sizeof(text),
        "its host '%s' is dead and it is not set for HA: it starts when '%s' is "
        "back",
        host->name, host->name);
    step_set_text(step, &vm->last_error, text);
    step_event(step, "vm.lost", subject_of(vm, host->host_id, vm->epoch),
               "VM '%s' is down with host '%s': it is not set for HA", vm->spec->name,
               host->name);
}

/* Neither side's VMM is left, or may run: nobody can say how far the migration came,
 * and it does not matter any more. */
static void end_with_both_lost(struct apply_step *step, Drover__VmRecord *vm)
{
    const Drover__HostRecord *owner = step_host(step, vm->owner_host_id);
    step_event(step, "migration.aborted",
               subject_of(vm, vm->owner_host_id, vm->migration->next_epoch),
               "the migration of VM '%s' is over: both its hosts were lost",
               vm->spec->name);
    apply_clear_migration(vm);
    /* What the source had is older than the disks, should the target have run. */
    vm->epoch_high++;
    vm->epoch = vm->epoch_high;
    apply_take_from_dead(step, vm, owner);
}

/* One of the two VMMs of a migration is gone, or will never run again. */
static int lose_side(struct apply_step *step, size_t position, uint64_t host_id,
                     const char *how)
{
    Drover__VmRecord *vm = step_edit_vm_at(step, position);
    if (vm == NULL) {
        return -ENOMEM;
    }
    Drover__Migration *migration = vm->migration;
    bool source = migration->source_host_id == host_id;
    bool known = source ? migration->source_dead : migration->target_dead;
    if (source) {
        migration->source_dead = true;
    } else {
        migration->target_dead = true;
    }
    const Drover__HostRecord *owner = step_host(step, vm->owner_host_id);
    bool owner_dead = owner->state == DROVER__HOST_STATE__HOST_STATE_DEAD;
    if (migration->source_dead && migration->target_dead && owner_dead) {
        end_with_both_lost(step, vm);
        return 0;
    }
    if (!known) {
        char name[STEP_NAME_SIZE];
        bool target_speaks = !migration->target_dead;
        step_event(step, source ? "migration.source_dead" : "migration.target_dead",
                   subject_of(vm, host_id, migration->next_epoch),
                   "the migration of VM '%s' has lost its %s: host %s %s; the %s decides",
                   vm->spec->name, source ? "source" : "target",
                   step_host_name(step, host_id, name), how,
                   target_speaks ? "target" : "source");
    }
    return 0;
}

int apply_death_to_vm(struct apply_step *step, size_t position, uint64_t host_id,
                      const Drover__Proof *proof)
{
    const Drover__VmRecord *vm = step_vm_at(step, position);
    const Drover__Migration *migration = vm->migration;
    if (migration != NULL) {
        bool concerned =
            migration->source_host_id == host_id || migration->target_host_id == host_id;
        /* Without a proof that covers this VM, it may run on that host: wait. */
        return concerned && apply_proof_covers(proof, vm)
                   ? lose_side(step, position, host_id, "is dead")
                   : 0;
    }
    if (vm->owner_host_id != host_id) {
        return 0;
    }
    Drover__VmRecord *edited = step_edit_vm_at(step, position);
    if (edited == NULL) {
        return -ENOMEM;
    }
    apply_take_from_dead(step, edited, step_host(step, host_id));
    return 0;
}

int apply_reboot_to_migration(struct apply_step *step, size_t position, uint64_t host_id,
                              const char *boot_id)
{
    const Drover__Migration *before = step_vm_at(step, position)->migration;
    bool begun = before->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_BEGUN;
    bool target = before->target_host_id == host_id;
    if (!target && before->source_host_id != host_id) {
        return 0;
    }
    if (!target || !begun || before->target_dead) {
        return lose_side(step, position, host_id, "was reset");
    }
    /* Nothing was sent to the target yet: it may start its waiting VMM again. */
    Drover__VmRecord *vm = step_edit_vm_at(step, position);
    if (vm == NULL) {
        return -ENOMEM;
    }
    step_set_string(step, &vm->migration->target_boot_id, boot_id);
    return 0;
}

int apply_loss_of_target(struct apply_step *step, size_t position)
{
    uint64_t target = step_vm_at(step, position)->migration->target_host_id;
    return lose_side(step, position, target, "has lost its VMM");
}
