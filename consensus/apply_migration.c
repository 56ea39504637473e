/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations until the guest moves: begun, ready, cancelled. Their ends: apply_migration_end.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

#define URI_SIZE (LIMIT_ADDRESS_SIZE + 8)
#define RDMA_KEY_SIZE 40 /* "#", the key, NUL */

static bool is_begun(const Drover__Migration *migration)
{
    return migration->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_BEGUN;
}

static bool wants_rdma(const Drover__Migration *migration)
{
    return migration->transport == DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA;
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
    step_set_string(step, &migration->source_incarnation,
                    step_host(step, vm->owner_host_id)->incarnation);
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
               step_subject_of(vm, order->target_host_id, vm->migration->next_epoch),
               "VM '%s' is being moved from host %s to host %s%s", vm->spec->name,
               step_host_name(step, vm->owner_host_id, from),
               step_host_name(step, order->target_host_id, to),
               wants_rdma(vm->migration) ? ", over RDMA (not encrypted) if both have it"
                                         : "");
    return 0;
}

/* The VM's migration with this epoch; NULL after a refusal. */
const Drover__Migration *apply_migration_find(struct apply_step *step, uint64_t vm_id,
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
               step_subject_of(vm, host_id, vm->migration->next_epoch), "VM '%s' is moved %s",
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
        apply_migration_find(step, order->vm_id, order->next_epoch);
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
    step_event(step, "migration.ready", step_subject_of(vm, order->host_id, order->next_epoch),
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
        apply_migration_find(step, order->vm_id, order->next_epoch);
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
        apply_migration_find(step, order->vm_id, order->next_epoch);
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
               step_subject_of(vm, vm->owner_host_id, order->next_epoch),
               "the migration of VM '%s' shall be cancelled", vm->spec->name);
    return 0;
}
