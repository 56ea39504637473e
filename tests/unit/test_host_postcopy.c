/* SPDX-License-Identifier: Apache-2.0 */
/* What both hosts of a post-copy decide (node-agent/host_postcopy.c); the host under
 * test is h1, the other one h2. */
#include <string.h>

#include "base/err.h"
#include "node-agent/host_core_private.h"
#include "tests/unit/small_cluster.h"
#include "tests/unit/unit.h"

#define SELF    1
#define OTHER   2
#define HANDED  DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER
#define RUNNING DROVER__VM_RUN_STATE__VM_RUN_RUNNING
#define MOVE(name) DROVER__VM_MIGRATION_STATE__VM_MIGRATION_##name
#define QUIT    DROVER__CONTROL_REQUEST__ORDER_QUIT
#define LINKS   DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS
#define CANCEL  DROVER__CONTROL_REQUEST__ORDER_MIGRATE_CANCEL

struct fixture {
    struct small_cluster cluster;
    struct host_core *core;
    uint64_t now_ms, sequence, proposal_id;
    unsigned starts;
    unsigned orders[32]; /* by order_case */
    Drover__MigratePostcopy ordered;
    Drover__Command__WhatCase proposed;
    bool lost, depends; /* as proposed */
};

static void start_vmm(void *owner, const Drover__VmRecord *vm, uint64_t epoch,
                      bool incoming)
{
    ((struct fixture *)owner)->starts++;
}

static void order_vmm(void *owner, uint64_t vm_id, uint64_t epoch,
                      const Drover__ControlRequest *request)
{
    struct fixture *f = owner;
    f->orders[request->order_case]++;
    if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE) {
        f->ordered = request->migrate->postcopy;
    }
}

static void send_lease_request(void *owner, const Drover__LeaseRequest *request)
{
    ((struct fixture *)owner)->sequence = request->sequence;
}

static void propose(void *owner, uint64_t proposal_id, const Drover__Command *command)
{
    struct fixture *f = owner;
    f->proposal_id = proposal_id;
    f->proposed = command->what_case;
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_COMPLETE) {
        f->lost = command->migration_complete->lost;
    } else if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_DONE) {
        f->depends = command->migration_done->depends;
    }
}

static void lease_changed(void *owner, uint64_t deadline_ns)
{
}

static void note(void *owner, const char *text)
{
    assert_non_null(text);
}

static const struct host_core_ops ops = {start_vmm, order_vmm,     send_lease_request,
                                         propose,   lease_changed, note};

static int setup(void **state)
{
    static struct fixture f;
    struct timing timing;
    f = (struct fixture){.now_ms = 100000};
    small_cluster_init(&f.cluster);
    assert_int_equal(timing_from_lease(5000, &timing, NULL), 0);
    const struct host_core_identity identity = {.host_id = SELF,
                                                .boot_id = "boot",
                                                .incarnation = "run1",
                                                .watchdog_ms = 2000,
                                                .version = "1"};
    assert_int_equal(host_core_create(&timing, &identity, &ops, &f, &f.core), 0);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    host_core_free(f->core);
    small_cluster_done(&f->cluster);
    return 0;
}

static void tick(struct fixture *f)
{
    (void)host_core_tick(f->core, f->cluster.state, f->now_ms);
}

/* Time enough for each order and statement to be repeated, within one lease. */
static void later(struct fixture *f)
{
    if (f->proposal_id != 0) {
        host_core_proposal_done(f->core, f->proposal_id, 0, "", f->now_ms);
    }
    f->proposal_id = 0;
    f->proposed = DROVER__COMMAND__WHAT__NOT_SET;
    f->now_ms += 1100;
    tick(f);
    Drover__LeaseReply reply = DROVER__LEASE_REPLY__INIT;
    reply.sequence = f->sequence;
    reply.granted = true;
    reply.required_index = f->cluster.index;
    host_core_lease_reply(f->core, &reply, f->now_ms);
    tick(f);
}

static void settle(struct fixture *f)
{
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    later(f);
}

static void says(struct fixture *f, uint64_t epoch, Drover__VmRunState run_state,
                 Drover__VmMigrationState move, bool interrupted)
{
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    Drover__VmMigrationStatus migration = DROVER__VM_MIGRATION_STATUS__INIT;
    status.vm_id = 1;
    status.epoch = epoch;
    status.run_state = run_state;
    status.incoming_uri =
        run_state == DROVER__VM_RUN_STATE__VM_RUN_INCOMING
            ? (char *)(uintptr_t)SMALL_CLUSTER_URI
            : (char *)(uintptr_t) "";
    migration.state = move;
    migration.uri = (char *)(uintptr_t)SMALL_CLUSTER_URI;
    migration.interrupted = interrupted;
    status.migration = move != MOVE(NONE) ? &migration : NULL;
    host_core_vmm_status(f->core, &status, f->now_ms);
    tick(f);
}

static void apply(struct fixture *f, const Drover__Command *command)
{
    assert_int_equal(small_cluster_apply(&f->cluster, command), 0);
}

static void begin(struct fixture *f, uint64_t target)
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

static void done(struct fixture *f, uint64_t target)
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

static void complete(struct fixture *f, uint64_t owner)
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
static void memory_lost(struct fixture *f)
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
static void as_source(struct fixture *f)
{
    assert_int_equal(small_cluster_vm(&f->cluster), 1);
    small_cluster_assign(&f->cluster, 1, SELF);
    settle(f);
    says(f, 1, RUNNING, MOVE(NONE), false);
    small_cluster_started(&f->cluster, 1);
    begin(f, OTHER);
    later(f);
    small_cluster_ready(&f->cluster, 1);
    later(f);
    assert_int_equal(f->orders[DROVER__CONTROL_REQUEST__ORDER_MIGRATE], 1);
    assert_int_equal(f->ordered, DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_NOW);
    says(f, 1, HANDED, MOVE(POSTCOPY), false);
    done(f, OTHER);
    later(f);
}

/* It came here from h2. */
static void as_owner(struct fixture *f)
{
    assert_int_equal(small_cluster_vm(&f->cluster), 1);
    small_cluster_assign(&f->cluster, 1, OTHER);
    small_cluster_started(&f->cluster, 1);
    begin(f, SELF);
    settle(f);
    says(f, 2, DROVER__VM_RUN_STATE__VM_RUN_INCOMING, MOVE(NONE), false);
    small_cluster_ready(&f->cluster, 1);
    later(f);
    says(f, 2, RUNNING, MOVE(POSTCOPY), false);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
    assert_true(f->depends);
    done(f, SELF);
    later(f);
}

/* ---- source ---------------------------------------------------------------------------- */

static void test_source_is_kept_until_all_has_gone(void **state)
{
    struct fixture *f = *state;
    as_source(f);
    later(f);
    assert_int_equal(f->orders[QUIT], 0);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    assert_int_equal(f->orders[DROVER__CONTROL_REQUEST__ORDER_RECLAIM], 0);
    says(f, 1, HANDED, MOVE(DONE), false);
    assert_int_equal(f->orders[QUIT], 1);
    /* Its end takes nothing with it. */
    host_core_vmm_gone(f->core, 1, 1, "stopped", false, f->now_ms);
    later(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
}

static void test_source_is_quit_when_the_record_needs_it_no_more(void **state)
{
    struct fixture *f = *state;
    as_source(f);
    assert_int_equal(f->orders[QUIT], 0);
    complete(f, OTHER);
    later(f);
    assert_int_equal(f->orders[QUIT], 1);
}

static void test_source_that_does_not_say_handed_over_is_not_kept(void **state)
{
    struct fixture *f = *state;
    as_source(f);
    says(f, 1, DROVER__VM_RUN_STATE__VM_RUN_FROZEN, MOVE(POSTCOPY), false);
    assert_int_equal(f->orders[QUIT], 1);
}

static void test_interrupted_source_gets_new_connections_until_it_has_one(void **state)
{
    struct fixture *f = *state;
    as_source(f);
    assert_int_equal(f->orders[LINKS], 0);
    says(f, 1, HANDED, MOVE(POSTCOPY), true);
    assert_int_equal(f->orders[LINKS], 1);
    later(f);
    assert_int_equal(f->orders[LINKS], 2);
    says(f, 1, HANDED, MOVE(POSTCOPY), false);
    later(f);
    assert_int_equal(f->orders[LINKS], 2);
    says(f, 1, HANDED, MOVE(UNKNOWN), true); /* also where DONE was lost with it */
    assert_int_equal(f->orders[LINKS], 3);
}

/* A new run of the agent finds no VMM that could have the memory. */
static void test_source_without_its_vmm_says_that_the_memory_is_lost(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(small_cluster_vm(&f->cluster), 1);
    small_cluster_assign(&f->cluster, 1, SELF);
    small_cluster_started(&f->cluster, 1);
    begin(f, OTHER);
    small_cluster_ready(&f->cluster, 1);
    done(f, OTHER);
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET); /* scan not done */
    settle(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_SOURCE_LOST);
    assert_int_equal(f->starts, 0);
}

static void test_new_agent_of_the_source_keeps_the_vmm_it_finds(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(small_cluster_vm(&f->cluster), 1);
    small_cluster_assign(&f->cluster, 1, SELF);
    small_cluster_started(&f->cluster, 1);
    begin(f, OTHER);
    small_cluster_ready(&f->cluster, 1);
    done(f, OTHER);
    says(f, 1, HANDED, MOVE(POSTCOPY), true);
    settle(f);
    assert_int_equal(f->orders[QUIT], 0);
    assert_int_equal(f->orders[LINKS], 1);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
}

/* ---- owner ----------------------------------------------------------------------------- */

static void test_owner_states_complete_when_all_has_come(void **state)
{
    struct fixture *f = *state;
    as_owner(f);
    later(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    says(f, 2, RUNNING, MOVE(DONE), false);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_COMPLETE);
    assert_false(f->lost);
}

static void test_owner_gives_up_only_what_is_interrupted_and_lost_for_good(void **state)
{
    struct fixture *f = *state;
    as_owner(f);
    says(f, 2, RUNNING, MOVE(POSTCOPY), true);
    later(f);
    assert_int_equal(f->orders[CANCEL], 0); /* the link may come back */
    says(f, 2, RUNNING, MOVE(POSTCOPY), false);
    memory_lost(f);
    later(f);
    assert_int_equal(f->orders[CANCEL], 0); /* it still comes */
    says(f, 2, RUNNING, MOVE(POSTCOPY), true);
    assert_int_equal(f->orders[CANCEL], 1);
}

static void test_lost_guest_starts_again_like_one_that_crashed(void **state)
{
    struct fixture *f = *state;
    as_owner(f);
    memory_lost(f);
    says(f, 2, RUNNING, MOVE(POSTCOPY), true);
    unsigned before = f->starts;
    says(f, 2, DROVER__VM_RUN_STATE__VM_RUN_STOPPED, MOVE(FAILED), false);
    host_core_vmm_gone(f->core, 1, 2, "the source is gone", false, f->now_ms);
    later(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_COMPLETE);
    assert_true(f->lost);
    assert_int_equal(f->starts, before + 1);
}

static void test_new_agent_of_the_owner_tells_a_vmm_that_was_started_since(void **state)
{
    struct fixture *f = *state;
    as_owner(f);
    says(f, 2, RUNNING, MOVE(NONE), false);
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
        assert_int_equal(i == 0 ? 0 : setup(state), 0);
        struct fixture *f = *state;
        assert_int_equal(small_cluster_vm(&f->cluster), 1);
        small_cluster_assign(&f->cluster, 1, OTHER);
        small_cluster_started(&f->cluster, 1);
        begin(f, SELF);
        settle(f);
        says(f, 2, DROVER__VM_RUN_STATE__VM_RUN_INCOMING, MOVE(NONE), false);
        small_cluster_ready(&f->cluster, 1);
        later(f);
        says(f, 2, states[i], MOVE(POSTCOPY), false);
        assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
        assert_int_equal(f->orders[QUIT], 0);
        /* Lost after that, and gone: nobody says that it never came. */
        host_core_vmm_gone(f->core, 1, 2, "lost", false, f->now_ms);
        later(f);
        assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
        assert_false(f->depends);
        assert_int_equal(i + 1 == sizeof(states) / sizeof(states[0]) ? 0 : teardown(state),
                         0);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_source_is_kept_until_all_has_gone),
        TEST(test_source_is_quit_when_the_record_needs_it_no_more),
        TEST(test_source_that_does_not_say_handed_over_is_not_kept),
        TEST(test_interrupted_source_gets_new_connections_until_it_has_one),
        TEST(test_source_without_its_vmm_says_that_the_memory_is_lost),
        TEST(test_new_agent_of_the_source_keeps_the_vmm_it_finds),
        TEST(test_owner_states_complete_when_all_has_come),
        TEST(test_owner_gives_up_only_what_is_interrupted_and_lost_for_good),
        TEST(test_lost_guest_starts_again_like_one_that_crashed),
        TEST(test_new_agent_of_the_owner_tells_a_vmm_that_was_started_since),
        TEST(test_target_in_post_copy_has_the_guest_in_each_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
