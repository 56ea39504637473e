/* SPDX-License-Identifier: Apache-2.0 */
/* The leader's rules: when a lease is granted, when a host is dead, where a VM goes. The
 * leader is h1, L is 5 s. */
#include "node-agent/controller.h"

#include "node-agent/controller_private.h"

#include <string.h>

#include "base/err.h"
#include "fencing/timing.h"
#include "tests/unit/small_cluster.h"
#include "tests/unit/unit.h"

#define SELF 1
#define TERM 7
#define MOVES_MAX 16

struct fixture {
    struct small_cluster cluster;
    struct controller *controller;
    struct timing timing;
    uint64_t now_ms, sequence;
    uint64_t round;
    unsigned confirms;
    unsigned granted[4], refused[4]; /* by host id */
    uint64_t required_index, answered_sequence;
    unsigned deaths, assigns, moves, unprovable, frozen;
    uint64_t proposal_id, assigned_to, dead_id;
    uint64_t silent_ms;
    uint64_t moved[MOVES_MAX];
};

static void propose(void *owner, uint64_t proposal_id, const Drover__Command *command)
{
    struct fixture *f = owner;
    switch (command->what_case) {
    case DROVER__COMMAND__WHAT_HOST_DEAD:
        f->deaths++;
        f->proposal_id = proposal_id;
        f->dead_id = command->host_dead->host_id;
        f->silent_ms = command->host_dead->proof->silent_ms;
        assert_string_equal(command->host_dead->incarnation, "run1");
        break;
    case DROVER__COMMAND__WHAT_VM_ASSIGN:
        f->assigns++;
        f->proposal_id = proposal_id;
        f->assigned_to = command->vm_assign->host_id;
        break;
    case DROVER__COMMAND__WHAT_MIGRATION_BEGIN:
        if (f->moves < MOVES_MAX) {
            f->moved[f->moves] = command->migration_begin->vm_id;
        }
        f->moves++;
        break;
    case DROVER__COMMAND__WHAT_EVENT_ADD:
        f->unprovable += strcmp(command->event_add->event->kind, "host.unprovable") == 0;
        f->frozen += strcmp(command->event_add->event->kind, "vm.frozen") == 0;
        break;
    default:
        fail();
    }
}

static void send_confirm(void *owner, uint64_t host_id,
                         const Drover__ConfirmRequest *request)
{
    struct fixture *f = owner;
    assert_int_equal(request->term, TERM);
    assert_in_range(host_id, 1, 3);
    f->confirms++;
    f->round = request->round;
}

static void send_lease_reply(void *owner, uint64_t host_id,
                             const Drover__LeaseReply *reply)
{
    struct fixture *f = owner;
    assert_in_range(host_id, 1, 3);
    f->granted[host_id] += reply->granted;
    f->refused[host_id] += !reply->granted;
    f->required_index = reply->required_index;
    f->answered_sequence = reply->sequence;
}

static unsigned voters(void *owner, uint64_t *ret_ids, unsigned size)
{
    (void)owner;
    assert_true(size >= 3);
    for (unsigned i = 0; i < 3; i++) {
        ret_ids[i] = i + 1;
    }
    return 3;
}

static void note(void *owner, const char *text)
{
    (void)owner;
    assert_non_null(text);
}

static const struct controller_ops ops = {propose, send_confirm, send_lease_reply, voters,
                                          note};

static int setup(void **state)
{
    static struct fixture f;
    f = (struct fixture){.now_ms = 100000};
    small_cluster_init(&f.cluster);
    assert_int_equal(timing_from_lease(5000, &f.timing, NULL), 0);
    assert_int_equal(controller_create(&f.timing, SELF, &ops, &f, &f.controller), 0);
    controller_lead(f.controller, TERM, f.now_ms);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    controller_free(f->controller);
    small_cluster_done(&f->cluster);
    return 0;
}

static void tick(struct fixture *f)
{
    (void)controller_tick(f->controller, f->cluster.state, f->now_ms);
}

static void ask_as(struct fixture *f, uint64_t host_id, const char *incarnation)
{
    Drover__LeaseRequest request = DROVER__LEASE_REQUEST__INIT;
    request.host_id = host_id;
    request.boot_id = (char *)(uintptr_t) "boot";
    request.incarnation = (char *)(uintptr_t)incarnation;
    request.sequence = ++f->sequence;
    controller_lease_request(f->controller, f->cluster.state, &request, f->now_ms);
}

static void ask(struct fixture *f, uint64_t host_id)
{
    ask_as(f, host_id, "run1");
}

static void answers(struct fixture *f, uint64_t voter, uint64_t term, uint64_t round,
                    bool yes)
{
    Drover__ConfirmReply reply = DROVER__CONFIRM_REPLY__INIT;
    reply.term = term;
    reply.round = round;
    reply.voter_id = voter;
    reply.confirmed = yes;
    controller_confirm_reply(f->controller, f->cluster.state, &reply, f->now_ms);
}

static void yes(struct fixture *f, uint64_t voter)
{
    answers(f, voter, TERM, f->round, true);
}

/* A request, and a majority's yes. */
static void grant(struct fixture *f, uint64_t host_id)
{
    unsigned before = f->granted[host_id];
    ask(f, host_id);
    yes(f, 1);
    yes(f, 2);
    assert_int_equal(f->granted[host_id], before + 1);
}

/* Time passes in which these hosts keep asking. */
static void pass(struct fixture *f, uint64_t ms, bool second, bool third)
{
    uint64_t until_ms = f->now_ms + ms;
    while (f->now_ms < until_ms) {
        f->now_ms += until_ms - f->now_ms < 100 ? until_ms - f->now_ms : 100;
        if (f->now_ms % 1000 < 100) {
            grant(f, 1);
            if (second) {
                grant(f, 2);
            }
            if (third) {
                grant(f, 3);
            }
        }
        tick(f);
    }
}

/* ---- leases --------------------------------------------------------------------------
 */

static void test_no_lease_without_a_majoritys_yes(void **state)
{
    struct fixture *f = *state;
    ask(f, 2);
    assert_int_equal(f->confirms, 3);
    yes(f, 1);
    yes(f, 1); /* doubled */
    answers(f, 3, TERM, f->round, false);
    assert_int_equal(f->granted[2], 0);
    yes(f, 2);
    assert_int_equal(f->granted[2], 1);
    assert_int_equal(f->required_index, f->cluster.index);
}

static void test_yes_of_another_round_or_term_does_not_count(void **state)
{
    struct fixture *f = *state;
    ask(f, 2);
    answers(f, 1, TERM, f->round - 1, true);
    answers(f, 2, TERM, f->round + 1, true);
    answers(f, 2, TERM - 1, f->round, true);
    answers(f, 3, TERM + 1, f->round, true);
    yes(f, 1);
    assert_int_equal(f->granted[2], 0);
}

static void test_request_that_comes_during_a_round_waits_for_the_next(void **state)
{
    struct fixture *f = *state;
    ask(f, 2);
    uint64_t first = f->round;
    yes(f, 1);
    ask(f, 3);
    uint64_t late = f->sequence;
    yes(f, 2);
    assert_int_equal(f->granted[2], 1);
    assert_int_equal(f->granted[3], 0);
    assert_int_equal(f->round, first + 1); /* the next has begun */
    answers(f, 3, TERM, first, true);
    assert_int_equal(f->granted[3], 0);
    yes(f, 1);
    yes(f, 3);
    assert_int_equal(f->granted[3], 1);
    assert_int_equal(f->answered_sequence, late);
}

static void test_round_is_asked_again_until_it_is_answered(void **state)
{
    struct fixture *f = *state;
    ask(f, 2);
    uint64_t round = f->round;
    f->now_ms += f->timing.confirm_retry_ms;
    tick(f);
    assert_int_equal(f->confirms, 6);
    assert_int_equal(f->round, round);
}

static void test_run_that_the_state_does_not_know_is_refused(void **state)
{
    struct fixture *f = *state;
    ask_as(f, 2, "run2");
    assert_int_equal(f->refused[2], 1);
    assert_int_equal(f->confirms, 0);
    /* And one that stops to be known while the round is out. */
    ask(f, 3);
    small_cluster_up(&f->cluster, 3, "boot", "run2", 2000);
    yes(f, 1);
    yes(f, 2);
    assert_int_equal(f->granted[3], 0);
    assert_int_equal(f->refused[3], 1);
}

static void test_follower_grants_nothing(void **state)
{
    struct fixture *f = *state;
    ask(f, 2);
    controller_follow(f->controller);
    yes(f, 1);
    yes(f, 2);
    ask(f, 3);
    tick(f);
    assert_int_equal(f->granted[2] + f->granted[3] + f->refused[3], 0);
}

/* ---- deaths --------------------------------------------------------------------------
 */

static void
test_new_leader_calls_nobody_dead_before_lease_and_watchdog_are_over(void **state)
{
    struct fixture *f = *state;
    tick(f);
    uint32_t proof_ms = timing_proof_ms(&f->timing, 2000);
    pass(f, proof_ms - 1, true, false);
    assert_int_equal(f->deaths, 0);
    pass(f, 200, true, false);
    assert_int_equal(f->deaths, 1);
    assert_int_equal(f->dead_id, 3);
    assert_true(f->silent_ms >= proof_ms);
}

static void test_silence_counts_from_the_last_answer(void **state)
{
    struct fixture *f = *state;
    pass(f, 4000, true, true);
    uint64_t last_ms = f->now_ms;
    grant(f, 3);
    pass(f, timing_proof_ms(&f->timing, 2000) - 1, true, false);
    assert_int_equal(f->deaths, 0);
    pass(f, 200, true, false);
    assert_int_equal(f->deaths, 1);
    assert_true(f->now_ms - last_ms >= timing_proof_ms(&f->timing, 2000));
}

/* A turn may have read the clock right before this host began to lead in it. */
static void test_a_clock_read_before_it_led_proves_nothing(void **state)
{
    struct fixture *f = *state;
    f->now_ms--;
    tick(f);
    assert_int_equal(f->deaths, 0);
    f->now_ms += timing_proof_ms(&f->timing, 2000);
    tick(f);
    assert_int_equal(f->deaths, 0);
}

static void test_no_lease_while_a_death_is_out(void **state)
{
    struct fixture *f = *state;
    pass(f, 8600, true, false);
    assert_int_equal(f->deaths, 1);
    unsigned refused = f->refused[3];
    ask(f, 3);
    yes(f, 1);
    yes(f, 2);
    assert_int_equal(f->granted[3], 0);
    assert_int_equal(f->refused[3], refused + 1);
    /* Its fate is unknown: still none. */
    controller_proposal_done(f->controller, f->proposal_id, DROVER_ENOTLEADER, f->now_ms);
    ask(f, 3);
    assert_int_equal(f->refused[3], refused + 2);
    pass(f, 5000, true, false);
    assert_int_equal(f->deaths, 1); /* nor is it called dead twice */
}

static void test_known_refusal_of_a_death_gives_leases_again(void **state)
{
    struct fixture *f = *state;
    pass(f, 8600, true, false);
    controller_proposal_done(f->controller, f->proposal_id, DROVER_ECONFLICT, f->now_ms);
    grant(f, 3);
}

static void test_host_with_a_request_that_waits_is_not_dead(void **state)
{
    struct fixture *f = *state;
    pass(f, 8000, true, false);
    ask(f, 3);
    for (unsigned i = 0; i < 10; i++) {
        f->now_ms += 100;
        tick(f);
    }
    assert_int_equal(f->deaths, 0);
}

static void test_leader_that_heard_of_nobody_calls_nobody_dead(void **state)
{
    struct fixture *f = *state;
    grant(f, 1);
    f->now_ms += 60000; /* it slept */
    tick(f);
    assert_int_equal(f->deaths, 0);
}

static void test_host_without_watchdog_is_never_called_dead(void **state)
{
    struct fixture *f = *state;
    small_cluster_up(&f->cluster, 3, "boot", "run1", 0);
    pass(f, 60000, true, false);
    assert_int_equal(f->deaths, 0);
    assert_int_equal(f->unprovable, 1);
}

static void test_host_that_has_just_come_back_is_not_dead(void **state)
{
    struct fixture *f = *state;
    pass(f, 4000, true, true);
    pass(f, 8000, true, false);
    small_cluster_up(&f->cluster, 3, "boot2", "run2", 2000);
    pass(f, 2000, true, false);
    assert_int_equal(f->deaths, 0);
}

/* ---- placement -----------------------------------------------------------------------
 */

static void test_vm_goes_only_to_a_host_with_a_lease(void **state)
{
    struct fixture *f = *state;
    (void)small_cluster_vm(&f->cluster);
    tick(f);
    assert_int_equal(f->assigns, 0);
    grant(f, 3);
    f->now_ms += f->timing.confirm_retry_ms;
    tick(f);
    assert_int_equal(f->assigns, 1);
    assert_int_equal(f->assigned_to, 3);
    f->now_ms += 500;
    tick(f);
    assert_int_equal(f->assigns, 1); /* one at a time */
}

static void test_refused_assignment_is_tried_again_later(void **state)
{
    struct fixture *f = *state;
    (void)small_cluster_vm(&f->cluster);
    pass(f, 1200, true, true);
    assert_int_equal(f->assigns, 1);
    controller_proposal_done(f->controller, f->proposal_id, DROVER_ECONFLICT, f->now_ms);
    pass(f, 900, true, true);
    assert_int_equal(f->assigns, 1);
    pass(f, 200, true, true);
    assert_int_equal(f->assigns, 2);
}

static void test_vm_that_is_wanted_stopped_stays_where_it_is(void **state)
{
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_wanted(&f->cluster, vm, DROVER__VM_WANTED__VM_WANTED_STOPPED);
    pass(f, 3000, true, true);
    assert_int_equal(f->assigns, 0);
}

static void test_reports_are_shown_and_freezes_told(void **state)
{
    struct fixture *f = *state;
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    status.vm_id = 5;
    status.epoch = 2;
    status.run_state = DROVER__VM_RUN_STATE__VM_RUN_FROZEN;
    status.lease_deadline_ns = 0; /* its first lease is on its way */
    Drover__VmStatus *list[] = {&status};
    Drover__LeaseRequest request = DROVER__LEASE_REQUEST__INIT;
    request.host_id = 2;
    request.boot_id = (char *)(uintptr_t) "boot";
    request.incarnation = (char *)(uintptr_t) "run1";
    request.sequence = 1;
    request.n_vms = 1;
    request.vms = list;
    controller_lease_request(f->controller, f->cluster.state, &request, f->now_ms);
    assert_int_equal(f->frozen, 0);
    status.lease_deadline_ns = 1000;
    request.sequence = 2;
    controller_lease_request(f->controller, f->cluster.state, &request, f->now_ms);
    assert_int_equal(f->frozen, 1);
    uint64_t host = 0, at_ms = 0;
    const Drover__VmStatus *seen = controller_observed(f->controller, 5, &host, &at_ms);
    assert_non_null(seen);
    assert_int_equal(seen->epoch, 2);
    assert_int_equal(host, 2);
    assert_int_equal(at_ms, f->now_ms);
    assert_null(controller_observed(f->controller, 6, &host, &at_ms));
}

/* Host 2 reports this VM in this state. */
static void report_all(struct fixture *f, unsigned count, Drover__VmStatus **list)
{
    Drover__LeaseRequest request = DROVER__LEASE_REQUEST__INIT;
    request.host_id = 2;
    request.boot_id = (char *)(uintptr_t) "boot";
    request.incarnation = (char *)(uintptr_t) "run1";
    request.sequence = ++f->sequence;
    request.n_vms = count;
    request.vms = list;
    controller_lease_request(f->controller, f->cluster.state, &request, f->now_ms);
    yes(f, 1);
    yes(f, 2);
}

static void report(struct fixture *f, uint64_t vm_id, Drover__VmRunState run_state)
{
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    status.vm_id = vm_id;
    status.epoch = 1;
    status.run_state = run_state;
    Drover__VmStatus *list[] = {&status};
    report_all(f, 1, list);
}

static void test_only_what_runs_is_moved_off_a_draining_host(void **state)
{
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, 2);
    small_cluster_started(&f->cluster, vm);
    small_cluster_drain(&f->cluster, 2);
    grant(f, 1);
    grant(f, 3);

    tick(f);
    assert_int_equal(f->moves, 0); /* nobody has seen it */
    report(f, vm, DROVER__VM_RUN_STATE__VM_RUN_STOPPED);
    tick(f);
    assert_int_equal(f->moves, 0); /* it is ending */
    report(f, vm, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    tick(f);
    assert_int_equal(f->moves, 1);
}

/* What a guest holds and how fast it writes say when it goes; only so many go at once. */
static void test_those_that_leave_soonest_leave_first_and_few_at_once(void **state)
{
    struct fixture *f = *state;
    enum { VMS = CONTROLLER_MOVES_PER_HOST + 2 };
    Drover__VmStatus status[VMS];
    Drover__VmStatus *list[VMS];
    uint64_t ids[VMS];
    for (unsigned i = 0; i < VMS; i++) {
        ids[i] = small_cluster_vm(&f->cluster);
        small_cluster_assign(&f->cluster, ids[i], 2);
        small_cluster_started(&f->cluster, ids[i]);
        drover__vm_status__init(&status[i]);
        status[i].vm_id = ids[i];
        status[i].epoch = 1;
        status[i].run_state = DROVER__VM_RUN_STATE__VM_RUN_RUNNING;
        status[i].memory_resident_bytes = (VMS - i) * UINT64_C(1000000);
        list[i] = &status[i];
    }
    status[VMS - 1].dirty_bytes_per_second = UINT64_C(900000000); /* holds least, but... */
    small_cluster_drain(&f->cluster, 2);
    grant(f, 1);
    grant(f, 3);
    report_all(f, VMS, list);
    for (unsigned i = 0; i < VMS; i++) {
        tick(f);
    }
    assert_int_equal(f->moves, CONTROLLER_MOVES_PER_HOST);
    /* From the one that holds second least on, but for the busy one, which is last. */
    for (unsigned i = 0; i < CONTROLLER_MOVES_PER_HOST; i++) {
        assert_int_equal(f->moved[i], ids[VMS - 2 - i]);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_no_lease_without_a_majoritys_yes),
        TEST(test_yes_of_another_round_or_term_does_not_count),
        TEST(test_request_that_comes_during_a_round_waits_for_the_next),
        TEST(test_round_is_asked_again_until_it_is_answered),
        TEST(test_run_that_the_state_does_not_know_is_refused),
        TEST(test_follower_grants_nothing),
        TEST(test_new_leader_calls_nobody_dead_before_lease_and_watchdog_are_over),
        TEST(test_silence_counts_from_the_last_answer),
        TEST(test_a_clock_read_before_it_led_proves_nothing),
        TEST(test_no_lease_while_a_death_is_out),
        TEST(test_known_refusal_of_a_death_gives_leases_again),
        TEST(test_host_with_a_request_that_waits_is_not_dead),
        TEST(test_leader_that_heard_of_nobody_calls_nobody_dead),
        TEST(test_host_without_watchdog_is_never_called_dead),
        TEST(test_host_that_has_just_come_back_is_not_dead),
        TEST(test_vm_goes_only_to_a_host_with_a_lease),
        TEST(test_refused_assignment_is_tried_again_later),
        TEST(test_vm_that_is_wanted_stopped_stays_where_it_is),
        TEST(test_reports_are_shown_and_freezes_told),
        TEST(test_only_what_runs_is_moved_off_a_draining_host),
        TEST(test_those_that_leave_soonest_leave_first_and_few_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
