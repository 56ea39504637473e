/* SPDX-License-Identifier: Apache-2.0 */
/* Which host shall run a VM. */
#include "consensus/placement.h"

#include "base/err.h"
#include "consensus/cluster_state.h"
#include "proto/machine.h"

#define MIB (UINT64_C(1) << 20)

/* What the VMs leave that the host owns, runs or is to receive; their right to it
 * counts, not what they do just now. */
static uint64_t memory_left(const Drover__ClusterState *record,
                            const Drover__HostRecord *host)
{
    uint64_t used = 0;
    for (size_t i = 0; i < record->n_vms; i++) {
        const Drover__VmRecord *vm = record->vms[i];
        bool arriving =
            vm->migration != NULL && vm->migration->target_host_id == host->host_id;
        bool leaving =
            vm->dependence != NULL && vm->dependence->host_id == host->host_id;
        if (vm->owner_host_id == host->host_id || arriving || leaving) {
            used += vm->spec->memory_bytes;
        }
    }
    return host->memory_bytes > used ? host->memory_bytes - used : 0;
}

static uint32_t newest_of(const Drover__HostRecord *host)
{
    return host->machine_newest == 0 ? MACHINE_OLDEST : host->machine_newest;
}

/* Version 1 boots kernels only, and has none of these. */
static bool needs_newest(const Drover__VmSpec *spec)
{
    bool has_cdrom = false;
    for (size_t i = 0; i < spec->n_disks; i++) {
        has_cdrom = has_cdrom || spec->disks[i]->cdrom;
    }
    return has_cdrom || spec->firmware[0] != '\0' || spec->vsock_cid != 0 ||
           spec->on_panic[0] != '\0';
}

uint32_t placement_machine(const struct cluster_state *state, const Drover__VmRecord *vm)
{
    if (vm->owner_host_id != 0) {
        return vm->machine == 0 ? MACHINE_OLDEST : vm->machine;
    }
    const Drover__ClusterState *record = cluster_state_view(state);
    uint32_t machine = MACHINE_NEWEST;
    for (size_t i = 0; i < record->n_hosts && !needs_newest(vm->spec); i++) {
        const Drover__HostRecord *host = record->hosts[i];
        /* One that joins just now has not said yet what it offers. */
        bool counts = !host->witness && host->incarnation[0] != '\0';
        if (counts && newest_of(host) < machine) {
            machine = newest_of(host);
        }
    }
    return machine;
}

/* Why not, but for memory; NULL: it may. */
static const char *obstacle(const struct placement_view *view,
                            const Drover__HostRecord *host)
{
    if (host->witness) {
        return "is a witness and runs no VMs";
    }
    if (host->state != DROVER__HOST_STATE__HOST_STATE_UP) {
        return "is not up";
    }
    if (host->draining) {
        return "is being drained";
    }
    if (!view->usable(view->owner, host->host_id)) {
        return "has no current lease";
    }
    return NULL;
}

uint64_t placement_choose(const struct cluster_state *state,
                          const struct placement_view *view, const Drover__VmRecord *vm,
                          uint64_t except_host_id, struct error *err)
{
    const Drover__VmSpec *spec = vm->spec;
    uint32_t machine = placement_machine(state, vm);
    const Drover__ClusterState *record = cluster_state_view(state);
    uint64_t best_id = 0;
    uint64_t best_left = 0;
    uint64_t most_left = 0;
    unsigned candidate_count = 0;
    for (size_t i = 0; i < record->n_hosts; i++) {
        const Drover__HostRecord *host = record->hosts[i];
        if (host->host_id == except_host_id || obstacle(view, host) != NULL ||
            newest_of(host) < machine) {
            continue;
        }
        uint64_t left = memory_left(record, host);
        candidate_count++;
        most_left = left > most_left ? left : most_left;
        if (left >= spec->memory_bytes && (best_id == 0 || left > best_left)) {
            best_id = host->host_id;
            best_left = left;
        }
    }
    if (best_id == 0 && candidate_count == 0) {
        (void)error_set(
            err, DROVER_ENOCAPACITY,
            "no host can take VM '%s' now: see 'drover node list' for those that "
            "are not up, drained or without a lease",
            spec->name);
    } else if (best_id == 0) {
        (void)error_set(
            err, DROVER_ENOCAPACITY,
            "VM '%s' needs %llu MiB and no host has more than %llu MiB left: stop a "
            "VM, or give it less memory",
            spec->name, (unsigned long long)(spec->memory_bytes / MIB),
            (unsigned long long)(most_left / MIB));
    }
    return best_id;
}

int placement_check(const struct cluster_state *state, const struct placement_view *view,
                    const Drover__VmRecord *vm, uint64_t host_id, struct error *err)
{
    const Drover__VmSpec *spec = vm->spec;
    const Drover__ClusterState *record = cluster_state_view(state);
    const Drover__HostRecord *host = cluster_state_host(state, host_id);
    if (host == NULL) {
        return error_set(
            err, DROVER_EWRONGSTATE,
            "host number %llu is not in this cluster: see 'drover node list'",
            (unsigned long long)host_id);
    }
    const char *why_not = obstacle(view, host);
    if (why_not != NULL) {
        return error_set(err, DROVER_EWRONGSTATE, "host '%s' %s: choose another host",
                         host->name, why_not);
    }
    uint32_t machine = placement_machine(state, vm);
    if (newest_of(host) < machine) {
        return error_set(
            err, DROVER_EWRONGSTATE,
            "VM '%s' has a machine of version %u and host '%s' (release %s) offers %u: "
            "update that host first, or choose another",
            spec->name, machine, host->name, host->version, newest_of(host));
    }
    uint64_t left = memory_left(record, host);
    if (left < spec->memory_bytes) {
        return error_set(
            err, DROVER_ENOCAPACITY,
            "VM '%s' needs %llu MiB and host '%s' has %llu MiB left: choose another "
            "host, or stop a VM there",
            spec->name, (unsigned long long)(spec->memory_bytes / MIB), host->name,
            (unsigned long long)(left / MIB));
    }
    return 0;
}
