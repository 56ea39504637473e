/* SPDX-License-Identifier: Apache-2.0 */
/* What both hosts of a post-copy decide (node-agent/host_postcopy.c); the host under
 * test is h1, the other one h2. */
#include "base/clock.h"
#include "base/err.h"
#include "tests/unit/host_fixture.h"
#include "tests/unit/unit.h"

#define OTHER      2
#define HANDED     DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER
#define RUNNING    DROVER__VM_RUN_STATE__VM_RUN_RUNNING
#define MOVE(name) DROVER__VM_MIGRATION_STATE__VM_MIGRATION_##name
#define QUIT       DROVER__CONTROL_REQUEST__ORDER_QUIT
#define LINKS      DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS
#define CANCEL     DROVER__CONTROL_REQUEST__ORDER_MIGRATE_CANCEL

/* Time enough for each order and statement to be repeated, within one lease. */
static void later(struct host_fixture *f)
{
    if (f->proposal_id != 0) {
        host_core_proposal_done(f->core, f->proposal_id, 0, "", f->now_ms);
    }
    f->proposal_id = 0;
    f->proposed = DROVER__COMMAND__WHAT__NOT_SET;
    f->now_ms += 1100;
    tick(f);
    grant(f, f->cluster.index);
}

static void settled(struct host_fixture *f)
{
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    later(f);
}

/* The VMM of VM 1 under `epoch`. */
static void says_of(struct host_fixture *f, uint64_t epoch, Drover__VmRunState run_state,
                    Drover__VmMigrationState move, bool interrupted)
{
    f->says_interrupted = interrupted;
    says_move(f, 1, epoch, run_state, move);
}

static void apply(struct host_fixture *f, const Drover__Command *command)
{
    assert_int_equal(small_cluster_apply(&f->cluster, command), 0);
}

static void begin(struct host_fixture *f, uint64_t target)
{
    Drover__MigrationBegin order = DROVER__MIGRATION_BEGIN__INIT;
    order.vm_id = 1;
    order.expected_epoch = 1;
    order.target_host_id = target;
    order.postcopy = DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NOW;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_BEGIN;
    command.migration_begin = &order;
    apply(f, &command);
}

static void done(struct host_fixture *f, uint64_t target)
{
    Drover__MigrationDone order = DROVER__MIGRATION_DONE__INIT;
    order.vm_id = 1;
    order.next_epoch = 2;
    order.host_id = target;
    order.incarnation = (char *)(uintptr_t) "run1";
    order.depends = true;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_DONE;
    command.migration_done = &order;
    apply(f, &command);
}

static void complete(struct host_fixture *f, uint64_t owner)
{
    Drover__MigrationComplete order = DROVER__MIGRATION_COMPLETE__INIT;
    order.vm_id = 1;
    order.epoch = 2;
    order.host_id = owner;
    order.incarnation = (char *)(uintptr_t) "run1";
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_COMPLETE;
    command.migration_complete = &order;
    apply(f, &command);
}

/* h2's VMM with the memory is gone, says h2. */
static void memory_lost(struct host_fixture *f)
{
    Drover__MigrationSourceLost order = DROVER__MIGRATION_SOURCE_LOST__INIT;
    order.vm_id = 1;
    order.epoch = 2;
    order.host_id = OTHER;
    order.incarnation = (char *)(uintptr_t) "run1";
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_SOURCE_LOST;
    command.migration_source_lost = &order;
    apply(f, &command);
}

/* VM 1 went from here to h2, which needs memory of it that is here. */
static void as_source(struct host_fixture *f)
{
    assert_int_equal(small_cluster_vm(&f->cluster), 1);
    small_cluster_assign(&f->cluster, 1, HOST_SELF);
    settled(f);
    says_of(f, 1, RUNNING, MOVE(NONE), false);
    small_cluster_started(&f->cluster, 1);
    begin(f, OTHER);
    later(f);
    small_cluster_ready(&f->cluster, 1);
    later(f);
    assert_int_equal(f->orders[DROVER__CONTROL_REQUEST__ORDER_MIGRATE], 1);
    assert_int_equal(f->postcopy, DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_NOW);
    says_of(f, 1, HANDED, MOVE(POSTCOPY), false);
    done(f, OTHER);
    later(f);
}

/* It came here from h2. */
static void as_owner(struct host_fixture *f)
{
    assert_int_equal(small_cluster_vm(&f->cluster), 1);
    small_cluster_assign(&f->cluster, 1, OTHER);
    small_cluster_started(&f->cluster, 1);
    begin(f, HOST_SELF);
    settled(f);
    says_of(f, 2, DROVER__VM_RUN_STATE__VM_RUN_INCOMING, MOVE(NONE), false);
    small_cluster_ready(&f->cluster, 1);
    later(f);
    says_of(f, 2, RUNNING, MOVE(POSTCOPY), false);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
    assert_true(f->depends);
    done(f, HOST_SELF);
    later(f);
}

/* ---- source
 * ---------------------------------------------------------------------------- */

static void test_source_is_kept_until_all_has_gone(void **state)
{
    struct host_fixture *f = *state;
    as_source(f);
    later(f);
    assert_int_equal(f->orders[QUIT], 0);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    assert_int_equal(f->orders[DROVER__CONTROL_REQUEST__ORDER_RECLAIM], 0);
    says_of(f, 1, HANDED, MOVE(DONE), false);
    assert_int_equal(f->orders[QUIT], 1);
    /* Its end takes nothing with it. */
    host_core_vmm_gone(f->core, 1, 1, "stopped", false, f->now_ms);
    later(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
}

static void test_source_is_quit_when_the_record_needs_it_no_more(void **state)
{
    struct host_fixture *f = *state;
    as_source(f);
    assert_int_equal(f->orders[QUIT], 0);
    complete(f, OTHER);
    later(f);
    assert_int_equal(f->orders[QUIT], 1);
}

static void test_source_that_does_not_say_handed_over_is_not_kept(void **state)
{
    struct host_fixture *f = *state;
    as_source(f);
    says_of(f, 1, DROVER__VM_RUN_STATE__VM_RUN_FROZEN, MOVE(POSTCOPY), false);
    assert_int_equal(f->orders[QUIT], 1);
}

static void test_interrupted_source_gets_new_connections_until_it_has_one(void **state)
{
    struct host_fixture *f = *state;
    as_source(f);
    assert_int_equal(f->orders[LINKS], 0);
    says_of(f, 1, HANDED, MOVE(POSTCOPY), true);
    assert_int_equal(f->orders[LINKS], 1);
    later(f);
    assert_int_equal(f->orders[LINKS], 2);
    says_of(f, 1, HANDED, MOVE(POSTCOPY), false);
    later(f);
    assert_int_equal(f->orders[LINKS], 2);
    says_of(f, 1, HANDED, MOVE(UNKNOWN), true); /* also where DONE was lost with it */
    assert_int_equal(f->orders[LINKS], 3);
}

/* A new run of the agent finds no VMM that could have the memory. */
static void test_source_without_its_vmm_says_that_the_memory_is_lost(void **state)
{
    struct host_fixture *f = *state;
    assert_int_equal(small_cluster_vm(&f->cluster), 1);
    small_cluster_assign(&f->cluster, 1, HOST_SELF);
    small_cluster_started(&f->cluster, 1);
    begin(f, OTHER);
    small_cluster_ready(&f->cluster, 1);
    done(f, OTHER);
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET); /* scan not done */
    settled(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_SOURCE_LOST);
    assert_int_equal(f->starts, 0);
}

static void test_new_agent_of_the_source_keeps_the_vmm_it_finds(void **state)
{
    struct host_fixture *f = *state;
    assert_int_equal(small_cluster_vm(&f->cluster), 1);
    small_cluster_assign(&f->cluster, 1, HOST_SELF);
    small_cluster_started(&f->cluster, 1);
    begin(f, OTHER);
    small_cluster_ready(&f->cluster, 1);
    done(f, OTHER);
    says_of(f, 1, HANDED, MOVE(POSTCOPY), true);
    settled(f);
    assert_int_equal(f->orders[QUIT], 0);
    assert_int_equal(f->orders[LINKS], 1);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
}

/* ---- owner
 * ----------------------------------------------------------------------------- */

static void test_owner_states_complete_when_all_has_come(void **state)
{
    struct host_fixture *f = *state;
    as_owner(f);
    later(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    says_of(f, 2, RUNNING, MOVE(DONE), false);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_COMPLETE);
    assert_false(f->lost);
}

static void test_owner_gives_up_only_what_is_interrupted_and_lost_for_good(void **state)
{
    struct host_fixture *f = *state;
    as_owner(f);
    says_of(f, 2, RUNNING, MOVE(POSTCOPY), true);
    later(f);
    assert_int_equal(f->orders[CANCEL], 0); /* the link may come back */
    says_of(f, 2, RUNNING, MOVE(POSTCOPY), false);
    memory_lost(f);
    later(f);
    assert_int_equal(f->orders[CANCEL], 0); /* it still comes */
    says_of(f, 2, RUNNING, MOVE(POSTCOPY), true);
    assert_int_equal(f->orders[CANCEL], 1);
}

static void pass(struct host_fixture *f, unsigned seconds)
{
    for (uint64_t end_ms = f->now_ms + seconds * MS_PER_S; f->now_ms < end_ms;) {
        later(f);
    }
}

static void test_vmm_that_does_not_give_its_guest_up_is_told_to_end(void **state)
{
    struct host_fixture *f = *state;
    as_owner(f);
    memory_lost(f);
    says_of(f, 2, RUNNING, MOVE(POSTCOPY), true);
    pass(f, 8);
    assert_true(f->orders[CANCEL] > 1);
    assert_int_equal(f->orders[QUIT], 0);
    pass(f, 4);
    assert_true(f->orders[QUIT] > 0);
}

static void test_vmm_that_never_sees_its_connection_lost_is_told_to_end_too(void **state)
{
    struct host_fixture *f = *state;
    as_owner(f);
    for (unsigned i = 0; i < 60; i++) {
        says_of(f, 2, RUNNING, MOVE(POSTCOPY), false);
        later(f);
    }
    assert_int_equal(f->orders[CANCEL], 0); /* the memory is there, it only takes time */
    memory_lost(f);
    for (unsigned i = 0; i < 25; i++) {
        says_of(f, 2, RUNNING, MOVE(POSTCOPY), false);
        later(f);
    }
    assert_int_equal(f->orders[CANCEL] + f->orders[QUIT], 0);
    for (unsigned i = 0; i < 15; i++) {
        says_of(f, 2, RUNNING, MOVE(POSTCOPY), false);
        later(f);
    }
    assert_true(f->orders[CANCEL] > 0);
    assert_true(f->orders[QUIT] > 0);
}

static void test_lost_guest_starts_again_like_one_that_crashed(void **state)
{
    struct host_fixture *f = *state;
    as_owner(f);
    memory_lost(f);
    says_of(f, 2, RUNNING, MOVE(POSTCOPY), true);
    unsigned before = f->starts;
    says_of(f, 2, DROVER__VM_RUN_STATE__VM_RUN_STOPPED, MOVE(FAILED), false);
    host_core_vmm_gone(f->core, 1, 2, "the source is gone", false, f->now_ms);
    later(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_COMPLETE);
    assert_true(f->lost);
    assert_int_equal(f->starts, before + 1);
}

static void test_new_agent_of_the_owner_tells_a_vmm_that_was_started_since(void **state)
{
    struct host_fixture *f = *state;
    as_owner(f);
    says_of(f, 2, RUNNING, MOVE(NONE), false);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_COMPLETE);
    assert_true(f->lost);
}

/* Whatever else becomes of a target in post-copy, it has had the guest. */
static void test_target_in_post_copy_has_the_guest_in_each_state(void **state)
{
    static const Drover__VmRunState states[] = {
        RUNNING,
        DROVER__VM_RUN_STATE__VM_RUN_PAUSED,
        DROVER__VM_RUN_STATE__VM_RUN_FROZEN,
        DROVER__VM_RUN_STATE__VM_RUN_FREEZING,
        DROVER__VM_RUN_STATE__VM_RUN_STOPPED,
        DROVER__VM_RUN_STATE__VM_RUN_FAILED,
    };
    for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        assert_int_equal(i == 0 ? 0 : host_fixture_setup(state), 0);
        struct host_fixture *f = *state;
        assert_int_equal(small_cluster_vm(&f->cluster), 1);
        small_cluster_assign(&f->cluster, 1, OTHER);
        small_cluster_started(&f->cluster, 1);
        begin(f, HOST_SELF);
        settled(f);
        says_of(f, 2, DROVER__VM_RUN_STATE__VM_RUN_INCOMING, MOVE(NONE), false);
        small_cluster_ready(&f->cluster, 1);
        later(f);
        says_of(f, 2, states[i], MOVE(POSTCOPY), false);
        assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
        assert_int_equal(f->orders[QUIT], 0);
        /* Lost after that, and gone: nobody says that it never came. */
        host_core_vmm_gone(f->core, 1, 2, "lost", false, f->now_ms);
        later(f);
        assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
        assert_false(f->depends);
        assert_int_equal(i + 1 == sizeof(states) / sizeof(states[0])
                             ? 0
                             : host_fixture_teardown(state),
                         0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOST_TEST(test_source_is_kept_until_all_has_gone),
        HOST_TEST(test_source_is_quit_when_the_record_needs_it_no_more),
        HOST_TEST(test_source_that_does_not_say_handed_over_is_not_kept),
        HOST_TEST(test_interrupted_source_gets_new_connections_until_it_has_one),
        HOST_TEST(test_source_without_its_vmm_says_that_the_memory_is_lost),
        HOST_TEST(test_new_agent_of_the_source_keeps_the_vmm_it_finds),
        HOST_TEST(test_owner_states_complete_when_all_has_come),
        HOST_TEST(test_owner_gives_up_only_what_is_interrupted_and_lost_for_good),
        HOST_TEST(test_vmm_that_does_not_give_its_guest_up_is_told_to_end),
        HOST_TEST(test_vmm_that_never_sees_its_connection_lost_is_told_to_end_too),
        HOST_TEST(test_lost_guest_starts_again_like_one_that_crashed),
        HOST_TEST(test_new_agent_of_the_owner_tells_a_vmm_that_was_started_since),
        HOST_TEST(test_target_in_post_copy_has_the_guest_in_each_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
