/* SPDX-License-Identifier: Apache-2.0 */
/* /events: from this host's own copy of the log; waits for the next one on request. */
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "consensus/cluster_state.h"
#include "node-agent/api_internal.h"

#define LIMIT_DEFAULT 100
#define LIMIT_MOST    1000
#define WAIT_MS_MOST  60000
/* So long may this host be behind who answered before: some election timeouts. */
#define BEHIND_MS 10000

struct query {
    bool has_after;
    uint64_t after, limit, wait_ms;
    uint64_t applied_index;  /* this host's copy must be as new as that */
    uint64_t vm_id, host_id; /* 0: any */
};

static int read_names(const struct api_call *call, struct query *query, struct error *err)
{
    const struct cluster_state *state = api_state(call);
    char name[LIMIT_NAME_SIZE + 1];
    if (api_query_get(call, "vm", name, sizeof(name))) {
        const Drover__VmRecord *vm = cluster_state_vm_by_name(state, name);
        if (vm == NULL) {
            return error_set(err, DROVER_ENOTFOUND,
                             "vm: no such VM: 'drover vm list' shows all");
        }
        query->vm_id = vm->vm_id;
    }
    if (api_query_get(call, "node", name, sizeof(name))) {
        const Drover__HostRecord *host = cluster_state_host_by_name(state, name);
        if (host == NULL) {
            return error_set(err, DROVER_ENOTFOUND,
                             "node: no such host: 'drover node list' shows all");
        }
        query->host_id = host->host_id;
    }
    return 0;
}

/* All but the names: this host may be too far behind to know them. */
static int read_numbers(const struct api_call *call, struct query *query,
                        struct error *err)
{
    static const char *const names[] = {"after", "limit",         "wait_ms", "vm",
                                        "node",  "applied_index", NULL};
    char text[2];
    *query = (struct query){.limit = LIMIT_DEFAULT};
    int rv = api_query_check(call, names, err);
    rv = rv != 0 ? rv : api_query_number(call, "after", INT64_MAX, &query->after, err);
    rv = rv != 0 ? rv : api_query_number(call, "limit", LIMIT_MOST, &query->limit, err);
    rv = rv != 0 ? rv
                 : api_query_number(call, "wait_ms", WAIT_MS_MOST, &query->wait_ms, err);
    rv = rv != 0 ? rv
                 : api_query_number(call, "applied_index", INT64_MAX,
                                    &query->applied_index, err);
    if (rv == 0 && query->limit == 0) {
        rv = error_set(err, DROVER_EBADINPUT, "limit: give 1 to %d", LIMIT_MOST);
    }
    query->has_after = api_query_get(call, "after", text, sizeof(text));
    return rv;
}

/* Whether the copy here is as new as asked for; else the call waits, or has failed. */
static bool is_current(struct api_call *call, const struct query *query)
{
    if (cluster_state_applied_index(api_state(call)) >= query->applied_index) {
        return true;
    }
    uint64_t now_ms = clock_now_ms();
    if (call->behind_until_ms == 0) {
        call->behind_until_ms = now_ms + BEHIND_MS;
    }
    if (now_ms < call->behind_until_ms) {
        api_wait(call, call->behind_until_ms);
        return false;
    }
    struct error err = {0};
    (void)error_set(
        &err, DROVER_ETIMEDOUT2,
        "this host is behind the cluster: it has log entry %llu, and was asked "
        "for %llu; ask again, or another host",
        (unsigned long long)cluster_state_applied_index(api_state(call)),
        (unsigned long long)query->applied_index);
    api_fail_err(call, &err);
    return false;
}

static bool fits(const struct query *query, const Drover__Event *event)
{
    return (!query->has_after || event->index > query->after) &&
           (query->vm_id == 0 || event->vm_id == query->vm_id) &&
           (query->host_id == 0 || event->host_id == query->host_id);
}

/* Without "after", the latest: skips what is before them. Returns the place to begin at.
 */
static size_t first_place(const Drover__ClusterState *view, const struct query *query)
{
    size_t found = 0;
    size_t place = view->n_events;
    if (query->has_after) {
        return 0;
    }
    while (place > 0 && found < query->limit) {
        found += fits(query, view->events[place - 1]);
        place--;
    }
    return place;
}

static json_t *collect(const struct api_call *call, const struct query *query,
                       uint64_t *ret_last_index)
{
    const struct cluster_state *state = api_state(call);
    const Drover__ClusterState *view = cluster_state_view(state);
    json_t *list = json_array();
    uint64_t last_index = 0;
    for (size_t i = first_place(view, query); i < view->n_events; i++) {
        const Drover__Event *event = view->events[i];
        /* Several events may come of one entry of the log: they are not torn apart, since
         * "after" would skip the rest. */
        if (json_array_size(list) >= query->limit && event->index != last_index) {
            break;
        }
        if (fits(query, event)) {
            last_index = event->index;
            (void)json_array_append_new(list, json_event(event, state));
        }
    }
    bool whole = json_array_size(list) < query->limit;
    uint64_t newest = view->n_events == 0 ? 0 : view->events[view->n_events - 1]->index;
    *ret_last_index = whole && newest > last_index ? newest : last_index;
    if (*ret_last_index < query->after) {
        *ret_last_index = query->after;
    }
    return list;
}

void api_event_list(struct api_call *call)
{
    struct error err = {0};
    struct query query;
    uint64_t last_index = 0;
    if (read_numbers(call, &query, &err) != 0) {
        api_fail_err(call, &err);
        return;
    }
    if (!is_current(call, &query)) {
        return;
    }
    if (read_names(call, &query, &err) != 0) {
        api_fail_err(call, &err);
        return;
    }
    json_t *list = collect(call, &query, &last_index);
    uint64_t now_ms = clock_now_ms();
    if (call->number == 0) {
        call->number = now_ms + query.wait_ms;
    }
    if (json_array_size(list) == 0 && now_ms < call->number) {
        json_decref(list);
        api_wait(call, call->number);
        return;
    }
    const Drover__ClusterState *view = cluster_state_view(api_state(call));
    uint64_t oldest = view->n_events == 0 ? 0 : view->events[0]->index;
    api_finish(call, 200,
               json_pack("{s:o, s:I, s:I}", "events", list, "last_index",
                         (json_int_t)last_index, "oldest_index", (json_int_t)oldest));
}
