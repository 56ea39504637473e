/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of records, edited by a handler and swapped in at the end. */
#include "consensus/apply_step.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "consensus/apply.h"

/* ---- records ----------------------------------------------------------------------- */

/* Ours, not the library's own allocator: running short must not look like malformed
 * bytes, and tests can make it fail. */
static void *allocate(void *allocator_data, size_t size)
{
    bool *no_memory = allocator_data;
    void *pointer = malloc(size);
    *no_memory |= pointer == NULL;
    return pointer;
}

static void release(void *allocator_data, void *pointer)
{
    free(pointer);
}

int record_unpack(const ProtobufCMessageDescriptor *descriptor, const void *data,
                  size_t size, void *ret_message)
{
    static const uint8_t empty[1];
    bool no_memory = false;
    ProtobufCAllocator allocator = {
        .alloc = allocate, .free = release, .allocator_data = &no_memory};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(descriptor, &allocator, size, size == 0 ? empty : data);
    if (message == NULL) {
        return no_memory ? -ENOMEM : DROVER_EMALFORMED;
    }
    *(void **)ret_message = message;
    return 0;
}

void *record_copy(const void *message)
{
    const ProtobufCMessage *from = message;
    size_t size = protobuf_c_message_get_packed_size(from);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return NULL;
    }
    CHECK(protobuf_c_message_pack(from, packed) == size);
    void *copy = NULL;
    int rv = record_unpack(from->descriptor, packed, size, &copy);
    CHECK(rv == 0 || rv == -ENOMEM);
    return copy;
}

void record_free(void *message)
{
    if (message != NULL) {
        protobuf_c_message_free_unpacked(message, NULL);
    }
}

void record_clear_string(char **field)
{
    if (*field != protobuf_c_empty_string) {
        free(*field);
    }
    *field = (char *)(uintptr_t)protobuf_c_empty_string;
}

long record_host_position(const Drover__ClusterState *record, uint64_t host_id)
{
    for (size_t i = 0; i < record->n_hosts; i++) {
        if (record->hosts[i]->host_id == host_id) {
            return (long)i;
        }
    }
    return -1;
}

long record_vm_position(const Drover__ClusterState *record, uint64_t vm_id)
{
    size_t low = 0;
    size_t high = record->n_vms;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        uint64_t here = record->vms[middle]->vm_id;
        if (here == vm_id) {
            return (long)middle;
        }
        if (here < vm_id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return -1;
}

/* ---- answers ----------------------------------------------------------------------- */

int step_refuse(struct apply_step *step, int code, const char *format, ...)
{
    CHECK(code < 0 && code != -ENOMEM);
    char text[ERROR_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments); /* cut is fine */
    va_end(arguments);
    text_for_people(text, step->result->text, sizeof(step->result->text));
    return code;
}

/* ---- reading ----------------------------------------------------------------------- */

const Drover__HostRecord *step_host(const struct apply_step *step, uint64_t host_id)
{
    long at = record_host_position(step->record, host_id);
    if (at < 0) {
        return NULL;
    }
    return step->hosts[at] != NULL ? step->hosts[at] : step->record->hosts[at];
}

const Drover__VmRecord *step_vm_at(const struct apply_step *step, size_t position)
{
    CHECK(position < step->record->n_vms);
    if (step->vms != NULL && step->vms[position] != NULL) {
        return step->vms[position];
    }
    return step->record->vms[position];
}

const Drover__VmRecord *step_vm(const struct apply_step *step, uint64_t vm_id)
{
    long at = record_vm_position(step->record, vm_id);
    return at < 0 ? NULL : step_vm_at(step, (size_t)at);
}

const char *step_host_name(const struct apply_step *step, uint64_t host_id,
                           char text[STEP_NAME_SIZE])
{
    const Drover__HostRecord *host = step_host(step, host_id);
    if (host != NULL) {
        (void)snprintf(text, STEP_NAME_SIZE, "'%s'", host->name);
    } else {
        (void)snprintf(text, STEP_NAME_SIZE, "number %llu", (unsigned long long)host_id);
    }
    return text;
}

uint64_t step_host_memory_used(const struct apply_step *step, uint64_t host_id,
                               uint64_t except_vm_id)
{
    uint64_t used = 0;
    for (size_t i = 0; i < step->record->n_vms; i++) {
        const Drover__VmRecord *vm = step_vm_at(step, i);
        bool here = vm->owner_host_id == host_id ||
                    (vm->migration != NULL && vm->migration->target_host_id == host_id) ||
                    (vm->dependence != NULL && vm->dependence->host_id == host_id);
        if (here && vm->vm_id != except_vm_id) {
            used += vm->spec->memory_bytes;
        }
    }
    return used;
}

/* ---- writing ----------------------------------------------------------------------- */

static void *edit(struct apply_step *step, void **slot, const void *original)
{
    if (*slot == NULL) {
        *slot = record_copy(original);
        step->no_memory |= *slot == NULL;
    }
    return *slot;
}

Drover__HostRecord *step_edit_host(struct apply_step *step, uint64_t host_id)
{
    long at = record_host_position(step->record, host_id);
    CHECK(at >= 0 && at < LIMIT_HOSTS);
    return edit(step, (void **)&step->hosts[at], step->record->hosts[at]);
}

Drover__VmRecord *step_edit_vm_at(struct apply_step *step, size_t position)
{
    CHECK(position < step->record->n_vms);
    if (step->vms == NULL) {
        step->vms = calloc(step->record->n_vms, sizeof(*step->vms));
        if (step->vms == NULL) {
            step->no_memory = true;
            return NULL;
        }
        step->vm_count = step->record->n_vms;
    }
    return edit(step, (void **)&step->vms[position], step->record->vms[position]);
}

Drover__VmRecord *step_edit_vm(struct apply_step *step, uint64_t vm_id)
{
    long at = record_vm_position(step->record, vm_id);
    CHECK(at >= 0);
    return step_edit_vm_at(step, (size_t)at);
}

Drover__TokenRecord *step_edit_token(struct apply_step *step, size_t position)
{
    CHECK(position < step->record->n_tokens && position < LIMIT_TOKENS);
    return edit(step, (void **)&step->tokens[position], step->record->tokens[position]);
}

void step_set_string(struct apply_step *step, char **field, const char *value)
{
    char *copy = NULL;
    if (value[0] != '\0') {
        copy = strdup(value);
        if (copy == NULL) {
            step->no_memory = true;
            return;
        }
    }
    record_clear_string(field);
    if (copy != NULL) {
        *field = copy;
    }
}

void step_set_text(struct apply_step *step, char **field, const char *value)
{
    char text[ERROR_TEXT_SIZE];
    text_for_people(value, text, sizeof(text));
    step_set_string(step, field, text);
}

void step_set_bytes(struct apply_step *step, ProtobufCBinaryData *field,
                    const ProtobufCBinaryData *value)
{
    uint8_t *copy = malloc(value->len + 1);
    if (copy == NULL) {
        step->no_memory = true;
        return;
    }
    if (value->len > 0) {
        memcpy(copy, value->data, value->len);
    }
    free(field->data);
    *field = (ProtobufCBinaryData){.data = copy, .len = value->len};
}

/* ---- events ------------------------------------------------------------------------ */

static Drover__Event *event_create(struct apply_step *step, const char *kind,
                                   struct step_subject subject, const char *text)
{
    Drover__Event *event = malloc(sizeof(*event));
    if (event == NULL) {
        step->no_memory = true;
        return NULL;
    }
    drover__event__init(event);
    event->index = step->index;
    event->unix_ms = step->command->at_unix_ms;
    event->host_id = subject.host_id;
    event->vm_id = subject.vm_id;
    event->epoch = subject.epoch;
    step_set_string(step, &event->kind, kind);
    step_set_text(step, &event->text, text);
    if (subject.proof != NULL) {
        event->proof = record_copy(subject.proof);
        step->no_memory |= event->proof == NULL;
    }
    return event;
}

void step_event(struct apply_step *step, const char *kind, struct step_subject subject,
                const char *format, ...)
{
    char text[ERROR_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments); /* cut is fine */
    va_end(arguments);
    Drover__Event **events =
        realloc(step->events, (step->event_count + 1) * sizeof(*events));
    if (events == NULL) {
        step->no_memory = true;
        return;
    }
    step->events = events;
    Drover__Event *event = event_create(step, kind, subject, text);
    if (event != NULL) {
        step->events[step->event_count++] = event;
    }
}

/* ---- the end ----------------------------------------------------------------------- */

/* Room for one more pointer, before anything is changed. */
static bool reserve_one(void *array, size_t count)
{
    void ***at = array;
    void **larger = realloc(*at, (count + 1) * sizeof(void *));
    if (larger == NULL) {
        return false;
    }
    *at = larger;
    return true;
}

static bool reserve_events(Drover__ClusterState *record, size_t more)
{
    Drover__Event **larger =
        realloc(record->events, (record->n_events + more + 1) * sizeof(*larger));
    if (larger == NULL) {
        return false;
    }
    record->events = larger;
    return true;
}

static void swap_records(void *array, size_t count, void *copies)
{
    void **originals = array;
    void **edited = copies;
    for (size_t i = 0; i < count; i++) {
        if (edited[i] != NULL) {
            record_free(originals[i]);
            originals[i] = TAKE(edited[i]);
        }
    }
}

static void drop_record(void *array, size_t *count, const void *gone)
{
    void **records = array;
    for (size_t i = 0; i < *count; i++) {
        if (records[i] == gone) {
            record_free(records[i]);
            memmove(records + i, records + i + 1, (*count - i - 1) * sizeof(*records));
            (*count)--;
            return;
        }
    }
}

static void append_events(struct apply_step *step, Drover__ClusterState *record)
{
    for (size_t i = 0; i < step->event_count; i++) {
        record->events[record->n_events++] = TAKE(step->events[i]);
    }
    step->event_count = 0;
    if (record->n_events > LIMIT_EVENTS) {
        size_t over = record->n_events - LIMIT_EVENTS;
        for (size_t i = 0; i < over; i++) {
            record_free(record->events[i]);
        }
        memmove(record->events, record->events + over,
                LIMIT_EVENTS * sizeof(*record->events));
        record->n_events = LIMIT_EVENTS;
    }
}

static void take_new_cluster(struct apply_step *step)
{
    Drover__ClusterState *record = step->record;
    Drover__ClusterState *from = step->new_cluster;
    record->version = from->version;
    record->lease_ms = from->lease_ms;
    record->next_host_id = from->next_host_id;
    record->next_vm_id = from->next_vm_id;
    record->cluster_id = from->cluster_id;
    record->ca_certificate_pem = from->ca_certificate_pem;
    record->ca_key_pem = from->ca_key_pem;
    free(TAKE(step->new_cluster)); /* its members have moved */
}

int step_commit(struct apply_step *step)
{
    Drover__ClusterState *record = step->record;
    if (step->no_memory || !reserve_one(&record->hosts, record->n_hosts) ||
        !reserve_one(&record->vms, record->n_vms) ||
        !reserve_one(&record->tokens, record->n_tokens) ||
        !reserve_one(&record->requests, record->n_requests) ||
        !reserve_events(record, step->event_count)) {
        return -ENOMEM;
    }
    if (step->new_cluster != NULL) {
        take_new_cluster(step);
    }
    /* From here nothing can fail. Swap by position first: dropping moves positions. */
    CHECK(record->n_hosts <= LIMIT_HOSTS && record->n_tokens <= LIMIT_TOKENS);
    swap_records(record->hosts, record->n_hosts, step->hosts);
    swap_records(record->tokens, record->n_tokens, step->tokens);
    swap_records(record->vms, step->vm_count, step->vms);
    if (step->gone != NULL) {
        drop_record(record->hosts, &record->n_hosts, step->gone);
        drop_record(record->vms, &record->n_vms, step->gone);
        drop_record(record->tokens, &record->n_tokens, step->gone);
    }
    if (step->new_host != NULL) {
        record->next_host_id = step->new_host->host_id + 1;
        record->hosts[record->n_hosts++] = TAKE(step->new_host);
    }
    if (step->new_vm != NULL) {
        record->next_vm_id = step->new_vm->vm_id + 1;
        record->vms[record->n_vms++] = TAKE(step->new_vm);
    }
    if (step->new_token != NULL) {
        record->tokens[record->n_tokens++] = TAKE(step->new_token);
    }
    if (step->setting != NULL) {
        setting_take(record, step->setting);
    }
    if (step->new_request != NULL) {
        request_add(record, TAKE(step->new_request));
    }
    append_events(step, record);
    return 0;
}

void step_done(struct apply_step *step)
{
    for (size_t i = 0; i < LIMIT_HOSTS; i++) {
        record_free(step->hosts[i]);
    }
    for (size_t i = 0; i < LIMIT_TOKENS; i++) {
        record_free(step->tokens[i]);
    }
    for (size_t i = 0; i < step->vm_count; i++) {
        record_free(step->vms[i]);
    }
    free(step->vms);
    record_free(step->new_host);
    record_free(step->new_vm);
    record_free(step->new_token);
    record_free(step->new_request);
    record_free(step->new_cluster);
    for (size_t i = 0; i < step->event_count; i++) {
        record_free(step->events[i]);
    }
    free(step->events);
    *step = (struct apply_step){0};
}
