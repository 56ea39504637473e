/* SPDX-License-Identifier: Apache-2.0 */
/* The replicated state: dispatch of commands, snapshot, look-ups. */
#include "consensus/cluster_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"
#include "proto/frame.h"

#define FORMAT_VERSION    1u
#define COMMAND_BYTES_MAX LIMIT_API_BODY_BYTES
#define KIND_TEXT_SIZE    64

static Drover__ClusterState *record_create(void)
{
    Drover__ClusterState *record = malloc(sizeof(*record));
    if (record != NULL) {
        drover__cluster_state__init(record);
    }
    return record;
}

int cluster_state_create(struct cluster_state **ret_state)
{
    CLEANUP(cleanup_free) struct cluster_state *state = calloc(1, sizeof(*state));
    if (state == NULL) {
        return -ENOMEM;
    }
    state->record = record_create();
    if (state->record == NULL) {
        return -ENOMEM;
    }
    *ret_state = TAKE(state);
    return 0;
}

void cluster_state_free(struct cluster_state *state)
{
    if (state != NULL) {
        record_free(state->record);
        free(state);
    }
}

/* ---- commands ---------------------------------------------------------------------- */

int command_encode(const Drover__Command *command, struct buffer *out)
{
    size_t size = drover__command__get_packed_size(command);
    if (size > COMMAND_BYTES_MAX) {
        return DROVER_ELIMIT;
    }
    int rv = buffer_reserve(out, size);
    if (rv != 0) {
        return rv;
    }
    CHECK(drover__command__pack(command, out->data + out->size) == size);
    out->size += size;
    return 0;
}

int apply_event_add(struct apply_step *step, const Drover__EventAdd *order)
{
    const Drover__Event *event = order->event;
    if (event == NULL || !text_word_valid(event->kind, KIND_TEXT_SIZE)) {
        return step_refuse(
            step, DROVER_EBADINPUT,
            "an event needs a kind of at most %d letters, digits, '.', '_', '-'",
            KIND_TEXT_SIZE - 1);
    }
    step_event(step, event->kind,
               (struct step_subject){.host_id = event->host_id,
                                     .vm_id = event->vm_id,
                                     .epoch = event->epoch},
               "%s", event->text);
    return 0;
}

static int dispatch(struct apply_step *step, const Drover__Command *command)
{
    switch (command->what_case) {
    case DROVER__COMMAND__WHAT_CLUSTER_INIT:
        return apply_cluster_init(step, command->cluster_init);
    case DROVER__COMMAND__WHAT_TOKEN_CREATE:
        return apply_token_create(step, command->token_create);
    case DROVER__COMMAND__WHAT_HOST_ADD:
        return apply_host_add(step, command->host_add);
    case DROVER__COMMAND__WHAT_HOST_UP:
        return apply_host_up(step, command->host_up);
    case DROVER__COMMAND__WHAT_HOST_DEAD:
        return apply_host_dead(step, command->host_dead);
    case DROVER__COMMAND__WHAT_HOST_REMOVE:
        return apply_host_remove(step, command->host_remove);
    case DROVER__COMMAND__WHAT_HOST_DRAIN:
        return apply_host_drain(step, command->host_drain);
    case DROVER__COMMAND__WHAT_VM_CREATE:
        return apply_vm_create(step, command->vm_create);
    case DROVER__COMMAND__WHAT_VM_SET_WANTED:
        return apply_vm_set_wanted(step, command->vm_set_wanted);
    case DROVER__COMMAND__WHAT_VM_DELETE:
        return apply_vm_delete(step, command->vm_delete);
    case DROVER__COMMAND__WHAT_VM_ASSIGN:
        return apply_vm_assign(step, command->vm_assign);
    case DROVER__COMMAND__WHAT_VM_STARTED:
        return apply_vm_started(step, command->vm_started);
    case DROVER__COMMAND__WHAT_VM_STOPPED:
        return apply_vm_stopped(step, command->vm_stopped);
    case DROVER__COMMAND__WHAT_VM_SET_BALLOON:
        return apply_vm_set_balloon(step, command->vm_set_balloon);
    case DROVER__COMMAND__WHAT_VM_UPDATE:
        return apply_vm_update(step, command->vm_update);
    case DROVER__COMMAND__WHAT_VM_PROBLEM:
        return apply_vm_problem(step, command->vm_problem);
    case DROVER__COMMAND__WHAT_VM_PANICKED:
        return apply_vm_panicked(step, command->vm_panicked);
    case DROVER__COMMAND__WHAT_MIGRATION_BEGIN:
        return apply_migration_begin(step, command->migration_begin);
    case DROVER__COMMAND__WHAT_MIGRATION_READY:
        return apply_migration_ready(step, command->migration_ready);
    case DROVER__COMMAND__WHAT_MIGRATION_CANCEL:
        return apply_migration_cancel(step, command->migration_cancel);
    case DROVER__COMMAND__WHAT_MIGRATION_DONE:
        return apply_migration_done(step, command->migration_done);
    case DROVER__COMMAND__WHAT_MIGRATION_ABORT:
        return apply_migration_abort(step, command->migration_abort);
    case DROVER__COMMAND__WHAT_MIGRATION_NOTICE:
        return apply_migration_notice(step, command->migration_notice);
    case DROVER__COMMAND__WHAT_CLUSTER_SET:
        return apply_cluster_set(step, command->cluster_set);
    case DROVER__COMMAND__WHAT_MIGRATION_COMPLETE:
        return apply_migration_complete(step, command->migration_complete);
    case DROVER__COMMAND__WHAT_MIGRATION_SOURCE_LOST:
        return apply_migration_source_lost(step, command->migration_source_lost);
    case DROVER__COMMAND__WHAT_EVENT_ADD:
        return apply_event_add(step, command->event_add);
    default:
        return step_refuse(
            step, DROVER_EMALFORMED,
            "this version of drover does not know this command: upgrade it");
    }
}

static int judge(struct apply_step *step, const Drover__Command *command)
{
    bool begins = command->what_case == DROVER__COMMAND__WHAT_CLUSTER_INIT;
    if (step->record->version == 0 && !begins) {
        return step_refuse(
            step, DROVER_EWRONGSTATE,
            "there is no cluster yet: make one with 'drover cluster init'");
    }
    int rv = request_judge(step, command);
    if (rv != 0) {
        return rv < 0 ? rv : 0;
    }
    rv = dispatch(step, command);
    return rv != 0 ? rv : request_remember(step, command);
}

static void command_free(Drover__Command **command)
{
    record_free(*command);
}

int cluster_state_apply(struct cluster_state *state, uint64_t index, const void *data,
                        size_t size, struct apply_result *ret_result)
{
    CHECK(index > state->record->applied_index);
    struct apply_result result = {0};
    CLEANUP(command_free) Drover__Command *command = NULL;
    CLEANUP(step_done)
    struct apply_step step = {.record = state->record, .index = index, .result = &result};

    int rv = size > COMMAND_BYTES_MAX
                 ? DROVER_EMALFORMED
                 : record_unpack(&drover__command__descriptor, data, size, &command);
    if (rv == 0) {
        step.command = command;
        rv = judge(&step, command);
    } else if (rv == DROVER_EMALFORMED) {
        (void)step_refuse(&step, rv, "the command cannot be decoded: send a whole one");
    }
    if (rv == 0) {
        rv = step_commit(&step);
    }
    if (rv == -ENOMEM) {
        return rv;
    }
    if (rv != 0) {
        CHECK(result.text[0] != '\0');
        result.result_id = 0;
    }
    state->record->applied_index = index;
    result.error = rv;
    *ret_result = result;
    return 0;
}

/* ---- snapshot ---------------------------------------------------------------------- */

int cluster_state_save(const struct cluster_state *state, struct buffer *out)
{
    size_t size = drover__cluster_state__get_packed_size(state->record);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return -ENOMEM;
    }
    CHECK(drover__cluster_state__pack(state->record, packed) == size);
    return frame_encode(out, FRAME_KIND_FILE, packed, size, LIMIT_SNAPSHOT_BYTES);
}

int cluster_state_load(struct cluster_state *state, const void *data, size_t size,
                       struct error *err)
{
    const struct buffer in = {.data = (uint8_t *)(uintptr_t)data, .size = size};
    const uint8_t *payload;
    size_t payload_size;
    size_t frame_size;
    int rv = frame_decode(&in, FRAME_KIND_FILE, LIMIT_SNAPSHOT_BYTES, &payload,
                          &payload_size, &frame_size);
    if (rv != 1 || frame_size != size) {
        return error_set(
            err, rv < 0 ? rv : DROVER_EMALFORMED,
            "the snapshot of the cluster's state is damaged (%s): move it away and "
            "let another host send its own",
            rv < 0 ? err_text(rv) : "cut short, or too long");
    }
    struct cluster_state loaded = {0};
    rv = record_unpack(&drover__cluster_state__descriptor, payload, payload_size,
                       &loaded.record);
    if (rv != 0) {
        return error_set(
            err, rv,
            "the snapshot of the cluster's state cannot be decoded (%s): move it "
            "away and let another host send its own",
            err_text(rv));
    }
    if (loaded.record->version > FORMAT_VERSION) {
        rv = error_set(
            err, DROVER_EVERSION,
            "the snapshot of the cluster's state has version %u, this drover knows "
            "%u: upgrade it",
            loaded.record->version, FORMAT_VERSION);
        record_free(loaded.record);
        return rv;
    }
    struct error broken = {0};
    if (!cluster_state_valid(&loaded, &broken)) {
        record_free(loaded.record);
        return error_set(err, DROVER_EMALFORMED,
                         "the snapshot of the cluster's state breaks a rule: %s",
                         broken.text);
    }
    record_free(state->record);
    state->record = loaded.record;
    return 0;
}

/* ---- look-ups ---------------------------------------------------------------------- */

const Drover__ClusterState *cluster_state_view(const struct cluster_state *state)
{
    return state->record;
}

uint64_t cluster_state_applied_index(const struct cluster_state *state)
{
    return state->record->applied_index;
}

const Drover__HostRecord *
cluster_state_postcopy_unaware(const struct cluster_state *state)
{
    for (size_t i = 0; i < state->record->n_hosts; i++) {
        if (!state->record->hosts[i]->postcopy) {
            return state->record->hosts[i];
        }
    }
    return NULL;
}

const Drover__HostRecord *cluster_state_host(const struct cluster_state *state,
                                             uint64_t host_id)
{
    long at = record_host_position(state->record, host_id);
    return at < 0 ? NULL : state->record->hosts[at];
}

const Drover__HostRecord *cluster_state_host_by_name(const struct cluster_state *state,
                                                     const char *name)
{
    for (size_t i = 0; i < state->record->n_hosts; i++) {
        if (strcmp(state->record->hosts[i]->name, name) == 0) {
            return state->record->hosts[i];
        }
    }
    return NULL;
}

const Drover__VmRecord *cluster_state_vm(const struct cluster_state *state,
                                         uint64_t vm_id)
{
    long at = record_vm_position(state->record, vm_id);
    return at < 0 ? NULL : state->record->vms[at];
}

const Drover__VmRecord *cluster_state_vm_by_name(const struct cluster_state *state,
                                                 const char *name)
{
    for (size_t i = 0; i < state->record->n_vms; i++) {
        if (strcmp(state->record->vms[i]->spec->name, name) == 0) {
            return state->record->vms[i];
        }
    }
    return NULL;
}

const Drover__RequestRecord *cluster_state_request(const struct cluster_state *state,
                                                   const char *request_id)
{
    return request_find(state->record, request_id);
}

bool cluster_state_request_id_valid(const char *request_id)
{
    return request_id_valid(request_id);
}
