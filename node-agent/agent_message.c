/* SPDX-License-Identifier: Apache-2.0 */
/* Messages between agents: who sent what, to whom it goes. */
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

#define REFUSED_EACH_MS 60000u
#define REFUSED_LINES   20u

static bool active(const struct agent *agent)
{
    return agent->member != NULL && agent->member->closing == 0;
}

/* ---- to this host itself ---- */

struct loopback {
    struct agent_deferred deferred;
    Drover__PeerMessage *message;
};

static void dispatch(struct agent *agent, uint64_t host_id,
                     const Drover__PeerMessage *message);

static void run_loopback(struct agent *agent, struct agent_deferred *deferred)
{
    struct loopback *loopback = (struct loopback *)deferred;
    if (active(agent)) {
        dispatch(agent, agent->member->self.host_id, loopback->message);
    }
    drover__peer_message__free_unpacked(loopback->message, NULL);
    free(loopback);
}

static int send_to_self(struct agent *agent, const Drover__PeerMessage *message)
{
    size_t size = drover__peer_message__get_packed_size(message);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    CLEANUP(cleanup_free) struct loopback *loopback = calloc(1, sizeof(*loopback));
    if (packed == NULL || loopback == NULL) {
        return -ENOMEM;
    }
    CHECK(drover__peer_message__pack(message, packed) == size);
    loopback->message = drover__peer_message__unpack(NULL, size, packed);
    if (loopback->message == NULL) {
        return -ENOMEM;
    }
    loopback->deferred.run = run_loopback;
    agent_defer(agent, &TAKE(loopback)->deferred);
    return 0;
}

int agent_send(struct agent *agent, uint64_t host_id, const Drover__PeerMessage *message)
{
    if (!active(agent)) {
        return DROVER_ECLOSED;
    }
    if (host_id == agent->member->self.host_id) {
        return send_to_self(agent, message);
    }
    return peers_send(agent->member->peers, host_id, message);
}

/* ---- what comes in ---- */

/* A voter that answers has not voted in a later term when it answers: raft stores its
 * term before it votes. */
static void serve_confirm(struct agent *agent, uint64_t host_id,
                          const Drover__ConfirmRequest *request)
{
    Drover__ConfirmReply reply = DROVER__CONFIRM_REPLY__INIT;
    reply.term = request->term;
    reply.round = request->round;
    reply.voter_id = agent->member->self.host_id;
    reply.confirmed = raft_node_term(agent->member->raft) <= request->term;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_CONFIRM_REPLY;
    message.confirm_reply = &reply;
    (void)agent_send(agent, host_id, &message); /* the leader asks again */
}

/* Whose request is being served. */
struct served {
    struct agent *agent;
    uint64_t host_id, request_id;
};

static struct served *served_create(struct agent *agent, uint64_t host_id,
                                    uint64_t request_id)
{
    struct served *served = malloc(sizeof(*served));
    if (served != NULL) {
        *served =
            (struct served){.agent = agent, .host_id = host_id, .request_id = request_id};
    }
    return served;
}

static void answer_propose(struct agent *agent, uint64_t host_id,
                           Drover__ProposeReply *reply)
{
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_PROPOSE_REPLY;
    message.propose_reply = reply;
    (void)agent_send(agent, host_id, &message); /* it has a time limit */
}

static void on_propose_done(void *owner, int error, const char *text, uint64_t index,
                            uint64_t result_id)
{
    struct served *served = owner;
    Drover__ProposeReply reply = DROVER__PROPOSE_REPLY__INIT;
    reply.request_id = served->request_id;
    reply.error = error;
    reply.message = (char *)text;
    reply.index = index;
    reply.result_id = result_id;
    answer_propose(served->agent, served->host_id, &reply);
    free(served);
}

static void serve_propose(struct agent *agent, uint64_t host_id,
                          const Drover__Propose *request)
{
    Drover__ProposeReply reply = DROVER__PROPOSE_REPLY__INIT;
    reply.request_id = request->request_id;
    struct served *served = served_create(agent, host_id, request->request_id);
    reply.error =
        served == NULL ? -ENOMEM
        : request->command == NULL
            ? DROVER_EMALFORMED
            : agent_raft_propose(agent, request->command, on_propose_done, served);
    if (reply.error != 0) {
        reply.message = (char *)err_text(reply.error);
        free(served);
        answer_propose(agent, host_id, &reply);
    }
}

static void answer_forward(struct agent *agent, uint64_t host_id,
                           Drover__ApiForwardReply *reply)
{
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_API_FORWARD_REPLY;
    message.api_forward_reply = reply;
    (void)agent_send(agent, host_id, &message); /* it has a time limit */
}

static void on_forward_done(void *owner, int error, const char *text, unsigned status,
                            const void *body, size_t size)
{
    struct served *served = owner;
    Drover__ApiForwardReply reply = DROVER__API_FORWARD_REPLY__INIT;
    reply.request_id = served->request_id;
    reply.status = error == 0 ? status : 503;
    reply.body.data = (uint8_t *)(error == 0 ? body : NULL);
    reply.body.len = error == 0 ? size : 0;
    answer_forward(served->agent, served->host_id, &reply);
    free(served);
}

static void serve_forward(struct agent *agent, uint64_t host_id,
                          const Drover__ApiForward *request)
{
    Drover__ApiForwardReply reply = DROVER__API_FORWARD_REPLY__INIT;
    reply.request_id = request->request_id;
    struct served *served =
        agent->member->leads ? served_create(agent, host_id, request->request_id) : NULL;
    int rv = served == NULL
                 ? DROVER_ENOTLEADER
                 : api_serve_forward(agent->api, request, on_forward_done, served);
    if (rv != 0) {
        free(served);
        answer_forward(agent, host_id,
                       &reply); /* status 0: nothing was done, ask again */
    }
}

static void dispatch_to_controller(struct agent *agent, uint64_t host_id,
                                   const Drover__PeerMessage *message)
{
    struct agent_member *member = agent->member;
    uint64_t now_ms = clock_now_ms();
    if (!member->leads) {
        return;
    }
    if (message->what_case == DROVER__PEER_MESSAGE__WHAT_LEASE_REQUEST) {
        if (message->lease_request->host_id == host_id) {
            controller_lease_request(member->controller, member->state,
                                     message->lease_request, now_ms);
        }
    } else if (message->confirm_reply->voter_id == host_id) {
        controller_confirm_reply(member->controller, member->state,
                                 message->confirm_reply, now_ms);
    }
}

static void dispatch(struct agent *agent, uint64_t host_id,
                     const Drover__PeerMessage *message)
{
    struct agent_member *member = agent->member;
    switch (message->what_case) {
    case DROVER__PEER_MESSAGE__WHAT_LEASE_REQUEST:
    case DROVER__PEER_MESSAGE__WHAT_CONFIRM_REPLY:
        dispatch_to_controller(agent, host_id, message);
        break;
    case DROVER__PEER_MESSAGE__WHAT_LEASE_REPLY:
        if (member->core != NULL) {
            host_core_lease_reply(member->core, message->lease_reply, clock_now_ms());
        }
        break;
    case DROVER__PEER_MESSAGE__WHAT_CONFIRM_REQUEST:
        serve_confirm(agent, host_id, message->confirm_request);
        break;
    case DROVER__PEER_MESSAGE__WHAT_PROPOSE:
        serve_propose(agent, host_id, message->propose);
        break;
    case DROVER__PEER_MESSAGE__WHAT_API_FORWARD:
        serve_forward(agent, host_id, message->api_forward);
        break;
    case DROVER__PEER_MESSAGE__WHAT_PROPOSE_REPLY:
    case DROVER__PEER_MESSAGE__WHAT_API_FORWARD_REPLY:
        propose_received(member->propose, host_id, message, clock_now_ms());
        break;
    default:
        log_info(agent->log,
                 "a message of unknown kind was dropped host=%" PRIu64 " kind=%d",
                 host_id, (int)message->what_case);
        break;
    }
    agent_wake(agent);
}

/* ---- peers ---- */

static const char *known_address(const struct agent *agent, uint64_t host_id)
{
    const struct agent_member *member = agent->member;
    const Drover__HostRecord *host = cluster_state_host(member->state, host_id);
    if (host != NULL) {
        return host->address;
    }
    for (size_t i = 0; i < agent->identity->n_hosts; i++) {
        if (agent->identity->hosts[i]->host_id == host_id) {
            return agent->identity->hosts[i]->address;
        }
    }
    const char *address = NULL;
    return raft_node_leader(member->raft, &address) == host_id ? address : NULL;
}

static const char *peers_address(void *owner, uint64_t host_id)
{
    return known_address(owner, host_id);
}

/* A host that this one's log does not know yet is newer than that log: its certificate
 * says that it is a member. */
static bool peers_admits(void *owner, uint64_t host_id)
{
    const struct agent *agent = owner;
    const Drover__ClusterState *view = cluster_state_view(agent->member->state);
    return view->version == 0 || host_id >= view->next_host_id ||
           cluster_state_host(agent->member->state, host_id) != NULL;
}

static void peers_received(void *owner, uint64_t host_id,
                           const Drover__PeerMessage *message)
{
    if (active(owner)) {
        dispatch(owner, host_id, message);
    }
}

/* Told once, not at each try to reach it. Returns whether it is news. */
static bool note_silent(struct agent_member *member, uint64_t host_id, bool silent)
{
    uint64_t *unused = NULL;
    for (unsigned i = 0; i < AGENT_SILENT_MAX; i++) {
        if (member->silent[i] == host_id) {
            member->silent[i] = silent ? host_id : 0;
            return !silent;
        }
        unused = member->silent[i] == 0 ? &member->silent[i] : unused;
    }
    if (silent && unused != NULL) {
        *unused = host_id;
    }
    return silent;
}

static void peers_connected_now(void *owner, uint64_t host_id)
{
    struct agent *agent = owner;
    if (note_silent(agent->member, host_id, false)) {
        log_info(agent->log, "reached again host=%" PRIu64, host_id);
    }
    agent_wake(agent);
}

static void peers_lost(void *owner, uint64_t host_id, bool unsent, const char *text)
{
    struct agent *agent = owner;
    if (!unsent) {
        log_debug(agent->log, "connection lost host=%" PRIu64 " err=%s", host_id, text);
    } else if (note_silent(agent->member, host_id, true)) {
        log_info(agent->log, "not reached host=%" PRIu64 " err=%s", host_id, text);
    }
    if (active(agent)) {
        propose_lost(agent->member->propose, host_id, unsent, clock_now_ms());
    }
    agent_wake(agent);
}

static void peers_raft_opened(void *owner, const struct peer_opened *opened)
{
    struct agent *agent = owner;
    struct agent_member *member = agent->member;
    char host[LIMIT_ADDRESS_SIZE], address[LIMIT_ADDRESS_SIZE];
    unsigned port = 0;
    /* raft answers to this address, so it must be right also while this host's log tells
     * nothing yet. */
    if (config_split_address(opened->address, CONFIG_PEER_PORT_DEFAULT, host, &port,
                             NULL) != 0) {
        log_info(agent->log,
                 "a raft connection without an address was refused host=%" PRIu64,
                 opened->host_id);
        tls_stream_close(opened->stream, DROVER_EMALFORMED, NULL);
        return;
    }
    (void)snprintf(address, sizeof(address), "%s", opened->address);
    uint64_t host_id = opened->host_id;
    uv_stream_t *stream = NULL;
    if (raft_transport_accept(member->transport, opened, &stream) == 0) {
        raft_node_accept(member->raft, host_id, address, stream);
    }
}

static void peers_join_opened(void *owner, const struct peer_opened *opened)
{
    struct agent *agent = owner;
    join_server_accept(agent->member->joins, opened);
}

static void peers_move_opened(void *owner, const struct peer_opened *opened)
{
    struct agent *agent = owner;
    moves_accept(agent->member->moves, opened);
}

/* Anybody can cause these lines: a few in each stretch of time, then only how many more
 * there were. */
static void peers_refused(void *owner, const char *text)
{
    struct agent *agent = owner;
    uint64_t now_ms = clock_now_ms();
    if (now_ms - agent->refused_since_ms >= REFUSED_EACH_MS) {
        if (agent->refused_count > REFUSED_LINES) {
            log_info(agent->log, "more connections were refused count=%u",
                     agent->refused_count - REFUSED_LINES);
        }
        agent->refused_since_ms = now_ms;
        agent->refused_count = 0;
    }
    if (++agent->refused_count <= REFUSED_LINES) {
        log_info(agent->log, "%s", text);
    }
}

const struct peers_ops *agent_peers_ops(void)
{
    static const struct peers_ops ops = {
        .address = peers_address,
        .admits = peers_admits,
        .received = peers_received,
        .connected = peers_connected_now,
        .lost = peers_lost,
        .raft_opened = peers_raft_opened,
        .join_opened = peers_join_opened,
        .move_opened = peers_move_opened,
        .refused = peers_refused,
    };
    return &ops;
}

/* ---- propose ---- */

static uint64_t propose_leader(void *owner)
{
    return agent_raft_leader(owner);
}

static int propose_send(void *owner, uint64_t host_id, const Drover__PeerMessage *message)
{
    return agent_send(owner, host_id, message);
}

const struct propose_ops *agent_propose_ops(void)
{
    static const struct propose_ops ops = {.leader = propose_leader,
                                           .send = propose_send};
    return &ops;
}

/* ---- join ---- */

static const struct cluster_state *join_leading_state(void *owner,
                                                      const char **ret_leader_address)
{
    struct agent *agent = owner;
    struct agent_member *member = agent->member;
    if (member->leads && cluster_state_view(member->state)->version != 0) {
        return member->state;
    }
    const char *address = NULL;
    uint64_t leader = raft_node_leader(member->raft, &address);
    *ret_leader_address =
        leader == 0 || leader == member->self.host_id || address == NULL ? "" : address;
    return NULL;
}

struct join_commit {
    join_applied applied;
    void *request;
};

static void on_join_committed(void *owner, int error, const char *text, uint64_t index,
                              uint64_t result_id)
{
    struct join_commit *commit = owner;
    commit->applied(commit->request, error, text, result_id);
    free(commit);
}

static int join_propose(void *owner, const Drover__Command *command, join_applied applied,
                        void *request)
{
    struct join_commit *commit = malloc(sizeof(*commit));
    if (commit == NULL) {
        return -ENOMEM;
    }
    *commit = (struct join_commit){.applied = applied, .request = request};
    int rv = agent_raft_propose(owner, command, on_join_committed, commit);
    if (rv != 0) {
        free(commit);
    }
    return rv;
}

static void join_note(void *owner, const char *text)
{
    struct agent *agent = owner;
    log_notice(agent->log, "%s", text);
}

const struct join_server_ops *agent_join_ops(void)
{
    static const struct join_server_ops ops = {
        .leading_state = join_leading_state,
        .propose = join_propose,
        .note = join_note,
    };
    return &ops;
}
