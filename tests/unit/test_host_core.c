/* SPDX-License-Identifier: Apache-2.0 */
/* When a host acts at all, and what it does about the VMs that it owns: the rules at the
 * top of node-agent/host_core.h, each by a test that names it. Moves:
 * test_host_migration.c. */
#include "node-agent/host_core.h"

#include "base/clock.h"
#include "base/err.h"
#include "tests/unit/host_fixture.h"
#include "tests/unit/unit.h"

/* ---- nothing before the cluster knows, a lease is held and applied, and the scan is
 * done */

static void test_reports_up_before_anything_else(void **state)
{
    struct host_fixture *f = *state;
    host_fixture_new_run(f, "run2");
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_HOST_UP);
    assert_int_equal(f->requests, 0);
    assert_int_equal(f->starts, 0);
}

static void test_starts_nothing_without_a_lease(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    host_core_scan_done(f->core, f->now_ms);
    for (unsigned i = 0; i < 50; i++) {
        f->now_ms += 200;
        tick(f);
    }
    assert_true(f->requests >= 9);
    assert_int_equal(f->starts, 0);
    renew(f, f->cluster.index);
    assert_int_equal(f->starts, 1);
}

static void
test_starts_nothing_before_the_log_is_applied_as_far_as_the_lease_says(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    renew(f, f->cluster.index + 1);
    assert_int_equal(f->starts, 0);
    assert_int_equal(host_core_lease_deadline_ms(f->core), 0);
    small_cluster_wanted(&f->cluster, vm, DROVER__VM_WANTED__VM_WANTED_PAUSED);
    tick(f);
    assert_int_equal(f->starts, 1);
}

static void test_starts_nothing_before_the_scan_is_done(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    tick(f);
    renew(f, f->cluster.index);
    assert_int_equal(f->starts, 0);
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    assert_int_equal(f->starts, 1);
}

static void test_deadline_counts_from_sending(void **state)
{
    struct host_fixture *f = *state;
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    uint64_t sent_ms = f->now_ms;
    f->now_ms += 700;
    Drover__LeaseReply reply = DROVER__LEASE_REPLY__INIT;
    reply.sequence = f->sequence;
    reply.granted = true;
    host_core_lease_reply(f->core, &reply, f->now_ms);
    tick(f);
    assert_int_equal(host_core_lease_deadline_ms(f->core), sent_ms + 4950);
    assert_int_equal(f->deadline_ns, (sent_ms + 4950) * NS_PER_MS);
}

static void test_lease_that_is_nearly_over_is_not_used(void **state)
{
    struct host_fixture *f = *state;
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    Drover__LeaseReply reply = DROVER__LEASE_REPLY__INIT;
    reply.sequence = f->sequence;
    reply.granted = true;
    f->now_ms += 3800;
    host_core_lease_reply(f->core, &reply, f->now_ms);
    tick(f);
    assert_int_equal(host_core_lease_deadline_ms(f->core), 0);
}

static void test_answer_to_an_earlier_run_is_ignored(void **state)
{
    struct host_fixture *f = *state;
    tick(f);
    uint64_t old = f->sequence;
    host_fixture_new_run(f, "run2");
    small_cluster_up(&f->cluster, HOST_SELF, "boot", "run2", 2000);
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    assert_int_not_equal(f->sequence, old);
    Drover__LeaseReply reply = DROVER__LEASE_REPLY__INIT;
    reply.sequence = old;
    reply.granted = true;
    host_core_lease_reply(f->core, &reply, f->now_ms);
    tick(f);
    assert_int_equal(host_core_lease_deadline_ms(f->core), 0);
}

/* ---- whose VMs ---- */

static void test_vmm_of_another_epoch_is_quit_and_not_extended(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, 2);
    says(f, vm, 7, DROVER__VM_RUN_STATE__VM_RUN_FROZEN);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT,
                  0); /* not before it is settled */
    settle(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 1);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_LEASE, 0);
}

static void test_own_vmm_is_adopted_and_extended_with_each_lease(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    settle(f);
    assert_int_equal(f->starts, 0);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_LEASE, 1);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_VM_STARTED);
    uint64_t first_ns = f->lease_ns;
    renew(f, f->cluster.index);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_LEASE, 2);
    assert_true(f->lease_ns > first_ns);
}

static void test_new_epoch_waits_until_the_old_vmm_is_gone(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    says(f, vm, 9, DROVER__VM_RUN_STATE__VM_RUN_FROZEN);
    settle(f);
    assert_int_equal(f->starts, 0);
    host_core_vmm_gone(f->core, vm, 9, "stopped", false, f->now_ms);
    tick(f);
    assert_int_equal(f->starts, 1);
    assert_int_equal(f->started_epoch, 1);
}

static void test_epoch_that_was_given_up_is_never_started_again(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    small_cluster_wanted(&f->cluster, vm, DROVER__VM_WANTED__VM_WANTED_STOPPED);
    settle(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_VM_STOPPED);
    /* Its fate is unknown, and the VM is wanted again: the statement may yet be
     * committed. */
    small_cluster_wanted(&f->cluster, vm, DROVER__VM_WANTED__VM_WANTED_RUNNING);
    proposal_ends(f, DROVER_ENOLEADER);
    assert_int_equal(f->starts, 0);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_VM_STOPPED);
}

static void test_crashed_vm_starts_again_here_after_a_delay(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    settle(f);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    host_core_vmm_gone(f->core, vm, 1, "killed by signal 9", false, f->now_ms);
    tick(f);
    assert_int_equal(f->starts, 1);
    f->now_ms += 1000;
    tick(f);
    assert_int_equal(f->starts, 2);
    assert_int_equal(f->started_epoch, 1);
}

static void test_vmm_that_answers_no_lease_is_ended_and_the_vm_started_again(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = running_vm(f);
    uint64_t begun_ms = f->now_ms;
    while (f->now_ms - begun_ms < 40000) { /* as long as it answers */
        renew(f, f->cluster.index);
        says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    }
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 0);
    begun_ms = f->now_ms;
    while (f->now_ms - begun_ms < 19000) {
        renew(f, f->cluster.index);
    }
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 0);
    while (f->now_ms - begun_ms < 25000) {
        renew(f, f->cluster.index);
    }
    assert_true(f->orders[DROVER__CONTROL_REQUEST__ORDER_QUIT] > 0);
    unsigned before = f->starts;
    host_core_vmm_gone(f->core, vm, 1, "killed", false, f->now_ms);
    renew(f, f->cluster.index);
    assert_int_equal(f->starts, before + 1);
}

static void test_lease_that_is_refused_is_not_sent_in_a_busy_loop(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    settle(f);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    unsigned before = f->orders[DROVER__CONTROL_REQUEST__ORDER_LEASE];
    for (unsigned i = 0; i < 1000; i++) { /* a second */
        host_core_vmm_order_failed(f->core, vm, 1, DROVER_ENOTFOUND, "gone", f->now_ms);
        f->now_ms++;
        tick(f);
    }
    assert_in_range(f->orders[DROVER__CONTROL_REQUEST__ORDER_LEASE] - before, 0, 5);
    /* But soon enough that its guest does not freeze. */
    before = f->orders[DROVER__CONTROL_REQUEST__ORDER_LEASE];
    host_core_vmm_order_failed(f->core, vm, 1, DROVER_ENOTFOUND, "gone", f->now_ms);
    f->now_ms += 300;
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_LEASE, before + 1);
}

static void test_agent_that_stood_still_does_not_blame_its_vmms(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    settle(f);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    renew(f, f->cluster.index);
    f->now_ms += 600000;
    renew(f, f->cluster.index);
    renew(f, f->cluster.index);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 0);
}

static void test_stop_that_is_taken_back_does_not_lose_the_start(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = running_vm(f);
    small_cluster_wanted(&f->cluster, vm, DROVER__VM_WANTED__VM_WANTED_STOPPED);
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON, 1);
    small_cluster_wanted(&f->cluster, vm, DROVER__VM_WANTED__VM_WANTED_RUNNING);
    tick(f);
    host_core_vmm_gone(f->core, vm, 1, "powered off", true, f->now_ms);
    tick(f);
    assert_int_equal(f->starts, 2); /* the button was ours: no wish of the guest's */
}

static void says_panicked(struct host_fixture *f, uint64_t vm_id, uint64_t at_unix_ms)
{
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    status.vm_id = vm_id;
    status.epoch = 1;
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_STOPPED;
    status.guest_panicked = true;
    status.guest_panicked_unix_ms = at_unix_ms;
    host_core_vmm_status(f->core, &status, f->now_ms);
    tick(f);
}

static void panic_applied(struct host_fixture *f, uint64_t vm_id, uint64_t at_unix_ms)
{
    Drover__VmPanicked panicked = DROVER__VM_PANICKED__INIT;
    panicked.vm_id = vm_id;
    panicked.epoch = 1;
    panicked.host_id = HOST_SELF;
    panicked.incarnation = (char *)"run1";
    panicked.at_unix_ms = at_unix_ms;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_PANICKED;
    command.vm_panicked = &panicked;
    assert_int_equal(small_cluster_apply(&f->cluster, &command), 0);
}

/* The VMM may be gone before anybody could be told. */
static void test_crash_of_a_guest_is_told_before_it_starts_again(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = running_vm(f);
    says_panicked(f, vm, 5000);
    host_core_vmm_gone(f->core, vm, 1, "the guest's kernel has crashed", false,
                       f->now_ms);
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_VM_PANICKED);
    proposal_ends(f, DROVER_ENOLEADER);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_VM_PANICKED); /* again */
    assert_int_equal(f->starts, 1);
    panic_applied(f, vm, 5000);
    proposal_ends(f, 0);
    assert_int_equal(f->starts, 2);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
    says_panicked(f, vm, 6000); /* so soon: not told, but it goes on all the same */
    host_core_vmm_gone(f->core, vm, 1, "the guest's kernel has crashed", false,
                       f->now_ms);
    for (unsigned i = 0; i < 4; i++) {
        renew(f, f->cluster.index);
    }
    assert_int_not_equal(f->proposed, DROVER__COMMAND__WHAT_VM_PANICKED);
    assert_int_equal(f->starts, 3);
}

static void says_balloon(struct host_fixture *f, uint64_t vm_id, uint64_t target_bytes)
{
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    Drover__VmBalloonStatus balloon = DROVER__VM_BALLOON_STATUS__INIT;
    status.vm_id = vm_id;
    status.epoch = 1;
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_RUNNING;
    status.balloon = &balloon;
    balloon.target_bytes = target_bytes;
    host_core_vmm_status(f->core, &status, f->now_ms);
    tick(f);
}

static void test_balloon_is_ordered_until_the_vmm_has_it(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    uint64_t all = cluster_state_vm(f->cluster.state, vm)->spec->memory_bytes;
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    settle(f);
    says_balloon(f, vm, all);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_BALLOON, 0);
    says_balloon(f, vm, all / 2); /* an order by hand, or an older wish */
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_BALLOON, 1);
    says_balloon(f, vm, all / 2);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_BALLOON, 1); /* not at once again */
    says_balloon(f, vm, all);
    f->now_ms += 5000;
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_BALLOON, 1);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING); /* a VMM without a balloon */
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_BALLOON, 1);
}

static void test_guest_that_powers_off_by_itself_stays_off(void **state)
{
    struct host_fixture *f = *state;
    uint64_t vm = running_vm(f);
    host_core_vmm_gone(f->core, vm, 1, "powered off", true, f->now_ms);
    f->now_ms += 1000;
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_VM_STOPPED);
    assert_true(f->powered_off);
    assert_int_equal(f->starts, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOST_TEST(test_reports_up_before_anything_else),
        HOST_TEST(test_starts_nothing_without_a_lease),
        HOST_TEST(test_starts_nothing_before_the_log_is_applied_as_far_as_the_lease_says),
        HOST_TEST(test_starts_nothing_before_the_scan_is_done),
        HOST_TEST(test_deadline_counts_from_sending),
        HOST_TEST(test_lease_that_is_nearly_over_is_not_used),
        HOST_TEST(test_answer_to_an_earlier_run_is_ignored),
        HOST_TEST(test_vmm_of_another_epoch_is_quit_and_not_extended),
        HOST_TEST(test_own_vmm_is_adopted_and_extended_with_each_lease),
        HOST_TEST(test_new_epoch_waits_until_the_old_vmm_is_gone),
        HOST_TEST(test_epoch_that_was_given_up_is_never_started_again),
        HOST_TEST(test_crashed_vm_starts_again_here_after_a_delay),
        HOST_TEST(test_vmm_that_answers_no_lease_is_ended_and_the_vm_started_again),
        HOST_TEST(test_lease_that_is_refused_is_not_sent_in_a_busy_loop),
        HOST_TEST(test_agent_that_stood_still_does_not_blame_its_vmms),
        HOST_TEST(test_stop_that_is_taken_back_does_not_lose_the_start),
        HOST_TEST(test_crash_of_a_guest_is_told_before_it_starts_again),
        HOST_TEST(test_balloon_is_ordered_until_the_vmm_has_it),
        HOST_TEST(test_guest_that_powers_off_by_itself_stays_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
