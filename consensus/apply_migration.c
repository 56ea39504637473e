/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations: begun, ready, cancelled, done, aborted. Who may end one is told in
 * apply_loss.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

#define URI_SIZE (LIMIT_ADDRESS_SIZE + 8)
#define ENCRYPTION_TEXT_SIZE 96
#define RDMA_KEY_SIZE 40 /* "#", the key, NUL */

static bool is_begun(const Drover__Migration *migration)
{
    return migration->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_BEGUN;
}

static bool wants_rdma(const Drover__Migration *migration)
{
    return migration->transport == DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA;
}

static struct step_subject subject_of(const Drover__VmRecord *vm, uint64_t host_id,
                                      uint64_t epoch)
{
    return (struct step_subject){.host_id = host_id, .vm_id = vm->vm_id, .epoch = epoch};
}

/* ---- begun, ready, cancelled ------------------------------------------------------- */

/* While a member does not know transports all judge as that one does: it is TCP. */
static int check_transport(struct apply_step *step, const Drover__MigrationBegin *order)
{
    if (!apply_postcopy_known(step)) {
        return 0;
    }
    if (order->transport == DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA &&
        !step->record->allow_unencrypted_rdma) {
        return step_refuse(
            step, DROVER_EWRONGSTATE,
            "moves over RDMA are not encrypted, and not allowed here: 'drover cluster set "
            "allow-unencrypted-rdma on' allows them");
    }
    if (order->transport > DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_AUTO) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "transport %u is unknown here: give tcp, rdma or auto",
                           (unsigned)order->transport);
    }
    return 0;
}

static int check_begin(struct apply_step *step, const Drover__MigrationBegin *order)
{
    const Drover__VmRecord *vm = step_vm(step, order->vm_id);
    if (vm == NULL) {
        return step_refuse(step, DROVER_ENOTFOUND,
                           "there is no VM number %llu: see 'drover vm list'",
                           (unsigned long long)order->vm_id);
    }
    const char *name = vm->spec->name;
    if (vm->migration != NULL) {
        return step_refuse(step, DROVER_EINUSE,
                           "VM '%s' is being moved already: wait for it, or cancel it",
                           name);
    }
    if (vm->dependence != NULL) {
        return step_refuse(step, DROVER_EINUSE,
                           "memory of VM '%s' is still on its way from its last move: "
                           "wait until it is there",
                           name);
    }
    if (vm->owner_host_id == 0 || vm->started_epoch != vm->epoch) {
        return step_refuse(
            step, DROVER_EWRONGSTATE,
            "VM '%s' is not running: start it first ('drover vm start %s')", name, name);
    }
    if (vm->epoch != order->expected_epoch) {
        return step_refuse(step, DROVER_ECONFLICT,
                           "VM '%s' has changed hands since this was asked: try again",
                           name);
    }
    if (vm->wanted != DROVER__VM_WANTED__VM_WANTED_RUNNING &&
        vm->wanted != DROVER__VM_WANTED__VM_WANTED_PAUSED) {
        return step_refuse(step, DROVER_EWRONGSTATE,
                           "VM '%s' is being stopped: start it first", name);
    }
    const Drover__HostRecord *source = step_host(step, vm->owner_host_id);
    if (source->state != DROVER__HOST_STATE__HOST_STATE_UP) {
        return step_refuse(
            step, DROVER_EWRONGSTATE,
            "host '%s', which has VM '%s', is not up: wait until it is back",
            source->name, name);
    }
    if (order->target_host_id == vm->owner_host_id) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "VM '%s' is on host '%s' already: choose another host", name,
                           source->name);
    }
    int rv = check_transport(step, order);
    return rv != 0 ? rv : apply_check_room(step, order->target_host_id, vm);
}

/* What the order comes to here and now. */
static Drover__MigrationTransport transport_of(const struct apply_step *step,
                                               const Drover__MigrationBegin *order)
{
    bool rdma = order->transport != DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_TCP &&
                step->record->allow_unencrypted_rdma && apply_postcopy_known(step);
    return rdma ? DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA
                : DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_TCP;
}

static Drover__Migration *migration_create(struct apply_step *step,
                                           const Drover__VmRecord *vm,
                                           const Drover__MigrationBegin *order)
{
    Drover__Migration *migration = malloc(sizeof(*migration));
    if (migration == NULL) {
        step->no_memory = true;
        return NULL;
    }
    drover__migration__init(migration);
    migration->source_host_id = vm->owner_host_id;
    migration->target_host_id = order->target_host_id;
    migration->next_epoch = vm->epoch_high + 1;
    migration->phase = DROVER__MIGRATION_PHASE__MIGRATION_PHASE_BEGUN;
    migration->max_downtime_ms = order->max_downtime_ms;
    migration->deadline_s = order->deadline_s;
    migration->predict_only = order->predict_only;
    migration->transport = transport_of(step, order);
    /* Who does not know it takes it for NEVER: then so must all. */
    if (apply_postcopy_known(step) &&
        order->postcopy <= DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NOW) {
        migration->postcopy = order->postcopy;
    }
    migration->begun_unix_ms = step->command->at_unix_ms;
    step_set_string(step, &migration->source_boot_id,
                    step_host(step, vm->owner_host_id)->boot_id);
    step_set_string(step, &migration->target_boot_id,
                    step_host(step, order->target_host_id)->boot_id);
    return migration;
}

int apply_migration_begin(struct apply_step *step, const Drover__MigrationBegin *order)
{
    int rv = check_begin(step, order);
    if (rv != 0) {
        return rv;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    vm->migration = migration_create(step, vm, order);
    if (vm->migration == NULL) {
        return -ENOMEM;
    }
    vm->epoch_high = vm->migration->next_epoch;
    char from[STEP_NAME_SIZE], to[STEP_NAME_SIZE];
    step_event(step, "migration.begun",
               subject_of(vm, order->target_host_id, vm->migration->next_epoch),
               "VM '%s' is being moved from host %s to host %s%s", vm->spec->name,
               step_host_name(step, vm->owner_host_id, from),
               step_host_name(step, order->target_host_id, to),
               wants_rdma(vm->migration) ? ", over RDMA (not encrypted) if both have it"
                                         : "");
    return 0;
}

/* The VM's migration with this epoch; NULL after a refusal. */
static const Drover__Migration *find_migration(struct apply_step *step, uint64_t vm_id,
                                               uint64_t next_epoch)
{
    const Drover__VmRecord *vm = step_vm(step, vm_id);
    if (vm == NULL || vm->migration == NULL || vm->migration->next_epoch != next_epoch) {
        (void)step_refuse(step, DROVER_ECONFLICT,
                          "VM number %llu has no migration under epoch %llu (any more)",
                          (unsigned long long)vm_id, (unsigned long long)next_epoch);
        return NULL;
    }
    return vm->migration;
}

/* Kept for the end, too. `text` is the host's, and says "this host". */
static void notice_take(struct apply_step *step, Drover__VmRecord *vm, uint64_t host_id,
                        const char *text)
{
    char name[STEP_NAME_SIZE];
    char whole[ERROR_TEXT_SIZE];
    (void)snprintf(whole, sizeof(whole), "%.200s (host %s)", text,
                   step_host_name(step, host_id, name)); /* fits */
    step_set_text(step, &vm->migration->notice, whole);
    step_event(step, "migration.notice",
               subject_of(vm, host_id, vm->migration->next_epoch), "VM '%s' is moved %s",
               vm->spec->name, whole);
}

/* "HOST:PORT#KEY" */
static bool rdma_address_valid(const char *address)
{
    char plain[LIMIT_ADDRESS_SIZE];
    size_t size = strcspn(address, "#");
    if (size >= sizeof(plain) || strnlen(address + size, RDMA_KEY_SIZE) >= RDMA_KEY_SIZE) {
        return false;
    }
    memcpy(plain, address, size);
    plain[size] = '\0';
    for (const char *c = address + size; *c != '\0'; c++) {
        if (*c <= ' ' || *c >= 0x7f) {
            return false;
        }
    }
    return text_address_valid(plain);
}

static bool uri_valid(const char *uri)
{
    if (strnlen(uri, URI_SIZE) >= URI_SIZE) {
        return false;
    }
    return (strncmp(uri, "tcp:", 4) == 0 && text_address_valid(uri + 4)) ||
           (strncmp(uri, "handed:", 7) == 0 && text_address_valid(uri + 7)) ||
           (strncmp(uri, "rdma:", 5) == 0 && text_address_valid(uri + 5));
}

static int check_ready(struct apply_step *step, const Drover__Migration *migration,
                       const Drover__MigrationReady *order)
{
    int rv = apply_check_speaker(step, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    if (migration->target_host_id != order->host_id || migration->target_dead ||
        migration->source_dead) {
        return step_refuse(
            step, DROVER_ECONFLICT,
            "this migration has another target, or one of its hosts was lost: "
            "discard the waiting VM");
    }
    if (!uri_valid(order->uri)) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "migration address '%.140s': give handed:HOST:PORT, tcp:HOST:PORT or "
            "rdma:HOST:PORT",
            order->uri);
    }
    if (order->rdma_address[0] != '\0' && !rdma_address_valid(order->rdma_address)) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "the address for RDMA makes no sense: give HOST:PORT#KEY");
    }
    if (!is_begun(migration) && strcmp(migration->uri, order->uri) != 0) {
        return step_refuse(
            step, DROVER_ECONFLICT,
            "this migration has begun to another address: discard the waiting "
            "VM");
    }
    return 0;
}

int apply_migration_ready(struct apply_step *step, const Drover__MigrationReady *order)
{
    const Drover__Migration *before =
        find_migration(step, order->vm_id, order->next_epoch);
    if (before == NULL) {
        return DROVER_ECONFLICT;
    }
    int rv = check_ready(step, before, order);
    if (rv != 0 || !is_begun(before)) {
        return rv;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    vm->migration->phase = DROVER__MIGRATION_PHASE__MIGRATION_PHASE_READY;
    step_set_string(step, &vm->migration->uri, order->uri);
    if (wants_rdma(vm->migration)) {
        step_set_string(step, &vm->migration->rdma_address, order->rdma_address);
    }
    char name[STEP_NAME_SIZE];
    step_event(step, "migration.ready", subject_of(vm, order->host_id, order->next_epoch),
               "host %s is ready to receive VM '%s'",
               step_host_name(step, order->host_id, name), vm->spec->name);
    if (wants_rdma(vm->migration) && order->rdma_address[0] == '\0') {
        notice_take(step, vm, order->host_id,
                    order->notice[0] != '\0' ? order->notice
                                             : "over TCP: the target takes no RDMA");
    }
    return 0;
}

int apply_migration_notice(struct apply_step *step, const Drover__MigrationNotice *order)
{
    const Drover__Migration *before =
        find_migration(step, order->vm_id, order->next_epoch);
    if (before == NULL) {
        return DROVER_ECONFLICT;
    }
    int rv = apply_check_speaker(step, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    if (before->source_host_id != order->host_id || order->text[0] == '\0' ||
        !wants_rdma(before)) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "what a migration is not as it was asked for is told by its source");
    }
    if (before->notice[0] != '\0') {
        return 0; /* told already */
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    notice_take(step, vm, order->host_id, order->text);
    return 0;
}

int apply_migration_cancel(struct apply_step *step, const Drover__MigrationCancel *order)
{
    const Drover__Migration *before =
        find_migration(step, order->vm_id, order->next_epoch);
    if (before == NULL) {
        return DROVER_ECONFLICT;
    }
    if (before->cancel_wanted) {
        return 0;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    vm->migration->cancel_wanted = true;
    step_event(step, "migration.cancel",
               subject_of(vm, vm->owner_host_id, order->next_epoch),
               "the migration of VM '%s' shall be cancelled", vm->spec->name);
    return 0;
}

/* ---- done, aborted ----------------------------------------------------------------- */

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
        (void)snprintf(ret_text, size, ", encrypted %s at its source and %s at its target",
                       source, target);
    } else if (source != NULL || target != NULL) {
        (void)snprintf(ret_text, size, ", encrypted %s at its %s",
                       source != NULL ? source : target,
                       source != NULL ? "source" : "target");
    }
}

int apply_migration_done(struct apply_step *step, const Drover__MigrationDone *order)
{
    const Drover__Migration *before =
        find_migration(step, order->vm_id, order->next_epoch);
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
    step_event(step, "migration.done", subject_of(vm, order->host_id, order->next_epoch),
               "VM '%s' has moved from host %s to host %s in %llu ms, with a pause of "
               "%llu.%llu ms%s%s",
               vm->spec->name, step_host_name(step, vm->owner_host_id, from),
               step_host_name(step, order->host_id, to),
               (unsigned long long)figures->total_ms,
               (unsigned long long)(figures->downtime_us / 1000),
               (unsigned long long)(figures->downtime_us % 1000 / 100),
               encryption, order->depends ? "; the rest of its memory follows" : "");
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
        find_migration(step, order->vm_id, order->next_epoch);
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
               subject_of(vm, order->host_id, order->next_epoch),
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
