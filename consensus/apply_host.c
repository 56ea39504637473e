/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts: up, dead, draining, gone. */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/id.h"
#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

#define VERSION_TEXT_SIZE 64
#define MIB               (UINT64_C(1) << 20)

static bool is_up(const Drover__HostRecord *host)
{
    return host->state == DROVER__HOST_STATE__HOST_STATE_UP;
}

static bool is_dead(const Drover__HostRecord *host)
{
    return host->state == DROVER__HOST_STATE__HOST_STATE_DEAD;
}

static int refuse_unknown_host(struct apply_step *step, uint64_t host_id)
{
    return step_refuse(step, DROVER_ENOTFOUND,
                       "host number %llu is not in this cluster: see 'drover node list'",
                       (unsigned long long)host_id);
}

int apply_check_speaker(struct apply_step *step, uint64_t host_id,
                        const char *incarnation)
{
    const Drover__HostRecord *host = step_host(step, host_id);
    if (host == NULL) {
        return refuse_unknown_host(step, host_id);
    }
    if (!is_up(host)) {
        return step_refuse(
            step, DROVER_EWRONGSTATE,
            "host '%s' is not up as far as the cluster knows: it must report up "
            "first",
            host->name);
    }
    if (incarnation[0] == '\0' || strcmp(host->incarnation, incarnation) != 0) {
        return step_refuse(
            step, DROVER_ECONFLICT,
            "this comes from an earlier run of host '%s's agent: it counts no "
            "more",
            host->name);
    }
    return 0;
}

int apply_check_room(struct apply_step *step, uint64_t host_id,
                     const Drover__VmRecord *vm)
{
    const Drover__HostRecord *host = step_host(step, host_id);
    if (host == NULL) {
        return refuse_unknown_host(step, host_id);
    }
    if (!is_up(host) || host->witness || host->draining) {
        return step_refuse(step, DROVER_EWRONGSTATE, "host '%s' %s: choose another host",
                           host->name,
                           !is_up(host)    ? "is not up"
                           : host->witness ? "is a witness and runs no VMs"
                                           : "is being drained");
    }
    uint64_t used = step_host_memory_used(step, host_id, vm->vm_id);
    uint64_t free_bytes = host->memory_bytes > used ? host->memory_bytes - used : 0;
    if (vm->spec->memory_bytes > free_bytes) {
        return step_refuse(
            step, DROVER_ENOCAPACITY,
            "VM '%s' needs %llu MiB and host '%s' has %llu MiB left: choose "
            "another host, or stop a VM there",
            vm->spec->name, (unsigned long long)(vm->spec->memory_bytes / MIB),
            host->name, (unsigned long long)(free_bytes / MIB));
    }
    return 0;
}

/* ---- up ---------------------------------------------------------------------------- */

static int check_host_up(struct apply_step *step, const Drover__HostUp *order)
{
    if (step_host(step, order->host_id) == NULL) {
        return step_refuse(
            step, DROVER_ENOTFOUND,
            "host number %llu is not a member of this cluster (any more): join "
            "again with 'drover cluster join'",
            (unsigned long long)order->host_id);
    }
    if (!text_word_valid(order->boot_id, ID_TEXT_SIZE) ||
        !text_word_valid(order->incarnation, ID_TEXT_SIZE)) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "a host reports up with its boot id and the id of its agent's run");
    }
    if (order->version[0] != '\0' &&
        !text_word_valid(order->version, VERSION_TEXT_SIZE)) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "the version of host %llu is malformed",
                           (unsigned long long)order->host_id);
    }
    return 0;
}

static void tell_host_up(struct apply_step *step, const Drover__HostRecord *before,
                         const Drover__HostUp *order)
{
    struct step_subject subject = {.host_id = before->host_id};
    bool same_boot = strcmp(before->boot_id, order->boot_id) == 0;
    if (before->state == DROVER__HOST_STATE__HOST_STATE_JOINING) {
        step_event(step, "host.up", subject,
                   "host '%s' is up for the first time (%u CPUs, %llu MiB "
                   "for VMs, watchdog %llu ms)",
                   before->name, order->cpus,
                   (unsigned long long)(order->memory_bytes / MIB),
                   (unsigned long long)order->watchdog_ms);
    } else if (is_dead(before)) {
        step_event(step, "host.up", subject, "host '%s' is back%s", before->name,
                   same_boot ? ", without having been reset" : " after a reset");
    } else if (!same_boot) {
        step_event(step, "host.rebooted", subject, "host '%s' was reset and is up again",
                   before->name);
    } else if (strcmp(before->incarnation, order->incarnation) != 0) {
        step_event(step, "host.agent_restarted", subject,
                   "the agent of host '%s' was restarted; its VMs went on", before->name);
    }
}

/* What the reset, or the return, means for the VMs of the host. */
static int host_up_vms(struct apply_step *step, const Drover__HostRecord *before,
                       const Drover__HostUp *order)
{
    bool rebooted =
        before->boot_id[0] != '\0' && strcmp(before->boot_id, order->boot_id) != 0;
    for (size_t i = 0; i < step->record->n_vms; i++) {
        const Drover__VmRecord *vm = step_vm_at(step, i);
        if (rebooted && vm->migration != NULL) {
            int rv = apply_reboot_to_migration(step, i, order->host_id, order->boot_id);
            if (rv != 0) {
                return rv;
            }
        }
        if (rebooted) {
            int rv = apply_reboot_to_dependence(step, i, order->host_id);
            if (rv != 0) {
                return rv;
            }
        }
        if (is_dead(before) && vm->owner_host_id == order->host_id) {
            Drover__VmRecord *edited = step_edit_vm_at(step, i);
            if (edited == NULL) {
                return -ENOMEM;
            }
            record_clear_string(&edited->last_error);
        }
    }
    return 0;
}

int apply_host_up(struct apply_step *step, const Drover__HostUp *order)
{
    int rv = check_host_up(step, order);
    if (rv != 0) {
        return rv;
    }
    const Drover__HostRecord *before = step_host(step, order->host_id);
    tell_host_up(step, before, order);
    rv = host_up_vms(step, before, order);
    if (rv != 0) {
        return rv;
    }
    Drover__HostRecord *host = step_edit_host(step, order->host_id);
    if (host == NULL) {
        return -ENOMEM;
    }
    host->state = DROVER__HOST_STATE__HOST_STATE_UP;
    host->memory_bytes = order->memory_bytes;
    host->cpus = order->cpus;
    host->watchdog_ms = order->watchdog_ms;
    host->machine_newest = order->machine_newest;
    host->postcopy = order->postcopy;
    step_set_string(step, &host->boot_id, order->boot_id);
    step_set_string(step, &host->incarnation, order->incarnation);
    step_set_string(step, &host->version, order->version);
    return 0;
}

/* ---- dead -------------------------------------------------------------------------- */

/* Proofs that do not rest on the host's own freezing: nothing at all runs there. */
static bool is_strong(const Drover__Proof *proof)
{
    return proof->kind == DROVER__PROOF_KIND__PROOF_POWER_OFF ||
           proof->kind == DROVER__PROOF_KIND__PROOF_OPERATOR;
}

bool apply_proof_covers(const Drover__Proof *proof, const Drover__VmRecord *vm)
{
    return proof != NULL && (is_strong(proof) || vm->spec->ha);
}

static int check_lease_proof(struct apply_step *step, const Drover__HostRecord *host,
                             const Drover__Proof *proof)
{
    if (host->watchdog_ms == 0) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "host '%s' has no armed watchdog, so its silence proves nothing: "
            "its VMs wait until it is back",
            host->name);
    }
    uint64_t needed;
    if (proof->lease_ms < step->record->lease_ms ||
        proof->watchdog_ms < host->watchdog_ms || proof->term == 0 ||
        __builtin_add_overflow(proof->lease_ms, proof->watchdog_ms, &needed) ||
        __builtin_add_overflow(needed, proof->margin_ms, &needed) ||
        proof->silent_ms < needed) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "the figures do not prove that host '%s' is dead: lease, watchdog "
            "and margin must all have run out",
            host->name);
    }
    return 0;
}

/* "Unknown" means "still alive": each kind of proof must hold by its own figures. */
static int check_proof(struct apply_step *step, const Drover__HostRecord *host,
                       const Drover__Proof *proof)
{
    if (proof == NULL) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "no host is called dead without a proof: send one");
    }
    const Drover__HostRecord *judge = step_host(step, proof->leader_host_id);
    if (judge == NULL || judge == host) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "a proof must name the host that judged, which is another one");
    }
    switch (proof->kind) {
    case DROVER__PROOF_KIND__PROOF_LEASE_WATCHDOG:
        return check_lease_proof(step, host, proof);
    case DROVER__PROOF_KIND__PROOF_POWER_OFF:
    case DROVER__PROOF_KIND__PROOF_OPERATOR:
        if (proof->detail[0] != '\0') {
            return 0;
        }
        return step_refuse(step, DROVER_EBADINPUT,
                           "a proof of this kind must say who or what confirmed it");
    default:
        return step_refuse(step, DROVER_EBADINPUT,
                           "an unknown kind of proof proves nothing");
    }
}

static int check_host_dead(struct apply_step *step, const Drover__HostDead *order)
{
    const Drover__HostRecord *host = step_host(step, order->host_id);
    if (host == NULL) {
        return refuse_unknown_host(step, order->host_id);
    }
    if (host->state == DROVER__HOST_STATE__HOST_STATE_JOINING) {
        return step_refuse(
            step, DROVER_EWRONGSTATE,
            "host '%s' was never up: remove it ('drover cluster remove %s')", host->name,
            host->name);
    }
    if (strcmp(host->boot_id, order->boot_id) != 0 ||
        strcmp(host->incarnation, order->incarnation) != 0) {
        return step_refuse(step, DROVER_ECONFLICT,
                           "host '%s' has come back since this was judged: judge it anew",
                           host->name);
    }
    int rv = check_proof(step, host, order->proof);
    if (rv == 0 && is_dead(host) &&
        (is_strong(host->proof) || !is_strong(order->proof))) {
        return step_refuse(step, DROVER_EWRONGSTATE, "host '%s' counts as dead already",
                           host->name);
    }
    return rv;
}

int apply_host_dead(struct apply_step *step, const Drover__HostDead *order)
{
    int rv = check_host_dead(step, order);
    if (rv != 0) {
        return rv;
    }
    Drover__HostRecord *host = step_edit_host(step, order->host_id);
    Drover__Proof *proof = record_copy(order->proof);
    if (host == NULL || proof == NULL) {
        record_free(proof);
        return -ENOMEM;
    }
    record_free(host->proof);
    host->proof = proof;
    host->proof_index = step->index;
    host->state = DROVER__HOST_STATE__HOST_STATE_DEAD;
    step_set_text(step, &proof->detail, order->proof->detail);
    step_event(step, "host.dead",
               (struct step_subject){.host_id = host->host_id, .proof = proof},
               "host '%s' is dead: %s", host->name, proof->detail);
    for (size_t i = 0; i < step->record->n_vms; i++) {
        rv = apply_death_to_dependence(step, i, order->host_id, proof);
        rv = rv != 0 ? rv : apply_death_to_vm(step, i, order->host_id, proof);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

/* ---- drained, removed -------------------------------------------------------------- */

int apply_host_drain(struct apply_step *step, const Drover__HostDrain *order)
{
    const Drover__HostRecord *before = step_host(step, order->host_id);
    if (before == NULL) {
        return refuse_unknown_host(step, order->host_id);
    }
    if (!!before->draining == !!order->draining) {
        return 0;
    }
    Drover__HostRecord *host = step_edit_host(step, order->host_id);
    if (host == NULL) {
        return -ENOMEM;
    }
    host->draining = order->draining;
    step_event(step, order->draining ? "host.draining" : "host.undrained",
               (struct step_subject){.host_id = host->host_id},
               order->draining ? "host '%s' is being drained: its VMs move away"
                               : "host '%s' takes VMs again",
               host->name);
    return 0;
}

/* A VM that stands against the removal, with what to do about it. */
static int check_removal_for_vm(struct apply_step *step, const Drover__HostRecord *host,
                                const Drover__VmRecord *vm)
{
    const Drover__Migration *migration = vm->migration;
    bool migrates = migration != NULL && (migration->target_host_id == host->host_id ||
                                          migration->source_host_id == host->host_id);
    if (migrates) {
        return step_refuse(step, DROVER_EINUSE,
                           "VM '%s' is being moved from or to host '%s': wait for it, or "
                           "cancel it",
                           vm->spec->name, host->name);
    }
    const Drover__Dependence *dependence = vm->dependence;
    if (dependence != NULL && dependence->host_id == host->host_id && !dependence->lost) {
        return step_refuse(step, DROVER_EINUSE,
                           "memory of VM '%s' is still on host '%s', which it has left: "
                           "wait until all has come",
                           vm->spec->name, host->name);
    }
    if (vm->owner_host_id != host->host_id || (is_dead(host) && is_strong(host->proof))) {
        return 0;
    }
    if (is_dead(host)) {
        return step_refuse(
            step, DROVER_EINUSE,
            "VM '%s', not set for HA, may still run on host '%s': start that "
            "host again, and stop the VM",
            vm->spec->name, host->name);
    }
    return step_refuse(step, DROVER_EINUSE,
                       "host '%s' runs VM '%s': drain it first ('drover node drain %s')",
                       host->name, vm->spec->name, host->name);
}

/* A VM that was not set for HA loses its dead host for good; starting it is for a
 * person to say. */
static int free_vm_of_removed(struct apply_step *step, const Drover__HostRecord *host,
                              size_t position)
{
    Drover__VmRecord *vm = step_edit_vm_at(step, position);
    if (vm == NULL) {
        return -ENOMEM;
    }
    vm->owner_host_id = 0;
    vm->proof_index = host->proof_index;
    vm->wanted = DROVER__VM_WANTED__VM_WANTED_STOPPED;
    apply_dependence_clear(vm);
    record_clear_string(&vm->last_error);
    step_event(step, "vm.released",
               (struct step_subject){
                   .host_id = host->host_id, .vm_id = vm->vm_id, .epoch = vm->epoch},
               "VM '%s' was released from the dead host '%s', and is stopped",
               vm->spec->name, host->name);
    return 0;
}

int apply_host_remove(struct apply_step *step, const Drover__HostRemove *order)
{
    const Drover__HostRecord *host = step_host(step, order->host_id);
    if (host == NULL) {
        return refuse_unknown_host(step, order->host_id);
    }
    if (step->record->n_hosts == 1) {
        return step_refuse(step, DROVER_EINUSE,
                           "host '%s' is the cluster's last one: it can't be removed",
                           host->name);
    }
    for (size_t i = 0; i < step->record->n_vms; i++) {
        int rv = check_removal_for_vm(step, host, step_vm_at(step, i));
        if (rv != 0) {
            return rv;
        }
    }
    for (size_t i = 0; i < step->record->n_vms; i++) {
        if (step_vm_at(step, i)->owner_host_id == host->host_id) {
            int rv = free_vm_of_removed(step, host, i);
            if (rv != 0) {
                return rv;
            }
        }
    }
    step->gone = host;
    step_event(step, "host.removed", (struct step_subject){.host_id = host->host_id},
               "host '%s' was removed from the cluster", host->name);
    return 0;
}
