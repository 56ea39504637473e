/* SPDX-License-Identifier: Apache-2.0 */
/* How migrations end: done or aborted, and what is told of it. Who may end one is told in
 * apply_loss.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "consensus/apply.h"
#include "consensus/apply_step.h"

#define ENCRYPTION_TEXT_SIZE 96

static bool is_begun(const Drover__Migration *migration)
{
    return migration->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_BEGUN;
}

/* Whether the boot that took part still runs, and so its VMM's word can be known
 * there. */
static bool same_boot(const struct apply_step *step, uint64_t host_id,
                      const char *boot_id)
{
    return strcmp(step_host(step, host_id)->boot_id, boot_id) == 0;
}

static int check_done(struct apply_step *step, const Drover__Migration *migration,
                      const Drover__MigrationDone *order)
{
    int rv = apply_check_speaker(step, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    if (migration->target_host_id != order->host_id || is_begun(migration) ||
        !same_boot(step, order->host_id, migration->target_boot_id)) {
        return step_refuse(
            step, DROVER_ECONFLICT,
            "only a target that was ready, and was not reset since, can have "
            "received the VM");
    }
    return 0;
}

static const char *encrypted_by(Drover__MoveEncryption encryption)
{
    switch (encryption) {
    case DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL:
        return "by the kernel";
    case DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY:
        return "by a relay";
    default:
        return NULL;
    }
}

/* ", encrypted by ..."; "": nobody knows. */
static void tell_encryption(const Drover__MigrationFigures *figures, char *ret_text,
                            size_t size)
{
    const char *source = encrypted_by(figures->source_encryption);
    const char *target = encrypted_by(figures->target_encryption);
    ret_text[0] = '\0';
    if (figures->over_rdma) {
        (void)snprintf(ret_text, size, ", over RDMA: this move was not encrypted");
    } else if (source != NULL &&
               figures->source_encryption == figures->target_encryption) {
        (void)snprintf(ret_text, size, ", encrypted %s on both sides", source);
    } else if (source != NULL && target != NULL) {
        (void)snprintf(ret_text, size,
                       ", encrypted %s at its source and %s at its target", source,
                       target);
    } else if (source != NULL || target != NULL) {
        (void)snprintf(ret_text, size, ", encrypted %s at its %s",
                       source != NULL ? source : target,
                       source != NULL ? "source" : "target");
    }
}

int apply_migration_done(struct apply_step *step, const Drover__MigrationDone *order)
{
    const Drover__Migration *before =
        apply_migration_find(step, order->vm_id, order->next_epoch);
    if (before == NULL) {
        return DROVER_ECONFLICT;
    }
    int rv = check_done(step, before, order);
    if (rv != 0) {
        return rv;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    Drover__MigrationFigures none = DROVER__MIGRATION_FIGURES__INIT;
    const Drover__MigrationFigures *figures =
        order->figures != NULL ? order->figures : &none;
    Drover__MigrationFigures *copy = record_copy(figures);
    if (vm == NULL || copy == NULL) {
        record_free(copy);
        return -ENOMEM;
    }
    char from[STEP_NAME_SIZE], to[STEP_NAME_SIZE], encryption[ENCRYPTION_TEXT_SIZE];
    tell_encryption(figures, encryption, sizeof(encryption));
    step_event(
        step, "migration.done", step_subject_of(vm, order->host_id, order->next_epoch),
        "VM '%s' has moved from host %s to host %s in %llu ms, with a pause of "
        "%llu.%llu ms%s%s",
        vm->spec->name, step_host_name(step, vm->owner_host_id, from),
        step_host_name(step, order->host_id, to), (unsigned long long)figures->total_ms,
        (unsigned long long)(figures->downtime_us / 1000),
        (unsigned long long)(figures->downtime_us % 1000 / 100), encryption,
        order->depends ? "; the rest of its memory follows" : "");
    record_clear_string(&copy->notice); /* whatever a target put there */
    if (vm->migration->notice[0] != '\0') {
        step_set_text(step, &copy->notice, vm->migration->notice);
    }
    record_free(vm->last_migration);
    vm->last_migration = copy;
    rv = apply_dependence_begin(step, vm, order);
    if (rv != 0) {
        return rv;
    }
    vm->owner_host_id = order->host_id;
    vm->epoch = order->next_epoch;
    vm->started_epoch = order->next_epoch;
    vm->proof_index = 0;
    record_clear_string(&vm->last_error);
    apply_clear_migration(vm);
    return 0;
}

static int check_abort(struct apply_step *step, const Drover__Migration *migration,
                       const Drover__MigrationAbort *order)
{
    int rv = apply_check_speaker(step, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    uint64_t speaker = 0;
    bool knows = false;
    switch (order->by) {
    case DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE:
        speaker = migration->source_host_id;
        knows =
            is_begun(migration) || same_boot(step, speaker, migration->source_boot_id);
        break;
    case DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET:
        speaker = migration->target_host_id;
        knows =
            is_begun(migration) || same_boot(step, speaker, migration->target_boot_id);
        break;
    case DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE:
        speaker = migration->target_host_id;
        knows = true; /* that it is gone: no more is said */
        break;
    case DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE_AFTER_TARGET_DIED:
        speaker = migration->source_host_id;
        knows = migration->target_dead;
        break;
    default:
        break;
    }
    if (speaker == 0 || speaker != order->host_id) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "a migration is aborted by its source or its target, in its own "
            "name");
    }
    if (!knows) {
        return step_refuse(
            step, DROVER_EWRONGSTATE,
            "the guest may have been handed over: the other host decides about "
            "this migration");
    }
    return 0;
}

int apply_migration_abort(struct apply_step *step, const Drover__MigrationAbort *order)
{
    const Drover__Migration *before =
        apply_migration_find(step, order->vm_id, order->next_epoch);
    if (before == NULL) {
        return DROVER_ECONFLICT;
    }
    int rv = check_abort(step, before, order);
    if (rv != 0) {
        return rv;
    }
    if (order->by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE &&
        !is_begun(before)) {
        return apply_loss_of_target(
            step, (size_t)record_vm_position(step->record, order->vm_id));
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    bool anew = order->by ==
                DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE_AFTER_TARGET_DIED;
    char name[STEP_NAME_SIZE];
    step_event(step, "migration.aborted",
               step_subject_of(vm, order->host_id, order->next_epoch),
               "VM '%s' was not moved and %s host %s%s%s", vm->spec->name,
               anew ? "is started anew on" : "stays with",
               step_host_name(step, vm->owner_host_id, name),
               order->reason[0] == '\0' ? "" : ": ", order->reason);
    apply_clear_migration(vm);
    if (anew) {
        vm->epoch_high++;
        vm->epoch = vm->epoch_high;
    }
    const Drover__HostRecord *owner = step_host(step, vm->owner_host_id);
    if (owner->state == DROVER__HOST_STATE__HOST_STATE_DEAD) {
        apply_take_from_dead(step, vm, owner);
    }
    return 0;
}
