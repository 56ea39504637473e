/* SPDX-License-Identifier: Apache-2.0 */
/* /nodes: the hosts, and emptying them. */
#include <stdlib.h>
#include <string.h>

#include "consensus/cluster_state.h"
#include "node-agent/api_internal.h"
#include "node-agent/json_reader.h"

static int by_name(const void *left, const void *right)
{
    const Drover__HostRecord *const *one = left;
    const Drover__HostRecord *const *other = right;
    return strcmp((*one)->name, (*other)->name);
}

void api_node_list(struct api_call *call)
{
    const struct cluster_state *state = api_state(call);
    const Drover__ClusterState *view = cluster_state_view(state);
    const Drover__HostRecord **hosts =
        calloc(view->n_hosts + 1, sizeof(const Drover__HostRecord *));
    json_t *list = hosts == NULL ? NULL : json_array();
    for (size_t i = 0; list != NULL && i < view->n_hosts; i++) {
        hosts[i] = view->hosts[i];
    }
    if (list != NULL) {
        qsort(hosts, view->n_hosts, sizeof(const Drover__HostRecord *), by_name);
    }
    for (size_t i = 0; list != NULL && i < view->n_hosts; i++) {
        struct json_host_seen seen = api_host_seen(call, hosts[i]->host_id);
        (void)json_array_append_new(list, json_host(hosts[i], state, &seen));
    }
    free(hosts);
    api_finish(call, 200,
               list == NULL ? NULL
                            : json_pack("{s:o, s:b}", "nodes", list, "stale",
                                        !api_self_of(call).leads));
}

void api_host_answer(struct api_call *call, unsigned status)
{
    const struct cluster_state *state = api_state(call);
    const Drover__HostRecord *host = cluster_state_host(state, call->subject_id);
    if (host == NULL) {
        api_fail(call, DROVER_ENOTFOUND, "the host has been removed meanwhile");
        return;
    }
    struct json_host_seen seen = api_host_seen(call, host->host_id);
    api_finish(call, status, json_host(host, state, &seen));
}

static const Drover__HostRecord *named(struct api_call *call)
{
    const Drover__HostRecord *host =
        cluster_state_host_by_name(api_state(call), call->segments[1]);
    if (host == NULL) {
        api_fail(call, DROVER_ENOTFOUND, "no such host: 'drover node list' shows all");
    } else {
        call->subject_id = host->host_id;
    }
    return host;
}

void api_node_show(struct api_call *call)
{
    if (named(call) != NULL) {
        api_host_answer(call, 200);
    }
}

void api_node_drained(struct api_call *call, uint64_t result_id)
{
    (void)result_id;
    api_host_answer(call, 200);
}

void api_node_drain(struct api_call *call)
{
    struct error err = {0};
    struct json_reader reader;
    json_reader_init(&reader, call->body, "", &err);
    if (json_reader_end(&reader) != 0) {
        api_fail_err(call, &err);
        return;
    }
    const Drover__HostRecord *host = named(call);
    if (host == NULL) {
        return;
    }
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__HostDrain drain = DROVER__HOST_DRAIN__INIT;
    drain.host_id = host->host_id;
    drain.draining = strcmp(call->segments[2], "drain") == 0;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DRAIN;
    command.host_drain = &drain;
    api_propose(call, &command, api_node_drained);
}
