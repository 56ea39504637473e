/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts, proofs and events in the API's JSON. */
#include "node-agent/json_view.h"

#include <stdlib.h>
#include <string.h>

#include "consensus/cluster_state.h"
#include "node-agent/json_reader.h"

json_t *json_text(const char *text)
{
    json_t *string = json_string(text);
    if (string != NULL) {
        return string;
    }
    char *copy = strdup(text);
    if (copy == NULL) {
        return NULL;
    }
    for (char *at = copy; *at != '\0'; at++) {
        if ((unsigned char)*at >= 0x80) {
            *at = '?';
        }
    }
    string = json_string(copy);
    free(copy);
    return string;
}

const char *json_host_name(const struct cluster_state *state, uint64_t host_id)
{
    const Drover__HostRecord *host =
        host_id == 0 ? NULL : cluster_state_host(state, host_id);
    return host == NULL ? NULL : host->name;
}

static const char *proof_kind(Drover__ProofKind kind)
{
    switch (kind) {
    case DROVER__PROOF_KIND__PROOF_POWER_OFF:
        return "power_off";
    case DROVER__PROOF_KIND__PROOF_LEASE_WATCHDOG:
        return "lease_watchdog";
    case DROVER__PROOF_KIND__PROOF_OPERATOR:
        return "operator";
    default:
        return "unknown";
    }
}

json_t *json_proof(const Drover__Proof *proof, const struct cluster_state *state)
{
    if (proof == NULL) {
        return json_null();
    }
    return json_pack(
        "{s:s, s:o, s:I, s:I, s:I, s:I, s:s?, s:I}", "kind", proof_kind(proof->kind),
        "detail", json_text(proof->detail), "silent_ms", (json_int_t)proof->silent_ms,
        "lease_ms", (json_int_t)proof->lease_ms, "watchdog_ms",
        (json_int_t)proof->watchdog_ms, "margin_ms", (json_int_t)proof->margin_ms,
        "judged_by", json_host_name(state, proof->leader_host_id), "term",
        (json_int_t)proof->term);
}

static const char *host_state(const Drover__HostRecord *host,
                              const struct json_host_seen *seen)
{
    if (host->state == DROVER__HOST_STATE__HOST_STATE_JOINING) {
        return "joining";
    }
    if (host->state == DROVER__HOST_STATE__HOST_STATE_DEAD) {
        return "dead";
    }
    if (!seen->leads) {
        return "unknown";
    }
    return seen->usable ? "up" : "suspect";
}

/* The names of the VMs that it owns, and their memory. */
static json_t *owned_vms(const Drover__HostRecord *host,
                         const struct cluster_state *state, uint64_t *ret_memory_bytes)
{
    const Drover__ClusterState *view = cluster_state_view(state);
    json_t *names = json_array();
    uint64_t memory_bytes = 0;
    for (size_t i = 0; i < view->n_vms; i++) {
        if (view->vms[i]->owner_host_id == host->host_id) {
            memory_bytes += view->vms[i]->spec->memory_bytes;
            (void)json_array_append_new(names, json_string(view->vms[i]->spec->name));
        }
    }
    *ret_memory_bytes = memory_bytes;
    return names;
}

/* The names of the VMs that have left it, and still have memory there. */
static json_t *dependent_vms(const Drover__HostRecord *host,
                             const struct cluster_state *state)
{
    const Drover__ClusterState *view = cluster_state_view(state);
    json_t *names = json_array();
    for (size_t i = 0; i < view->n_vms; i++) {
        const Drover__Dependence *dependence = view->vms[i]->dependence;
        if (dependence != NULL && dependence->host_id == host->host_id) {
            (void)json_array_append_new(names, json_string(view->vms[i]->spec->name));
        }
    }
    return names;
}

json_t *json_host(const Drover__HostRecord *host, const struct cluster_state *state,
                  const struct json_host_seen *seen)
{
    char memory[JSON_SIZE_TEXT_SIZE];
    uint64_t used_bytes = 0;
    json_t *vms = owned_vms(host, state, &used_bytes);
    json_size_text(host->memory_bytes, memory);
    json_t *silent = seen->leads && seen->silent_ms != UINT64_MAX
                         ? json_integer((json_int_t)seen->silent_ms)
                         : json_null();
    json_t *object = json_pack(
        "{s:s, s:I, s:s, s:b, s:b, s:b, s:s, s:s, s:i, s:s, s:I, s:I}", "name",
        host->name, "id", (json_int_t)host->host_id, "state", host_state(host, seen),
        "leader", host->host_id == seen->leader_host_id, "witness", host->witness,
        "draining", host->draining, "address", host->address, "api_address",
        host->api_address, "cpus", (int)host->cpus, "memory", memory, "memory_bytes",
        (json_int_t)host->memory_bytes, "memory_used_bytes", (json_int_t)used_bytes);
    json_t *rest = json_pack("{s:o, s:o, s:I, s:o, s:o, s:o, s:b}", "vms", vms,
                             "memory_of", dependent_vms(host, state), "watchdog_ms",
                             (json_int_t)host->watchdog_ms, "silent_ms", silent, "proof",
                             json_proof(host->proof, state), "version",
                             json_text(host->version), "stale", !seen->leads);
    (void)json_object_update(object, rest);
    json_decref(rest);
    return object;
}

json_t *json_event(const Drover__Event *event, const struct cluster_state *state)
{
    const Drover__VmRecord *vm =
        event->vm_id == 0 ? NULL : cluster_state_vm(state, event->vm_id);
    return json_pack(
        "{s:I, s:I, s:s, s:o, s:s?, s:s?, s:I, s:I, s:I, s:o}", "index",
        (json_int_t)event->index, "unix_ms", (json_int_t)event->unix_ms, "kind",
        event->kind, "text", json_text(event->text), "node",
        json_host_name(state, event->host_id), "vm", vm == NULL ? NULL : vm->spec->name,
        "node_id", (json_int_t)event->host_id, "vm_id", (json_int_t)event->vm_id, "epoch",
        (json_int_t)event->epoch, "proof", json_proof(event->proof, state));
}
