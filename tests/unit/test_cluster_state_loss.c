/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations that lose both hosts, and those of VMs that are not set for HA. VM 1 moves
 * from host 1 to host 2; host 3 looks on. */
#include <string.h>

#include "tests/unit/cluster_world.h"
#include "tests/unit/unit.h"

#define LEASE     DROVER__PROOF_KIND__PROOF_LEASE_WATCHDOG
#define POWER     DROVER__PROOF_KIND__PROOF_POWER_OFF
#define BY_SOURCE DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE
#define BY_TARGET DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET
#define AFTER_TARGET_DIED                                                                \
    DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE_AFTER_TARGET_DIED

static int setup_with(void **state, bool ha)
{
    static struct world world;
    world_init(&world);
    world_hosts(&world, 3);
    assert_int_equal(world_running_vm(&world, "web", 1, ha), 1);
    *state = &world;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, true);
}

static int setup_plain(void **state)
{
    return setup_with(state, false);
}

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

/* ---- both are lost ----------------------------------------------------------------- */

static void test_both_dead_frees_the_vm(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 1, POWER));
    /* The source can't be the judge of the target: it is dead itself, but a member. */
    assert_done(world_host_dead(world, 2, POWER));
    assert_vm(world, 0, 3, 3, false);
    assert_int_not_equal(world_vm(world, 1)->proof_index, 0);
    assert_done(world_assign(world, 1, 3));
    assert_vm(world, 3, 4, 4, false);
}

static void test_both_dead_the_other_way_round_frees_the_vm(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 2, POWER));
    assert_done(world_host_dead(world, 1, POWER));
    assert_vm(world, 0, 3, 3, false);
    assert_int_equal(world_vm(world, 1)->proof_index, world->index);
}

static void test_target_reset_after_the_source_died_frees_the_vm(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 1, LEASE));
    uint64_t proof_index = world->index;
    assert_done(world_host_up(world, 2, "boot2b", "run2b"));
    assert_vm(world, 0, 3, 3, false); /* nobody is left who could speak */
    assert_int_equal(world_vm(world, 1)->proof_index, proof_index);
}

static void test_source_reset_after_the_target_died_starts_anew(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 2, LEASE));
    assert_done(world_host_up(world, 1, "boot1b", "run1b"));
    assert_vm(world, 1, 1, 2, true);
    assert_refused(world_abort(world, 1, BY_SOURCE), DROVER_EWRONGSTATE);
    assert_done(world_abort(world, 1, AFTER_TARGET_DIED));
    assert_vm(world, 1, 3, 3, false);
}

/* ---- VMs that are not set for HA --------------------------------------------------- */

static void test_silence_of_a_host_says_nothing_of_a_vm_that_is_never_frozen(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 2, LEASE));
    assert_false(world_vm(world, 1)->migration->target_dead);
    assert_refused(world_abort(world, 1, AFTER_TARGET_DIED), DROVER_EWRONGSTATE);
    assert_done(world_host_dead(world, 2, POWER)); /* this one says all */
    assert_true(world_vm(world, 1)->migration->target_dead);
    assert_done(world_abort(world, 1, AFTER_TARGET_DIED));
    assert_vm(world, 1, 3, 3, false);
}

static void test_vm_without_ha_stays_with_its_dead_host(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 1, POWER));
    assert_done(world_abort(world, 1, BY_TARGET));
    assert_vm(world, 1, 1, 2, false);
    assert_non_null(strstr(world_vm(world, 1)->last_error, "not set for HA"));
}

static void test_vm_without_ha_stays_with_its_dead_host_when_both_die(void **state)
{
    struct world *world = *state;
    begin_ready(world);
    assert_done(world_host_dead(world, 1, POWER));
    assert_done(world_host_dead(world, 2, POWER));
    assert_vm(world, 1, 3, 3, false);
}

int main(void)
{
#define ON_WORLD(test) cmocka_unit_test_setup_teardown(test, setup, world_teardown)
#define WITHOUT_HA(test) cmocka_unit_test_setup_teardown(test, setup_plain, world_teardown)
    const struct CMUnitTest tests[] = {
        ON_WORLD(test_both_dead_frees_the_vm),
        ON_WORLD(test_both_dead_the_other_way_round_frees_the_vm),
        ON_WORLD(test_target_reset_after_the_source_died_frees_the_vm),
        ON_WORLD(test_source_reset_after_the_target_died_starts_anew),
        WITHOUT_HA(test_silence_of_a_host_says_nothing_of_a_vm_that_is_never_frozen),
        WITHOUT_HA(test_vm_without_ha_stays_with_its_dead_host),
        WITHOUT_HA(test_vm_without_ha_stays_with_its_dead_host_when_both_die),
    };
    return cmocka_run_group_tests_name("cluster_state_loss", tests, NULL, NULL);
}
