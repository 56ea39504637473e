/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts, proofs and events in the API's JSON. Pure. All return NULL without memory. */
#ifndef DROVER_NODE_AGENT_JSON_VIEW_H
#define DROVER_NODE_AGENT_JSON_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/cluster.pb-c.h"

struct cluster_state;

/* What the leader sees of a host. */
struct json_host_seen {
    bool leads; /* false: nothing is known */
    bool usable;
    uint64_t silent_ms; /* UINT64_MAX: not heard of in this term */
    uint64_t leader_host_id;
};

/* Any bytes as a JSON string: what is no UTF-8 (a VMM's last words, a cut text) is shown
 * as question marks. */
json_t *json_text(const char *text);
/* NULL: no such host (any more), or id 0. */
const char *json_host_name(const struct cluster_state *state, uint64_t host_id);
json_t *json_proof(const Drover__Proof *proof, const struct cluster_state *state);
json_t *json_host(const Drover__HostRecord *host, const struct cluster_state *state,
                  const struct json_host_seen *seen);
json_t *json_event(const Drover__Event *event, const struct cluster_state *state);

#endif
