/* SPDX-License-Identifier: Apache-2.0 */
/* Of whom a guest still depends after a move by post-copy, and how that ends. VM 1 moves
 * from host 1 to host 2; host 3 looks on. */
#include <string.h>

#include "tests/unit/cluster_world.h"
#include "tests/unit/unit.h"

#define LEASE    DROVER__PROOF_KIND__PROOF_LEASE_WATCHDOG
#define OPERATOR DROVER__PROOF_KIND__PROOF_OPERATOR
#define KERNEL DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL
#define RELAY DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY
#define NEVER    DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NEVER
#define NOW      DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NOW

static char *run_of(const struct world *world, uint64_t host_id)
{
    const Drover__HostRecord *host = world_host(world, host_id);
    return host == NULL ? (char *)(uintptr_t) "" : host->incarnation;
}

static void begin_ready(struct world *world, Drover__MigrationPostcopy postcopy)
{
    Drover__MigrationBegin begin = DROVER__MIGRATION_BEGIN__INIT;
    begin.vm_id = 1;
    begin.expected_epoch = world_vm(world, 1)->epoch;
    begin.target_host_id = 2;
    begin.postcopy = postcopy;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_BEGIN;
    command.migration_begin = &begin;
    assert_done(world_apply(world, &command));
    assert_done(world_ready(world, 1));
}

static int done_depends(struct world *world)
{
    Drover__MigrationDone done = DROVER__MIGRATION_DONE__INIT;
    done.vm_id = 1;
    done.next_epoch = world_vm(world, 1)->migration->next_epoch;
    done.host_id = 2;
    done.incarnation = run_of(world, 2);
    done.depends = true;
    Drover__MigrationFigures figures = DROVER__MIGRATION_FIGURES__INIT;
    figures.source_encryption = RELAY;
    done.figures = &figures;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_DONE;
    command.migration_done = &done;
    return world_apply(world, &command);
}

static int complete(struct world *world, uint64_t host_id, uint64_t epoch, bool lost)
{
    Drover__MigrationFigures figures = DROVER__MIGRATION_FIGURES__INIT;
    figures.total_ms = 777;
    figures.target_encryption = KERNEL;
    Drover__MigrationComplete order = DROVER__MIGRATION_COMPLETE__INIT;
    order.vm_id = 1;
    order.epoch = epoch;
    order.host_id = host_id;
    order.incarnation = run_of(world, host_id);
    order.lost = lost;
    order.figures = lost ? NULL : &figures;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_COMPLETE;
    command.migration_complete = &order;
    return world_apply(world, &command);
}

static int source_lost(struct world *world, uint64_t host_id)
{
    Drover__MigrationSourceLost order = DROVER__MIGRATION_SOURCE_LOST__INIT;
    order.vm_id = 1;
    order.epoch = world_vm(world, 1)->epoch;
    order.host_id = host_id;
    order.incarnation = run_of(world, host_id);
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_SOURCE_LOST;
    command.migration_source_lost = &order;
    return world_apply(world, &command);
}

/* VM 1 is host 2's, and memory of it is on host 1. */
static void in_postcopy(struct world *world)
{
    begin_ready(world, NOW);
    assert_done(done_depends(world));
    const Drover__Dependence *dependence = world_vm(world, 1)->dependence;
    assert_non_null(dependence);
    assert_int_equal(dependence->host_id, 1);
    assert_int_equal(dependence->source_epoch, 1);
    assert_int_equal(dependence->epoch, 2);
    assert_false(dependence->lost);
}

static void test_complete_by_the_owner_ends_the_dependence(void **state)
{
    struct world *world = *state;
    in_postcopy(world);
    assert_int_equal(world_vm(world, 1)->owner_host_id, 2);
    assert_refused(complete(world, 1, 2, false), DROVER_ECONFLICT);
    assert_refused(complete(world, 2, 1, false), DROVER_ECONFLICT);
    assert_done(complete(world, 2, 2, false));
    assert_null(world_vm(world, 1)->dependence);
    assert_int_equal(world_vm(world, 1)->last_migration->total_ms, 777);
    assert_int_equal(world_event_count(world, "migration.complete"), 1);
    assert_refused(complete(world, 2, 2, false), DROVER_ECONFLICT);
}

/* Its figures at the end are of an agent that may have been started since. */
static void test_who_encrypted_is_not_forgotten_until_the_end(void **state)
{
    struct world *world = *state;
    in_postcopy(world);
    assert_done(complete(world, 2, 2, false));
    assert_int_equal(world_vm(world, 1)->last_migration->total_ms, 777);
    assert_int_equal(world_vm(world, 1)->last_migration->source_encryption, RELAY);
    assert_int_equal(world_vm(world, 1)->last_migration->target_encryption, KERNEL);
}

static void test_a_move_without_post_copy_leaves_no_dependence(void **state)
{
    struct world *world = *state;
    begin_ready(world, NEVER);
    assert_done(done_depends(world));
    assert_null(world_vm(world, 1)->dependence);
}

/* As that member takes it, who does not know the field. */
static void test_post_copy_is_never_while_a_member_does_not_know_it(void **state)
{
    struct world *world = *state;
    world_old_host(world, 3);
    begin_ready(world, NOW);
    assert_int_equal(world_vm(world, 1)->migration->postcopy, NEVER);
    assert_done(done_depends(world));
    assert_null(world_vm(world, 1)->dependence);
}

static void test_memory_counts_where_it_is_and_the_vm_stays_until_it_has_come(void **state)
{
    struct world *world = *state;
    in_postcopy(world);
    assert_refused(world_begin(world, 1, 3), DROVER_EINUSE);
    assert_refused(world_host_remove(world, 1), DROVER_EINUSE);
    assert_done(complete(world, 2, 2, false));
    assert_done(world_begin(world, 1, 3));
}

static void test_death_or_reset_of_the_source_is_told_and_changes_no_owner(void **state)
{
    struct world *world = *state;
    in_postcopy(world);
    assert_done(world_host_dead(world, 1, LEASE));
    assert_true(world_vm(world, 1)->dependence->lost);
    assert_int_equal(world_vm(world, 1)->owner_host_id, 2);
    assert_int_equal(world_vm(world, 1)->epoch, 2);
    assert_int_equal(world_event_count(world, "migration.source_lost"), 1);
    assert_done(complete(world, 2, 2, true));
    assert_int_equal(world_event_count(world, "migration.lost"), 1);
    assert_null(world_vm(world, 1)->dependence);
}

static void test_new_boot_of_the_source_loses_the_memory_and_a_new_agent_does_not(void **state)
{
    struct world *world = *state;
    in_postcopy(world);
    assert_done(world_host_up(world, 1, "boot1", "run1b"));
    assert_false(world_vm(world, 1)->dependence->lost);
    assert_done(world_host_up(world, 1, "boot1b", "run1c"));
    assert_true(world_vm(world, 1)->dependence->lost);
}

/* A host that is silent may still have it: only for VMs that a lease stops is that proof. */
static void test_silence_of_the_source_loses_no_memory_of_a_vm_without_ha(void **state)
{
    struct world *world = *state;
    world_done(world);
    world_init(world);
    world_hosts(world, 3);
    assert_int_equal(world_running_vm(world, "web", 1, false), 1);
    in_postcopy(world);
    assert_done(world_host_dead(world, 1, LEASE));
    assert_false(world_vm(world, 1)->dependence->lost);
    assert_done(world_host_dead(world, 1, OPERATOR));
    assert_true(world_vm(world, 1)->dependence->lost);
}

static void test_source_says_that_its_vmm_is_gone(void **state)
{
    struct world *world = *state;
    in_postcopy(world);
    assert_refused(source_lost(world, 2), DROVER_ECONFLICT);
    assert_refused(source_lost(world, 3), DROVER_ECONFLICT);
    assert_done(source_lost(world, 1));
    assert_true(world_vm(world, 1)->dependence->lost);
    assert_done(source_lost(world, 1)); /* once is enough */
    assert_int_equal(world_event_count(world, "migration.source_lost"), 1);
}

static void test_end_of_the_owners_right_ends_the_dependence(void **state)
{
    struct world *world = *state;
    in_postcopy(world);
    assert_done(world_stopped(world, 1, 2, 2, false));
    assert_null(world_vm(world, 1)->dependence);
    assert_done(world_assign(world, 1, 1));
    assert_done(world_started(world, 1, 3, 1));
    begin_ready(world, NOW);
    assert_done(done_depends(world));
    assert_non_null(world_vm(world, 1)->dependence);
    assert_done(world_host_dead(world, 2, LEASE));
    assert_int_equal(world_vm(world, 1)->owner_host_id, 0);
    assert_null(world_vm(world, 1)->dependence);
}

static void test_source_that_died_before_done_is_lost_from_the_start(void **state)
{
    struct world *world = *state;
    begin_ready(world, NOW);
    assert_done(world_host_dead(world, 1, LEASE));
    assert_done(done_depends(world));
    assert_int_equal(world_vm(world, 1)->owner_host_id, 2);
    assert_true(world_vm(world, 1)->dependence->lost);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup_vm, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_complete_by_the_owner_ends_the_dependence),
        TEST(test_who_encrypted_is_not_forgotten_until_the_end),
        TEST(test_a_move_without_post_copy_leaves_no_dependence),
        TEST(test_post_copy_is_never_while_a_member_does_not_know_it),
        TEST(test_memory_counts_where_it_is_and_the_vm_stays_until_it_has_come),
        TEST(test_death_or_reset_of_the_source_is_told_and_changes_no_owner),
        TEST(test_new_boot_of_the_source_loses_the_memory_and_a_new_agent_does_not),
        TEST(test_silence_of_the_source_loses_no_memory_of_a_vm_without_ha),
        TEST(test_source_says_that_its_vmm_is_gone),
        TEST(test_end_of_the_owners_right_ends_the_dependence),
        TEST(test_source_that_died_before_done_is_lost_from_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
