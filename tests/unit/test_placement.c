/* SPDX-License-Identifier: Apache-2.0 */
/* Which host a VM is placed on. */
#include <string.h>

#include "tests/unit/cluster_world.h"
#include "tests/unit/unit.h"

#include "consensus/placement.h"

struct leases {
    uint64_t without_id; /* the host that has none */
};

static bool usable(const void *owner, uint64_t host_id)
{
    const struct leases *leases = owner;
    return host_id != leases->without_id;
}

static int setup(void **state)
{
    static struct world world;
    world_init(&world);
    world_hosts(&world, 3);
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    world_done(*state);
    return 0;
}

static const Drover__VmRecord *vm_of(uint64_t memory_bytes)
{
    static Drover__VmSpec spec;
    static Drover__VmRecord vm;
    drover__vm_spec__init(&spec);
    spec.name = (char *)"new";
    spec.memory_bytes = memory_bytes;
    drover__vm_record__init(&vm);
    vm.spec = &spec;
    return &vm;
}

static uint64_t choose(const struct world *world, uint64_t memory_mib, uint64_t except_id,
                       uint64_t without_lease_id, struct error *err)
{
    struct leases leases = {.without_id = without_lease_id};
    struct placement_view view = {.usable = usable, .owner = &leases};
    return placement_choose(world->state, &view, vm_of(memory_mib * MIB), except_id,
                            err);
}

static void test_host_with_most_memory_left_is_chosen(void **state)
{
    struct world *world = *state;
    struct error err = {0};
    assert_int_equal(choose(world, 128, 0, 0, &err), 1); /* all equal: the lowest id */
    (void)world_running_vm(world, "a", 1, true);
    assert_int_equal(choose(world, 128, 0, 0, &err), 2);
    (void)world_running_vm(world, "b", 2, true);
    assert_int_equal(choose(world, 128, 0, 0, &err), 3);
    assert_int_equal(choose(world, 128, 3, 0, &err), 1);
}

static void test_arriving_vm_counts_on_its_target_too(void **state)
{
    struct world *world = *state;
    struct error err = {0};
    (void)world_running_vm(world, "a", 1, true);
    assert_done(world_begin(world, 1, 2));
    assert_int_equal(choose(world, 128, 0, 0, &err), 3);
    assert_int_equal(choose(world, 1024, 3, 0, &err), 0);
}

static void test_unfit_hosts_are_passed_over(void **state)
{
    struct world *world = *state;
    struct error err = {0};
    assert_int_equal(choose(world, 128, 0, 1, &err), 2); /* no lease */
    assert_done(world_host_drain(world, 2, true));
    assert_int_equal(choose(world, 128, 0, 1, &err), 3);
    assert_done(world_host_dead(world, 3, DROVER__PROOF_KIND__PROOF_POWER_OFF));
    assert_int_equal(choose(world, 128, 0, 1, &err), 0);
    assert_int_equal(err.code, DROVER_ENOCAPACITY);
    assert_non_null(strstr(err.text, "drover node list"));
}

static void test_too_large_vm_is_told_what_there_is(void **state)
{
    struct world *world = *state;
    struct error err = {0};
    assert_int_equal(choose(world, 1024, 0, 0, &err), 1);
    assert_int_equal(choose(world, 1025, 0, 0, &err), 0);
    assert_int_equal(err.code, DROVER_ENOCAPACITY);
    assert_non_null(strstr(err.text, "1024 MiB"));
}

static void test_given_host_is_checked_with_the_reason(void **state)
{
    struct world *world = *state;
    struct leases leases = {.without_id = 2};
    struct placement_view view = {.usable = usable, .owner = &leases};
    struct error err = {0};
    const Drover__VmRecord *vm = vm_of(128 * MIB);
    assert_int_equal(placement_check(world->state, &view, vm, 1, &err), 0);
    assert_int_equal(placement_check(world->state, &view, vm, 2, &err),
                     DROVER_EWRONGSTATE);
    assert_non_null(strstr(err.text, "lease"));
    assert_int_equal(placement_check(world->state, &view, vm, 9, &err),
                     DROVER_EWRONGSTATE);
    assert_done(world_host_drain(world, 3, true));
    assert_int_equal(placement_check(world->state, &view, vm, 3, &err),
                     DROVER_EWRONGSTATE);
    assert_non_null(strstr(err.text, "drained"));
    assert_int_equal(placement_check(world->state, &view, vm_of(2048 * MIB), 1, &err),
                     DROVER_ENOCAPACITY);
}

/* The host says what it offers. */
static void host_offers(struct world *world, uint64_t host_id, uint32_t newest)
{
    const Drover__HostRecord *host = cluster_state_host(world->state, host_id);
    Drover__HostUp up = DROVER__HOST_UP__INIT;
    up.host_id = host_id;
    up.boot_id = host->boot_id;
    up.incarnation = (char *)"again";
    up.memory_bytes = host->memory_bytes;
    up.cpus = host->cpus;
    up.watchdog_ms = host->watchdog_ms;
    up.version = host->version;
    up.machine_newest = newest;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_UP;
    command.host_up = &up;
    assert_done(world_apply(world, &command));
}

static void test_machine_is_one_that_all_hosts_offer(void **state)
{
    struct world *world = *state;
    struct leases leases = {0};
    struct placement_view view = {.usable = usable, .owner = &leases};
    struct error err = {0};
    Drover__VmRecord vm = *vm_of(128 * MIB);
    Drover__VmSpec spec = *vm.spec;
    vm.spec = &spec;
    host_offers(world, 1, 2);
    host_offers(world, 2, 0); /* of a release that knew only 1 */
    host_offers(world, 3, 2);
    assert_int_equal(placement_machine(world->state, &vm), 1);
    /* Unless it needs more: then the older host is none for it. */
    spec.firmware = (char *)"uefi";
    assert_int_equal(placement_machine(world->state, &vm), 2);
    assert_int_equal(placement_check(world->state, &view, &vm, 2, &err),
                     DROVER_EWRONGSTATE);
    assert_non_null(strstr(err.text, "machine of version 2"));
    assert_int_equal(placement_choose(world->state, &view, &vm, 1, &err), 3);
    /* What it has it keeps as long as it has an owner. */
    spec.firmware = (char *)"";
    host_offers(world, 2, 2);
    vm.owner_host_id = 1;
    vm.machine = 1;
    assert_int_equal(placement_machine(world->state, &vm), 1);
    vm.owner_host_id = 0;
    assert_int_equal(placement_machine(world->state, &vm), 2);
}

static void test_witness_runs_no_vm(void **state)
{
    struct world *world = *state;
    Drover__HostAdd add = DROVER__HOST_ADD__INIT;
    uint8_t secret[32] = "secret of w";
    assert_done(world_token(world, "w", world->now_unix_ms + 1000));
    add.token_id = (char *)"w";
    add.secret_sha256 = (ProtobufCBinaryData){.data = secret, .len = sizeof(secret)};
    add.name = (char *)"witness";
    add.address = (char *)"10.0.0.9:7000";
    add.witness = true;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_ADD;
    command.host_add = &add;
    assert_done(world_apply(world, &command));
    assert_done(world_host_up(world, 4, "boot4", "run4"));
    struct error err = {0};
    (void)world_running_vm(world, "a", 1, true);
    (void)world_running_vm(world, "b", 2, true);
    (void)world_running_vm(world, "c", 3, true);
    assert_int_equal(choose(world, 128, 0, 0, &err), 1);
    assert_done(world_vm_create(world, "d", NULL, true));
    assert_refused(world_assign(world, 4, 4), DROVER_EWRONGSTATE);
}

int main(void)
{
#define ON_WORLD(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        ON_WORLD(test_machine_is_one_that_all_hosts_offer),
        ON_WORLD(test_host_with_most_memory_left_is_chosen),
        ON_WORLD(test_arriving_vm_counts_on_its_target_too),
        ON_WORLD(test_unfit_hosts_are_passed_over),
        ON_WORLD(test_too_large_vm_is_told_what_there_is),
        ON_WORLD(test_given_host_is_checked_with_the_reason),
        ON_WORLD(test_witness_runs_no_vm),
    };
    return cmocka_run_group_tests_name("placement", tests, NULL, NULL);
}
