/* SPDX-License-Identifier: Apache-2.0 */
/* /vms: list, show, create, apply, delete. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consensus/cluster_state.h"
#include "node-agent/api_internal.h"

static int by_name(const void *left, const void *right)
{
    const Drover__VmRecord *const *one = left;
    const Drover__VmRecord *const *other = right;
    return strcmp((*one)->spec->name, (*other)->spec->name);
}

void api_vm_list(struct api_call *call)
{
    const struct cluster_state *state = api_state(call);
    const Drover__ClusterState *view = cluster_state_view(state);
    const Drover__VmRecord **vms =
        calloc(view->n_vms + 1, sizeof(const Drover__VmRecord *));
    json_t *list = vms == NULL ? NULL : json_array();
    for (size_t i = 0; list != NULL && i < view->n_vms; i++) {
        vms[i] = view->vms[i];
    }
    if (list != NULL) {
        qsort(vms, view->n_vms, sizeof(const Drover__VmRecord *), by_name);
    }
    for (size_t i = 0; list != NULL && i < view->n_vms; i++) {
        struct json_vm_seen seen = api_vm_seen(call, vms[i]);
        (void)json_array_append_new(list, json_vm(vms[i], state, &seen));
    }
    free(vms);
    api_finish(call, 200,
               list == NULL ? NULL
                            : json_pack("{s:o, s:b}", "vms", list, "stale",
                                        !api_self_of(call).leads));
}

void api_vm_answer(struct api_call *call, unsigned status)
{
    const struct cluster_state *state = api_state(call);
    const Drover__VmRecord *vm = cluster_state_vm(state, call->subject_id);
    if (vm == NULL) {
        api_fail(call, DROVER_ENOTFOUND, "the VM has been deleted meanwhile");
        return;
    }
    struct json_vm_seen seen = api_vm_seen(call, vm);
    api_finish(call, status, json_vm(vm, state, &seen));
}

void api_vm_show(struct api_call *call)
{
    const Drover__VmRecord *vm =
        cluster_state_vm_by_name(api_state(call), call->segments[1]);
    if (vm == NULL) {
        api_fail(call, DROVER_ENOTFOUND, "no such VM: 'drover vm list' shows all");
        return;
    }
    call->subject_id = vm->vm_id;
    api_vm_answer(call, 200);
}

/* ---- create, apply
 * --------------------------------------------------------------------------- */

void api_vm_created(struct api_call *call, uint64_t result_id)
{
    call->subject_id = result_id;
    api_vm_answer(call, 201);
}

static void propose_create(struct api_call *call, Drover__VmSpec *spec, bool start)
{
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmCreate create = DROVER__VM_CREATE__INIT;
    create.spec = spec;
    create.wanted = start ? DROVER__VM_WANTED__VM_WANTED_RUNNING
                          : DROVER__VM_WANTED__VM_WANTED_STOPPED;
    command.what_case = DROVER__COMMAND__WHAT_VM_CREATE;
    command.vm_create = &create;
    api_propose(call, &command, api_vm_created);
}

void api_vm_create(struct api_call *call)
{
    struct error err = {0};
    Drover__VmSpec *spec = NULL;
    bool start = true;
    if (json_vm_spec_read(call->body, NULL, &spec, &start, &err) != 0) {
        api_fail_err(call, &err);
        return;
    }
    propose_create(call, spec, start);
    json_vm_spec_free(spec);
}

static bool is_to_be_started(const struct api_call *call, const Drover__VmRecord *vm)
{
    const json_t *start = json_object_get(call->body, "start");
    bool stopped = vm->wanted != DROVER__VM_WANTED__VM_WANTED_RUNNING &&
                   vm->wanted != DROVER__VM_WANTED__VM_WANTED_PAUSED;
    return json_is_true(start) && stopped;
}

/* As described; perhaps it is to be started, too. */
static void start_if_wanted(struct api_call *call, const Drover__VmRecord *vm)
{
    if (!is_to_be_started(call, vm)) {
        api_vm_answer(call, 200);
        return;
    }
    call->partly = false;
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmSetWanted wanted = DROVER__VM_SET_WANTED__INIT;
    wanted.vm_id = vm->vm_id;
    wanted.wanted = DROVER__VM_WANTED__VM_WANTED_RUNNING;
    command.what_case = DROVER__COMMAND__WHAT_VM_SET_WANTED;
    command.vm_set_wanted = &wanted;
    api_propose(call, &command, api_vm_answer_200);
}

static void updated(struct api_call *call, uint64_t result_id)
{
    (void)result_id;
    const Drover__VmRecord *vm = cluster_state_vm(api_state(call), call->subject_id);
    if (vm == NULL) {
        api_fail(call, DROVER_ENOTFOUND, "the VM has been deleted meanwhile");
        return;
    }
    start_if_wanted(call, vm);
}

static void apply_existing(struct api_call *call, const Drover__VmRecord *vm,
                           Drover__VmSpec *spec)
{
    call->subject_id = vm->vm_id;
    const char *field = json_vm_spec_difference(vm->spec, spec);
    if (field == NULL) {
        start_if_wanted(call, vm);
        return;
    }
    if (vm->owner_host_id != 0) {
        char text[ERROR_TEXT_SIZE];
        (void)snprintf(text, sizeof(text),
                       "VM '%s' runs with another '%s': stop it first (drover vm stop "
                       "%s), then apply again",
                       vm->spec->name, field, vm->spec->name);
        api_fail(call, DROVER_ECONFLICT, text);
        return;
    }
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmUpdate update = DROVER__VM_UPDATE__INIT;
    update.vm_id = vm->vm_id;
    update.spec = spec;
    command.what_case = DROVER__COMMAND__WHAT_VM_UPDATE;
    command.vm_update = &update;
    call->partly = is_to_be_started(call, vm);
    api_propose(call, &command, updated);
}

void api_vm_apply(struct api_call *call)
{
    struct error err = {0};
    Drover__VmSpec *spec = NULL;
    bool start = true;
    if (json_vm_spec_read(call->body, call->segments[1], &spec, &start, &err) != 0) {
        api_fail_err(call, &err);
        return;
    }
    const Drover__VmRecord *vm = cluster_state_vm_by_name(api_state(call), spec->name);
    if (vm == NULL) {
        propose_create(call, spec, start);
    } else {
        apply_existing(call, vm, spec);
    }
    json_vm_spec_free(spec);
}

/* ---- delete
 * ---------------------------------------------------------------------------------- */

void api_vm_deleted(struct api_call *call, uint64_t result_id)
{
    (void)result_id;
    json_t *name = json_string(call->segments[1]);
    api_finish(call, 200,
               json_pack("{s:o, s:I, s:s}", "name", name, "id",
                         (json_int_t)call->subject_id, "state", "deleted"));
}

void api_vm_delete(struct api_call *call)
{
    const Drover__VmRecord *vm =
        cluster_state_vm_by_name(api_state(call), call->segments[1]);
    if (vm == NULL) {
        api_fail(call, DROVER_ENOTFOUND, "no such VM: 'drover vm list' shows all");
        return;
    }
    call->subject_id = vm->vm_id;
    Drover__Command command = DROVER__COMMAND__INIT;
    Drover__VmDelete order = DROVER__VM_DELETE__INIT;
    order.vm_id = vm->vm_id;
    command.what_case = DROVER__COMMAND__WHAT_VM_DELETE;
    command.vm_delete = &order;
    api_propose(call, &command, api_vm_deleted);
}
