/* SPDX-License-Identifier: Apache-2.0 */
/* What the API may ask of the agent. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"

static bool leads(const struct agent *agent)
{
    return agent->member != NULL && agent->member->leads;
}

const struct cluster_state *agent_state(const struct agent *agent)
{
    return agent->member != NULL && agent->member->state != NULL ? agent->member->state
                                                                 : agent->empty_state;
}

static const struct cluster_state *api_state(void *owner)
{
    return agent_state(owner);
}

static void api_self(void *owner, struct api_self *ret_self)
{
    const struct agent *agent = owner;
    const struct agent_member *member = agent->member;
    *ret_self = (struct api_self){
        .host_id = agent->identity != NULL ? agent->identity->host_id : 0,
        .leader_host_id = agent_raft_leader(agent),
        .leads = leads(agent),
        .watchdog_ms = agent->watchdog_ms,
        .watchdog_text = agent->watchdog_text[0] != '\0' ? agent->watchdog_text : NULL,
    };
    if (member == NULL && agent->identity != NULL && agent->failure[0] != '\0') {
        ret_self->failure = agent->failure;
    }
    if (member != NULL && member->closing == 0) {
        ret_self->term = raft_node_term(member->raft);
        ret_self->lease_deadline_ms =
            member->core != NULL ? host_core_lease_deadline_ms(member->core) : 0;
    }
}

static const Drover__VmStatus *api_observed(void *owner, uint64_t vm_id,
                                            uint64_t *ret_host_id, uint64_t *ret_at_ms)
{
    const struct agent *agent = owner;
    return leads(agent) ? controller_observed(agent->member->controller, vm_id,
                                              ret_host_id, ret_at_ms)
                        : NULL;
}

static bool api_host_usable(void *owner, uint64_t host_id)
{
    const struct agent *agent = owner;
    return leads(agent) &&
           controller_host_usable(agent->member->controller, host_id, clock_now_ms());
}

static uint64_t api_host_silent_ms(void *owner, uint64_t host_id)
{
    const struct agent *agent = owner;
    return leads(agent) ? controller_host_silent_ms(agent->member->controller, host_id,
                                                    clock_now_ms())
                        : UINT64_MAX;
}

/* ---- requests ---- */

struct api_call {
    api_done done;
    api_forwarded forwarded;
    void *request;
};

static struct api_call *call_create(api_done done, api_forwarded forwarded, void *request)
{
    struct api_call *call = malloc(sizeof(*call));
    if (call != NULL) {
        *call =
            (struct api_call){.done = done, .forwarded = forwarded, .request = request};
    }
    return call;
}

static void on_committed(void *owner, int error, const char *text, uint64_t index,
                         uint64_t result_id)
{
    struct api_call *call = owner;
    call->done(call->request, error, text, result_id);
    free(call);
}

static int api_propose(void *owner, const Drover__Command *command, api_done done,
                       void *request, struct error *err)
{
    struct api_call *call = call_create(done, NULL, request);
    int rv =
        call == NULL ? -ENOMEM : agent_raft_propose(owner, command, on_committed, call);
    if (rv != 0) {
        free(call);
        return error_set(err, rv, "%s", err_text(rv));
    }
    return 0;
}

static void on_forwarded(void *owner, const struct propose_answer *answer)
{
    struct api_call *call = owner;
    call->forwarded(call->request, answer->error, answer->text, answer->status,
                    answer->body, answer->body_size);
    free(call);
}

static int api_forward(void *owner, const Drover__ApiForward *message,
                       api_forwarded forwarded, void *request, struct error *err)
{
    struct agent *agent = owner;
    if (agent->member == NULL || agent->member->closing > 0) {
        return error_set(err, DROVER_ENOLEADER, "%s",
                         agent->failure[0] != '\0'
                             ? agent->failure
                             : "this host is in no cluster: run 'drover cluster init' or "
                               "'drover cluster join'");
    }
    struct api_call *call = call_create(NULL, forwarded, request);
    int rv = call == NULL
                 ? -ENOMEM
                 : propose_forward(agent->member->propose, message, clock_now_ms(),
                                   AGENT_FORWARD_MS, on_forwarded, call);
    if (rv != 0) {
        free(call);
        return error_set(err, rv, "%s", err_text(rv));
    }
    agent_wake(agent);
    return 0;
}

static int api_cluster_init(void *owner, const struct api_init *init, api_done done,
                            void *request, struct error *err)
{
    return agent_cluster_init(owner, init, done, request, err);
}

static int api_cluster_join(void *owner, const struct api_join *join, api_done done,
                            void *request, struct error *err)
{
    return agent_cluster_join(owner, join, done, request, err);
}

static int api_member_remove(void *owner, const struct api_removal *removal,
                             api_done done, void *request, struct error *err)
{
    return agent_cluster_remove(owner, removal, done, request, err);
}

static int api_serial_path(void *owner, uint64_t vm_id, uint64_t epoch, char *ret_path,
                           size_t size)
{
    const struct agent *agent = owner;
    if (agent->member == NULL || agent->member->supervisor == NULL) {
        return DROVER_ENOTFOUND;
    }
    return vmm_supervisor_serial_path(agent->member->supervisor, vm_id, epoch, ret_path,
                                      size);
}

const struct api_backend *agent_api_backend(void)
{
    static const struct api_backend backend = {
        .state = api_state,
        .self = api_self,
        .observed = api_observed,
        .host_usable = api_host_usable,
        .host_silent_ms = api_host_silent_ms,
        .propose = api_propose,
        .forward = api_forward,
        .cluster_init = api_cluster_init,
        .cluster_join = api_cluster_join,
        .member_remove = api_member_remove,
        .serial_path = api_serial_path,
    };
    return &backend;
}

void agent_api_listen(struct agent *agent)
{
    if (agent->api_tls || agent->api == NULL) {
        return;
    }
    struct error err = {0};
    if (api_listen_tls(agent->api, agent->identity->api_address, agent->dir.ca_path,
                       agent->dir.certificate_path, agent->dir.key_path, &err) != 0) {
        log_warn(agent->log, "the API is not served over TLS, only on this host err=%s",
                 err.text);
        return;
    }
    agent->api_tls = true;
}
