/* SPDX-License-Identifier: Apache-2.0 */
/* Which host shall run a VM. */
#include "consensus/placement.h"

#include "base/err.h"
#include "consensus/cluster_state.h"

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
        if (vm->owner_host_id == host->host_id || arriving) {
            used += vm->spec->memory_bytes;
        }
    }
    return host->memory_bytes > used ? host->memory_bytes - used : 0;
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
                          const struct placement_view *view, const Drover__VmSpec *spec,
                          uint64_t except_host_id, struct error *err)
{
    const Drover__ClusterState *record = cluster_state_view(state);
    uint64_t best_id = 0;
    uint64_t best_left = 0;
    uint64_t most_left = 0;
    unsigned candidate_count = 0;
    for (size_t i = 0; i < record->n_hosts; i++) {
        const Drover__HostRecord *host = record->hosts[i];
        if (host->host_id == except_host_id || obstacle(view, host) != NULL) {
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
                    const Drover__VmSpec *spec, uint64_t host_id, struct error *err)
{
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
