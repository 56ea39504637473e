/* SPDX-License-Identifier: Apache-2.0 */
/* /vms/{name}/...: start, stop, kill, pause, resume, migrate, cancel, balloon. */
#include <string.h>

#include "consensus/cluster_state.h"
#include "consensus/placement.h"
#include "node-agent/api_internal.h"
#include "node-agent/json_reader.h"

#define MAX_DOWNTIME_MS_MAX 60000
#define DEADLINE_S_MAX      604800

static const Drover__VmRecord *named(struct api_call *call)
{
    const Drover__VmRecord *vm =
        cluster_state_vm_by_name(api_state(call), call->segments[1]);
    if (vm == NULL) {
        api_fail(call, DROVER_ENOTFOUND, "no such VM: 'drover vm list' shows all");
    } else {
        call->subject_id = vm->vm_id;
    }
    return vm;
}

static bool body_is_empty(struct api_call *call)
{
    struct error err = {0};
    struct json_reader reader;
    json_reader_init(&reader, call->body, "", &err);
    if (json_reader_end(&reader) != 0) {
        api_fail_err(call, &err);
        return false;
    }
    return true;
}

void api_vm_answer_200(struct api_call *call, uint64_t result_id)
{
    (void)result_id;
    api_vm_answer(call, 200);
}

void api_vm_answer_202(struct api_call *call, uint64_t result_id)
{
    (void)result_id;
    api_vm_answer(call, 202);
}

/* ---- wanted
 * ---------------------------------------------------------------------------------- */

static Drover__VmWanted wanted_of(const char *action)
{
    static const struct {
        const char *action;
        Drover__VmWanted wanted;
    } rows[] = {
        {"start", DROVER__VM_WANTED__VM_WANTED_RUNNING},
        {"resume", DROVER__VM_WANTED__VM_WANTED_RUNNING},
        {"pause", DROVER__VM_WANTED__VM_WANTED_PAUSED},
        {"stop", DROVER__VM_WANTED__VM_WANTED_STOPPED},
        {"kill", DROVER__VM_WANTED__VM_WANTED_KILLED},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (strcmp(rows[i].action, action) == 0) {
            return rows[i].wanted;
        }
    }
    return DROVER__VM_WANTED__VM_WANTED_UNSPECIFIED;
}

/* What would surprise whoever asked; NULL: fine. */
static const char *objection(const Drover__VmRecord *vm, const char *action)
{
    bool paused = vm->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED;
    bool up = paused || vm->wanted == DROVER__VM_WANTED__VM_WANTED_RUNNING;
    if (strcmp(action, "start") == 0 && paused) {
        return "the VM is paused: resume it";
    }
    if (strcmp(action, "resume") == 0 && !up) {
        return "the VM is stopped: start it";
    }
    if (strcmp(action, "pause") == 0 && !up) {
        return "the VM is stopped: there is nothing to pause";
    }
    return NULL;
}

void api_vm_wanted(struct api_call *call)
{
    const char *action = call->segments[2];
    const Drover__VmRecord *vm = body_is_empty(call) ? named(call) : NULL;
    if (vm == NULL) {
        return;
    }
    const char *why = objection(vm, action);
    if (why != NULL) {
        api_fail(call, DROVER_EWRONGSTATE, why);
        return;
    }
    Drover__VmWanted wanted = wanted_of(action);
    if (vm->wanted == wanted) {
        api_vm_answer(call, 200); /* recorded long since */
        return;
    }
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmSetWanted order = DROVER__VM_SET_WANTED__INIT;
    order.vm_id = vm->vm_id;
    order.wanted = wanted;
    command.what_case = DROVER__COMMAND__WHAT_VM_SET_WANTED;
    command.vm_set_wanted = &order;
    api_propose(call, &command, api_vm_answer_200);
}

/* ---- migrate
 * --------------------------------------------------------------------------------- */

struct view_owner {
    const struct api_core *core;
};

static bool host_usable(const void *owner, uint64_t host_id)
{
    const struct view_owner *view = owner;
    return view->core->backend->host_usable(view->core->owner, host_id);
}

static int choose_target(struct api_call *call, const Drover__VmRecord *vm,
                         const char *target, uint64_t *ret_host_id, struct error *err)
{
    const struct cluster_state *state = api_state(call);
    const struct view_owner owner = {call->core};
    const struct placement_view view = {host_usable, &owner};
    if (target[0] == '\0') {
        uint64_t chosen =
            placement_choose(state, &view, vm, vm->owner_host_id, err);
        *ret_host_id = chosen;
        return chosen == 0 ? err->code : 0;
    }
    const Drover__HostRecord *host = cluster_state_host_by_name(state, target);
    if (host == NULL) {
        return error_set(err, DROVER_ENOTFOUND,
                         "target: no host '%.63s': 'drover node list' shows all", target);
    }
    if (host->host_id == vm->owner_host_id) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "VM '%s' is on %s already: choose another host", vm->spec->name,
                         target);
    }
    *ret_host_id = host->host_id;
    return placement_check(state, &view, vm, host->host_id, err);
}

static int transport_of(const struct api_call *call, const char *text,
                        Drover__MigrationTransport *ret_transport, struct error *err)
{
    static const char *const names[] = {"tcp", "rdma", "auto"}; /* by number */
    /* Its release came with the same one's (cluster.proto). */
    const Drover__HostRecord *unaware = cluster_state_postcopy_unaware(api_state(call));
    if (strcmp(text, "rdma") == 0 && unaware != NULL) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "host '%s' does not know RDMA (its release is older, or it was not up "
                         "yet): update it, or move over TCP",
                         unaware->name);
    }
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_transport = (Drover__MigrationTransport)i;
            return 0;
        }
    }
    return error_set(err, DROVER_EBADINPUT, "transport: give tcp, rdma or auto");
}

/* What the guest may do before all of its memory is there. */
static int read_postcopy(const struct api_call *call, const char *text,
                         Drover__MigrationPostcopy *ret_postcopy, struct error *err)
{
    static const char *const names[] = {
        [DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NEVER] = "never",
        [DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_AUTO] = "auto",
        [DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NOW] = "now",
    };
    unsigned count = sizeof(names) / sizeof(names[0]);
    unsigned found = 0;
    while (found < count && strcmp(text, names[found]) != 0) {
        found++;
    }
    if (found == count) {
        return error_set(err, DROVER_EBADINPUT,
                         "postcopy: '%.63s': give never, auto or now", text);
    }
    const Drover__HostRecord *unaware = cluster_state_postcopy_unaware(api_state(call));
    if (found != 0 && unaware != NULL) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "host '%s' does not know post-copy (its release is older, or it "
                         "was not up yet): update it, or move without post-copy",
                         unaware->name);
    }
    *ret_postcopy = (Drover__MigrationPostcopy)found;
    return 0;
}

void api_vm_migrate(struct api_call *call)
{
    struct error err = {0};
    struct json_reader reader;
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__MigrationBegin begin = DROVER__MIGRATION_BEGIN__INIT;
    json_reader_init(&reader, call->body, "", &err);
    const char *target = json_reader_text(&reader, "target", "");
    begin.max_downtime_ms = (uint32_t)json_reader_number(&reader, "max_downtime_ms", 1,
                                                         MAX_DOWNTIME_MS_MAX, 0);
    begin.deadline_s =
        (uint32_t)json_reader_number(&reader, "deadline_s", 1, DEADLINE_S_MAX, 0);
    begin.predict_only = json_reader_bool(&reader, "predict_only", false);
    const char *transport = json_reader_text(&reader, "transport", "tcp");
    const char *postcopy = json_reader_text(&reader, "postcopy", "never");
    if (json_reader_end(&reader) != 0 ||
        transport_of(call, transport, &begin.transport, &err) != 0 ||
        read_postcopy(call, postcopy, &begin.postcopy, &err) != 0) {
        api_fail_err(call, &err);
        return;
    }
    if (begin.transport == DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA &&
        begin.postcopy == DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NOW) {
        api_fail(call, DROVER_EBADINPUT,
                 "postcopy: not over RDMA, whose memory is pinned: leave out one of both");
        return;
    }
    const Drover__VmRecord *vm = named(call);
    if (vm == NULL) {
        return;
    }
    if (vm->owner_host_id == 0) {
        api_fail(call, DROVER_EWRONGSTATE,
                 "the VM runs nowhere: start it, then it can be moved");
        return;
    }
    if (vm->migration != NULL) {
        api_fail(call, DROVER_EWRONGSTATE,
                 "the VM is being moved already: wait, or cancel that");
        return;
    }
    if (vm->dependence != NULL) {
        api_fail(call, DROVER_EWRONGSTATE,
                 "memory of the VM is still on its way from its last move: wait until it "
                 "is there");
        return;
    }
    int rv = choose_target(call, vm, target, &begin.target_host_id, &err);
    if (rv != 0) {
        api_fail(call, rv, err.text);
        return;
    }
    begin.vm_id = vm->vm_id;
    begin.expected_epoch = vm->epoch;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_BEGIN;
    command.migration_begin = &begin;
    api_propose(call, &command, api_vm_answer_202);
}

void api_vm_cancel(struct api_call *call)
{
    const Drover__VmRecord *vm = body_is_empty(call) ? named(call) : NULL;
    if (vm == NULL) {
        return;
    }
    if (vm->migration == NULL) {
        api_fail(call, DROVER_EWRONGSTATE, "no migration of this VM is under way");
        return;
    }
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__MigrationCancel cancel = DROVER__MIGRATION_CANCEL__INIT;
    cancel.vm_id = vm->vm_id;
    cancel.next_epoch = vm->migration->next_epoch;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_CANCEL;
    command.migration_cancel = &cancel;
    api_propose(call, &command, api_vm_answer_202);
}

/* ---- balloon
 * --------------------------------------------------------------------------------- */

void api_vm_balloon(struct api_call *call)
{
    struct error err = {0};
    struct json_reader reader;
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmSetBalloon order = DROVER__VM_SET_BALLOON__INIT;
    json_reader_init(&reader, call->body, "", &err);
    json_reader_require(&reader, "memory");
    order.memory_bytes = json_reader_size(&reader, "memory", true); /* "": all */
    if (json_reader_end(&reader) != 0) {
        api_fail_err(call, &err);
        return;
    }
    const Drover__VmRecord *vm = named(call);
    if (vm == NULL) {
        return;
    }
    order.vm_id = vm->vm_id;
    command.what_case = DROVER__COMMAND__WHAT_VM_SET_BALLOON;
    command.vm_set_balloon = &order;
    api_propose(call, &command, api_vm_answer_200);
}

/* ---- console
 * --------------------------------------------------------------------------------- */

void api_vm_console(struct api_call *call)
{
    api_fail(call, DROVER_EBADINPUT,
             "a console is a WebSocket: ask with Upgrade, subprotocol drover-console");
}

int api_core_console(struct api_core *core, const char *path, char *ret_socket_path,
                     size_t size, struct error *err)
{
    struct api_call call = {.core = core, .method = "GET"};
    struct api_self self = {0};
    if (strlen(path) >= sizeof(call.path)) {
        return error_set(err, DROVER_EBADINPUT, "the path is too long");
    }
    memcpy(call.path, path, strlen(path) + 1);
    int rv = api_route_cut(&call, err);
    if (rv != 0) {
        return rv;
    }
    const struct api_route *route = api_route_find(&call, err);
    if (route == NULL || route->handle != api_vm_console) {
        return error_set(err, DROVER_ENOTFOUND,
                         "no console here: docs/api.md lists all paths");
    }
    const struct cluster_state *state = api_state(&call);
    const Drover__VmRecord *vm = cluster_state_vm_by_name(state, call.segments[1]);
    if (vm == NULL) {
        return error_set(err, DROVER_ENOTFOUND, "no such VM: 'drover vm list' shows all");
    }
    core->backend->self(core->owner, &self);
    const Drover__HostRecord *owner = cluster_state_host(state, vm->owner_host_id);
    if (owner == NULL) {
        return error_set(err, DROVER_EWRONGSTATE, "VM '%s' runs nowhere: start it first",
                         vm->spec->name);
    }
    if (owner->host_id != self.host_id) {
        return error_set(err, DROVER_ECONFLICT,
                         "VM '%s' is on host '%s': ask that one, at %s", vm->spec->name,
                         owner->name, owner->api_address);
    }
    rv = core->backend->serial_path(core->owner, vm->vm_id, vm->epoch, ret_socket_path,
                                    size);
    if (rv != 0) {
        return error_set(err, DROVER_EWRONGSTATE, "VM '%s' is not running yet: try again",
                         vm->spec->name);
    }
    return 0;
}
