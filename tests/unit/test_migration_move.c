/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole moves of a fake guest over TCP on the loopback: without faults under load, and
 * with one fault at each message of the protocol, on either side. After each the guest
 * must run, unharmed, on exactly one side.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "migration/source.h"
#include "migration/target.h"
#include "tests/unit/fake_guest.h"
#include "tests/unit/fault_transport.h"
#include "tests/unit/unit.h"

#define PATIENCE_MS 80u
#define FAULTS_MAX  200

struct move {
    struct fault_plan plan;
    unsigned streams; /* 0: one */
    struct fake_guest from, to;
    struct migration_source *source;
    struct migration_target *target;
    struct migration_status left, arrived; /* how it ended */
    uint32_t standing_idle_ms; /* the longest that the source allowed itself */
};

static const struct fake_guest_config small = {.page_count = 1536,
                                               .used_pages = 700,
                                               .hot_pages = 64,
                                               .pages_per_second = 4000,
                                               .zeroes = true};

static void move_begin_with(struct move *move, const struct fake_guest_config *config,
                            uint32_t patience_ms, uint32_t max_downtime_ms,
                            uint32_t deadline_ms)
{
    struct migration_times times = migration_times_from(patience_ms);
    fake_guest_init(&move->from, config, true);
    fake_guest_init(&move->to, config, false);
    (void)usleep(config->zeroes ? 50000 : 0); /* some pages have become zero by now */
    struct migration_target_config target = {.guest = &move->to.guest,
                                             .uri = "tcp:127.0.0.1:0",
                                             .vm_id = 7,
                                             .epoch = 2,
                                             .times = times,
                                             .transport = fault_transport(&move->plan)};
    struct error err = {0};
    char uri[TRANSPORT_URI_SIZE];
    assert_int_equal(migration_target_create(&target, &move->target, &err), 0);
    migration_target_uri(move->target, uri);
    assert_int_equal(migration_target_start(move->target), 0);
    struct migration_source_config source = {.guest = &move->from.guest,
                                             .uri = uri,
                                             .vm_id = 7,
                                             .epoch = 1,
                                             .max_downtime_ms = max_downtime_ms,
                                             .postcopy = MIGRATION_POSTCOPY_NEVER,
                                             .deadline_ms = deadline_ms,
                                             .times = times,
                                             .streams = move->streams,
                                             .transport = fault_transport(&move->plan)};
    assert_int_equal(migration_source_create(&source, &move->source, &err), 0);
    assert_int_equal(migration_source_start(move->source), 0);
}

static void move_wait(struct move *move)
{
    for (unsigned i = 0; i < 20000; i++) {
        migration_source_status(move->source, &move->left);
        if (migration_state_final(move->left.state)) {
            break;
        }
        (void)usleep(1000);
    }
    if (!migration_state_final(move->left.state)) {
        fail_msg("the source is still in state %s, round %u",
                 migration_state_name(move->left.state), move->left.round);
    }
    /* A target to which nobody ever came still waits, as it should. */
    for (unsigned i = 0; i < 20000; i++) {
        migration_target_status(move->target, &move->arrived);
        if (migration_state_final(move->arrived.state) ||
            (move->arrived.state == MIGRATION_STATE_CONNECTING && i > 8 * PATIENCE_MS)) {
            return;
        }
        (void)usleep(1000);
    }
    fail_msg("the target never decided");
}

static void move_end(struct move *move)
{
    migration_source_free(move->source);
    migration_target_free(move->target);
    fake_guest_done(&move->from);
    fake_guest_done(&move->to);
}

/* The invariant of every move, whatever happened in it. */
static void assert_runs_unharmed_on_exactly_one_side(struct move *move)
{
    enum migration_state left = move->left.state;
    enum migration_state arrived = move->arrived.state;
    bool target_runs = arrived == MIGRATION_STATE_DONE;
    assert_int_equal(target_runs, fake_guest_runs(&move->to));
    assert_int_equal(target_runs, atomic_load(&move->to.started));
    if (left == MIGRATION_STATE_DONE) {
        assert_true(target_runs);
    }
    if (left == MIGRATION_STATE_FAILED || left == MIGRATION_STATE_CANCELLED) {
        assert_false(target_runs);
        assert_true(strlen(move->left.error.text) > 0);
    }
    if (left == MIGRATION_STATE_UNKNOWN) {
        assert_false(fake_guest_runs(&move->from));
        if (!target_runs) {
            assert_true(arrived == MIGRATION_STATE_FAILED ||
                        arrived == MIGRATION_STATE_CANCELLED);
            assert_int_equal(migration_source_reclaim(move->source, "never got the go"),
                             0);
        }
    } else {
        assert_int_equal(migration_source_reclaim(move->source, "x"), DROVER_EWRONGSTATE);
    }
    assert_int_equal(fake_guest_runs(&move->from), !target_runs);
    assert_int_equal(atomic_load(&move->from.locked), !target_runs);
    struct fake_guest *runner = target_runs ? &move->to : &move->from;
    assert_true(atomic_load(&runner->run));
    for (unsigned i = 0; i < 5000 && runner->config.pages_per_second > 0; i++) {
        if (atomic_load(&runner->writes) > 0) {
            break;
        }
        (void)usleep(1000);
    }
    assert_true(runner->config.pages_per_second == 0 || atomic_load(&runner->writes) > 0);
    assert_int_equal(fake_guest_wrong_pages(runner), 0);
}

static void assert_says(const char *text, const char *wanted)
{
    if (strstr(text, wanted) == NULL) {
        fail_msg("'%s' does not say '%s'", text, wanted);
    }
}

/* ---- without faults ---------------------------------------------------------------- */

static void test_an_idle_guest_arrives_whole_and_zero_pages_are_not_sent(void **state)
{
    struct fake_guest_config config = {.page_count = 4096, .used_pages = 2048};
    struct move move = {0};
    move_begin_with(&move, &config, 2000, 0, 0);
    move_wait(&move);
    assert_int_equal(move.left.state, MIGRATION_STATE_DONE);
    assert_int_equal(move.arrived.state, MIGRATION_STATE_DONE);
    assert_runs_unharmed_on_exactly_one_side(&move);
    assert_int_equal(move.left.figures.pages_sent, 2048);
    assert_true(move.left.figures.bytes_sent <
                2048 * 4096 + (2 << 20) /* the probe */); /* the fake's state is 32 KiB */
    assert_true(move.left.figures.downtime_us > 0);
    assert_true(move.left.figures.total_us >= move.left.figures.downtime_us);
    assert_int_equal(move.arrived.figures.pages_sent, 2048);
    assert_int_equal(atomic_load(&move.to.announced), 1);
    move_end(&move);
}

static void test_no_write_is_lost_under_load(void **state)
{
    struct fake_guest_config config = {.page_count = 16384,
                                       .used_pages = 12288,
                                       .hot_pages = 512,
                                       .pages_per_second = 100000,
                                       .zeroes = true};
    for (unsigned i = 0; i < 4; i++) {
        struct move move = {.streams = 1u << i};
        move_begin_with(&move, &config, 2000, 1000, 0);
        move_wait(&move);
        if (move.left.state != MIGRATION_STATE_DONE) {
            fail_msg("%u streams: %s", move.streams, move.left.error.text);
        }
        assert_runs_unharmed_on_exactly_one_side(&move);
        assert_int_equal(move.left.streams, move.streams);
        assert_int_equal(move.arrived.streams, move.streams);
        assert_true(move.left.figures.rounds >= 2);
        assert_true(move.left.figures.pages_zero > 0);
        move_end(&move);
    }
}

/* Which of the two fails first is up to the machine: a busy one looks at the pause while
 * there still is time. */
static void assert_names_a_goal(const char *text)
{
    if (strstr(text, "--max-downtime") == NULL) {
        assert_says(text, "deadline");
    }
}

static void
test_a_guest_that_writes_too_fast_is_not_harmed_and_the_reason_is_given(void **state)
{
    struct fake_guest_config config = {.page_count = 65536,
                                       .used_pages = 49152,
                                       .hot_pages = 49152,
                                       .pages_per_second = 2000000};
    struct move move = {0};
    move_begin_with(&move, &config, 2000, 5, 600);
    move_wait(&move);
    assert_int_equal(move.left.state, MIGRATION_STATE_FAILED);
    assert_names_a_goal(move.left.error.text);
    /* In the source's words, as far as they fit. */
    assert_says(move.arrived.error.text, "the source gave up: ");
    char reason[80];
    (void)snprintf(reason, sizeof(reason), "%.79s", move.left.error.text);
    assert_says(move.arrived.error.text, reason);
    assert_runs_unharmed_on_exactly_one_side(&move);
    move_end(&move);
}

static void standing_send_note(void *owner, enum fault_side side, uint32_t idle_ms)
{
    struct move *move = owner;
    if (side == FAULT_SOURCE && !atomic_load(&move->from.run) &&
        idle_ms > move->standing_idle_ms) {
        move->standing_idle_ms = idle_ms;
    }
}

/* The guest stands as long as its source waits for room on the link. */
static void
test_a_link_that_stalls_is_given_up_sooner_while_the_guest_stands(void **state)
{
    struct move move = {.plan = {.sends = standing_send_note, .owner = &move}};
    move_begin_with(&move, &small, 2000, 0, 0);
    move_wait(&move);
    assert_int_equal(move.left.state, MIGRATION_STATE_DONE);
    assert_in_range(move.standing_idle_ms, 1, migration_times_from(2000).standing_ms);
    assert_runs_unharmed_on_exactly_one_side(&move);
    move_end(&move);
}

/* ---- refusals before the go -------------------------------------------------------- */

static void assert_fails_with(struct move *move, const char *text)
{
    move_wait(move);
    assert_int_equal(move->left.state, MIGRATION_STATE_FAILED);
    assert_says(move->left.error.text, text);
    assert_runs_unharmed_on_exactly_one_side(move);
}

static void
test_a_target_that_cannot_take_the_disk_says_so_and_the_source_goes_on(void **state)
{
    struct move move = {0};
    move_begin_with(&move, &small, 2000, 0, 0);
    move.to.claim_error = DROVER_EINUSE;
    assert_fails_with(&move, "the disk is in use");
    assert_int_equal(atomic_load(&move.from.goes_on), 1);
    move_end(&move);
}

static void test_a_target_that_cannot_load_the_state_says_so(void **state)
{
    struct move move = {0};
    move_begin_with(&move, &small, 2000, 0, 0);
    move.to.load_error = DROVER_EMALFORMED;
    assert_fails_with(&move, "the state does not fit");
    move_end(&move);
}

static void test_no_go_without_a_lease(void **state)
{
    struct move move = {0};
    move_begin_with(&move, &small, 2000, 0, 0);
    move.from.may_hand_over_error = DROVER_ENOLEASE;
    assert_fails_with(&move, "no lease");
    assert_non_null(strstr(move.arrived.error.text, "no lease"));
    move_end(&move);
}

static void test_no_go_when_ready_comes_too_late(void **state)
{
    struct move move = {0};
    move_begin_with(&move, &small, 200, 0, 0);
    move.to.claim_sleep_ms = 600;
    assert_fails_with(&move, "waiting for the target to be ready");
    move_end(&move);
}

static void test_io_that_never_ends_fails_the_move_and_not_the_guest(void **state)
{
    struct move move = {0};
    move_begin_with(&move, &small, 200, 0, 0);
    move.from.never_drains = true;
    assert_fails_with(&move, "did not end within");
    move_end(&move);
}

/* ---- one fault at each message ----------------------------------------------------- */

static void cancel_source(void *owner)
{
    (void)migration_source_cancel(((struct move *)owner)->source);
}

static void abandon_target(void *owner)
{
    (void)migration_target_abandon(((struct move *)owner)->target);
}

/* False when the move was over, as it should, before the fault could happen. */
static bool one_fault(enum fault_side side, bool on_send, enum fault_mode mode,
                      int countdown, unsigned streams, unsigned *ret_ends)
{
    struct move move = {.plan = {.side = side, .on_send = on_send, .mode = mode},
                        .streams = streams};
    atomic_store(&move.plan.countdown, countdown);
    move.plan.call = side == FAULT_SOURCE ? cancel_source : abandon_target;
    move.plan.owner = &move;
    move_begin_with(&move, &small, PATIENCE_MS, 0, 0);
    move_wait(&move);
    assert_runs_unharmed_on_exactly_one_side(&move);
    bool fired = atomic_load(&move.plan.fired);
    bool whole = move.left.state == MIGRATION_STATE_DONE;
    ret_ends[move.left.state]++;
    move_end(&move);
    return fired || !whole; /* on a busy machine some other wait may end too early */
}

static void all_faults(enum fault_side side, bool on_send, unsigned streams)
{
    static const char *const names[] = {"none",      "cut before", "cut half",
                                        "cut after", "silence",    "cancel"};
    for (unsigned mode = FAULT_CUT_BEFORE; mode < FAULT_MODES; mode++) {
        unsigned ends[MIGRATION_STATE_UNKNOWN + 1] = {0};
        int count = 0;
        while (count < FAULTS_MAX &&
               one_fault(side, on_send, (enum fault_mode)mode, count, streams, ends)) {
            count++;
        }
        print_message("%u streams, %s %s, %s: %d places; done %u failed %u cancelled %u "
                      "unknown %u\n",
                      streams, side == FAULT_SOURCE ? "source" : "target",
                      on_send ? "send" : "recv", names[mode], count,
                      ends[MIGRATION_STATE_DONE], ends[MIGRATION_STATE_FAILED],
                      ends[MIGRATION_STATE_CANCELLED], ends[MIGRATION_STATE_UNKNOWN]);
        assert_true(count >= 3 && count < FAULTS_MAX);
        assert_true(mode == FAULT_CALL || ends[MIGRATION_STATE_FAILED] > 0);
    }
}

static void test_a_fault_at_each_send_of_the_source(void **state)
{
    all_faults(FAULT_SOURCE, true, 1);
}

static void test_a_fault_at_each_receive_of_the_source(void **state)
{
    all_faults(FAULT_SOURCE, false, 1);
}

static void test_a_fault_at_each_send_of_the_target(void **state)
{
    all_faults(FAULT_TARGET, true, 1);
}

static void test_a_fault_at_each_receive_of_the_target(void **state)
{
    all_faults(FAULT_TARGET, false, 1);
}

static void test_a_fault_at_each_send_of_the_source_of_three_streams(void **state)
{
    all_faults(FAULT_SOURCE, true, 3);
}

static void test_a_fault_at_each_receive_of_the_source_of_three_streams(void **state)
{
    all_faults(FAULT_SOURCE, false, 3);
}

static void test_a_fault_at_each_send_of_the_target_of_three_streams(void **state)
{
    all_faults(FAULT_TARGET, true, 3);
}

static void test_a_fault_at_each_receive_of_the_target_of_three_streams(void **state)
{
    all_faults(FAULT_TARGET, false, 3);
}

/* Argument: a pattern of the tests to run. */
int main(int argc, char **argv)
{
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_idle_guest_arrives_whole_and_zero_pages_are_not_sent),
        cmocka_unit_test(test_no_write_is_lost_under_load),
        cmocka_unit_test(
            test_a_link_that_stalls_is_given_up_sooner_while_the_guest_stands),
        cmocka_unit_test(
            test_a_guest_that_writes_too_fast_is_not_harmed_and_the_reason_is_given),
        cmocka_unit_test(
            test_a_target_that_cannot_take_the_disk_says_so_and_the_source_goes_on),
        cmocka_unit_test(test_a_target_that_cannot_load_the_state_says_so),
        cmocka_unit_test(test_no_go_without_a_lease),
        cmocka_unit_test(test_no_go_when_ready_comes_too_late),
        cmocka_unit_test(test_io_that_never_ends_fails_the_move_and_not_the_guest),
        cmocka_unit_test(test_a_fault_at_each_send_of_the_source),
        cmocka_unit_test(test_a_fault_at_each_receive_of_the_source),
        cmocka_unit_test(test_a_fault_at_each_send_of_the_target),
        cmocka_unit_test(test_a_fault_at_each_receive_of_the_target),
        cmocka_unit_test(test_a_fault_at_each_send_of_the_source_of_three_streams),
        cmocka_unit_test(test_a_fault_at_each_receive_of_the_source_of_three_streams),
        cmocka_unit_test(test_a_fault_at_each_send_of_the_target_of_three_streams),
        cmocka_unit_test(test_a_fault_at_each_receive_of_the_target_of_three_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
