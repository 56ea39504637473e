/* SPDX-License-Identifier: Apache-2.0 */
/* The raft adapter on real folders: elections, restarts, snapshots, changes of voters.
 * Disks: test_raft_node_disk.c. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/raft_cluster.h"
#include "tests/unit/unit.h"

static int setup(void **state)
{
    struct raft_cluster *cluster = malloc(sizeof(*cluster));
    raft_cluster_init(cluster, NULL);
    *state = cluster;
    return 0;
}

static int teardown(void **state)
{
    raft_cluster_done(*state);
    free(*state);
    return 0;
}

static void test_first_host_elects_itself_and_applies(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 1);
    uint64_t voters[4];
    assert_int_equal(leader->id, 1);
    assert_int_equal(raft_node_voters(leader->node, voters, 4), 1);
    assert_int_equal(voters[0], 1);
    assert_true(raft_node_term(leader->node) >= 1);
    raft_peer_propose_events(leader, 5);
    assert_int_equal(leader->applied_count, 6);
}

static void test_command_that_the_state_refuses_tells_why(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 1);
    struct raft_outcome outcome = {0};
    assert_int_equal(
        raft_node_propose(leader->node, "\xff\xff\xff", 3, raft_outcome_take, &outcome),
        0);
    raft_cluster_wait(cluster, &outcome);
    assert_int_equal(outcome.error, 0);
    assert_int_equal(outcome.result.error, DROVER_EMALFORMED);
    assert_true(outcome.result.text[0] != '\0');
}

static void test_three_hosts_agree(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 3);
    raft_peer_propose_events(leader, 50);
    raft_cluster_agree(cluster);
    for (uint64_t id = 1; id <= 3; id++) {
        uint64_t voters[4];
        struct raft_peer *peer = raft_peer_of(cluster, id);
        const char *address = NULL;
        assert_int_equal(raft_node_voters(peer->node, voters, 4), 3);
        assert_int_equal(raft_node_leader(peer->node, &address), leader->id);
        assert_string_equal(address, leader->address);
    }
}

static void test_follower_refuses_to_propose(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 2);
    struct raft_peer *follower = raft_peer_of(cluster, leader->id == 1 ? 2 : 1);
    struct raft_outcome outcome = {0};
    assert_int_equal(raft_peer_propose_event(follower, 3, &outcome), DROVER_ENOTLEADER);
    assert_int_equal(raft_node_barrier(follower->node, raft_outcome_take, &outcome),
                     DROVER_ENOTLEADER);
    assert_int_equal(raft_node_transfer(follower->node, 0, raft_outcome_take, &outcome),
                     DROVER_ENOTLEADER);
    raft_cluster_run_ms(cluster, 100);
    assert_false(outcome.done); /* a call that fails calls nobody back */
}

static void test_barrier_comes_after_all_before_it(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 3);
    raft_peer_propose_events(leader, 3);
    uint64_t before = cluster_state_applied_index(leader->state);
    struct raft_outcome outcome = {0};
    assert_int_equal(raft_node_barrier(leader->node, raft_outcome_take, &outcome), 0);
    raft_cluster_wait(cluster, &outcome);
    assert_int_equal(outcome.error, 0);
    assert_true(outcome.index > before);
}

static void test_lost_leader_is_replaced_and_catches_up_from_its_disk(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 3);
    raft_peer_propose_events(leader, 20);
    uint64_t term = raft_node_term(leader->node);
    uint64_t lost_id = leader->id;
    raft_peer_down(cluster, lost_id);

    leader = raft_cluster_leader(cluster, lost_id);
    assert_true(raft_node_term(leader->node) > term);
    raft_peer_propose_events(leader, 20);
    raft_peer_up(cluster, lost_id, false);
    raft_peer_propose_events(leader, 1);
    raft_cluster_agree(cluster);
}

static void test_proposal_of_a_leader_that_loses_its_majority_is_answered(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 3);
    for (uint64_t id = 1; id <= 3; id++) {
        if (id != leader->id) {
            raft_peer_down(cluster, id);
        }
    }
    struct raft_outcome outcome;
    assert_int_equal(raft_peer_propose_event(leader, 3, &outcome), DROVER_ENOTLEADER);
}

static void test_whole_cluster_comes_back_from_its_disks(void **state)
{
    struct raft_cluster *cluster = *state;
    cluster->snapshot_threshold = 16;
    cluster->snapshot_trailing = 8;
    struct raft_peer *leader = raft_cluster_make(cluster, 3);
    raft_peer_propose_events(leader, 100);
    uint64_t applied = cluster_state_applied_index(leader->state);
    for (uint64_t id = 1; id <= 3; id++) {
        raft_peer_down(cluster, id);
    }
    for (uint64_t id = 1; id <= 3; id++) {
        raft_peer_up(cluster, id, false);
    }
    leader = raft_cluster_leader(cluster, 0);
    raft_peer_propose_events(leader, 1);
    assert_true(cluster_state_applied_index(leader->state) > applied);
    assert_int_equal(cluster_state_view(leader->state)->n_events, 1 + 101);
    raft_cluster_agree(cluster);
}

/* The last entry of the snapshot before the newest one; 0: there are less than two. What it
 * holds has left the log: the next one is begun only after that. */
static unsigned long long snapshot_done(const struct raft_peer *peer)
{
    unsigned long long newest = 0, before = 0;
    DIR *folder = opendir(peer->directory);
    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        unsigned long long index = 0;
        bool whole = strstr(entry->d_name, ".meta") != NULL;
        if (whole && sscanf(entry->d_name, "snapshot-%*u-%llu-", &index) == 1) {
            before = index > newest ? newest : index > before ? index : before;
            newest = index > newest ? index : newest;
        }
    }
    (void)closedir(folder);
    return before;
}

/* By whoever leads: on a busy machine that may change at any time. */
static void propose_to_any(struct raft_cluster *cluster, unsigned count)
{
    struct raft_outcome outcome;
    for (unsigned tries = 0; count > 0 && tries < 100; tries++) {
        struct raft_peer *leader = raft_cluster_leader(cluster, 0);
        if (raft_peer_propose_event(leader, 10, &outcome) == 0) {
            assert_int_equal(outcome.result.error, 0);
            count--;
        }
    }
    assert_int_equal(count, 0);
}

static void test_new_host_gets_a_snapshot(void **state)
{
    struct raft_cluster *cluster = *state;
    cluster->snapshot_threshold = 16;
    cluster->snapshot_trailing = 4;
    struct raft_peer *leader = raft_cluster_make(cluster, 1);
    raft_peer_propose_events(leader, 200);
    for (unsigned i = 0; i < 100 && snapshot_done(leader) < 100; i++) {
        raft_peer_propose_events(leader, 16); /* its disk may be slower than its log */
    }
    unsigned long long gone = snapshot_done(leader);
    assert_true(gone >= 100);
    /* Takes none of its own: libraft 0.22.1 crashes if one comes meanwhile. */
    cluster->snapshot_threshold = 0;
    raft_peer_up(cluster, 2, false);
    raft_cluster_add_voter(cluster, 2);
    propose_to_any(cluster, 1);
    raft_cluster_agree(cluster);
    /* It can't have applied what was no longer in the log. */
    const struct raft_peer *fresh = raft_peer_of(cluster, 2);
    assert_true(fresh->applied_count <=
                cluster_state_applied_index(fresh->state) - (gone - 4));
    raft_peer_down(cluster, 2);
    raft_peer_up(cluster, 2, false);
    propose_to_any(cluster, 3);
    raft_cluster_agree(cluster);
}

static void test_host_is_removed(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 3);
    uint64_t gone_id = leader->id == 3 ? 2 : 3;
    struct raft_outcome first = {0}, second = {0}, unknown = {0};
    assert_int_equal(raft_node_remove(leader->node, gone_id, raft_outcome_take, &first),
                     0);
    assert_int_equal(raft_node_remove(leader->node, gone_id, raft_outcome_take, &second),
                     -EBUSY);
    raft_cluster_wait(cluster, &first);
    assert_int_equal(first.error, 0);
    assert_false(second.done);
    uint64_t voters[4];
    assert_int_equal(raft_node_voters(leader->node, voters, 4), 2);
    raft_peer_down(cluster, gone_id);
    raft_peer_propose_events(leader, 3);

    assert_int_equal(raft_node_remove(leader->node, 99, raft_outcome_take, &unknown), 0);
    assert_false(unknown.done);
    raft_cluster_wait(cluster, &unknown);
    assert_int_equal(unknown.error, 0); /* what was asked for holds */
}

static void test_voter_that_is_one_is_added_at_once(void **state)
{
    struct raft_cluster *cluster = *state;
    raft_cluster_make(cluster, 2);
    raft_cluster_add_voter(cluster, 2);
    raft_cluster_add_voter(cluster, 1);
}

static void test_voter_that_is_down_is_added_later(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 1);
    struct raft_outcome outcome = {0};
    assert_int_equal(
        raft_node_add_voter(leader->node, 2, "host2:7000", raft_outcome_take, &outcome),
        0);
    raft_cluster_run_ms(cluster, 300);
    assert_false(outcome.done);
    raft_peer_propose_events(
        leader, 3); /* a host that can't be reached does not hold up the others */
    raft_peer_up(cluster, 2, false);
    raft_cluster_wait(cluster, &outcome);
    assert_int_equal(outcome.error, 0);
    raft_cluster_agree(cluster);
}

static void test_leadership_is_handed_over(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 3);
    uint64_t to_id = leader->id % 3 + 1;
    struct raft_outcome outcome = {0}, bad = {0};
    assert_int_equal(raft_node_transfer(leader->node, 77, raft_outcome_take, &bad),
                     DROVER_ENOTFOUND);
    assert_int_equal(raft_node_transfer(leader->node, to_id, raft_outcome_take, &outcome),
                     0);
    raft_cluster_wait(cluster, &outcome);
    assert_int_equal(outcome.error, 0);
    assert_int_equal(raft_cluster_leader(cluster, 0)->id, to_id);
}

int main(void)
{
#define ON_CLUSTER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        ON_CLUSTER(test_first_host_elects_itself_and_applies),
        ON_CLUSTER(test_command_that_the_state_refuses_tells_why),
        ON_CLUSTER(test_three_hosts_agree),
        ON_CLUSTER(test_follower_refuses_to_propose),
        ON_CLUSTER(test_barrier_comes_after_all_before_it),
        ON_CLUSTER(test_lost_leader_is_replaced_and_catches_up_from_its_disk),
        ON_CLUSTER(test_proposal_of_a_leader_that_loses_its_majority_is_answered),
        ON_CLUSTER(test_whole_cluster_comes_back_from_its_disks),
        ON_CLUSTER(test_new_host_gets_a_snapshot),
        ON_CLUSTER(test_host_is_removed),
        ON_CLUSTER(test_voter_that_is_one_is_added_at_once),
        ON_CLUSTER(test_voter_that_is_down_is_added_later),
        ON_CLUSTER(test_leadership_is_handed_over),
    };
    (void)signal(SIGPIPE,
                 SIG_IGN); /* as droverd does: libuv writes to closed connections */
    return cmocka_run_group_tests_name("raft_node", tests, NULL, NULL);
}
