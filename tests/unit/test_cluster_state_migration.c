/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations: each way to end one, with each host alive, dead, or reset. VM 1 moves
 * from host 1 to host 2; host 3 looks on. */
#include <string.h>

#include "tests/unit/cluster_world.h"
#include "tests/unit/unit.h"

#define LEASE     DROVER__PROOF_KIND__PROOF_LEASE_WATCHDOG
#define STOPPED   DROVER__VM_WANTED__VM_WANTED_STOPPED
#define BY_SOURCE DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE
#define BY_TARGET DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET
#define UNSURE DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE
#define AFTER_TARGET_DIED                                                                \
    DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE_AFTER_TARGET_DIED

static void begin_ready(struct world *world)
{
    assert_done(world_begin(world, 1, 2));
    assert_done(world_ready(world, 1));
}

static void assert_vm(const struct world *world, uint64_t owner_id, uint64_t epoch,
                      uint64_t epoch_high, bool migrating)
{
    const Drover__VmRecord *vm = world_vm(world, 1);
    assert_int_equal(vm->owner_host_id, owner_id);
    assert_int_equal(vm->epoch, epoch);
    assert_int_equal(vm->epoch_high, epoch_high);
    assert_int_equal(vm->migration != NULL, migrating);
}

/* ---- both alive -------------------------------------------------------------------- */

static void test_done_gives_the_vm_to_the_target(void **state)
{
    struct world *world = *state;
    assert_done(world_begin(world, 1, 2));
    assert_vm(world, 1, 1, 2, true);
    assert_int_equal(world_vm(world, 1)->migration->next_epoch, 2);
    assert_done(world_ready(world, 1));
    assert_string_equal(world_vm(world, 1)->migration->uri, "tcp:10.0.0.2:4444");
    assert_done(world_migrated(world, 1));
    assert_vm(world, 2, 2, 2, false);
    assert_int_equal(world_vm(world, 1)->started_epoch, 2);
    assert_int_equal(world_vm(world, 1)->last_migration->total_ms, 1234);
    /* Both hosts may say so again: nothing is there any more. */
    assert_refused(world_migrated(world, 1), DROVER_ECONFLICT);
    assert_refused(world_abort(world, 1, BY_SOURCE), DROVER_ECONFLICT);
    assert_refused(world_stopped(world, 1, 1, 1, true), DROVER_ESTALEEPOCH);
}

static void test_abort_by_source_or_target_leaves_the_vm_where_it_was(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_abort(world, 1, BY_SOURCE));
    assert_vm(world, 1, 1, 2, false);
    begin_ready(world); /* under an epoch that was never used */
    assert_int_equal(world_vm(world, 1)->migration->next_epoch, 3);
    assert_done(world_abort(world, 1, BY_TARGET));
    assert_vm(world, 1, 1, 3, false);
    assert_done(world_begin(world, 1, 3)); /* also before the target was ready */
    assert_done(world_abort(world, 1, BY_TARGET));
    assert_vm(world, 1, 1, 4, false);
}

static void test_begin_is_refused_where_it_makes_no_sense(void **state)
{
    struct world *world = *state;
    assert_refused(world_begin(world, 9, 2), DROVER_ENOTFOUND);
    assert_refused(world_begin(world, 1, 1), DROVER_EBADINPUT);
    assert_refused(world_begin(world, 1, 9), DROVER_ENOTFOUND);
    assert_done(world_host_drain(world, 2, true));
    assert_refused(world_begin(world, 1, 2), DROVER_EWRONGSTATE);
    assert_done(world_host_drain(world, 2, false));
    assert_done(world_begin(world, 1, 2));
    assert_refused(world_begin(world, 1, 3), DROVER_EINUSE);
    assert_done(world_abort(world, 1, BY_SOURCE));
    assert_done(world_wanted(world, 1, STOPPED));
    assert_refused(world_begin(world, 1, 2), DROVER_EWRONGSTATE);

    assert_done(world_vm_create(world, "new", NULL, true));
    assert_refused(world_begin(world, 2, 3), DROVER_EWRONGSTATE); /* nobody has it */
    assert_done(world_assign(world, 2, 1));
    assert_refused(world_begin(world, 2, 3), DROVER_EWRONGSTATE); /* not started yet */
}

static void test_begin_for_an_old_epoch_is_refused(void **state)
{
    struct world *world = *state;
    Drover__MigrationBegin begin = DROVER__MIGRATION_BEGIN__INIT;
    begin.vm_id = 1;
    begin.expected_epoch = 7;
    begin.target_host_id = 2;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_BEGIN;
    command.migration_begin = &begin;
    assert_refused(world_apply(world, &command), DROVER_ECONFLICT);
}

static void test_done_needs_a_target_that_was_ready(void **state)
{
    struct world *world = *state;
    assert_done(world_begin(world, 1, 2));
    assert_refused(world_migrated(world, 1), DROVER_ECONFLICT);
    assert_done(world_ready(world, 1));
    assert_done(world_ready(world, 1)); /* said twice */
    assert_int_equal(world_event_count(world, "migration.ready"), 1);
    assert_done(world_migrated(world, 1));
}

static int say(struct world *world, uint64_t host_id, const char *run,
               uint64_t next_epoch, const char *uri)
{
    Drover__MigrationReady ready = DROVER__MIGRATION_READY__INIT;
    ready.vm_id = 1;
    ready.next_epoch = next_epoch;
    ready.host_id = host_id;
    ready.incarnation = (char *)(uintptr_t)run;
    ready.uri = (char *)(uintptr_t)uri;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_READY;
    command.migration_ready = &ready;
    return world_apply(world, &command);
}

static void test_ready_is_for_this_target_and_epoch_only(void **state)
{
    struct world *world = *state;
    assert_done(world_begin(world, 1, 2));
    assert_refused(say(world, 3, "run3", 2, "tcp:h:1"), DROVER_ECONFLICT);
    assert_refused(say(world, 2, "run2", 1, "tcp:h:1"), DROVER_ECONFLICT);
    assert_refused(say(world, 2, "run1", 2, "tcp:h:1"), DROVER_ECONFLICT);
    static const char *const uris[] = {"",        "h:1",     "tcp:",   "tcp:h",
                                       "tcp:h:0", "udp:h:1", "file:/x"};
    for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
        assert_refused(say(world, 2, "run2", 2, uris[i]), DROVER_EBADINPUT);
    }
    assert_done(say(world, 2, "run2", 2, "rdma:h:1"));
    assert_refused(say(world, 2, "run2", 2, "tcp:h:2"),
                   DROVER_ECONFLICT); /* another VMM */
}

static void test_owner_cannot_give_up_while_the_target_may_run(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_refused(world_stopped(world, 1, 1, 1, true), DROVER_EWRONGSTATE);
    assert_done(world_abort(world, 1, BY_SOURCE));
    assert_done(world_stopped(world, 1, 1, 1, true));
    assert_vm(world, 0, 1, 2, false);
}

static void test_cancel_is_a_wish(void **state)
{
    struct world *world = *state;
    assert_refused(world_cancel(world, 1), DROVER_ECONFLICT);
    begin_ready(world);
    assert_done(world_cancel(world, 1));
    assert_done(world_cancel(world, 1));
    assert_int_equal(world_event_count(world, "migration.cancel"), 1);
    assert_true(world_vm(world, 1)->migration->cancel_wanted);
    assert_done(world_migrated(world, 1)); /* came too late */
    assert_vm(world, 2, 2, 2, false);
}

static void test_nobody_else_aborts(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    Drover__MigrationAbort abort_ = DROVER__MIGRATION_ABORT__INIT;
    abort_.vm_id = 1;
    abort_.next_epoch = 2;
    abort_.host_id = 3;
    abort_.incarnation = (char *)"run3";
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_ABORT;
    command.migration_abort = &abort_;
    for (int by = 0; by <= 4; by++) {
        abort_.by = (Drover__MigrationAbortBy)by;
        int rv = world_apply(world, &command);
        assert_true(rv == DROVER_EBADINPUT);
    }
    assert_refused(world_abort(world, 1, AFTER_TARGET_DIED), DROVER_EWRONGSTATE);
    assert_vm(world, 1, 1, 2, true);
}

static void test_agents_restart_changes_nothing(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_up(world, 1, "boot1", "run1b"));
    assert_done(world_host_up(world, 2, "boot2", "run2b"));
    assert_false(world_vm(world, 1)->migration->source_dead);
    assert_false(world_vm(world, 1)->migration->target_dead);
    assert_done(world_migrated(world, 1));
    assert_vm(world, 2, 2, 2, false);
}

static void test_neither_host_is_removed_meanwhile(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_refused(world_host_remove(world, 1), DROVER_EINUSE);
    assert_refused(world_host_remove(world, 2), DROVER_EINUSE);
    assert_done(world_host_remove(world, 3));
}

/* ---- the source is lost ------------------------------------------------------------ */

static void test_dead_source_keeps_the_vm_until_the_target_speaks(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 1, LEASE));
    assert_vm(world, 1, 1, 2, true);
    assert_true(world_vm(world, 1)->migration->source_dead);
    assert_refused(world_assign(world, 1, 3), DROVER_ECONFLICT);
    assert_done(world_migrated(world, 1)); /* the go had come */
    assert_vm(world, 2, 2, 2, false);
    assert_int_equal(world_vm(world, 1)->proof_index, 0);
}

static void test_dead_source_loses_the_vm_when_the_target_never_got_it(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 1, LEASE));
    uint64_t proof_index = world->index;
    assert_done(world_abort(world, 1, BY_TARGET));
    assert_vm(world, 0, 1, 2, false);
    assert_int_equal(world_vm(world, 1)->proof_index, proof_index);
    assert_done(world_assign(world, 1, 3));
    assert_vm(world, 3, 3, 3, false);
}

static void test_source_that_came_back_reset_cannot_speak(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_up(world, 1, "boot1b", "run1b"));
    assert_true(world_vm(world, 1)->migration->source_dead);
    assert_refused(world_abort(world, 1, BY_SOURCE), DROVER_EWRONGSTATE);
    assert_refused(world_abort(world, 1, AFTER_TARGET_DIED), DROVER_EWRONGSTATE);
    assert_refused(world_stopped(world, 1, 1, 1, false), DROVER_EWRONGSTATE);
    assert_done(world_abort(world, 1, BY_TARGET));
    assert_vm(world, 1, 1, 2, false);
    assert_done(world_stopped(world, 1, 1, 1, false));
}

static void test_source_that_died_and_came_back_unharmed_may_speak(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 1, LEASE));
    assert_done(world_host_up(world, 1, "boot1", "run1"));
    assert_done(
        world_abort(world, 1, BY_SOURCE)); /* its frozen VMM knows that it sent no go */
    assert_vm(world, 1, 1, 2, false);
}

static void test_source_reset_before_anything_was_sent_may_abort(void **state)
{
    struct world *world = *state;
    assert_done(world_begin(world, 1, 2));
    assert_done(world_host_up(world, 1, "boot1b", "run1b"));
    assert_refused(world_ready(world, 1), DROVER_ECONFLICT);
    assert_done(world_abort(world, 1, BY_SOURCE));
    assert_vm(world, 1, 1, 2, false);
}

/* ---- the target is lost ------------------------------------------------------------ */

static void test_source_goes_on_when_the_target_dies_before_the_go(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 2, LEASE));
    assert_true(world_vm(world, 1)->migration->target_dead);
    assert_refused(world_migrated(world, 1), DROVER_EWRONGSTATE); /* it counts as dead */
    assert_done(world_abort(world, 1, BY_SOURCE));
    assert_vm(world, 1, 1, 2, false);
    assert_int_equal(world_vm(world, 1)->started_epoch, 1);
}

static void test_source_starts_anew_when_the_target_dies_after_the_go(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 2, LEASE));
    assert_done(world_abort(world, 1, AFTER_TARGET_DIED));
    assert_vm(world, 1, 3, 3, false); /* an epoch that neither VMM has */
    assert_int_equal(world_vm(world, 1)->started_epoch, 1);
    assert_done(world_started(world, 1, 3, 1));
}

static void test_target_that_was_reset_counts_as_lost(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_up(world, 2, "boot2b", "run2b"));
    assert_true(world_vm(world, 1)->migration->target_dead);
    assert_refused(world_migrated(world, 1), DROVER_ECONFLICT);
    assert_refused(world_abort(world, 1, BY_TARGET),
                   DROVER_EWRONGSTATE); /* it can't know */
    assert_done(world_abort(world, 1, AFTER_TARGET_DIED));
    assert_vm(world, 1, 3, 3, false);
}

static void test_target_reset_before_anything_was_sent_may_start_again(void **state)
{
    struct world *world = *state;
    assert_done(world_begin(world, 1, 2));
    assert_done(world_host_up(world, 2, "boot2b", "run2b"));
    assert_false(world_vm(world, 1)->migration->target_dead);
    assert_done(world_ready(world, 1));
    assert_done(world_migrated(world, 1));
    assert_vm(world, 2, 2, 2, false);
}

static void test_target_that_died_and_came_back_unharmed_may_say_done_first(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 2, LEASE));
    assert_done(world_host_up(world, 2, "boot2", "run2"));
    assert_true(world_vm(world, 1)->migration->target_dead);
    assert_done(world_migrated(world, 1));
    assert_vm(world, 2, 2, 2, false);
    assert_refused(world_abort(world, 1, AFTER_TARGET_DIED), DROVER_ECONFLICT);
}

static void test_target_whose_vmm_is_gone_leaves_it_to_the_source(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_abort(world, 1, UNSURE));
    assert_true(world_vm(world, 1)->migration->target_dead);
    assert_vm(world, 1, 1, 2, true);
    assert_done(world_abort(world, 1, AFTER_TARGET_DIED));
    assert_vm(world, 1, 3, 3, false);

    assert_done(world_started(world, 1, 3, 1));
    assert_done(world_begin(world, 1, 2)); /* nothing was sent yet: over at once */
    assert_done(world_abort(world, 1, UNSURE));
    assert_vm(world, 1, 3, 4, false);
}

static void test_unsure_target_of_a_dead_source_frees_the_vm(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 1, LEASE));
    uint64_t proof_index = world->index;
    assert_done(world_abort(world, 1, UNSURE));
    assert_vm(world, 0, 3, 3, false);
    assert_int_equal(world_vm(world, 1)->proof_index, proof_index);
}

int main(void)
{
#define ON_WORLD(test) cmocka_unit_test_setup_teardown(test, world_setup_vm, world_teardown)
    const struct CMUnitTest tests[] = {
        ON_WORLD(test_done_gives_the_vm_to_the_target),
        ON_WORLD(test_abort_by_source_or_target_leaves_the_vm_where_it_was),
        ON_WORLD(test_begin_is_refused_where_it_makes_no_sense),
        ON_WORLD(test_begin_for_an_old_epoch_is_refused),
        ON_WORLD(test_done_needs_a_target_that_was_ready),
        ON_WORLD(test_ready_is_for_this_target_and_epoch_only),
        ON_WORLD(test_owner_cannot_give_up_while_the_target_may_run),
        ON_WORLD(test_cancel_is_a_wish),
        ON_WORLD(test_nobody_else_aborts),
        ON_WORLD(test_agents_restart_changes_nothing),
        ON_WORLD(test_neither_host_is_removed_meanwhile),
        ON_WORLD(test_dead_source_keeps_the_vm_until_the_target_speaks),
        ON_WORLD(test_dead_source_loses_the_vm_when_the_target_never_got_it),
        ON_WORLD(test_source_that_came_back_reset_cannot_speak),
        ON_WORLD(test_source_that_died_and_came_back_unharmed_may_speak),
        ON_WORLD(test_source_reset_before_anything_was_sent_may_abort),
        ON_WORLD(test_source_goes_on_when_the_target_dies_before_the_go),
        ON_WORLD(test_source_starts_anew_when_the_target_dies_after_the_go),
        ON_WORLD(test_target_that_was_reset_counts_as_lost),
        ON_WORLD(test_target_reset_before_anything_was_sent_may_start_again),
        ON_WORLD(test_target_that_died_and_came_back_unharmed_may_say_done_first),
        ON_WORLD(test_target_whose_vmm_is_gone_leaves_it_to_the_source),
        ON_WORLD(test_unsure_target_of_a_dead_source_frees_the_vm),
    };
    return cmocka_run_group_tests_name("cluster_state_migration", tests, NULL, NULL);
}
