/* SPDX-License-Identifier: Apache-2.0 */
/* Which handler a path has, and what its query says. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node-agent/api_internal.h"

#define PREFIX "/api/v1/"

static const struct api_route routes[] = {
    {"GET", "cluster", API_ROUTE_NO_CLUSTER | API_ROUTE_NAMES_HOST, api_cluster_show, NULL},
    {"POST", "cluster/init", API_ROUTE_NO_CLUSTER | API_ROUTE_LOCAL, api_cluster_init, NULL},
    {"POST", "cluster/join", API_ROUTE_NO_CLUSTER | API_ROUTE_LOCAL, api_cluster_join, NULL},
    {"PUT", "cluster/settings", 0, api_cluster_set, api_settings_answer},
    {"POST", "cluster/tokens", 0, api_token_create, NULL},
    {"GET", "cluster/tokens", 0, api_token_list, NULL},
    {"DELETE", "cluster/members/@", 0, api_member_remove, api_member_removed_before},
    {"GET", "nodes", 0, api_node_list, NULL},
    {"GET", "nodes/@", 0, api_node_show, NULL},
    {"POST", "nodes/@/drain", 0, api_node_drain, api_node_drained},
    {"POST", "nodes/@/undrain", 0, api_node_drain, api_node_drained},
    {"GET", "vms", 0, api_vm_list, NULL},
    {"POST", "vms", 0, api_vm_create, api_vm_created},
    {"GET", "vms/@", 0, api_vm_show, NULL},
    {"PUT", "vms/@", 0, api_vm_apply, api_vm_answer_200},
    {"DELETE", "vms/@", 0, api_vm_delete, api_vm_deleted},
    {"POST", "vms/@/start", 0, api_vm_wanted, api_vm_answer_200},
    {"POST", "vms/@/stop", 0, api_vm_wanted, api_vm_answer_200},
    {"POST", "vms/@/kill", 0, api_vm_wanted, api_vm_answer_200},
    {"POST", "vms/@/pause", 0, api_vm_wanted, api_vm_answer_200},
    {"POST", "vms/@/resume", 0, api_vm_wanted, api_vm_answer_200},
    {"POST", "vms/@/migrate", 0, api_vm_migrate, api_vm_answer_202},
    {"POST", "vms/@/cancel", 0, api_vm_cancel, api_vm_answer_202},
    {"POST", "vms/@/balloon", 0, api_vm_balloon, api_vm_answer_200},
    {"GET", "vms/@/console", API_ROUTE_LOCAL, api_vm_console, NULL},
    {"GET", "events", API_ROUTE_LOCAL, api_event_list, NULL},
};

#define ROUTE_COUNT (sizeof(routes) / sizeof(routes[0]))

static bool matches(const struct api_call *call, const char *pattern)
{
    for (unsigned i = 0; i < call->segment_count; i++) {
        size_t length = strcspn(pattern, "/");
        bool any = length == 1 && pattern[0] == '@';
        if (!any && (strlen(call->segments[i]) != length ||
                     strncmp(call->segments[i], pattern, length) != 0)) {
            return false;
        }
        pattern += length;
        if ((*pattern == '/') != (i + 1 < call->segment_count)) {
            return false;
        }
        pattern += *pattern == '/';
    }
    return true;
}

const struct api_route *api_route_find(const struct api_call *call, struct error *err)
{
    char methods[64] = "";
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        if (!matches(call, routes[i].pattern)) {
            continue;
        }
        if (strcmp(routes[i].method, call->method) == 0) {
            return &routes[i];
        }
        size_t used = strlen(methods);
        (void)snprintf(methods + used, sizeof(methods) - used, "%s%s",
                       used == 0 ? "" : ", ", routes[i].method);
    }
    if (methods[0] != '\0') {
        (void)error_set(err, -EOPNOTSUPP, "this path has only %s", methods);
    } else {
        (void)error_set(err, DROVER_ENOTFOUND, "no such path: docs/api.md lists all");
    }
    return NULL;
}

int api_route_cut(struct api_call *call, struct error *err)
{
    static char no_query[] = "";
    memcpy(call->text, call->path, sizeof(call->text));
    call->query = strchr(call->text, '?');
    if (call->query == NULL) {
        call->query = no_query;
    } else {
        *call->query++ = '\0';
    }
    if (strncmp(call->text, PREFIX, strlen(PREFIX)) != 0) {
        return error_set(err, DROVER_ENOTFOUND, "no such path: all begin with " PREFIX);
    }
    char *at = call->text + strlen(PREFIX);
    call->segment_count = 0;
    while (call->segment_count < API_SEGMENTS_MAX) {
        call->segments[call->segment_count++] = at;
        at = strchr(at, '/');
        if (at == NULL) {
            return 0;
        }
        *at++ = '\0';
    }
    return error_set(err, DROVER_ENOTFOUND, "no such path: docs/api.md lists all");
}

/* The next "name=value" of a query; false at its end. */
static bool next_parameter(const char **at, const char **ret_name, size_t *ret_name_size,
                           const char **ret_value, size_t *ret_value_size)
{
    while (**at == '&') {
        (*at)++;
    }
    if (**at == '\0') {
        return false;
    }
    size_t size = strcspn(*at, "&");
    size_t name_size = strcspn(*at, "=&");
    *ret_name = *at;
    *ret_name_size = name_size;
    *ret_value = *at + name_size + (name_size < size ? 1 : 0);
    *ret_value_size = size - name_size - (name_size < size ? 1 : 0);
    *at += size;
    return true;
}

bool api_query_get(const struct api_call *call, const char *name, char *ret_text,
                   size_t size)
{
    const char *at = call->query;
    const char *key = NULL;
    const char *value = NULL;
    size_t key_size = 0;
    size_t value_size = 0;
    while (next_parameter(&at, &key, &key_size, &value, &value_size)) {
        if (strlen(name) == key_size && strncmp(key, name, key_size) == 0) {
            /* Names and numbers only: nothing in them needs percent signs. */
            (void)snprintf(ret_text, size, "%.*s", (int)value_size, value);
            return true;
        }
    }
    return false;
}

int api_query_check(const struct api_call *call, const char *const *names,
                    struct error *err)
{
    const char *at = call->query;
    const char *key = NULL;
    const char *value = NULL;
    size_t key_size = 0;
    size_t value_size = 0;
    while (next_parameter(&at, &key, &key_size, &value, &value_size)) {
        size_t i = 0;
        while (names[i] != NULL &&
               (strlen(names[i]) != key_size || strncmp(key, names[i], key_size) != 0)) {
            i++;
        }
        if (names[i] == NULL) {
            return error_set(err, DROVER_EBADINPUT,
                             "%.*s: no such parameter here: leave it out",
                             (int)(key_size < 40 ? key_size : 40), key);
        }
    }
    return 0;
}

int api_query_number(const struct api_call *call, const char *name, uint64_t most,
                     uint64_t *ret_value, struct error *err)
{
    char text[32];
    if (!api_query_get(call, name, text, sizeof(text))) {
        return 0;
    }
    char *end = NULL;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > most) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s: give a whole number from 0 to %" PRIu64, name, most);
    }
    *ret_value = value;
    return 0;
}
