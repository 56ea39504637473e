/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves in which the guest runs on the target before its memory is there: under load, with
 * the link lost at each message from the go on, again and again, and with the source gone.
 * No page may lose a write, and the guest runs on exactly one side.
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

#define PATIENCE_MS 120u
#define FAULTS_MAX  400

struct move {
    struct fault_plan plan;
    struct fake_guest from, to;
    struct migration_source *source;
    struct migration_target *target;
    struct migration_status left, arrived;
    uint64_t bandwidth; /* before move_begin() */
};

static const struct fake_guest_config small = {.page_count = 2048,
                                               .used_pages = 1400,
                                               .hot_pages = 1000,
                                               .pages_per_second = 100000,
                                               .zeroes = true};

static void move_begin(struct move *move, const struct fake_guest_config *config,
                       uint32_t patience_ms, enum migration_postcopy postcopy,
                       uint32_t max_downtime_ms)
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
                                             .postcopy = postcopy,
                                             .bandwidth_bytes_per_second = move->bandwidth,
                                             .times = times,
                                             .transport = fault_transport(&move->plan)};
    assert_int_equal(migration_source_create(&source, &move->source, &err), 0);
    assert_int_equal(migration_source_start(move->source), 0);
}

static void look(struct move *move)
{
    migration_source_status(move->source, &move->left);
    migration_target_status(move->target, &move->arrived);
}

/* Until neither side has anything more to do: a link that was lost comes back by itself. */
static void move_wait(struct move *move)
{
    uint64_t until_ms = clock_now_ms() + 30000;
    for (;;) {
        look(move);
        bool never = move->arrived.state == MIGRATION_STATE_FAILED ||
                     move->arrived.state == MIGRATION_STATE_CANCELLED;
        bool done = move->left.state == MIGRATION_STATE_DONE &&
                    move->arrived.state == MIGRATION_STATE_DONE;
        bool stays = move->left.state == MIGRATION_STATE_FAILED ||
                     move->left.state == MIGRATION_STATE_CANCELLED;
        bool lost = never && move->left.state == MIGRATION_STATE_UNKNOWN;
        if (done || lost ||
            (stays && (never || move->arrived.state == MIGRATION_STATE_CONNECTING))) {
            return;
        }
        if (clock_now_ms() >= until_ms) {
            fail_msg("the source is %s%s (%s), the target %s%s (%s)",
                     migration_state_name(move->left.state),
                     move->left.interrupted ? ", interrupted" : "", move->left.error.text,
                     migration_state_name(move->arrived.state),
                     move->arrived.interrupted ? ", interrupted" : "",
                     move->arrived.error.text);
        }
        (void)usleep(1000);
    }
}

static void move_end(struct move *move)
{
    migration_source_free(move->source);
    migration_target_free(move->target);
    fake_guest_done(&move->from);
    fake_guest_done(&move->to);
}

static void assert_runs_unharmed_on_exactly_one_side(struct move *move)
{
    bool target_runs = move->arrived.state == MIGRATION_STATE_DONE;
    assert_int_equal(target_runs, fake_guest_runs(&move->to));
    assert_int_equal(target_runs, atomic_load(&move->to.started));
    if (move->left.state == MIGRATION_STATE_UNKNOWN) {
        assert_false(target_runs);
        assert_int_equal(migration_source_reclaim(move->source, "never got the go"), 0);
    } else {
        assert_int_equal(migration_source_reclaim(move->source, "x"), DROVER_EWRONGSTATE);
    }
    assert_int_equal(fake_guest_runs(&move->from), !target_runs);
    assert_int_equal(atomic_load(&move->from.locked), !target_runs);
    struct fake_guest *runner = target_runs ? &move->to : &move->from;
    uint64_t before = atomic_load(&runner->writes);
    for (unsigned i = 0; i < 5000 && atomic_load(&runner->writes) < before + 2000; i++) {
        (void)usleep(1000);
    }
    assert_true(atomic_load(&runner->writes) >= before + 2000);
    assert_int_equal(fake_guest_wrong_pages(runner), 0);
    assert_int_equal(atomic_load(&runner->missing.lost), 0);
}

/* ---- without faults ---------------------------------------------------------------- */

/* Nothing was sent twice: the target has counted what the source has. */
static void assert_figures_agree(const struct move *move)
{
    const struct migration_figures *left = &move->left.figures;
    const struct migration_figures *arrived = &move->arrived.figures;
    assert_int_equal(arrived->postcopy_pages, left->postcopy_pages);
    assert_int_equal(arrived->pages_sent, left->pages_sent);
    assert_int_equal(arrived->pages_zero, left->pages_zero);
    assert_true(arrived->bytes_sent > arrived->pages_sent);
    assert_int_equal(move->arrived.bytes_remaining, 0);
}

static void test_by_order_no_write_is_lost(void **state)
{
    uint64_t waits = 0;
    uint64_t after = 0;
    for (unsigned i = 0; i < 10; i++) {
        struct move move = {0};
        move_begin(&move, &small, 2000, MIGRATION_POSTCOPY_NOW, 0);
        move.to.missing.load_touches = i % 2 == 0;
        move_wait(&move);
        assert_int_equal(move.left.state, MIGRATION_STATE_DONE);
        assert_runs_unharmed_on_exactly_one_side(&move);
        waits += atomic_load(&move.to.missing.waits);
        assert_int_equal(move.left.bytes_remaining, 0);
        assert_int_equal(move.left.figures.rounds, 2);
        assert_figures_agree(&move);
        after += move.arrived.figures.postcopy_pages;
        assert_int_equal(atomic_load(&move.to.announced), 1);
        move_end(&move);
    }
    assert_true(waits > 0 && after > 0);
}

static void test_a_guest_that_never_converges_arrives(void **state)
{
    struct fake_guest_config config = {.page_count = 16384,
                                       .used_pages = 12000,
                                       .hot_pages = 12000,
                                       .pages_per_second = 2000000}; /* no link can follow */
    struct move move = {0};
    move_begin(&move, &config, 2000, MIGRATION_POSTCOPY_AUTO, 1);
    move_wait(&move);
    assert_int_equal(move.left.state, MIGRATION_STATE_DONE);
    assert_runs_unharmed_on_exactly_one_side(&move);
    move_end(&move);
}

static void test_the_limit_holds_in_postcopy_too(void **state)
{
    struct fake_guest_config config = {.page_count = 4096,
                                       .used_pages = 2048,
                                       .hot_pages = 2048,
                                       .pages_per_second = 1200};
    struct move move = {.bandwidth = 8000000};
    move_begin(&move, &config, 2000, MIGRATION_POSTCOPY_NOW, 0);
    move_wait(&move);
    assert_int_equal(move.left.state, MIGRATION_STATE_DONE);
    assert_true(move.left.figures.postcopy_pages > 512);
    /* What somebody waits for is sent at once, but counts; this guest can't ask for as much
     * as the limit. */
    uint64_t bytes_per_second =
        move.left.figures.bytes_sent * 1000000 / move.left.figures.total_us;
    assert_true(bytes_per_second < move.bandwidth + move.bandwidth / 4);
    assert_runs_unharmed_on_exactly_one_side(&move);
    move_end(&move);
}

static void test_a_target_that_cannot_says_why_and_the_source_goes_on(void **state)
{
    struct move move = {0};
    move_begin(&move, &small, 2000, MIGRATION_POSTCOPY_NOW, 0);
    move.to.missing.impossible = true;
    move_wait(&move);
    assert_int_equal(move.left.state, MIGRATION_STATE_FAILED);
    assert_non_null(strstr(move.left.error.text, "others share the memory"));
    assert_runs_unharmed_on_exactly_one_side(&move);
    move_end(&move);
}

static void test_a_target_that_cannot_load_with_memory_missing(void **state)
{
    struct move move = {0};
    move_begin(&move, &small, 2000, MIGRATION_POSTCOPY_NOW, 0);
    move.to.missing.load_touches = true;
    move.to.claim_error = DROVER_EINUSE;
    move_wait(&move);
    assert_int_equal(move.left.state, MIGRATION_STATE_FAILED);
    assert_non_null(strstr(move.left.error.text, "the disk is in use"));
    assert_runs_unharmed_on_exactly_one_side(&move);
    move_end(&move);
}

/* ---- the link is lost ---------------------------------------------------------------- */

/* False when the move was over before the fault could happen. */
static bool one_fault(enum fault_side side, bool on_send, enum fault_mode mode,
                      int countdown, unsigned *ret_ends)
{
    struct move move = {.plan = {.side = side, .on_send = on_send, .mode = mode}};
    atomic_store(&move.plan.countdown, countdown);
    move_begin(&move, &small, PATIENCE_MS, MIGRATION_POSTCOPY_NOW, 0);
    move.to.missing.load_touches = true;
    move_wait(&move);
    assert_runs_unharmed_on_exactly_one_side(&move);
    bool fired = atomic_load(&move.plan.fired);
    bool whole = move.left.state == MIGRATION_STATE_DONE;
    ret_ends[move.left.state]++;
    move_end(&move);
    return fired || !whole; /* on a busy machine some other wait may end too early */
}

static void all_faults(enum fault_side side, bool on_send)
{
    static const char *const names[] = {"none",      "cut before", "cut half",
                                        "cut after", "silence",    "cancel"};
    unsigned done = 0;
    for (unsigned mode = FAULT_CUT_BEFORE; mode < FAULT_CALL; mode++) {
        unsigned ends[MIGRATION_STATE_POSTCOPY + 1] = {0};
        int count = 0;
        while (count < FAULTS_MAX &&
               one_fault(side, on_send, (enum fault_mode)mode, count, ends)) {
            count++;
        }
        print_message("%s %s, %s: %d places; done %u failed %u unknown %u\n",
                      side == FAULT_SOURCE ? "source" : "target",
                      on_send ? "send" : "recv", names[mode], count,
                      ends[MIGRATION_STATE_DONE], ends[MIGRATION_STATE_FAILED],
                      ends[MIGRATION_STATE_UNKNOWN]);
        assert_true(count >= 3 && count < FAULTS_MAX);
        done += ends[MIGRATION_STATE_DONE];
    }
    /* More than the runs without a fault: links were lost after the go, and came back. */
    assert_true(done > FAULT_CALL - FAULT_CUT_BEFORE);
}

static void test_the_link_is_lost_at_each_send_of_the_source(void **state)
{
    all_faults(FAULT_SOURCE, true);
}

static void test_the_link_is_lost_at_each_receive_of_the_source(void **state)
{
    all_faults(FAULT_SOURCE, false);
}

static void test_the_link_is_lost_at_each_send_of_the_target(void **state)
{
    all_faults(FAULT_TARGET, true);
}

static void test_the_link_is_lost_at_each_receive_of_the_target(void **state)
{
    all_faults(FAULT_TARGET, false);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_order_no_write_is_lost),
        cmocka_unit_test(test_a_guest_that_never_converges_arrives),
        cmocka_unit_test(test_the_limit_holds_in_postcopy_too),
        cmocka_unit_test(test_a_target_that_cannot_says_why_and_the_source_goes_on),
        cmocka_unit_test(test_a_target_that_cannot_load_with_memory_missing),
        cmocka_unit_test(test_the_link_is_lost_at_each_send_of_the_source),
        cmocka_unit_test(test_the_link_is_lost_at_each_receive_of_the_source),
        cmocka_unit_test(test_the_link_is_lost_at_each_send_of_the_target),
        cmocka_unit_test(test_the_link_is_lost_at_each_receive_of_the_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
