/* SPDX-License-Identifier: Apache-2.0 */
/* Several raft nodes in one process. */
#include "tests/unit/raft_cluster.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/clock.h"

#define HEARTBEAT_MS 20u
#define ELECTION_MS  150u
#define WAIT_MS      20000u

/* ---- connections ------------------------------------------------------------------- */

struct dial {
    uv_timer_t timer;
    struct raft_peer *from;
    struct raft_peer *to;
    bool cancelled;
    raft_node_connected connected;
    void *raft_side;
};

static struct uv_stream_s *stream_of(uv_loop_t *loop, int fd)
{
    uv_pipe_t *pipe = malloc(sizeof(*pipe));
    assert_non_null(pipe);
    assert_int_equal(uv_pipe_init(loop, pipe, 0), 0);
    assert_int_equal(uv_pipe_open(pipe, fd), 0);
    return (struct uv_stream_s *)pipe;
}

static void on_dialled(uv_timer_t *timer)
{
    struct dial *dial = timer->data;
    uv_loop_t *loop = timer->loop;
    if (dial->cancelled) {
        dial->connected(dial->raft_side, NULL, DROVER_ECANCELLED);
    } else if (dial->to == NULL || dial->to->node == NULL) {
        dial->connected(dial->raft_side, NULL, -ECONNREFUSED);
    } else {
        int fds[2];
        assert_int_equal(
            socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        raft_node_accept(dial->to->node, dial->from->id, dial->from->address,
                         stream_of(loop, fds[0]));
        dial->connected(dial->raft_side, stream_of(loop, fds[1]), 0);
    }
    uv_close((uv_handle_t *)timer,
             (uv_close_cb)free); /* the timer comes first in the dial */
}

static int transport_connect(void *owner, uint64_t host_id, const char *address,
                             raft_node_connected connected, void *raft_side,
                             void **ret_request)
{
    struct raft_peer *from = owner;
    struct dial *dial = calloc(1, sizeof(*dial));
    assert_non_null(dial);
    dial->from = from;
    dial->to = host_id <= PEERS_MAX ? &from->cluster->peers[host_id - 1] : NULL;
    dial->connected = connected;
    dial->raft_side = raft_side;
    dial->timer.data = dial;
    assert_int_equal(uv_timer_init(&from->cluster->loop, &dial->timer), 0);
    dial->timer.data = dial;
    assert_int_equal(uv_timer_start(&dial->timer, on_dialled, 1, 0), 0);
    *ret_request = dial;
    return 0;
}

static void transport_cancel(void *owner, void *request)
{
    struct dial *dial = request;
    dial->cancelled = true;
}

static const struct raft_node_transport transport = {
    .connect = transport_connect,
    .cancel = transport_cancel,
};

/* ---- peers ------------------------------------------------------------------------- */

static void on_wake(uv_timer_t *timer)
{
}

void raft_cluster_init(struct raft_cluster *cluster, const char *root)
{
    memset(cluster, 0, sizeof(*cluster));
    if (root != NULL) {
        (void)snprintf(cluster->root, sizeof(cluster->root), "%s", root);
    } else {
        (void)snprintf(cluster->root, sizeof(cluster->root), "/tmp/drover-raft-XXXXXX");
        assert_non_null(mkdtemp(cluster->root));
    }
    assert_int_equal(uv_loop_init(&cluster->loop), 0);
    assert_int_equal(uv_timer_init(&cluster->loop, &cluster->wake), 0);
    assert_int_equal(uv_timer_start(&cluster->wake, on_wake, 10, 10), 0);
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        struct raft_peer *peer = &cluster->peers[i];
        peer->cluster = cluster;
        peer->id = i + 1;
        (void)snprintf(peer->address, sizeof(peer->address), "host%u:7000", i + 1);
        int length = snprintf(peer->directory, sizeof(peer->directory), "%.4000s/%u",
                              cluster->root, i + 1);
        assert_true(length > 0 && (size_t)length < sizeof(peer->directory));
        assert_true(mkdir(peer->directory, 0700) == 0 || errno == EEXIST);
    }
}

void raft_cluster_done(struct raft_cluster *cluster)
{
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        if (cluster->peers[i].node != NULL) {
            raft_peer_down(cluster, i + 1);
        }
    }
    uv_close((uv_handle_t *)&cluster->wake, NULL);
    assert_int_equal(uv_run(&cluster->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&cluster->loop), 0); /* nothing was left behind */
    char command[PATH_MAX + 16];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", cluster->root);
    assert_int_equal(system(command), 0);
}

static void on_applied(void *owner, uint64_t index, const struct apply_result *result)
{
    struct raft_peer *peer = owner;
    assert_true(index > peer->applied_last);
    peer->applied_last = index;
    peer->applied_count++;
}

static void on_failed(void *owner, int error, const char *text)
{
    struct raft_peer *peer = owner;
    (void)error_set(&peer->failure, error, "%s", text);
}

static void on_closed(void *owner)
{
    struct raft_peer *peer = owner;
    peer->closed = true;
}

struct raft_peer *raft_peer_of(struct raft_cluster *cluster, uint64_t id)
{
    return &cluster->peers[id - 1];
}

static bool is_closed(void *context)
{
    const struct raft_peer *peer = context;
    return peer->closed;
}

void raft_peer_down(struct raft_cluster *cluster, uint64_t id)
{
    struct raft_peer *peer = raft_peer_of(cluster, id);
    peer->closed = false;
    raft_node_close(peer->node, on_closed, peer);
    raft_cluster_run_until(cluster, is_closed, peer, WAIT_MS);
    raft_node_free(peer->node);
    peer->node = NULL;
    cluster_state_free(peer->state);
    peer->state = NULL;
}

int raft_peer_try_up(struct raft_cluster *cluster, uint64_t id, bool bootstrap,
                     struct error *err)
{
    struct raft_peer *peer = raft_peer_of(cluster, id);
    assert_null(peer->node);
    assert_int_equal(cluster_state_create(&peer->state), 0);
    peer->applied_count = 0;
    peer->applied_last = 0;
    peer->failure = (struct error){0};
    struct raft_node_config config = {
        .loop = &cluster->loop,
        .directory = peer->directory,
        .host_id = id,
        .address = peer->address,
        .heartbeat_ms = HEARTBEAT_MS,
        .election_ms = ELECTION_MS,
        .snapshot_threshold = cluster->snapshot_threshold,
        .snapshot_trailing = cluster->snapshot_trailing,
        .transport = &transport,
        .transport_owner = peer,
        .state = peer->state,
        .applied = on_applied,
        .failed = on_failed,
        .owner = peer,
    };
    int rv = raft_node_create(&config, &peer->node, err);
    if (rv != 0) {
        cluster_state_free(peer->state);
        peer->state = NULL;
        return rv;
    }
    if (bootstrap) {
        rv = raft_node_bootstrap(peer->node, err);
    }
    if (rv == 0) {
        rv = raft_node_start(peer->node, err);
    }
    if (rv != 0) {
        raft_peer_down(cluster, id);
    }
    return rv;
}

void raft_peer_up(struct raft_cluster *cluster, uint64_t id, bool bootstrap)
{
    struct error err = {0};
    int rv = raft_peer_try_up(cluster, id, bootstrap, &err);
    if (rv != 0) {
        fail_msg("host %llu does not start: %s", (unsigned long long)id, err.text);
    }
}

/* ---- running ----------------------------------------------------------------------- */

/* How all stand, for a test that fails. */
static void print_peers(const struct raft_cluster *cluster)
{
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        const struct raft_peer *peer = &cluster->peers[i];
        if (peer->node != NULL) {
            print_message("host %u: role %d, term %llu, leader %llu, applied %llu %s\n",
                          i + 1, (int)raft_node_role(peer->node),
                          (unsigned long long)raft_node_term(peer->node),
                          (unsigned long long)raft_node_leader(peer->node, NULL),
                          (unsigned long long)cluster_state_applied_index(peer->state),
                          peer->failure.text);
        }
    }
}

void raft_cluster_run_until_at(struct raft_cluster *cluster, bool (*holds)(void *context),
                               void *context, unsigned timeout_ms, const char *what,
                               const char *where)
{
    uint64_t end_ms = clock_now_ms() + timeout_ms;
    while (!holds(context)) {
        if (clock_now_ms() > end_ms) {
            print_peers(cluster);
            fail_msg("%s: waited %u ms for %s", where, timeout_ms, what);
        }
        (void)uv_run(&cluster->loop, UV_RUN_ONCE);
    }
}

void raft_cluster_run_ms(struct raft_cluster *cluster, unsigned ms)
{
    uint64_t end_ms = clock_now_ms() + ms;
    while (clock_now_ms() < end_ms) {
        (void)uv_run(&cluster->loop, UV_RUN_ONCE);
    }
}

struct leader_search {
    struct raft_cluster *cluster;
    uint64_t but_id;
    struct raft_peer *found;
};

static bool leader_found(void *context)
{
    struct leader_search *search = context;
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        struct raft_peer *peer = &search->cluster->peers[i];
        if (peer->node != NULL && peer->id != search->but_id &&
            raft_node_role(peer->node) == RAFT_NODE_ROLE_LEADER &&
            raft_node_leader(peer->node, NULL) == peer->id) {
            search->found = peer;
            return true;
        }
    }
    return false;
}

struct raft_peer *raft_cluster_leader(struct raft_cluster *cluster, uint64_t but_id)
{
    struct leader_search search = {.cluster = cluster, .but_id = but_id};
    raft_cluster_run_until(cluster, leader_found, &search, WAIT_MS);
    return search.found;
}

void raft_outcome_take(void *owner, int error, uint64_t index,
                       const struct apply_result *result)
{
    struct raft_outcome *outcome = owner;
    assert_false(outcome->done);
    outcome->done = true;
    outcome->error = error;
    outcome->index = index;
    if (result != NULL) {
        outcome->result = *result;
    }
}

static bool is_done(void *context)
{
    const struct raft_outcome *outcome = context;
    return outcome->done;
}

void raft_cluster_wait(struct raft_cluster *cluster, struct raft_outcome *outcome)
{
    raft_cluster_run_until(cluster, is_done, outcome, WAIT_MS);
}

static int propose(struct raft_peer *leader, const Drover__Command *command,
                   struct raft_outcome *outcome)
{
    CLEANUP(buffer_done) struct buffer encoded = {0};
    *outcome = (struct raft_outcome){0};
    assert_int_equal(command_encode(command, &encoded), 0);
    int rv = raft_node_propose(leader->node, encoded.data, encoded.size,
                               raft_outcome_take, outcome);
    if (rv != 0) {
        return rv;
    }
    assert_false(outcome->done); /* never inside the call */
    raft_cluster_wait(leader->cluster, outcome);
    return outcome->error;
}

void raft_peer_init_cluster(struct raft_peer *leader)
{
    uint8_t pem[] = "-----BEGIN";
    Drover__HostRecord host = DROVER__HOST_RECORD__INIT;
    host.name = (char *)"host1";
    host.address = leader->address;
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    init.cluster_id = (char *)"test";
    init.lease_ms = 5000;
    init.ca_certificate_pem = init.ca_key_pem =
        (ProtobufCBinaryData){.data = pem, .len = sizeof(pem)};
    init.first_host = &host;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_INIT;
    command.cluster_init = &init;
    struct raft_outcome outcome;
    assert_int_equal(propose(leader, &command, &outcome), 0);
    assert_int_equal(outcome.result.error, 0);
    assert_int_equal(outcome.result.result_id, 1);
}

int raft_peer_propose_event(struct raft_peer *leader, size_t text_size,
                            struct raft_outcome *ret_outcome)
{
    CLEANUP(cleanup_free) char *text = malloc(text_size + 1);
    assert_non_null(text);
    memset(text, 'x', text_size);
    text[text_size] = '\0';
    Drover__Event event = DROVER__EVENT__INIT;
    event.kind = (char *)"test.event";
    event.text = text;
    Drover__EventAdd add = DROVER__EVENT_ADD__INIT;
    add.event = &event;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_EVENT_ADD;
    command.event_add = &add;
    return propose(leader, &command, ret_outcome);
}

void raft_cluster_add_voter(struct raft_cluster *cluster, uint64_t id)
{
    struct raft_peer *leader = raft_cluster_leader(cluster, 0);
    struct raft_outcome outcome = {0};
    assert_int_equal(raft_node_add_voter(leader->node, id,
                                         raft_peer_of(cluster, id)->address,
                                         raft_outcome_take, &outcome),
                     0);
    raft_cluster_wait(cluster, &outcome);
    assert_int_equal(outcome.error, 0);
}

struct raft_peer *raft_cluster_make(struct raft_cluster *cluster, unsigned count)
{
    raft_peer_up(cluster, 1, true);
    raft_peer_init_cluster(raft_cluster_leader(cluster, 0));
    for (unsigned id = 2; id <= count; id++) {
        raft_peer_up(cluster, id, false);
        raft_cluster_add_voter(cluster, id);
    }
    return raft_cluster_leader(cluster, 0);
}

void raft_peer_propose_events(struct raft_peer *leader, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct raft_outcome outcome;
        assert_int_equal(raft_peer_propose_event(leader, 10, &outcome), 0);
        assert_int_equal(outcome.result.error, 0);
        assert_int_equal(outcome.index, cluster_state_applied_index(leader->state));
    }
}

/* ---- agreement --------------------------------------------------------------------- */

static bool all_applied(void *context)
{
    const struct raft_cluster *cluster = context;
    uint64_t most = 1;
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        if (cluster->peers[i].node != NULL) {
            uint64_t here = cluster_state_applied_index(cluster->peers[i].state);
            most = here > most ? here : most;
        }
    }
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        if (cluster->peers[i].node != NULL &&
            cluster_state_applied_index(cluster->peers[i].state) != most) {
            return false;
        }
    }
    return true;
}

void raft_cluster_agree(struct raft_cluster *cluster)
{
    raft_cluster_run_until(cluster, all_applied, cluster, WAIT_MS);
    CLEANUP(buffer_done) struct buffer first = {0};
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        const struct raft_peer *peer = &cluster->peers[i];
        if (peer->node == NULL) {
            continue;
        }
        CLEANUP(buffer_done) struct buffer saved = {0};
        struct error err = {0};
        assert_int_equal(cluster_state_save(peer->state, &saved), 0);
        assert_true(cluster_state_valid(peer->state, &err));
        if (first.size == 0) {
            assert_int_equal(buffer_append(&first, saved.data, saved.size), 0);
        }
        assert_int_equal(saved.size, first.size);
        assert_memory_equal(saved.data, first.data, first.size);
    }
}
