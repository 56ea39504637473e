/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMs: described, wanted, given to a host, given back. The right to run a VM passes only
 * by VmAssign (from nobody), VmStopped (the owner's own word), HostDead (a proof;
 * apply_death_to_vm), and the ends of a migration (apply_migration.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

/* With less no guest gets far. */
#define BALLOON_BYTES_MIN  (UINT64_C(16) << 20)
#define BALLOON_BYTES_STEP UINT64_C(4096)

static const char *wanted_name(Drover__VmWanted wanted)
{
    switch (wanted) {
    case DROVER__VM_WANTED__VM_WANTED_RUNNING:
        return "running";
    case DROVER__VM_WANTED__VM_WANTED_STOPPED:
        return "stopped";
    case DROVER__VM_WANTED__VM_WANTED_PAUSED:
        return "paused";
    case DROVER__VM_WANTED__VM_WANTED_KILLED:
        return "stopped at once";
    default:
        return NULL;
    }
}

static bool wants_a_host(const Drover__VmRecord *vm)
{
    return vm->wanted == DROVER__VM_WANTED__VM_WANTED_RUNNING ||
           vm->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED;
}

static int refuse_unknown_vm(struct apply_step *step, uint64_t vm_id)
{
    return step_refuse(step, DROVER_ENOTFOUND,
                       "there is no VM number %llu: see 'drover vm list'",
                       (unsigned long long)vm_id);
}

static struct step_subject subject_of(const Drover__VmRecord *vm)
{
    return (struct step_subject){
        .host_id = vm->owner_host_id, .vm_id = vm->vm_id, .epoch = vm->epoch};
}

/* ---- described --------------------------------------------------------------------- */

/* Half of a snapshot is left for what grows without a VmCreate: events, errors,
 * addresses. */
static bool state_has_room(const struct apply_step *step, const Drover__VmSpec *spec)
{
    size_t now = drover__cluster_state__get_packed_size(step->record);
    return now + drover__vm_spec__get_packed_size(spec) <= LIMIT_SNAPSHOT_BYTES / 2;
}

static int check_vm_create(struct apply_step *step, const Drover__VmCreate *order)
{
    struct error err = {0};
    int rv = vm_spec_check(order->spec, &err);
    rv = rv != 0 ? rv : vm_spec_check_new(order->spec, &err);
    if (rv == 0) {
        rv = vm_spec_check_conflicts(step->record, 0, order->spec, &err);
    }
    if (rv != 0) {
        return step_refuse(step, rv, "%s", err.text);
    }
    if (wanted_name(order->wanted) == NULL ||
        order->wanted == DROVER__VM_WANTED__VM_WANTED_KILLED) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "a new VM is wanted running, paused or stopped: say which");
    }
    if (step->record->n_vms >= LIMIT_VMS || !state_has_room(step, order->spec)) {
        return step_refuse(
            step, DROVER_ELIMIT,
            "the cluster has as many VMs as it can (%zu): delete one first",
            step->record->n_vms);
    }
    return 0;
}

int apply_vm_create(struct apply_step *step, const Drover__VmCreate *order)
{
    int rv = check_vm_create(step, order);
    if (rv != 0) {
        return rv;
    }
    Drover__VmRecord *vm = malloc(sizeof(*vm));
    if (vm == NULL) {
        return -ENOMEM;
    }
    drover__vm_record__init(vm);
    step->new_vm = vm;
    vm->vm_id = step->record->next_vm_id;
    vm->wanted = order->wanted;
    vm->spec = record_copy(order->spec);
    if (vm->spec == NULL) {
        return -ENOMEM;
    }
    rv = vm_spec_fill_macs(step, vm->vm_id, vm->spec);
    rv = rv != 0 ? rv : vm_spec_fill_vars(step, vm->spec);
    if (rv != 0) {
        return rv;
    }
    step->result->result_id = vm->vm_id;
    step_event(step, "vm.created", subject_of(vm), "VM '%s' was created, wanted %s",
               vm->spec->name, wanted_name(vm->wanted));
    return 0;
}

/* What the new description leaves open stays as it is: addresses, the variables' file. */
static int keep_filled_in(struct apply_step *step, const Drover__VmSpec *before,
                          Drover__VmSpec *spec)
{
    for (size_t i = 0; i < spec->n_nics && i < before->n_nics; i++) {
        if (spec->nics[i]->mac[0] == '\0') {
            step_set_string(step, &spec->nics[i]->mac, before->nics[i]->mac);
        }
    }
    if (spec->vars[0] == '\0' && strcmp(spec->firmware, "uefi") == 0) {
        step_set_string(step, &spec->vars, before->vars);
    }
    return step->no_memory ? -ENOMEM : 0;
}

static int check_vm_update(struct apply_step *step, const Drover__VmRecord *vm,
                           const Drover__VmSpec *spec)
{
    if (vm->owner_host_id != 0 || vm->migration != NULL) {
        return step_refuse(step, DROVER_EWRONGSTATE,
                           "VM '%s' runs: stop it before its description is changed "
                           "(drover vm stop %s)",
                           vm->spec->name, vm->spec->name);
    }
    struct error err = {0};
    int rv = vm_spec_check(spec, &err);
    rv = rv != 0 ? rv : vm_spec_check_new(spec, &err);
    if (rv == 0 && strcmp(spec->name, vm->spec->name) != 0) {
        rv = error_set(&err, DROVER_EBADINPUT, "a VM keeps its name: give '%s'",
                       vm->spec->name);
    }
    if (rv == 0) {
        rv = vm_spec_check_conflicts(step->record, vm->vm_id, spec, &err);
    }
    if (rv != 0) {
        return step_refuse(step, rv, "%s", err.text);
    }
    if (!state_has_room(step, spec)) {
        return step_refuse(step, DROVER_ELIMIT,
                           "the cluster's state is as large as it may be: delete a VM "
                           "first");
    }
    return 0;
}

int apply_vm_update(struct apply_step *step, const Drover__VmUpdate *order)
{
    const Drover__VmRecord *before = step_vm(step, order->vm_id);
    if (before == NULL) {
        return refuse_unknown_vm(step, order->vm_id);
    }
    int rv = check_vm_update(step, before, order->spec);
    if (rv != 0) {
        return rv;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    Drover__VmSpec *spec = vm == NULL ? NULL : record_copy(order->spec);
    if (spec == NULL) {
        return -ENOMEM;
    }
    if (vm->balloon_bytes >= spec->memory_bytes) {
        vm->balloon_bytes = 0;
    }
    rv = keep_filled_in(step, vm->spec, spec);
    drover__vm_spec__free_unpacked(vm->spec, NULL);
    vm->spec = spec;
    rv = rv != 0 ? rv : vm_spec_fill_macs(step, vm->vm_id, spec);
    rv = rv != 0 ? rv : vm_spec_fill_vars(step, spec);
    if (rv != 0) {
        return rv;
    }
    record_clear_string(&vm->last_error);
    step_event(step, "vm.changed", subject_of(vm), "VM '%s' has another description now",
               spec->name);
    return 0;
}

int apply_vm_set_balloon(struct apply_step *step, const Drover__VmSetBalloon *order)
{
    const Drover__VmRecord *before = step_vm(step, order->vm_id);
    if (before == NULL) {
        return refuse_unknown_vm(step, order->vm_id);
    }
    uint64_t all = before->spec->memory_bytes;
    uint64_t bytes = order->memory_bytes == all ? 0 : order->memory_bytes;
    if (bytes > all || (bytes != 0 && bytes < BALLOON_BYTES_MIN) ||
        bytes % BALLOON_BYTES_STEP != 0) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "VM '%s' has %llu MiB of memory: leave it 16 MiB up to that, in "
            "whole pages of 4 KiB",
            before->spec->name, (unsigned long long)(all >> 20));
    }
    if (bytes == before->balloon_bytes) {
        return 0;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    vm->balloon_bytes = bytes;
    step_event(step, "vm.balloon", subject_of(vm),
               "VM '%s' shall have %llu MiB of memory", vm->spec->name,
               (unsigned long long)((bytes != 0 ? bytes : all) >> 20));
    return 0;
}

int apply_vm_set_wanted(struct apply_step *step, const Drover__VmSetWanted *order)
{
    const Drover__VmRecord *before = step_vm(step, order->vm_id);
    if (before == NULL) {
        return refuse_unknown_vm(step, order->vm_id);
    }
    if (wanted_name(order->wanted) == NULL) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "a VM can be wanted running, paused, stopped or killed: say which");
    }
    Drover__VmWanted wanted = order->wanted;
    if (wanted == DROVER__VM_WANTED__VM_WANTED_KILLED && before->owner_host_id == 0) {
        wanted = DROVER__VM_WANTED__VM_WANTED_STOPPED; /* nobody is there to kill it */
    }
    if (wanted == before->wanted) {
        return 0;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    vm->wanted = wanted;
    if (vm->owner_host_id == 0) {
        record_clear_string(&vm->last_error);
    }
    step_event(step, "vm.wanted", subject_of(vm), "VM '%s' is wanted %s", vm->spec->name,
               wanted_name(wanted));
    return 0;
}

int apply_vm_delete(struct apply_step *step, const Drover__VmDelete *order)
{
    const Drover__VmRecord *vm = step_vm(step, order->vm_id);
    if (vm == NULL) {
        return refuse_unknown_vm(step, order->vm_id);
    }
    if (vm->owner_host_id != 0) {
        char name[STEP_NAME_SIZE];
        return step_refuse(
            step, DROVER_EINUSE,
            "VM '%s' belongs to host %s: stop it first ('drover vm stop %s')",
            vm->spec->name, step_host_name(step, vm->owner_host_id, name),
            vm->spec->name);
    }
    step->gone = vm;
    step_event(step, "vm.deleted", subject_of(vm),
               "VM '%s' was deleted; its disks were left as they are", vm->spec->name);
    return 0;
}

/* ---- given to a host --------------------------------------------------------------- */

static int check_vm_assign(struct apply_step *step, const Drover__VmAssign *order)
{
    const Drover__VmRecord *vm = step_vm(step, order->vm_id);
    char name[STEP_NAME_SIZE];
    if (vm == NULL) {
        return refuse_unknown_vm(step, order->vm_id);
    }
    if (vm->owner_host_id != 0) {
        return step_refuse(step, DROVER_ECONFLICT,
                           "VM '%s' belongs to host %s: look at the state again",
                           vm->spec->name, step_host_name(step, vm->owner_host_id, name));
    }
    if (vm->epoch_high != order->expected_epoch_high) {
        return step_refuse(
            step, DROVER_ECONFLICT,
            "VM '%s' has changed hands since this was decided: decide anew",
            vm->spec->name);
    }
    if (!wants_a_host(vm)) {
        return step_refuse(
            step, DROVER_EWRONGSTATE,
            "VM '%s' is wanted stopped: start it first ('drover vm start %s')",
            vm->spec->name, vm->spec->name);
    }
    return apply_check_room(step, order->host_id, vm);
}

int apply_vm_assign(struct apply_step *step, const Drover__VmAssign *order)
{
    int rv = check_vm_assign(step, order);
    if (rv != 0) {
        return rv;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    CHECK(vm->migration == NULL);
    vm->epoch_high++;
    vm->epoch = vm->epoch_high;
    vm->owner_host_id = order->host_id;
    vm->machine = order->machine;
    record_clear_string(&vm->last_error);
    char name[STEP_NAME_SIZE];
    step_event(step, "vm.assigned", subject_of(vm),
               "VM '%s' was given to host %s (epoch %llu)%s%s", vm->spec->name,
               step_host_name(step, order->host_id, name), (unsigned long long)vm->epoch,
               order->why[0] == '\0' ? "" : ": ", order->why);
    return 0;
}

/* ---- the owner's statements -------------------------------------------------------- */

static int check_owner(struct apply_step *step, uint64_t vm_id, uint64_t epoch,
                       uint64_t host_id, const char *incarnation)
{
    const Drover__VmRecord *vm = step_vm(step, vm_id);
    if (vm == NULL) {
        return refuse_unknown_vm(step, vm_id);
    }
    int rv = apply_check_speaker(step, host_id, incarnation);
    if (rv != 0) {
        return rv;
    }
    if (vm->owner_host_id != host_id || vm->epoch != epoch) {
        char name[STEP_NAME_SIZE];
        return step_refuse(step, DROVER_ESTALEEPOCH,
                           "host %s has no right to VM '%s' under epoch %llu (any more)",
                           step_host_name(step, host_id, name), vm->spec->name,
                           (unsigned long long)epoch);
    }
    return 0;
}

int apply_vm_started(struct apply_step *step, const Drover__VmStarted *order)
{
    int rv =
        check_owner(step, order->vm_id, order->epoch, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    const Drover__VmRecord *before = step_vm(step, order->vm_id);
    if (before->started_epoch == order->epoch && before->last_error[0] == '\0') {
        return 0;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    char name[STEP_NAME_SIZE];
    step_event(step, "vm.started", subject_of(vm), "VM '%s' runs on host %s (epoch %llu)",
               vm->spec->name, step_host_name(step, order->host_id, name),
               (unsigned long long)vm->epoch);
    vm->started_epoch = order->epoch;
    record_clear_string(&vm->last_error);
    return 0;
}

int apply_vm_stopped(struct apply_step *step, const Drover__VmStopped *order)
{
    int rv =
        check_owner(step, order->vm_id, order->epoch, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    const Drover__VmRecord *before = step_vm(step, order->vm_id);
    if (before->migration != NULL) {
        return step_refuse(step, DROVER_EWRONGSTATE,
                           "VM '%s' is being moved, and the target may have it: end the "
                           "migration first",
                           before->spec->name);
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    char name[STEP_NAME_SIZE];
    step_event(step, "vm.stopped", subject_of(vm), "VM '%s' has stopped on host %s%s%s",
               vm->spec->name, step_host_name(step, order->host_id, name),
               order->reason[0] == '\0' ? "" : ": ", order->reason);
    bool meant = order->guest_powered_off || !wants_a_host(vm);
    step_set_text(step, &vm->last_error, meant ? "" : order->reason);
    if (order->guest_powered_off || vm->wanted == DROVER__VM_WANTED__VM_WANTED_KILLED) {
        vm->wanted = DROVER__VM_WANTED__VM_WANTED_STOPPED;
    }
    vm->owner_host_id = 0;
    vm->proof_index = 0;
    apply_dependence_clear(vm);
    return 0;
}

int apply_vm_problem(struct apply_step *step, const Drover__VmProblem *order)
{
    int rv =
        check_owner(step, order->vm_id, order->epoch, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    char text[ERROR_TEXT_SIZE];
    text_for_people(order->text, text, sizeof(text));
    if (strcmp(step_vm(step, order->vm_id)->last_error, text) == 0) {
        return 0;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    step_set_text(step, &vm->last_error, text);
    if (text[0] != '\0') {
        step_event(step, "vm.problem", subject_of(vm), "VM '%s': %s", vm->spec->name,
                   text);
    }
    return 0;
}

/* What the host does about it, for people. */
static const char *panic_consequence(const Drover__VmSpec *spec)
{
    if (strcmp(spec->on_panic, "reset") == 0) {
        return "it is reset";
    }
    if (strcmp(spec->on_panic, "pause") == 0) {
        return "it stands still for a look at it";
    }
    if (strcmp(spec->on_panic, "ignore") == 0) {
        return "nothing is done about it";
    }
    return "it is stopped, and started again if it is wanted running";
}

int apply_vm_panicked(struct apply_step *step, const Drover__VmPanicked *order)
{
    int rv =
        check_owner(step, order->vm_id, order->epoch, order->host_id, order->incarnation);
    if (rv != 0) {
        return rv;
    }
    if (step_vm(step, order->vm_id)->last_panic_unix_ms == order->at_unix_ms) {
        return 0;
    }
    Drover__VmRecord *vm = step_edit_vm(step, order->vm_id);
    if (vm == NULL) {
        return -ENOMEM;
    }
    char name[STEP_NAME_SIZE];
    vm->panics++;
    vm->last_panic_unix_ms = order->at_unix_ms;
    step_event(step, "vm.panicked", subject_of(vm),
               "the guest's kernel of VM '%s' has crashed on host %s: %s", vm->spec->name,
               step_host_name(step, order->host_id, name), panic_consequence(vm->spec));
    return 0;
}
