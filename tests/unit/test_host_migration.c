/* SPDX-License-Identifier: Apache-2.0 */
/* What either host of a move decides (node-agent/host_migration.c), each rule by a test
 * that names it; the host under test is h1. */
#include "node-agent/host_core.h"

#include "base/err.h"
#include "tests/unit/host_fixture.h"
#include "tests/unit/unit.h"

#define UNKNOWN DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_UNKNOWN
#define KERNEL  DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL
#define RELAY   DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY

/* VM 1, here under epoch 1, on its way to h2 under epoch 2; READY was seen after BEGUN.
 */
static uint64_t source(struct host_fixture *f)
{
    uint64_t vm = running_vm(f);
    small_cluster_migrate(&f->cluster, vm, 2);
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE, 0);
    small_cluster_ready(&f->cluster, vm);
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE, 1);
    f->proposed = DROVER__COMMAND__WHAT__NOT_SET;
    return vm;
}

static void test_source_orders_once_and_states_a_failure_before_the_go(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = source(f);
    f->now_ms += 2000;
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE, 1);
    says_move(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_ABORT);
    assert_int_equal(f->abort_by, DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE);
}

/* A host that is a moment behind may get both entries of the log at once, or its lease
 * after them. */
static void test_source_that_learns_late_of_its_move_sends_all_the_same(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = running_vm(f);
    small_cluster_migrate(&f->cluster, vm, 2);
    small_cluster_ready(&f->cluster, vm);
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE, 1);
}

static void test_failure_of_the_move_before_is_not_this_ones(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = source(f);
    says_move_of(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
                 DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED, 1);
    f->now_ms += 1000;
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    says_move_of(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
                 DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED, 2);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_ABORT);
}

static void
test_move_whose_order_was_never_given_is_given_up_with_the_reason(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = source(f);
    host_core_move_unsent(f->core, vm, 1, "of another move", f->now_ms);
    f->now_ms += 100;
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    host_core_move_unsent(f->core, vm, 2, "no connection", f->now_ms);
    f->now_ms += 100;
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_ABORT);
    assert_int_equal(f->abort_by, DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE);
    f->now_ms += 5000;
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE, 1);
}

static void moves_on(struct host_fixture *f, uint64_t vm)
{
    says_move(f, vm, cluster_state_vm(f->cluster.state, vm)->epoch,
              DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY);
}

static void test_source_is_told_of_rdma_only_if_it_was_asked_for(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = source(f);
    assert_string_equal(f->rdma, "");
    f->says_notice = "of no interest";
    moves_on(f, vm);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
}

static void test_source_tries_rdma_and_tells_of_its_fallback(void **state)
{
    struct host_fixture *f = *state;
    small_cluster_rdma(&f->cluster);
    uint64_t vm = source(f);
    assert_string_equal(f->rdma, SMALL_CLUSTER_RDMA);
    moves_on(f, vm);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET); /* all is well */
    f->says_notice = "over TCP: no device";
    moves_on(f, vm);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_NOTICE);
    assert_string_equal(f->notice, "over TCP: no device");
}

static void test_moves_share_the_bandwidth_of_their_host(void **state)
{
    struct host_fixture *f = *state;
    uint64_t first = source(f);
    assert_int_equal(f->bandwidth[first], HOST_BANDWIDTH);
    moves_on(f, first);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT, 0);

    uint64_t second = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, second, HOST_SELF);
    renew(f, f->cluster.index);
    says(f, second, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    small_cluster_started(&f->cluster, second);
    proposal_ends(f, 0);
    small_cluster_migrate(&f->cluster, second, 2);
    tick(f);
    small_cluster_ready(&f->cluster, second);
    tick(f);
    assert_int_equal(f->bandwidth[second], HOST_BANDWIDTH / 2);
    moves_on(f, first);
    assert_int_equal(f->bandwidth[first], HOST_BANDWIDTH / 2);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT, 1);

    /* The second one fails: the first has the link for itself again. */
    Drover__MigrationAbort abort = DROVER__MIGRATION_ABORT__INIT;
    abort.vm_id = second;
    abort.next_epoch = 2;
    abort.host_id = HOST_SELF;
    abort.incarnation = (char *)(uintptr_t) "run1";
    abort.by = DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_ABORT;
    command.migration_abort = &abort;
    assert_int_equal(small_cluster_apply(&f->cluster, &command), 0);
    f->now_ms += 2000;
    moves_on(f, first);
    assert_int_equal(f->bandwidth[first], HOST_BANDWIDTH);
}

static void test_source_that_handed_over_waits_for_the_target(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = source(f);
    says_move(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN);
    f->now_ms += 2000;
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_RECLAIM, 0);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 0);
    host_core_vmm_gone(f->core, vm, 1, "killed", false, f->now_ms);
    f->now_ms += 2000;
    tick(f);
    assert_int_equal(f->starts, 1); /* the first one: it is not started again */
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
}

static void target_says(struct host_fixture *f, uint64_t vm, Drover__MigrationAbortBy by)
{
    Drover__MigrationAbort abort = DROVER__MIGRATION_ABORT__INIT;
    abort.vm_id = vm;
    abort.next_epoch = 2;
    abort.host_id = 2;
    abort.incarnation = (char *)(uintptr_t) "run1";
    abort.by = by;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_ABORT;
    command.migration_abort = &abort;
    assert_int_equal(small_cluster_apply(&f->cluster, &command), 0);
    tick(f);
}

static void test_source_reclaims_on_the_targets_word_only(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = source(f);
    says_move(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_RECLAIM, 0);
    target_says(f, vm, DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_RECLAIM, 1);
}

static void test_source_starts_anew_when_the_target_is_lost_after_the_go(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = source(f);
    says_move(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN);
    target_says(f, vm, DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_RECLAIM, 0);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 1);
    assert_int_equal(f->proposed,
                     DROVER__COMMAND__WHAT__NOT_SET); /* not before it is gone */
    host_core_vmm_gone(f->core, vm, 1, "stopped", false, f->now_ms);
    tick(f);
    assert_int_equal(
        f->abort_by,
        DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE_AFTER_TARGET_DIED);
}

/* VM 1 comes here from h2 under epoch 2. */
static uint64_t target(struct host_fixture *f)
{
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, 2);
    small_cluster_migrate(&f->cluster, vm, HOST_SELF);
    settle(f);
    assert_int_equal(f->incoming, 1);
    assert_int_equal(f->started_epoch, 2);
    says(f, vm, 2, DROVER__VM_RUN_STATE__VM_RUN_INCOMING);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_READY);
    small_cluster_ready(&f->cluster, vm);
    proposal_ends(f, 0);
    return vm;
}

static void test_target_tells_where_it_takes_rdma_or_why_not(void **state)
{
    struct host_fixture *f = *state;
    small_cluster_rdma(&f->cluster);
    f->says_rdma = "10.1.0.1:4000";
    (void)target(f);
    assert_string_equal(f->rdma, "10.1.0.1:4000");
    assert_string_equal(f->notice, "");
}

static void test_target_with_the_guest_states_done(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = target(f);
    says_move(f, vm, 2, DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
    /* It crashes: it is still the one that has the guest. */
    host_core_vmm_gone(f->core, vm, 2, "killed", false, f->now_ms);
    proposal_ends(f, DROVER_ENOLEADER);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
}

/* The connections of one move: who encrypts at the source, and here. */
static void assert_states_encryption(void **state, unsigned count,
                                     const Drover__MoveEncryption connections[][2],
                                     Drover__MoveEncryption source,
                                     Drover__MoveEncryption target_)
{
    struct host_fixture *f = *state;
    uint64_t vm = target(f);
    for (unsigned i = 0; i < count; i++) {
        host_core_move_encrypted(f->core, vm, 2, connections[i][0], connections[i][1]);
    }
    host_core_move_encrypted(f->core, vm, 7, RELAY, RELAY); /* of no VMM here */
    says_move(f, vm, 2, DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
    assert_int_equal(f->source_encryption, source);
    assert_int_equal(f->target_encryption, target_);
}

static void test_target_states_who_encrypted_and_a_relay_counts_for_all(void **state)
{
    static const Drover__MoveEncryption connections[][2] = {
        {KERNEL, KERNEL}, {KERNEL, RELAY}, {KERNEL, KERNEL}};
    assert_states_encryption(state, 3, connections, KERNEL, RELAY);
}

static void
test_target_states_only_of_itself_what_an_older_source_does_not_tell(void **state)
{
    static const Drover__MoveEncryption connections[][2] = {
        {UNKNOWN, KERNEL}, {(Drover__MoveEncryption)9, KERNEL}};
    assert_states_encryption(state, 2, connections, UNKNOWN, KERNEL);
}

static void
test_target_that_was_started_since_does_not_claim_to_know_who_encrypted(void **state)
{
    assert_states_encryption(state, 0, NULL, UNKNOWN, UNKNOWN);
}

static void test_target_that_failed_before_the_go_states_it_when_gone(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = target(f);
    says_move(f, vm, 2, DROVER__VM_RUN_STATE__VM_RUN_FAILED,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 1);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    host_core_vmm_gone(f->core, vm, 2, "failed", false, f->now_ms);
    tick(f);
    assert_int_equal(f->abort_by, DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET);
    assert_int_equal(f->starts, 1);
}

static void test_target_whose_guest_failed_after_the_go_states_done(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = target(f);
    /* The processor refuses the first entry before the engine tells how it ended. */
    says_move(f, vm, 2, DROVER__VM_RUN_STATE__VM_RUN_FAILED,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 0);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    says_move(f, vm, 2, DROVER__VM_RUN_STATE__VM_RUN_FAILED,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_DONE);
}

static void test_target_that_failed_in_the_handover_does_not_claim_to_know(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = target(f);
    says_move(f, vm, 2, DROVER__VM_RUN_STATE__VM_RUN_FAILED,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER);
    host_core_vmm_gone(f->core, vm, 2, "killed by signal 9", false, f->now_ms);
    tick(f);
    assert_int_equal(f->abort_by,
                     DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE);
}

static void test_target_that_vanished_does_not_claim_to_know(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = target(f);
    host_core_vmm_gone(f->core, vm, 2, "killed by signal 9", false, f->now_ms);
    tick(f);
    assert_int_equal(f->abort_by,
                     DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE);
}

static void test_target_that_was_called_dead_is_not_extended(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = target(f);
    unsigned leases = f->orders[DROVER__CONTROL_REQUEST__ORDER_LEASE];
    Drover__Proof proof = DROVER__PROOF__INIT;
    proof.kind = DROVER__PROOF_KIND__PROOF_OPERATOR;
    proof.detail = (char *)(uintptr_t) "said so";
    proof.leader_host_id = 2;
    Drover__HostDead dead = DROVER__HOST_DEAD__INIT;
    dead.host_id = HOST_SELF;
    dead.boot_id = (char *)(uintptr_t) "boot";
    dead.incarnation = (char *)(uintptr_t) "run1";
    dead.proof = &proof;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DEAD;
    command.host_dead = &dead;
    assert_int_equal(small_cluster_apply(&f->cluster, &command), 0);
    small_cluster_up(&f->cluster, HOST_SELF, "boot", "run1", 2000);
    renew(f, f->cluster.index);
    assert_int_equal(f->orders[DROVER__CONTROL_REQUEST__ORDER_LEASE], leases);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 1);
    assert_int_not_equal(vm, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOST_TEST(test_source_orders_once_and_states_a_failure_before_the_go),
        HOST_TEST(test_source_that_learns_late_of_its_move_sends_all_the_same),
        HOST_TEST(test_failure_of_the_move_before_is_not_this_ones),
        HOST_TEST(test_move_whose_order_was_never_given_is_given_up_with_the_reason),
        HOST_TEST(test_source_is_told_of_rdma_only_if_it_was_asked_for),
        HOST_TEST(test_source_tries_rdma_and_tells_of_its_fallback),
        HOST_TEST(test_moves_share_the_bandwidth_of_their_host),
        HOST_TEST(test_source_that_handed_over_waits_for_the_target),
        HOST_TEST(test_source_reclaims_on_the_targets_word_only),
        HOST_TEST(test_source_starts_anew_when_the_target_is_lost_after_the_go),
        HOST_TEST(test_target_tells_where_it_takes_rdma_or_why_not),
        HOST_TEST(test_target_with_the_guest_states_done),
        HOST_TEST(test_target_states_who_encrypted_and_a_relay_counts_for_all),
        HOST_TEST(test_target_states_only_of_itself_what_an_older_source_does_not_tell),
        HOST_TEST(
            test_target_that_was_started_since_does_not_claim_to_know_who_encrypted),
        HOST_TEST(test_target_that_failed_before_the_go_states_it_when_gone),
        HOST_TEST(test_target_whose_guest_failed_after_the_go_states_done),
        HOST_TEST(test_target_that_failed_in_the_handover_does_not_claim_to_know),
        HOST_TEST(test_target_that_vanished_does_not_claim_to_know),
        HOST_TEST(test_target_that_was_called_dead_is_not_extended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
