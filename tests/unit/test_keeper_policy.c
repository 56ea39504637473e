/* SPDX-License-Identifier: Apache-2.0 */
/* When the keeper may feed: for W = 2 s that is unasked until 1 s before the deadline. */
#include "fencing/keeper_policy.h"
#include "tests/unit/unit.h"

static struct keeper_policy policy_2s(void)
{
    struct keeper_policy policy;
    keeper_policy_init(&policy, 2000, 2000);
    return policy;
}

static void assert_next(const struct keeper_policy *policy, uint64_t now_ms,
                        enum keeper_step step, uint32_t wait_ms)
{
    uint32_t wait = 77;
    assert_int_equal(keeper_policy_next(policy, now_ms, &wait), step);
    assert_int_equal(wait, wait_ms);
}

static void test_feeds_unasked_until_the_lead_before_the_deadline(void **state)
{
    struct keeper_policy policy = policy_2s();
    keeper_policy_lease(&policy, 10000);
    assert_next(&policy, 6000, KEEPER_STEP_FEED, 0);
    keeper_policy_fed(&policy, 6000);
    assert_next(&policy, 6050, KEEPER_STEP_WAIT, 150);
    assert_next(&policy, 8999, KEEPER_STEP_FEED, 0);
    assert_next(&policy, 9000, KEEPER_STEP_ASK, 0);
}

static void test_one_feed_for_each_round_in_which_all_are_frozen(void **state)
{
    struct keeper_policy policy = policy_2s();
    uint64_t round = keeper_policy_ask(&policy, 20000);
    assert_next(&policy, 20000, KEEPER_STEP_WAIT, 200);
    keeper_policy_answered(&policy, round, true);
    assert_next(&policy, 20010, KEEPER_STEP_FEED, 0);
    keeper_policy_fed(&policy, 20010);
    assert_next(&policy, 20010, KEEPER_STEP_WAIT, 190);
    assert_next(&policy, 20200, KEEPER_STEP_ASK, 0);
}

static void test_without_lease_and_with_a_vm_that_may_run_it_never_feeds(void **state)
{
    struct keeper_policy policy = policy_2s();
    for (uint64_t now = 1000; now < 9000; now += 200) {
        assert_next(&policy, now, KEEPER_STEP_ASK, 0);
        keeper_policy_answered(&policy, keeper_policy_ask(&policy, now), false);
        assert_next(&policy, now + 1, KEEPER_STEP_WAIT, 199);
    }
}

static void test_answers_to_overtaken_rounds_are_ignored(void **state)
{
    struct keeper_policy policy = policy_2s();
    uint64_t first = keeper_policy_ask(&policy, 20000);
    keeper_policy_answered(&policy, first, false);
    uint64_t second = keeper_policy_ask(&policy, 20200);
    keeper_policy_answered(&policy, first, true);
    assert_next(&policy, 20210, KEEPER_STEP_WAIT, 200);
    /* The VMMs may be thawed by the lease that came meanwhile, and are over it again. */
    keeper_policy_lease(&policy, 20300);
    keeper_policy_answered(&policy, second, true);
    assert_next(&policy, 20400, KEEPER_STEP_ASK, 0);
}

static void test_deadline_never_moves_backwards(void **state)
{
    struct keeper_policy policy = policy_2s();
    keeper_policy_lease(&policy, 10000);
    keeper_policy_lease(&policy, 0);
    keeper_policy_lease(&policy, 9000);
    assert_next(&policy, 8500, KEEPER_STEP_FEED, 0);
}

static void test_device_of_a_longer_timeout_does_not_lengthen_the_lead(void **state)
{
    struct keeper_policy policy;
    keeper_policy_init(&policy, 2000, 10000);
    keeper_policy_lease(&policy, 10000);
    assert_next(&policy, 8999, KEEPER_STEP_FEED, 0);
}

static void test_only_a_vm_that_cannot_run_is_still(void **state)
{
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_RUNNING;
    assert_true(keeper_policy_vm_is_still(&status)); /* not bound to a lease */
    /* Ordered to freeze at once, and not frozen yet: a write may hang in the host. */
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_FREEZING;
    assert_false(keeper_policy_vm_is_still(&status));
    status.lease_deadline_ns = 5;
    const struct {
        Drover__VmRunState run_state;
        bool still;
    } rows[] = {
        {DROVER__VM_RUN_STATE__VM_RUN_UNSPECIFIED, false},
        {DROVER__VM_RUN_STATE__VM_RUN_RUNNING, false},
        {DROVER__VM_RUN_STATE__VM_RUN_PAUSED, false},
        {DROVER__VM_RUN_STATE__VM_RUN_FREEZING, false},
        {(Drover__VmRunState)99, false},
        {DROVER__VM_RUN_STATE__VM_RUN_FROZEN, true},
        {DROVER__VM_RUN_STATE__VM_RUN_INCOMING, true},
        {DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER, true},
        {DROVER__VM_RUN_STATE__VM_RUN_STOPPED, true},
        {DROVER__VM_RUN_STATE__VM_RUN_FAILED, true},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        status.run_state = rows[i].run_state;
        assert_int_equal(keeper_policy_vm_is_still(&status), rows[i].still);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_feeds_unasked_until_the_lead_before_the_deadline),
        cmocka_unit_test(test_one_feed_for_each_round_in_which_all_are_frozen),
        cmocka_unit_test(test_without_lease_and_with_a_vm_that_may_run_it_never_feeds),
        cmocka_unit_test(test_answers_to_overtaken_rounds_are_ignored),
        cmocka_unit_test(test_deadline_never_moves_backwards),
        cmocka_unit_test(test_device_of_a_longer_timeout_does_not_lengthen_the_lead),
        cmocka_unit_test(test_only_a_vm_that_cannot_run_is_still),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
