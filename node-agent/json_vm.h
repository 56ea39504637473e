/* SPDX-License-Identifier: Apache-2.0 */
/* A VM in the API's JSON: its description in, its record and what is observed of it out.
 * Pure. */
#ifndef DROVER_NODE_AGENT_JSON_VM_H
#define DROVER_NODE_AGENT_JSON_VM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/control.pb-c.h"

struct cluster_state;
struct error;

/* What the leader sees of a VM at one moment. */
struct json_vm_seen {
    const Drover__VmStatus *status; /* NULL: no report of it */
    uint64_t host_id;               /* who reported */
    bool leads;                     /* false: nothing is known of what is observed */
    bool owner_silent; /* its owner has not been heard of for longer than a lease */
    uint64_t owner_silent_ms; /* UINT64_MAX: never, in this term */
};

/* A description (docs/api.md). `name`: from the path, NULL if it must be in the object.
 * `*ret_start`: the field "start". Free with json_vm_spec_free(). DROVER_EBADINPUT with
 * one line. */
int json_vm_spec_read(const json_t *object, const char *name, Drover__VmSpec **ret_spec,
                      bool *ret_start, struct error *err);
void json_vm_spec_free(Drover__VmSpec *spec);
json_t *json_vm_spec(const Drover__VmSpec *spec);
/* The first field in which `wanted` differs from `is`; NULL: none. A MAC that `wanted`
 * leaves open fits any. */
const char *json_vm_spec_difference(const Drover__VmSpec *is,
                                    const Drover__VmSpec *wanted);

/* "running", ... and why it does not run as wanted ("": it does). */
const char *json_vm_state(const Drover__VmRecord *vm, const struct cluster_state *state,
                          const struct json_vm_seen *seen, char *ret_reason, size_t size);
/* NULL without memory. */
json_t *json_vm(const Drover__VmRecord *vm, const struct cluster_state *state,
                const struct json_vm_seen *seen);

#endif
