/* SPDX-License-Identifier: Apache-2.0 */
/* The raft adapter on bad folders and on disks that are full, broken, or lose their
 * host. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/raft_cluster.h"
#include "tests/unit/unit.h"

#define BIG_TEXT (900u * 1024u)

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

/* ---- bad folders ------------------------------------------------------------------- */

static void assert_does_not_start(struct raft_cluster *cluster, uint64_t id, int error,
                                  const char *word)
{
    struct error err = {0};
    assert_int_equal(raft_peer_try_up(cluster, id, false, &err), error);
    if (strstr(err.text, word) == NULL) {
        fail_msg("'%s' does not say '%s'", err.text, word);
    }
}

static void test_missing_folder_is_told(void **state)
{
    struct raft_cluster *cluster = *state;
    assert_int_equal(rmdir(cluster->peers[0].directory), 0);
    assert_does_not_start(cluster, 1, -ENOENT, "make it");
}

static void test_file_instead_of_a_folder_is_told(void **state)
{
    struct raft_cluster *cluster = *state;
    assert_int_equal(rmdir(cluster->peers[0].directory), 0);
    int fd = open(cluster->peers[0].directory, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    assert_does_not_start(cluster, 1, -ENOTDIR, "not a folder");
}

static void test_folder_in_use_is_told(void **state)
{
    struct raft_cluster *cluster = *state;
    raft_cluster_make(cluster, 1);
    (void)snprintf(cluster->peers[1].directory, sizeof(cluster->peers[1].directory), "%s",
                   cluster->peers[0].directory);
    assert_does_not_start(cluster, 2, -EWOULDBLOCK, "another droverd");
}

static void overwrite(const char *directory, const char *name, const char *content)
{
    char path[PATH_MAX + 64];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), (ssize_t)strlen(content));
    assert_int_equal(close(fd), 0);
}

static void test_foreign_files_are_told(void **state)
{
    struct raft_cluster *cluster = *state;
    overwrite(cluster->peers[0].directory, "metadata1",
              "this was written by something else ");
    struct error err = {0};
    assert_int_not_equal(raft_peer_try_up(cluster, 1, false, &err), 0);
    assert_non_null(strstr(err.text, cluster->peers[0].directory));
}

static void test_second_bootstrap_is_refused(void **state)
{
    struct raft_cluster *cluster = *state;
    raft_cluster_make(cluster, 1);
    raft_peer_down(cluster, 1);
    struct error err = {0};
    assert_int_equal(raft_peer_try_up(cluster, 1, true, &err), DROVER_EEXISTS);
    assert_non_null(strstr(err.text, "has a cluster already"));
}

/* ---- disks that refuse ------------------------------------------------------------- */

static bool has_failed(void *context)
{
    const struct raft_peer *peer = context;
    return peer->failure.code != 0;
}

static bool can_propose(void *context)
{
    struct raft_peer *peer = context;
    struct raft_outcome outcome;
    return raft_peer_propose_event(peer, 10, &outcome) == 0;
}

/* Proposes until raft refuses; returns how many were acknowledged. */
static unsigned propose_until_full(struct raft_peer *leader)
{
    for (unsigned acknowledged = 0; acknowledged < 200; acknowledged++) {
        struct raft_outcome outcome;
        int rv = raft_peer_propose_event(leader, BIG_TEXT, &outcome);
        if (rv != 0) {
            assert_int_equal(rv, DROVER_ENOSPACE);
            return acknowledged;
        }
    }
    fail_msg("the disk does not fill");
    return 0;
}

/* As a quota does it, or a broken disk. libraft by itself crashes then. */
static void test_failed_write_halts_the_node_and_loses_nothing(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 1);
    size_t events_before = cluster_state_view(leader->state)->n_events;
    struct rlimit before, none;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    none = before;
    none.rlim_cur = 200 * 1024;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    unsigned acknowledged = 0;
    struct raft_outcome outcome;
    while (raft_peer_propose_event(leader, 30000, &outcome) == 0) {
        acknowledged++;
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);

    assert_true(acknowledged > 0);
    assert_int_equal(outcome.error, DROVER_ENOTLEADER);
    raft_cluster_run_until(cluster, has_failed, leader, 10000);
    assert_int_equal(leader->failure.code, -EIO);
    assert_non_null(strstr(leader->failure.text, leader->directory));
    assert_int_equal(raft_node_role(leader->node), RAFT_NODE_ROLE_UNAVAILABLE);
    raft_cluster_run_ms(cluster,
                        6000); /* past the time at which libraft would have tried again */

    raft_peer_down(cluster, 1);
    raft_peer_up(cluster, 1, false);
    leader = raft_cluster_leader(cluster, 0);
    assert_int_equal(raft_peer_propose_event(leader, 10, &outcome), 0);
    assert_true(cluster_state_view(leader->state)->n_events >=
                events_before + acknowledged + 1);
}

/* In a child: the mount must not be seen by others. */
static void full_tmpfs_child(void)
{
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        _exit(77);
    }
    char root[] = "/tmp/drover-full-XXXXXX";
    if (mkdtemp(root) == NULL ||
        mount("tmpfs", root, "tmpfs", 0, "size=48m,mode=0700") != 0) {
        _exit(77);
    }
    struct raft_cluster cluster;
    raft_cluster_init(&cluster, root);
    struct raft_peer *leader = raft_cluster_make(&cluster, 1);
    size_t before = cluster_state_view(leader->state)->n_events;
    unsigned acknowledged = propose_until_full(leader);
    raft_cluster_run_until(&cluster, has_failed, leader, 10000);
    if (leader->failure.code != DROVER_ENOSPACE || acknowledged == 0) {
        _exit(1);
    }
    if (mount(NULL, root, NULL, MS_REMOUNT, "size=80m,mode=0700") != 0) {
        _exit(3);
    }
    raft_cluster_run_until(&cluster, can_propose, leader, 15000); /* goes on by itself */
    before += acknowledged + 1;
    leader->failure = (struct error){0};
    acknowledged = propose_until_full(leader);
    raft_peer_down(&cluster, 1);
    struct error err = {0};
    if (raft_peer_try_up(&cluster, 1, false, &err) != DROVER_ENOSPACE ||
        strstr(err.text, "free at least") == NULL) {
        _exit(2);
    }
    if (mount(NULL, root, NULL, MS_REMOUNT, "size=128m,mode=0700") != 0) {
        _exit(3);
    }
    raft_peer_up(&cluster, 1, false);
    leader = raft_cluster_leader(&cluster, 0);
    struct raft_outcome outcome;
    if (raft_peer_propose_event(leader, 10, &outcome) != 0 ||
        cluster_state_view(leader->state)->n_events != before + acknowledged + 1) {
        _exit(4);
    }
    (void)umount2(root, MNT_DETACH);
    (void)rmdir(root);
    _exit(0);
}

static void test_full_disk_is_told_and_loses_nothing(void **state)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        full_tmpfs_child();
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("no right to mount a tmpfs: run as root\n");
        skip();
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void swap_metadata(const struct raft_peer *peer, bool broken)
{
    for (unsigned i = 1; i <= 2; i++) {
        char path[PATH_MAX + 64], aside[PATH_MAX + 64];
        (void)snprintf(path, sizeof(path), "%s/metadata%u", peer->directory, i);
        (void)snprintf(aside, sizeof(aside), "%s/aside%u", peer->directory, i);
        if (broken) {
            (void)rename(path, aside); /* one of the two may not exist yet */
            assert_int_equal(mkdir(path, 0700), 0);
        } else {
            assert_int_equal(rmdir(path), 0);
            (void)rename(aside, path);
        }
    }
}

/* A vote that is not on the disk must not be told: the host falls silent instead. */
static void test_vote_that_cannot_be_stored_halts_the_node(void **state)
{
    struct raft_cluster *cluster = *state;
    struct raft_peer *leader = raft_cluster_make(cluster, 3);
    raft_peer_propose_events(leader, 5);
    raft_cluster_agree(cluster);
    uint64_t lost_id = leader->id;
    struct raft_peer *broken = raft_peer_of(cluster, lost_id % 3 + 1);
    swap_metadata(broken, true);
    raft_peer_down(cluster, lost_id);
    raft_cluster_run_until(cluster, has_failed, broken, 20000);
    assert_non_null(strstr(broken->failure.text, "restart droverd"));
    assert_int_equal(raft_node_role(broken->node), RAFT_NODE_ROLE_UNAVAILABLE);
    struct raft_outcome outcome = {0};
    assert_int_equal(raft_peer_propose_event(broken, 3, &outcome), DROVER_ENOTLEADER);
    raft_cluster_run_ms(cluster, 1000);
    for (uint64_t id = 1; id <= 3; id++) { /* one of three is no majority */
        const struct raft_peer *peer = raft_peer_of(cluster, id);
        assert_true(peer->node == NULL ||
                    raft_node_role(peer->node) != RAFT_NODE_ROLE_LEADER);
    }
    raft_peer_down(cluster, broken->id);
    swap_metadata(broken, false);
    raft_peer_up(cluster, broken->id, false);
    leader = raft_cluster_leader(cluster, 0);
    raft_peer_propose_events(leader, 3);
    raft_cluster_agree(cluster);
}

/* ---- kill -9 ----------------------------------------------------------------------- */

static void killed_child(const char *root, int report_fd)
{
    struct raft_cluster cluster;
    raft_cluster_init(&cluster, root);
    struct raft_peer *leader = raft_cluster_make(&cluster, 1);
    for (unsigned count = 1;; count++) {
        struct raft_outcome outcome;
        if (raft_peer_propose_event(leader, 100, &outcome) != 0 ||
            write(report_fd, &count, sizeof(count)) != (ssize_t)sizeof(count)) {
            _exit(1);
        }
    }
}

static void test_acknowledged_entries_survive_kill_9(void **state)
{
    struct raft_cluster *cluster = *state;
    for (unsigned round = 0; round < 3; round++) {
        char root[PATH_MAX];
        (void)snprintf(root, sizeof(root), "%.4000s/round%u", cluster->root, round);
        assert_int_equal(mkdir(root, 0700), 0);
        int fds[2];
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            (void)close(fds[0]);
            killed_child(root, fds[1]);
        }
        (void)close(fds[1]);
        unsigned acknowledged = 0;
        while (acknowledged < 150 + 77 * round) {
            assert_int_equal(read(fds[0], &acknowledged, sizeof(acknowledged)),
                             (ssize_t)sizeof(acknowledged));
        }
        assert_int_equal(kill(pid, SIGKILL), 0);
        while (read(fds[0], &acknowledged, sizeof(acknowledged)) > 0) {
        }
        (void)close(fds[0]);
        assert_int_equal(waitpid(pid, NULL, 0), pid);

        struct raft_cluster again;
        raft_cluster_init(&again, root);
        raft_peer_up(&again, 1, false);
        struct raft_peer *leader = raft_cluster_leader(&again, 0);
        raft_peer_propose_events(leader, 1);
        assert_true(cluster_state_view(leader->state)->n_events >= 1 + acknowledged + 1);
        raft_cluster_done(&again);
    }
}

int main(void)
{
#define ON_CLUSTER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        ON_CLUSTER(test_missing_folder_is_told),
        ON_CLUSTER(test_file_instead_of_a_folder_is_told),
        ON_CLUSTER(test_folder_in_use_is_told),
        ON_CLUSTER(test_foreign_files_are_told),
        ON_CLUSTER(test_second_bootstrap_is_refused),
        ON_CLUSTER(test_failed_write_halts_the_node_and_loses_nothing),
        cmocka_unit_test(test_full_disk_is_told_and_loses_nothing),
        ON_CLUSTER(test_vote_that_cannot_be_stored_halts_the_node),
        ON_CLUSTER(test_acknowledged_entries_survive_kill_9),
    };
    (void)signal(SIGPIPE,
                 SIG_IGN); /* as droverd does: libuv writes to closed connections */
    return cmocka_run_group_tests_name("raft_node_disk", tests, NULL, NULL);
}
