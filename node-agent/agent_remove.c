/* SPDX-License-Identifier: Apache-2.0 */
/* Out of a cluster: a host's removal, as the leader does it. */
#include <errno.h>

#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"

static void on_remove_committed(void *owner, int error, const char *text, uint64_t index,
                                uint64_t result_id)
{
    struct agent *agent = owner;
    if (error != 0) {
        agent_waiter_end(&agent->removal, error, text, 0);
    }
    agent_wake(agent); /* raft's voters follow the state */
}

int agent_cluster_remove(struct agent *agent, const struct api_removal *order,
                         api_done done, void *request, struct error *err)
{
    if (agent->removal.done != NULL) {
        return error_set(
            err, -EBUSY,
            "another host is just being removed: try again when that is done");
    }
    Drover__HostRemove remove = DROVER__HOST_REMOVE__INIT;
    remove.host_id = order->host_id;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_REMOVE;
    command.host_remove = &remove;
    command.request_id = (char *)order->request_id;
    command.request_digest = order->request_digest;
    agent->removal =
        (struct agent_waiter){.done = done,
                              .request = request,
                              .host_id = order->host_id,
                              .deadline_ms = clock_now_ms() + AGENT_REMOVE_MS};
    int rv = agent_raft_propose(agent, &command, on_remove_committed, agent);
    if (rv != 0) {
        agent->removal = (struct agent_waiter){0};
        return error_set(err, rv, "%s", err_text(rv));
    }
    return 0;
}

uint32_t agent_remove_tick(struct agent *agent, uint64_t now_ms)
{
    struct agent_member *member = agent->member;
    struct agent_waiter *removal = &agent->removal;
    if (removal->done == NULL) {
        return UINT32_MAX;
    }
    if (member == NULL || member->closing > 0) {
        agent_waiter_end(removal, DROVER_ECANCELLED,
                         "droverd is stopping: see 'drover node list' on another host",
                         0);
        return UINT32_MAX;
    }
    uint64_t voters[LIMIT_HOSTS * 2];
    unsigned count = raft_node_voters(member->raft, voters, LIMIT_HOSTS * 2);
    bool voter = false;
    for (unsigned i = 0; i < count; i++) {
        voter = voter || voters[i] == removal->host_id;
    }
    bool own =
        removal->host_id == member->self.host_id; /* raft's part is the next leader's */
    if (cluster_state_host(member->state, removal->host_id) == NULL && (!voter || own)) {
        if (!own) {
            peers_drop(member->peers, removal->host_id);
        }
        agent_waiter_end(removal, 0, "", removal->host_id);
        return UINT32_MAX;
    }
    if (now_ms >= removal->deadline_ms) {
        agent_waiter_end(removal, DROVER_ETIMEDOUT2,
                         "the host is out of the list, but raft has not dropped it yet: "
                         "that goes on by itself",
                         0);
        return UINT32_MAX;
    }
    return (uint32_t)(removal->deadline_ms - now_ms);
}
