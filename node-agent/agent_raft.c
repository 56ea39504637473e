/* SPDX-License-Identifier: Apache-2.0 */
/* The agent and raft: proposals, leadership, who votes. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"

#define LEAD_RETRY_MS 100u

/* ---- proposals ---- */

struct commit {
    struct agent *agent;
    struct agent_member *member;
    agent_committed done;
    void *owner;
};

static void on_committed(void *owner, int error, uint64_t index,
                         const struct apply_result *result)
{
    struct commit *commit = owner;
    int code = error != 0 ? error : result->error;
    const char *text = error == 0 ? result->text : err_text(error);
    if (error != 0) {
        /* Whatever raft says: it is in the log, and a later leader may commit it. */
        code = DROVER_ETIMEDOUT2;
        text = error == DROVER_ENOTLEADER
                   ? "the leader changed meanwhile: what was asked may have been done, "
                     "look before you ask again"
                   : "the leader stopped meanwhile: what was asked may have been done, "
                     "look before you ask again";
    }
    commit->done(commit->owner, code, text, index, error == 0 ? result->result_id : 0);
    agent_wake(commit->agent);
    free(commit);
}

int agent_raft_propose(struct agent *agent, const Drover__Command *command,
                       agent_committed done, void *owner)
{
    struct agent_member *member = agent->member;
    if (member == NULL || member->closing > 0 ||
        raft_node_role(member->raft) != RAFT_NODE_ROLE_LEADER) {
        return DROVER_ENOTLEADER;
    }
    Drover__Command stamped = *command;
    stamped.at_unix_ms = clock_wall_ms();
    CLEANUP(buffer_done) struct buffer data = {0};
    int rv = command_encode(&stamped, &data);
    if (rv != 0) {
        return rv;
    }
    struct commit *commit = malloc(sizeof(*commit));
    if (commit == NULL) {
        return -ENOMEM;
    }
    *commit =
        (struct commit){.agent = agent, .member = member, .done = done, .owner = owner};
    rv = raft_node_propose(member->raft, data.data, data.size, on_committed, commit);
    if (rv != 0) {
        free(commit);
    }
    return rv;
}

/* ---- leadership ---- */

uint64_t agent_raft_leader(const struct agent *agent)
{
    const struct agent_member *member = agent->member;
    return member == NULL || member->closing > 0 ? 0
                                                 : raft_node_leader(member->raft, NULL);
}

static void on_barrier(void *owner, int error, uint64_t index,
                       const struct apply_result *result)
{
    struct agent *agent = owner;
    struct agent_member *member = agent->member;
    if (member == NULL || member->closing > 0) {
        return;
    }
    uint64_t term = raft_node_term(member->raft);
    bool leader = raft_node_role(member->raft) == RAFT_NODE_ROLE_LEADER;
    if (error != 0 || !leader || term != member->barrier_term) {
        member->barrier_term = 0; /* asked for again, if it still leads */
    } else {
        member->barrier_done = true;
    }
    agent_wake(agent);
}

static void log_leader(struct agent *agent)
{
    struct agent_member *member = agent->member;
    uint64_t leader_id = raft_node_leader(member->raft, NULL);
    if (leader_id == member->leader_logged) {
        return;
    }
    member->leader_logged = leader_id;
    agent->state_changed = true;
    if (leader_id == 0) {
        log_notice(agent->log, "the cluster has no leader");
    } else {
        log_notice(agent->log, "the cluster's leader is host=%" PRIu64 " term=%" PRIu64,
                   leader_id, raft_node_term(member->raft));
    }
}

/* The controller leads from the barrier of the term on, and not before there is a cluster
 * to lead. */
static uint32_t look_at_leadership(struct agent *agent)
{
    struct agent_member *member = agent->member;
    uint64_t term = raft_node_term(member->raft);
    bool leader = raft_node_role(member->raft) == RAFT_NODE_ROLE_LEADER;
    log_leader(agent);
    if (member->leads && (!leader || term != member->barrier_term)) {
        member->leads = false;
        controller_follow(member->controller);
        agent->state_changed = true;
        log_notice(agent->log, "this host does not lead any more term=%" PRIu64, term);
    }
    if (!leader || term != member->barrier_term) {
        member->barrier_done = false;
        member->barrier_term = 0;
    }
    if (!leader) {
        return UINT32_MAX;
    }
    if (member->barrier_term == 0 &&
        raft_node_barrier(member->raft, on_barrier, agent) == 0) {
        member->barrier_term = term;
    }
    if (member->barrier_done && cluster_state_view(member->state)->version == 0) {
        agent_cluster_propose_init(agent);
    } else if (member->barrier_done && !member->leads) {
        controller_lead(member->controller, term, clock_now_ms());
        member->leads = true;
        agent->state_changed = true;
        log_notice(agent->log, "this host leads the cluster term=%" PRIu64, term);
    }
    return member->leads ? UINT32_MAX : LEAD_RETRY_MS;
}

/* ---- callbacks ---- */

static void on_applied(void *owner, uint64_t index, const struct apply_result *result)
{
    struct agent *agent = owner;
    if (agent->phase == AGENT_PHASE_MEMBER) {
        agent->failure[0] = '\0';
    }
    if (result->error != 0) {
        log_debug(agent->log, "a command was refused index=%" PRIu64 " err=%s", index,
                  result->text);
    }
    agent->state_changed = true;
    struct agent_member *member = agent->member;
    if (member != NULL && member->core != NULL && member->closing == 0) {
        /* After each command, as host_core.h says, not once for several that came
         * together: a source that never saw its migration begin can't know that it has
         * not sent yet. The turn that follows keeps the time. */
        (void)host_core_tick(member->core, member->state, clock_now_ms());
    }
    agent_wake(agent);
}

static void on_changed(void *owner)
{
    agent_wake(owner);
}

static void on_failed(void *owner, int error, const char *text)
{
    struct agent *agent = owner;
    if (error == DROVER_ENOSPACE) { /* raft goes on by itself when there is room again */
        (void)snprintf(agent->failure, sizeof(agent->failure), "%s", text);
        log_error(agent->log, "%s", text);
    } else {
        agent_member_fail(agent, text);
    }
}

void agent_raft_config(struct agent *agent, struct raft_node_config *ret_config)
{
    struct agent_member *member = agent->member;
    *ret_config = (struct raft_node_config){
        .loop = agent->loop,
        .directory = agent->dir.raft_path,
        .host_id = agent->identity->host_id,
        .address = agent->identity->address,
        .heartbeat_ms = member->timing.heartbeat_ms,
        .election_ms = member->timing.election_ms,
        .transport = raft_transport_ops(),
        .transport_owner = member->transport,
        .state = member->state,
        .applied = on_applied,
        .changed = on_changed,
        .failed = on_failed,
        .owner = agent,
    };
}

/* ---- voters: raft's configuration follows the state's hosts ---- */

static void on_voter_changed(void *owner, int error, uint64_t index,
                             const struct apply_result *result)
{
    struct agent *agent = owner;
    struct agent_member *member = agent->member;
    if (member == NULL) {
        return;
    }
    member->voter_change = false;
    if (error != 0) {
        member->voter_retry_at_ms = clock_now_ms() + AGENT_MEMBER_RETRY_MS;
        log_info(agent->log, "raft's voters could not be changed, trying again err=%s",
                 err_text(error));
    }
    agent_wake(agent);
}

static bool is_voter(const uint64_t *voters, unsigned count, uint64_t host_id)
{
    for (unsigned i = 0; i < count; i++) {
        if (voters[i] == host_id) {
            return true;
        }
    }
    return false;
}

/* A host that is not reachable now is not made a voter: it would only count against the
 * majority. It is looked for: a new one knows only the host that it joined by, which may
 * not lead any more. */
static const Drover__HostRecord *voter_to_add(const struct agent_member *member,
                                              const uint64_t *voters, unsigned count)
{
    const Drover__ClusterState *view = cluster_state_view(member->state);
    const Drover__HostRecord *found = NULL;
    for (size_t i = 0; i < view->n_hosts; i++) {
        const Drover__HostRecord *host = view->hosts[i];
        if (host->host_id == member->self.host_id ||
            is_voter(voters, count, host->host_id)) {
            continue;
        }
        if (!peers_connected(member->peers, host->host_id)) {
            peers_touch(member->peers, host->host_id);
        } else if (found == NULL) {
            found = host;
        }
    }
    return found;
}

static uint64_t voter_to_remove(const struct agent_member *member, const uint64_t *voters,
                                unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (cluster_state_host(member->state, voters[i]) == NULL) {
            return voters[i];
        }
    }
    return 0;
}

static void change_voters(struct agent *agent, uint64_t now_ms)
{
    struct agent_member *member = agent->member;
    if (member->voter_change || now_ms < member->voter_retry_at_ms) {
        return;
    }
    uint64_t voters[LIMIT_HOSTS * 2];
    unsigned count = raft_node_voters(member->raft, voters, LIMIT_HOSTS * 2);
    CHECK(count <= LIMIT_HOSTS * 2);
    int rv = 0;
    uint64_t surplus = voter_to_remove(member, voters, count);
    if (surplus == 0) {
        member->surplus_since_ms = 0;
    } else if (member->surplus_since_ms == 0) {
        member->surplus_since_ms = now_ms;
    }
    if (surplus != 0 && now_ms - member->surplus_since_ms < member->timing.renew_ms) {
        surplus =
            0; /* raft tells the host itself of its removal first: it is not told later */
    }
    const Drover__HostRecord *missing = voter_to_add(member, voters, count);
    if (surplus == member->self.host_id) {
        log_notice(agent->log,
                   "this host was removed from the cluster: handing leadership on");
        rv = raft_node_transfer(member->raft, 0, on_voter_changed, agent);
    } else if (surplus != 0) {
        log_notice(agent->log, "taking a removed host out of raft host=%" PRIu64,
                   surplus);
        rv = raft_node_remove(member->raft, surplus, on_voter_changed, agent);
    } else if (missing != NULL) {
        log_notice(agent->log, "making a host a voter host=%" PRIu64 " name=%s",
                   missing->host_id, missing->name);
        rv = raft_node_add_voter(member->raft, missing->host_id, missing->address,
                                 on_voter_changed, agent);
    } else {
        return;
    }
    member->voter_change = rv == 0;
    if (rv != 0) {
        member->voter_retry_at_ms = now_ms + AGENT_MEMBER_RETRY_MS;
    }
}

/* ---- this host's own place ---- */

/* Without a leader, this host may be one that the others do not know to be back, or a new
 * one: it says hello. */
static uint32_t touch_known_hosts(struct agent *agent, uint64_t now_ms)
{
    struct agent_member *member = agent->member;
    if (raft_node_leader(member->raft, NULL) != 0 || member->gone_since_ms != 0) {
        return UINT32_MAX;
    }
    if (now_ms >= member->touch_at_ms) {
        member->touch_at_ms = now_ms + member->timing.renew_ms;
        const Drover__ClusterState *view = cluster_state_view(member->state);
        for (size_t i = 0; i < view->n_hosts; i++) {
            if (view->hosts[i]->host_id != member->self.host_id) {
                peers_touch(member->peers, view->hosts[i]->host_id);
            }
        }
        for (size_t i = 0; view->version == 0 && i < agent->identity->n_hosts; i++) {
            if (agent->identity->hosts[i]->host_id != member->self.host_id) {
                peers_touch(member->peers, agent->identity->hosts[i]->host_id);
            }
        }
    }
    return (uint32_t)(member->touch_at_ms - now_ms);
}

/* Removed: once the state says so, and raft has had the time to go on without this host.
 */
static void look_for_own_removal(struct agent *agent, uint64_t now_ms)
{
    struct agent_member *member = agent->member;
    const Drover__ClusterState *view = cluster_state_view(member->state);
    bool gone = view->version != 0 && view->next_host_id > member->self.host_id &&
                cluster_state_host(member->state, member->self.host_id) == NULL;
    if (!gone) {
        member->gone_since_ms = 0;
        return;
    }
    if (member->gone_since_ms == 0) {
        member->gone_since_ms = now_ms;
    }
    bool leader = raft_node_role(member->raft) == RAFT_NODE_ROLE_LEADER;
    if (!leader && now_ms - member->gone_since_ms >= 2 * member->timing.lease_ms) {
        log_notice(agent->log,
                   "this host was removed from the cluster: its keys and log are put "
                   "aside dir=%s",
                   agent->dir.path);
        agent->retire = true;
        agent_member_stop(agent, NULL);
    }
}

uint32_t agent_raft_tick(struct agent *agent, uint64_t now_ms)
{
    struct agent_member *member = agent->member;
    uint32_t wait_ms = look_at_leadership(agent);
    uint32_t touch_ms = touch_known_hosts(agent, now_ms);
    wait_ms = wait_ms < touch_ms ? wait_ms : touch_ms;
    if (member->leads) {
        change_voters(agent, now_ms);
        uint32_t look_ms = member->surplus_since_ms != 0 ? member->timing.renew_ms
                                                         : AGENT_MEMBER_RETRY_MS;
        wait_ms = wait_ms < look_ms ? wait_ms : look_ms;
    }
    look_for_own_removal(agent, now_ms);
    return member->gone_since_ms != 0 && wait_ms > AGENT_MEMBER_RETRY_MS
               ? AGENT_MEMBER_RETRY_MS
               : wait_ms;
}
