/* SPDX-License-Identifier: Apache-2.0 */
/* What the leader's decisions ask of the world. */
#include <stdlib.h>

#include "base/clock.h"
#include "node-agent/agent_private.h"

/* One proposal of the controller's; also the deferred word that it could not even be
 * made. */
struct leader_proposal {
    struct agent_deferred deferred;
    struct agent *agent;
    uint64_t proposal_id;
    int error;
};

static void proposal_end(struct leader_proposal *proposal, int error)
{
    struct agent_member *member = proposal->agent->member;
    if (member != NULL && member->controller != NULL) {
        controller_proposal_done(member->controller, proposal->proposal_id, error,
                                 clock_now_ms());
    }
    agent_wake(proposal->agent);
    free(proposal);
}

static void on_committed(void *owner, int error, const char *text, uint64_t index,
                         uint64_t result_id)
{
    struct leader_proposal *proposal = owner;
    if (error != 0) {
        log_info(proposal->agent->log, "a decision was not carried out err=%s", text);
    }
    proposal_end(proposal, error);
}

static void run_failed(struct agent *agent, struct agent_deferred *deferred)
{
    struct leader_proposal *proposal = (struct leader_proposal *)deferred;
    proposal_end(proposal, proposal->error);
}

static void op_propose(void *owner, uint64_t proposal_id, const Drover__Command *command)
{
    struct agent *agent = owner;
    struct leader_proposal *proposal = calloc(1, sizeof(*proposal));
    if (proposal == NULL) {
        agent_member_fail(agent, "out of memory");
        return;
    }
    proposal->agent = agent;
    proposal->proposal_id = proposal_id;
    int rv = agent_raft_propose(agent, command, on_committed, proposal);
    if (rv != 0) {
        proposal->error = rv;
        proposal->deferred.run = run_failed;
        agent_defer(agent, &proposal->deferred);
    }
}

static void op_send_confirm(void *owner, uint64_t host_id,
                            const Drover__ConfirmRequest *request)
{
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_CONFIRM_REQUEST;
    message.confirm_request = (Drover__ConfirmRequest *)request;
    (void)agent_send(owner, host_id, &message); /* the controller asks again */
}

static void op_send_lease_reply(void *owner, uint64_t host_id,
                                const Drover__LeaseReply *reply)
{
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_LEASE_REPLY;
    message.lease_reply = (Drover__LeaseReply *)reply;
    (void)agent_send(owner, host_id, &message); /* the host asks again */
}

static unsigned op_voters(void *owner, uint64_t *ret_ids, unsigned size)
{
    const struct agent *agent = owner;
    return raft_node_voters(agent->member->raft, ret_ids, size);
}

static void op_note(void *owner, const char *text)
{
    const struct agent *agent = owner;
    log_info(agent->log, "%s", text);
}

const struct controller_ops *agent_controller_ops(void)
{
    static const struct controller_ops ops = {
        .propose = op_propose,
        .send_confirm = op_send_confirm,
        .send_lease_reply = op_send_lease_reply,
        .voters = op_voters,
        .note = op_note,
    };
    return &ops;
}
