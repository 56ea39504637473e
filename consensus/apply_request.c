/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users' requests that were carried out. Who gets no answer can't know whether his
 * request was, and asks again, perhaps another host: the repetition gets the first
 * answer, and changes nothing. Refused ones changed nothing, and are not kept.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "consensus/apply.h"
#include "consensus/apply_step.h"

#define BROKEN(...) (error_set(err, DROVER_EMALFORMED, __VA_ARGS__), false)

bool request_id_valid(const char *request_id)
{
    return text_word_valid(request_id, LIMIT_REQUEST_ID_SIZE);
}

const Drover__RequestRecord *request_find(const Drover__ClusterState *record,
                                          const char *request_id)
{
    /* The newest first: that is the one which is repeated. */
    for (size_t i = record->n_requests; i > 0; i--) {
        if (strcmp(record->requests[i - 1]->request_id, request_id) == 0) {
            return record->requests[i - 1];
        }
    }
    return NULL;
}

int request_judge(struct apply_step *step, const Drover__Command *command)
{
    if (command->request_id[0] == '\0') {
        return 0;
    }
    if (!request_id_valid(command->request_id)) {
        return step_refuse(step, DROVER_EBADINPUT,
                           "a request's id has 1 to %d of A-Z, a-z, 0-9, '.', '_', '-'",
                           LIMIT_REQUEST_ID_SIZE - 1);
    }
    const Drover__RequestRecord *known = request_find(step->record, command->request_id);
    if (known == NULL) {
        return 0;
    }
    if (known->digest != command->request_digest) {
        return step_refuse(step, DROVER_EEXISTS,
                           "the request id '%s' was used for another request: choose "
                           "another id",
                           command->request_id);
    }
    step->result->result_id = known->subject_id;
    return 1;
}

/* What the request was about. */
static uint64_t subject_of(const struct apply_step *step, const Drover__Command *command)
{
    if (step->result->result_id != 0) {
        return step->result->result_id;
    }
    switch (command->what_case) {
    case DROVER__COMMAND__WHAT_HOST_REMOVE:
        return command->host_remove->host_id;
    case DROVER__COMMAND__WHAT_HOST_DRAIN:
        return command->host_drain->host_id;
    case DROVER__COMMAND__WHAT_VM_UPDATE:
        return command->vm_update->vm_id;
    case DROVER__COMMAND__WHAT_VM_SET_WANTED:
        return command->vm_set_wanted->vm_id;
    case DROVER__COMMAND__WHAT_VM_SET_BALLOON:
        return command->vm_set_balloon->vm_id;
    case DROVER__COMMAND__WHAT_VM_DELETE:
        return command->vm_delete->vm_id;
    case DROVER__COMMAND__WHAT_MIGRATION_BEGIN:
        return command->migration_begin->vm_id;
    case DROVER__COMMAND__WHAT_MIGRATION_CANCEL:
        return command->migration_cancel->vm_id;
    default:
        return 0;
    }
}

int request_remember(struct apply_step *step, const Drover__Command *command)
{
    if (command->request_id[0] == '\0') {
        return 0;
    }
    Drover__RequestRecord *request = malloc(sizeof(*request));
    if (request == NULL) {
        return -ENOMEM;
    }
    drover__request_record__init(request);
    step->new_request = request;
    request->digest = command->request_digest;
    request->unix_ms = command->at_unix_ms;
    request->subject_id = subject_of(step, command);
    step_set_string(step, &request->request_id, command->request_id);
    return step->no_memory ? -ENOMEM : 0;
}

void request_add(Drover__ClusterState *record, Drover__RequestRecord *request)
{
    size_t gone = 0;
    record->requests[record->n_requests++] = request;
    while (gone + 1 < record->n_requests &&
           (record->n_requests - gone > LIMIT_REQUESTS ||
            record->requests[gone]->unix_ms + LIMIT_REQUEST_MS < request->unix_ms)) {
        record_free(record->requests[gone++]);
    }
    memmove(record->requests, record->requests + gone,
            (record->n_requests - gone) * sizeof(*record->requests));
    record->n_requests -= gone;
}

bool requests_valid(const Drover__ClusterState *record, struct error *err)
{
    if (record->n_requests > LIMIT_REQUESTS) {
        return BROKEN("too many requests are remembered");
    }
    for (size_t i = 0; i < record->n_requests; i++) {
        const char *id = record->requests[i]->request_id;
        if (!request_id_valid(id) || request_find(record, id) != record->requests[i]) {
            return BROKEN("a request is remembered without a name, or twice");
        }
    }
    return true;
}
