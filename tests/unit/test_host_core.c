/* SPDX-License-Identifier: Apache-2.0 */
/* The rules at the top of node-agent/host_core.h, each by a test that names it; the host
 * is h1, L is 5 s. */
#include "node-agent/host_core.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "fencing/timing.h"
#include "tests/unit/small_cluster.h"
#include "tests/unit/unit.h"

#define SELF 1

#define BANDWIDTH UINT64_C(100000000)
#define UNKNOWN DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_UNKNOWN
#define KERNEL DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL
#define RELAY DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY

struct fixture {
    struct small_cluster cluster;
    struct host_core *core;
    uint64_t now_ms, sequence, deadline_ns;
    unsigned starts, incoming, requests, proposals;
    uint64_t started_epoch, proposal_id;
    Drover__Command__WhatCase proposed;
    Drover__MigrationAbortBy abort_by;
    bool powered_off;
    unsigned orders[32]; /* by order_case */
    uint64_t lease_ns;
    uint64_t bandwidth[8]; /* last ordered, by VM */
    char rdma[64];         /* last ordered, or stated */
    char notice[64];       /* last stated */
    const char *says_notice, *says_rdma; /* of VMMs from now on */
    Drover__MoveEncryption source_encryption, target_encryption; /* as stated last */
};

static void start_vmm(void *owner, const Drover__VmRecord *vm, uint64_t epoch,
                      bool incoming)
{
    struct fixture *f = owner;
    f->starts++;
    f->incoming += incoming;
    f->started_epoch = epoch;
}

static void order_vmm(void *owner, uint64_t vm_id, uint64_t epoch,
                      const Drover__ControlRequest *request)
{
    struct fixture *f = owner;
    assert_int_equal(request->vm_id, vm_id);
    assert_int_equal(request->epoch, epoch);
    f->orders[request->order_case]++;
    if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_LEASE) {
        assert_true(f->deadline_ns >=
                    request->lease->deadline_ns); /* the keeper knew first */
        f->lease_ns = request->lease->deadline_ns;
    } else if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE) {
        f->bandwidth[vm_id % 8] = request->migrate->bandwidth_bytes_per_second;
        (void)snprintf(f->rdma, sizeof(f->rdma), "%s", request->migrate->rdma_address);
    } else if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT) {
        f->bandwidth[vm_id % 8] = request->migrate_limit->bandwidth_bytes_per_second;
    }
}

static void send_lease_request(void *owner, const Drover__LeaseRequest *request)
{
    struct fixture *f = owner;
    f->requests++;
    f->sequence = request->sequence;
}

static void propose(void *owner, uint64_t proposal_id, const Drover__Command *command)
{
    struct fixture *f = owner;
    f->proposals++;
    f->proposal_id = proposal_id;
    f->proposed = command->what_case;
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_ABORT) {
        f->abort_by = command->migration_abort->by;
    }
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_NOTICE) {
        (void)snprintf(f->notice, sizeof(f->notice), "%s", command->migration_notice->text);
    }
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_READY) {
        (void)snprintf(f->rdma, sizeof(f->rdma), "%s", command->migration_ready->rdma_address);
        (void)snprintf(f->notice, sizeof(f->notice), "%s", command->migration_ready->notice);
    }
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_DONE &&
        command->migration_done->figures != NULL) {
        f->source_encryption = command->migration_done->figures->source_encryption;
        f->target_encryption = command->migration_done->figures->target_encryption;
    }
    if (command->what_case == DROVER__COMMAND__WHAT_VM_STOPPED) {
        f->powered_off = command->vm_stopped->guest_powered_off;
    }
}

static void lease_changed(void *owner, uint64_t deadline_ns)
{
    ((struct fixture *)owner)->deadline_ns = deadline_ns;
}

static void note(void *owner, const char *text)
{
    (void)owner;
    assert_non_null(text);
}

static const struct host_core_ops ops = {start_vmm, order_vmm,     send_lease_request,
                                         propose,   lease_changed, note};

static void core_new(struct fixture *f, const char *incarnation)
{
    struct timing timing;
    assert_int_equal(timing_from_lease(5000, &timing, NULL), 0);
    const struct host_core_identity identity = {.host_id = SELF,
                                                .boot_id = "boot",
                                                .incarnation = incarnation,
                                                .watchdog_ms = 2000,
                                                .version = "1",
                                                .move_bandwidth = BANDWIDTH};
    assert_int_equal(host_core_create(&timing, &identity, &ops, f, &f->core), 0);
}

static int setup(void **state)
{
    static struct fixture f;
    f = (struct fixture){.now_ms = 100000};
    small_cluster_init(&f.cluster);
    core_new(&f, "run1");
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

/* Ticks on to the next request, and answers it. */
static void renew(struct fixture *f, uint64_t required_index)
{
    unsigned before = f->requests;
    for (unsigned i = 0; i < 20 && f->requests == before; i++) {
        f->now_ms += 100;
        tick(f);
    }
    assert_true(f->requests > before);
    Drover__LeaseReply reply = DROVER__LEASE_REPLY__INIT;
    reply.sequence = f->sequence;
    reply.granted = true;
    reply.required_index = required_index;
    host_core_lease_reply(f->core, &reply, f->now_ms);
    tick(f);
}

static void settle(struct fixture *f)
{
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    renew(f, f->cluster.index);
}

static void says_move_of(struct fixture *f, uint64_t vm_id, uint64_t epoch,
                         Drover__VmRunState run_state, Drover__VmMigrationState move,
                         uint64_t next_epoch)
{
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    Drover__VmMigrationStatus migration = DROVER__VM_MIGRATION_STATUS__INIT;
    Drover__MigrationFigures figures = DROVER__MIGRATION_FIGURES__INIT;
    figures.source_encryption = KERNEL; /* which is not its to say */
    migration.figures = &figures;
    status.vm_id = vm_id;
    status.epoch = epoch;
    status.run_state = run_state;
    migration.state = move;
    migration.next_epoch = next_epoch;
    migration.uri = (char *)(uintptr_t)SMALL_CLUSTER_URI;
    migration.notice = (char *)(uintptr_t)(f->says_notice != NULL ? f->says_notice : "");
    status.incoming_rdma = (char *)(uintptr_t)(f->says_rdma != NULL ? f->says_rdma : "");
    if (move != DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE) {
        status.migration = &migration;
    }
    if (run_state == DROVER__VM_RUN_STATE__VM_RUN_INCOMING) {
        status.incoming_uri = (char *)(uintptr_t)SMALL_CLUSTER_URI;
    }
    host_core_vmm_status(f->core, &status, f->now_ms);
    tick(f);
}

/* A VMM that does not say which move it is about. */
static void says_move(struct fixture *f, uint64_t vm_id, uint64_t epoch,
                      Drover__VmRunState run_state, Drover__VmMigrationState move)
{
    says_move_of(f, vm_id, epoch, run_state, move, 0);
}

static void says(struct fixture *f, uint64_t vm_id, uint64_t epoch,
                 Drover__VmRunState run_state)
{
    says_move(f, vm_id, epoch, run_state, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE);
}

/* The statement that is out ends; time goes on until the next may be made. */
static void proposal_ends(struct fixture *f, int error)
{
    host_core_proposal_done(f->core, f->proposal_id, error, "", f->now_ms);
    f->proposed = DROVER__COMMAND__WHAT__NOT_SET;
    f->now_ms += 1000;
    tick(f);
}

static void assert_orders(struct fixture *f, unsigned order_case, unsigned count)
{
    assert_int_equal(f->orders[order_case], count);
}

/* ---- nothing before the cluster knows, a lease is held and applied, and the scan is
 * done ---- */

static void test_reports_up_before_anything_else(void **state)
{
    struct fixture *f = *state;
    host_core_free(f->core);
    core_new(f, "run2");
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_HOST_UP);
    assert_int_equal(f->requests, 0);
    assert_int_equal(f->starts, 0);
}

static void test_starts_nothing_without_a_lease(void **state)
{
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
    tick(f);
    renew(f, f->cluster.index);
    assert_int_equal(f->starts, 0);
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    assert_int_equal(f->starts, 1);
}

static void test_deadline_counts_from_sending(void **state)
{
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
    tick(f);
    uint64_t old = f->sequence;
    host_core_free(f->core);
    core_new(f, "run2");
    small_cluster_up(&f->cluster, SELF, "boot", "run2", 2000);
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

/* ---- whose VMs
 * --------------------------------------------------------------------------- */

static void test_vmm_of_another_epoch_is_quit_and_not_extended(void **state)
{
    struct fixture *f = *state;
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
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

static void test_stop_that_is_taken_back_does_not_lose_the_start(void **state)
{
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
    settle(f);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    small_cluster_started(&f->cluster, vm);
    proposal_ends(f, 0);
    small_cluster_wanted(&f->cluster, vm, DROVER__VM_WANTED__VM_WANTED_STOPPED);
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON, 1);
    small_cluster_wanted(&f->cluster, vm, DROVER__VM_WANTED__VM_WANTED_RUNNING);
    tick(f);
    host_core_vmm_gone(f->core, vm, 1, "powered off", true, f->now_ms);
    tick(f);
    assert_int_equal(f->starts, 2); /* the button was ours: no wish of the guest's */
}

static void says_panicked(struct fixture *f, uint64_t vm_id, uint64_t at_unix_ms)
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

static void panic_applied(struct fixture *f, uint64_t vm_id, uint64_t at_unix_ms)
{
    Drover__VmPanicked panicked = DROVER__VM_PANICKED__INIT;
    panicked.vm_id = vm_id;
    panicked.epoch = 1;
    panicked.host_id = SELF;
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
    settle(f);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    small_cluster_started(&f->cluster, vm);
    proposal_ends(f, 0);
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

static void says_balloon(struct fixture *f, uint64_t vm_id, uint64_t target_bytes)
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    uint64_t all = cluster_state_vm(f->cluster.state, vm)->spec->memory_bytes;
    small_cluster_assign(&f->cluster, vm, SELF);
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
    struct fixture *f = *state;
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
    settle(f);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    small_cluster_started(&f->cluster, vm);
    proposal_ends(f, 0);
    host_core_vmm_gone(f->core, vm, 1, "powered off", true, f->now_ms);
    f->now_ms += 1000;
    tick(f);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_VM_STOPPED);
    assert_true(f->powered_off);
    assert_int_equal(f->starts, 1);
}

/* ---- migrations
 * -------------------------------------------------------------------------- */

/* VM 1, here under epoch 1, on its way to h2 under epoch 2; READY was seen after BEGUN.
 */
static uint64_t source(struct fixture *f)
{
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, SELF);
    settle(f);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    small_cluster_started(&f->cluster, vm);
    proposal_ends(f, 0);
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
    struct fixture *f = *state;
    uint64_t vm = source(f);
    f->now_ms += 2000;
    tick(f);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE, 1);
    says_move(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT_MIGRATION_ABORT);
    assert_int_equal(f->abort_by, DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE);
}

static void test_failure_of_the_move_before_is_not_this_ones(void **state)
{
    struct fixture *f = *state;
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

static void test_move_whose_order_was_never_given_is_given_up_with_the_reason(void **state)
{
    struct fixture *f = *state;
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

static void moves_on(struct fixture *f, uint64_t vm)
{
    says_move(f, vm, cluster_state_vm(f->cluster.state, vm)->epoch,
              DROVER__VM_RUN_STATE__VM_RUN_RUNNING,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY);
}

static void test_source_is_told_of_rdma_only_if_it_was_asked_for(void **state)
{
    struct fixture *f = *state;
    uint64_t vm = source(f);
    assert_string_equal(f->rdma, "");
    f->says_notice = "of no interest";
    moves_on(f, vm);
    assert_int_equal(f->proposed, DROVER__COMMAND__WHAT__NOT_SET);
}

static void test_source_tries_rdma_and_tells_of_its_fallback(void **state)
{
    struct fixture *f = *state;
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
    struct fixture *f = *state;
    uint64_t first = source(f);
    assert_int_equal(f->bandwidth[first], BANDWIDTH);
    moves_on(f, first);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT, 0);

    uint64_t second = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, second, SELF);
    renew(f, f->cluster.index);
    says(f, second, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    small_cluster_started(&f->cluster, second);
    proposal_ends(f, 0);
    small_cluster_migrate(&f->cluster, second, 2);
    tick(f);
    small_cluster_ready(&f->cluster, second);
    tick(f);
    assert_int_equal(f->bandwidth[second], BANDWIDTH / 2);
    moves_on(f, first);
    assert_int_equal(f->bandwidth[first], BANDWIDTH / 2);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT, 1);

    /* The second one fails: the first has the link for itself again. */
    Drover__MigrationAbort abort = DROVER__MIGRATION_ABORT__INIT;
    abort.vm_id = second;
    abort.next_epoch = 2;
    abort.host_id = SELF;
    abort.incarnation = (char *)(uintptr_t) "run1";
    abort.by = DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_ABORT;
    command.migration_abort = &abort;
    assert_int_equal(small_cluster_apply(&f->cluster, &command), 0);
    f->now_ms += 2000;
    moves_on(f, first);
    assert_int_equal(f->bandwidth[first], BANDWIDTH);
}

static void test_source_that_handed_over_waits_for_the_target(void **state)
{
    struct fixture *f = *state;
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

static void target_says(struct fixture *f, uint64_t vm, Drover__MigrationAbortBy by)
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
    struct fixture *f = *state;
    uint64_t vm = source(f);
    says_move(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER,
              DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_RECLAIM, 0);
    target_says(f, vm, DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_RECLAIM, 1);
}

static void test_source_starts_anew_when_the_target_is_lost_after_the_go(void **state)
{
    struct fixture *f = *state;
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
static uint64_t target(struct fixture *f)
{
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, 2);
    small_cluster_migrate(&f->cluster, vm, SELF);
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
    struct fixture *f = *state;
    small_cluster_rdma(&f->cluster);
    f->says_rdma = "10.1.0.1:4000";
    (void)target(f);
    assert_string_equal(f->rdma, "10.1.0.1:4000");
    assert_string_equal(f->notice, "");
}

static void test_target_with_the_guest_states_done(void **state)
{
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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

static void test_target_states_only_of_itself_what_an_older_source_does_not_tell(void **state)
{
    static const Drover__MoveEncryption connections[][2] = {{UNKNOWN, KERNEL},
                                                            {(Drover__MoveEncryption)9, KERNEL}};
    assert_states_encryption(state, 2, connections, UNKNOWN, KERNEL);
}

static void test_target_that_was_started_since_does_not_claim_to_know_who_encrypted(void **state)
{
    assert_states_encryption(state, 0, NULL, UNKNOWN, UNKNOWN);
}

static void test_target_that_failed_before_the_go_states_it_when_gone(void **state)
{
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
    uint64_t vm = target(f);
    host_core_vmm_gone(f->core, vm, 2, "killed by signal 9", false, f->now_ms);
    tick(f);
    assert_int_equal(f->abort_by,
                     DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE);
}

static void test_target_that_was_called_dead_is_not_extended(void **state)
{
    struct fixture *f = *state;
    uint64_t vm = target(f);
    unsigned leases = f->orders[DROVER__CONTROL_REQUEST__ORDER_LEASE];
    Drover__Proof proof = DROVER__PROOF__INIT;
    proof.kind = DROVER__PROOF_KIND__PROOF_OPERATOR;
    proof.detail = (char *)(uintptr_t) "said so";
    proof.leader_host_id = 2;
    Drover__HostDead dead = DROVER__HOST_DEAD__INIT;
    dead.host_id = SELF;
    dead.boot_id = (char *)(uintptr_t) "boot";
    dead.incarnation = (char *)(uintptr_t) "run1";
    dead.proof = &proof;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DEAD;
    command.host_dead = &dead;
    assert_int_equal(small_cluster_apply(&f->cluster, &command), 0);
    small_cluster_up(&f->cluster, SELF, "boot", "run1", 2000);
    renew(f, f->cluster.index);
    assert_int_equal(f->orders[DROVER__CONTROL_REQUEST__ORDER_LEASE], leases);
    assert_orders(f, DROVER__CONTROL_REQUEST__ORDER_QUIT, 1);
    assert_int_not_equal(vm, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reports_up_before_anything_else),
        TEST(test_starts_nothing_without_a_lease),
        TEST(test_starts_nothing_before_the_log_is_applied_as_far_as_the_lease_says),
        TEST(test_starts_nothing_before_the_scan_is_done),
        TEST(test_deadline_counts_from_sending),
        TEST(test_lease_that_is_nearly_over_is_not_used),
        TEST(test_answer_to_an_earlier_run_is_ignored),
        TEST(test_vmm_of_another_epoch_is_quit_and_not_extended),
        TEST(test_own_vmm_is_adopted_and_extended_with_each_lease),
        TEST(test_new_epoch_waits_until_the_old_vmm_is_gone),
        TEST(test_epoch_that_was_given_up_is_never_started_again),
        TEST(test_crashed_vm_starts_again_here_after_a_delay),
        TEST(test_stop_that_is_taken_back_does_not_lose_the_start),
        TEST(test_crash_of_a_guest_is_told_before_it_starts_again),
        TEST(test_balloon_is_ordered_until_the_vmm_has_it),
        TEST(test_guest_that_powers_off_by_itself_stays_off),
        TEST(test_source_orders_once_and_states_a_failure_before_the_go),
        TEST(test_failure_of_the_move_before_is_not_this_ones),
        TEST(test_move_whose_order_was_never_given_is_given_up_with_the_reason),
        TEST(test_source_is_told_of_rdma_only_if_it_was_asked_for),
        TEST(test_source_tries_rdma_and_tells_of_its_fallback),
        TEST(test_moves_share_the_bandwidth_of_their_host),
        TEST(test_source_that_handed_over_waits_for_the_target),
        TEST(test_source_reclaims_on_the_targets_word_only),
        TEST(test_source_starts_anew_when_the_target_is_lost_after_the_go),
        TEST(test_target_tells_where_it_takes_rdma_or_why_not),
        TEST(test_target_with_the_guest_states_done),
        TEST(test_target_states_who_encrypted_and_a_relay_counts_for_all),
        TEST(test_target_states_only_of_itself_what_an_older_source_does_not_tell),
        TEST(test_target_that_was_started_since_does_not_claim_to_know_who_encrypted),
        TEST(test_target_that_failed_before_the_go_states_it_when_gone),
        TEST(test_target_whose_guest_failed_after_the_go_states_done),
        TEST(test_target_that_failed_in_the_handover_does_not_claim_to_know),
        TEST(test_target_that_vanished_does_not_claim_to_know),
        TEST(test_target_that_was_called_dead_is_not_extended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
