/* SPDX-License-Identifier: Apache-2.0 */
/* The rules that hold between any two commands: checked by tests after each, and of
 * every snapshot that is loaded. */
#include <string.h>

#include "base/id.h"
#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

#define BROKEN(...) (error_set(err, DROVER_EMALFORMED, __VA_ARGS__), false)

static bool empty_state_valid(const Drover__ClusterState *record, struct error *err)
{
    if (record->n_hosts + record->n_vms + record->n_tokens + record->n_events +
                record->n_requests !=
            0 ||
        record->cluster_id[0] != '\0') {
        return BROKEN("a state without a cluster has something in it");
    }
    return true;
}

static bool head_valid(const Drover__ClusterState *record, struct error *err)
{
    if (record->cluster_id[0] == '\0' || record->lease_ms == 0 ||
        record->ca_certificate_pem.len == 0 || record->ca_key_pem.len == 0) {
        return BROKEN("the cluster lacks its id, lease or CA");
    }
    if (record->n_hosts == 0 || record->n_hosts > LIMIT_HOSTS ||
        record->n_vms > LIMIT_VMS || record->n_tokens > LIMIT_TOKENS ||
        record->n_events > LIMIT_EVENTS) {
        return BROKEN("too many or too few records");
    }
    return true;
}

static bool host_valid(const Drover__ClusterState *record, size_t at, struct error *err)
{
    const Drover__HostRecord *host = record->hosts[at];
    if (host->host_id == 0 || host->host_id >= record->next_host_id ||
        (at > 0 && record->hosts[at - 1]->host_id >= host->host_id)) {
        return BROKEN("the ids of hosts are not in order");
    }
    if (!id_name_valid(host->name) || !text_address_valid(host->address)) {
        return BROKEN("host %llu has no name or address",
                      (unsigned long long)host->host_id);
    }
    for (size_t i = 0; i < at; i++) {
        if (strcmp(record->hosts[i]->name, host->name) == 0 ||
            strcmp(record->hosts[i]->address, host->address) == 0) {
            return BROKEN("two hosts have the name or address of '%s'", host->name);
        }
    }
    switch (host->state) {
    case DROVER__HOST_STATE__HOST_STATE_JOINING:
        return true;
    case DROVER__HOST_STATE__HOST_STATE_UP:
        return host->boot_id[0] != '\0' && host->incarnation[0] != '\0'
                   ? true
                   : BROKEN("host '%s' is up without a boot", host->name);
    case DROVER__HOST_STATE__HOST_STATE_DEAD:
        return host->proof != NULL && host->proof_index != 0 &&
                       host->proof_index <= record->applied_index
                   ? true
                   : BROKEN("host '%s' is dead without a proof", host->name);
    default:
        return BROKEN("host '%s' has no state", host->name);
    }
}

static const Drover__HostRecord *find_host(const Drover__ClusterState *record,
                                           uint64_t host_id)
{
    long at = record_host_position(record, host_id);
    return at < 0 ? NULL : record->hosts[at];
}

static bool migration_valid(const Drover__ClusterState *record,
                            const Drover__VmRecord *vm, struct error *err)
{
    const Drover__Migration *migration = vm->migration;
    const Drover__HostRecord *target = find_host(record, migration->target_host_id);
    if (migration->source_host_id != vm->owner_host_id || vm->owner_host_id == 0 ||
        target == NULL || target->host_id == vm->owner_host_id) {
        return BROKEN("the migration of VM '%s' is not from its owner to another host",
                      vm->spec->name);
    }
    if (migration->next_epoch <= vm->epoch || migration->next_epoch > vm->epoch_high) {
        return BROKEN("the migration of VM '%s' has the wrong epoch", vm->spec->name);
    }
    bool begun = migration->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_BEGUN;
    bool ready = migration->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_READY;
    if ((!begun && !ready) || ready != (migration->uri[0] != '\0')) {
        return BROKEN("the migration of VM '%s' has the wrong phase", vm->spec->name);
    }
    return true;
}

static bool dependence_valid(const Drover__VmRecord *vm, struct error *err)
{
    const Drover__Dependence *dependence = vm->dependence;
    if (vm->owner_host_id == 0 || vm->migration != NULL || dependence->host_id == 0 ||
        dependence->host_id == vm->owner_host_id || dependence->epoch != vm->epoch ||
        dependence->source_epoch == 0 || dependence->source_epoch >= vm->epoch) {
        return BROKEN("VM '%s' depends on a host where nothing of it can be",
                      vm->spec->name);
    }
    return true;
}

static bool vm_right_valid(const Drover__ClusterState *record, const Drover__VmRecord *vm,
                           struct error *err)
{
    const char *name = vm->spec->name;
    const Drover__HostRecord *owner = find_host(record, vm->owner_host_id);
    const Drover__Migration *migration = vm->migration;
    if (vm->epoch > vm->epoch_high || vm->started_epoch > vm->epoch) {
        return BROKEN("the epochs of VM '%s' are not in order", name);
    }
    if (vm->proof_index > record->applied_index) {
        return BROKEN("VM '%s' was taken by a proof that does not exist yet", name);
    }
    if (vm->dependence != NULL && !dependence_valid(vm, err)) {
        return false;
    }
    if (vm->owner_host_id == 0) {
        return migration == NULL ? true
                                 : BROKEN("VM '%s' is moved without an owner", name);
    }
    if (owner == NULL || owner->witness || vm->epoch == 0 ||
        owner->state == DROVER__HOST_STATE__HOST_STATE_JOINING) {
        return BROKEN("VM '%s' belongs to a host that can't have it", name);
    }
    bool owner_dead = owner->state == DROVER__HOST_STATE__HOST_STATE_DEAD;
    bool target_decides =
        migration != NULL && migration->source_dead && !migration->target_dead;
    if (owner_dead && vm->spec->ha && !target_decides) {
        return BROKEN("VM '%s', set for HA, was left with a dead host", name);
    }
    return migration == NULL || migration_valid(record, vm, err);
}

static bool vm_valid(const Drover__ClusterState *record, size_t at, struct error *err)
{
    const Drover__VmRecord *vm = record->vms[at];
    if (vm->vm_id == 0 || vm->vm_id >= record->next_vm_id ||
        (at > 0 && record->vms[at - 1]->vm_id >= vm->vm_id)) {
        return BROKEN("the ids of VMs are not in order");
    }
    if (vm_spec_check(vm->spec, err) != 0) {
        return false;
    }
    bool killed = vm->wanted == DROVER__VM_WANTED__VM_WANTED_KILLED;
    if (vm->wanted < DROVER__VM_WANTED__VM_WANTED_RUNNING ||
        vm->wanted > DROVER__VM_WANTED__VM_WANTED_KILLED ||
        (killed && vm->owner_host_id == 0)) {
        return BROKEN("nobody can say how VM '%s' is wanted", vm->spec->name);
    }
    for (size_t i = 0; i < at; i++) {
        const Drover__VmSpec *other = record->vms[i]->spec;
        const char *path;
        if (strcmp(other->name, vm->spec->name) == 0) {
            return BROKEN("two VMs have the name '%s'", other->name);
        }
        if (!vm_spec_disks_agree(other, vm->spec, &path)) {
            return BROKEN("VMs '%s' and '%s' have the same disk", other->name,
                          vm->spec->name);
        }
    }
    return vm_right_valid(record, vm, err);
}

static bool events_valid(const Drover__ClusterState *record, struct error *err)
{
    uint64_t last = 0;
    for (size_t i = 0; i < record->n_events; i++) {
        const Drover__Event *event = record->events[i];
        if (event->index < last || event->index > record->applied_index ||
            event->kind[0] == '\0') {
            return BROKEN("the events are not in order");
        }
        last = event->index;
    }
    return true;
}

bool cluster_state_valid(const struct cluster_state *state, struct error *err)
{
    const Drover__ClusterState *record = state->record;
    if (record->version == 0) {
        return empty_state_valid(record, err);
    }
    if (!head_valid(record, err)) {
        return false;
    }
    for (size_t i = 0; i < record->n_hosts; i++) {
        if (!host_valid(record, i, err)) {
            return false;
        }
    }
    for (size_t i = 0; i < record->n_vms; i++) {
        if (!vm_valid(record, i, err)) {
            return false;
        }
    }
    return events_valid(record, err) && requests_valid(record, err);
}
