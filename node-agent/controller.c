/* SPDX-License-Identifier: Apache-2.0 */
/* The leader's decisions: leases here; deaths, placement and reports in controller_*.c
 * beside. */
#include "node-agent/controller.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "consensus/cluster_state.h"
#include "node-agent/controller_private.h"

int controller_create(const struct timing *timing, uint64_t own_host_id,
                      const struct controller_ops *ops, void *owner,
                      struct controller **ret_controller)
{
    struct controller *controller = calloc(1, sizeof(*controller));
    if (controller == NULL) {
        return -ENOMEM;
    }
    controller->timing = *timing;
    controller->own_host_id = own_host_id;
    controller->ops = ops;
    controller->owner = owner;
    lease_grantor_init(&controller->grantor, timing);
    *ret_controller = controller;
    return 0;
}

static void forget(struct controller *controller)
{
    for (unsigned i = 0; i < controller->host_count; i++) {
        if (controller->hosts[i].report != NULL) {
            drover__lease_request__free_unpacked(controller->hosts[i].report, NULL);
        }
    }
    controller->host_count = 0;
    controller->try_count = 0;
    controller->elected_told = false;
}

void controller_free(struct controller *controller)
{
    if (controller != NULL) {
        forget(controller);
        free(controller);
    }
}

void controller_lead(struct controller *controller, uint64_t term, uint64_t now_ms)
{
    CHECK(term > 0);
    forget(controller);
    lease_grantor_lead(&controller->grantor, term, now_ms);
}

void controller_follow(struct controller *controller)
{
    forget(controller);
    lease_grantor_lead(&controller->grantor, 0, 0);
}

bool controller_leads(const struct controller *controller)
{
    return controller->grantor.term != 0;
}

struct controller_host *controller_host_get(struct controller *controller,
                                            uint64_t host_id)
{
    for (unsigned i = 0; i < controller->host_count; i++) {
        if (controller->hosts[i].host_id == host_id) {
            return &controller->hosts[i];
        }
    }
    if (controller->host_count == LIMIT_HOSTS) {
        return NULL;
    }
    struct controller_host *host = &controller->hosts[controller->host_count++];
    *host = (struct controller_host){.host_id = host_id};
    return host;
}

uint64_t controller_propose(struct controller *controller, const Drover__Command *command)
{
    CHECK(controller_leads(controller));
    uint64_t proposal_id = ++controller->last_proposal;
    controller->ops->propose(controller->owner, proposal_id, command);
    return proposal_id;
}

void controller_event(struct controller *controller, const Drover__Event *event)
{
    Drover__EventAdd add = DROVER__EVENT_ADD__INIT;
    add.event = (Drover__Event *)(uintptr_t)event; /* only packed from */
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_EVENT_ADD;
    command.event_add = &add;
    (void)controller_propose(controller, &command); /* lost: nothing else depends on it */
}

/* ---- leases --------------------------------------------------------------------------
 */

/* Why this host gets no lease by what the state says; NULL: it may. */
static const char *refusal(struct controller *controller,
                           const struct cluster_state *state, uint64_t host_id,
                           const char *boot_id, const char *incarnation)
{
    const Drover__HostRecord *record = cluster_state_host(state, host_id);
    if (record == NULL) {
        return "this host is not a member of the cluster";
    }
    if (record->state != DROVER__HOST_STATE__HOST_STATE_UP) {
        return "the cluster does not know this host as up: it must report up first";
    }
    if (strcmp(record->boot_id, boot_id) != 0 ||
        strcmp(record->incarnation, incarnation) != 0) {
        return "the cluster does not know this run of the agent: it must report up first";
    }
    struct controller_host *host = controller_host_get(controller, host_id);
    if (host == NULL) {
        return "there are more hosts than there may be";
    }
    if (host->death_proposal != 0) {
        return "this host is about to be called dead";
    }
    return NULL;
}

static void reply(struct controller *controller, uint64_t host_id, uint64_t sequence,
                  const char *reason, uint64_t required_index)
{
    Drover__LeaseReply answer = DROVER__LEASE_REPLY__INIT;
    answer.sequence = sequence;
    answer.granted = reason == NULL;
    answer.required_index = required_index;
    answer.term = controller->grantor.term;
    if (reason != NULL) {
        answer.reason = (char *)(uintptr_t)reason; /* only packed from */
    }
    controller->ops->send_lease_reply(controller->owner, host_id, &answer);
}

static void send_round_if_due(struct controller *controller, const uint64_t *voters,
                              unsigned voter_count, uint64_t now_ms)
{
    Drover__ConfirmRequest request = DROVER__CONFIRM_REQUEST__INIT;
    if (!lease_grantor_round_due(&controller->grantor, now_ms, &request.round)) {
        return;
    }
    request.term = controller->grantor.term;
    for (unsigned i = 0; i < voter_count; i++) {
        controller->ops->send_confirm(controller->owner, voters[i], &request);
    }
}

static unsigned voters_now(struct controller *controller, uint64_t voters[LIMIT_HOSTS])
{
    unsigned count = controller->ops->voters(controller->owner, voters, LIMIT_HOSTS);
    CHECK(count <= LIMIT_HOSTS);
    return count;
}

void controller_lease_request(struct controller *controller,
                              const struct cluster_state *state,
                              const Drover__LeaseRequest *request, uint64_t now_ms)
{
    if (!controller_leads(controller)) {
        return; /* the host asks again, whoever leads then */
    }
    const char *reason = refusal(controller, state, request->host_id, request->boot_id,
                                 request->incarnation);
    struct lease_ask ask = {.host_id = request->host_id, .sequence = request->sequence};
    if (reason == NULL && (strlen(request->boot_id) >= sizeof(ask.boot_id) ||
                           strlen(request->incarnation) >= sizeof(ask.incarnation))) {
        reason = "malformed request";
    }
    if (reason != NULL) {
        reply(controller, request->host_id, request->sequence, reason, 0);
        return;
    }
    (void)snprintf(ask.boot_id, sizeof(ask.boot_id), "%s", request->boot_id);
    (void)snprintf(ask.incarnation, sizeof(ask.incarnation), "%s", request->incarnation);
    if (lease_grantor_request(&controller->grantor, &ask, now_ms) != 0) {
        reply(controller, request->host_id, request->sequence, "malformed request", 0);
        return;
    }
    controller_report(controller, controller_host_get(controller, request->host_id),
                      request);
    uint64_t voters[LIMIT_HOSTS];
    send_round_if_due(controller, voters, voters_now(controller, voters), now_ms);
}

/* Rule: a grant follows a majority's yes, asked for after the request came, and the
 * state's word at this moment. */
static void answer_waiting(struct controller *controller,
                           const struct cluster_state *state, uint64_t now_ms)
{
    uint64_t voters[LIMIT_HOSTS];
    unsigned voter_count = voters_now(controller, voters);
    struct lease_ask ask;
    while (lease_grantor_next(&controller->grantor, voters, voter_count, now_ms, &ask)) {
        const char *reason =
            refusal(controller, state, ask.host_id, ask.boot_id, ask.incarnation);
        if (reason == NULL) {
            lease_grantor_granted(&controller->grantor, ask.host_id, now_ms);
        }
        reply(controller, ask.host_id, ask.sequence, reason,
              cluster_state_applied_index(state));
    }
    send_round_if_due(controller, voters, voter_count, now_ms);
}

void controller_confirm_reply(struct controller *controller,
                              const struct cluster_state *state,
                              const Drover__ConfirmReply *answer, uint64_t now_ms)
{
    if (!controller_leads(controller) || !answer->confirmed) {
        return;
    }
    lease_grantor_confirmed(&controller->grantor, answer->term, answer->round,
                            answer->voter_id, now_ms);
    answer_waiting(controller, state, now_ms);
}

/* ---- the rest ------------------------------------------------------------------------
 */

void controller_proposal_done(struct controller *controller, uint64_t proposal_id,
                              int error, uint64_t now_ms)
{
    if (!controller_death_done(controller, proposal_id, error, now_ms)) {
        (void)controller_assign_done(controller, proposal_id, error,
                                     now_ms); /* or an event */
    }
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void tell_elected(struct controller *controller, const struct cluster_state *state)
{
    if (controller->elected_told) {
        return;
    }
    controller->elected_told = true;
    const Drover__HostRecord *self = cluster_state_host(state, controller->own_host_id);
    char text[ERROR_TEXT_SIZE];
    (void)snprintf(text, sizeof(text), "host '%s' leads the cluster (term %llu)",
                   self != NULL ? self->name : "?",
                   (unsigned long long)controller->grantor.term);
    Drover__Event event = DROVER__EVENT__INIT;
    event.kind = (char *)(uintptr_t) "leader.elected";
    event.text = text;
    event.host_id = controller->own_host_id;
    controller_event(controller, &event);
}

uint32_t controller_tick(struct controller *controller, const struct cluster_state *state,
                         uint64_t now_ms)
{
    if (!controller_leads(controller)) {
        return controller->timing.lease_ms;
    }
    tell_elected(controller, state);
    answer_waiting(controller, state, now_ms);
    uint32_t wait_ms = lease_grantor_wait_ms(&controller->grantor, now_ms);
    wait_ms = smaller(wait_ms, controller_judge(controller, state, now_ms));
    wait_ms = smaller(wait_ms, controller_assign(controller, state, now_ms));
    return smaller(wait_ms, controller->timing.lease_ms);
}

bool controller_host_usable(const struct controller *controller, uint64_t host_id,
                            uint64_t now_ms)
{
    const struct lease_host *host = lease_grantor_host(&controller->grantor, host_id);
    return controller_leads(controller) && host != NULL && host->granted_ms != 0 &&
           now_ms - host->granted_ms < controller->timing.suspect_ms;
}

uint64_t controller_host_silent_ms(const struct controller *controller, uint64_t host_id,
                                   uint64_t now_ms)
{
    const struct lease_host *host = lease_grantor_host(&controller->grantor, host_id);
    return host != NULL && host->heard_ms != 0 ? now_ms - host->heard_ms : UINT64_MAX;
}
