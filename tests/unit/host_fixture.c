/* SPDX-License-Identifier: Apache-2.0 */
/* See host_fixture.h. */
#include "tests/unit/host_fixture.h"

#include <stdio.h>

#include "base/err.h"
#include "fencing/timing.h"
#include "tests/unit/unit.h"

static void start_vmm(void *owner, const Drover__VmRecord *vm, uint64_t epoch,
                      bool incoming)
{
    struct host_fixture *f = owner;
    f->starts++;
    f->incoming += incoming;
    f->started_epoch = epoch;
}

static void order_vmm(void *owner, uint64_t vm_id, uint64_t epoch,
                      const Drover__ControlRequest *request)
{
    struct host_fixture *f = owner;
    assert_int_equal(request->vm_id, vm_id);
    assert_int_equal(request->epoch, epoch);
    f->orders[request->order_case]++;
    if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_LEASE) {
        assert_true(f->deadline_ns >=
                    request->lease->deadline_ns); /* the keeper knew first */
        f->lease_ns = request->lease->deadline_ns;
    } else if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE) {
        f->bandwidth[vm_id % 8] = request->migrate->bandwidth_bytes_per_second;
        f->postcopy = request->migrate->postcopy;
        (void)snprintf(f->rdma, sizeof(f->rdma), "%s", request->migrate->rdma_address);
    } else if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT) {
        f->bandwidth[vm_id % 8] = request->migrate_limit->bandwidth_bytes_per_second;
    }
}

static void send_lease_request(void *owner, const Drover__LeaseRequest *request)
{
    struct host_fixture *f = owner;
    f->requests++;
    f->sequence = request->sequence;
}

static void note_done(struct host_fixture *f, const Drover__MigrationDone *done)
{
    f->depends = done->depends;
    if (done->figures != NULL) {
        f->source_encryption = done->figures->source_encryption;
        f->target_encryption = done->figures->target_encryption;
    }
}

static void propose(void *owner, uint64_t proposal_id, const Drover__Command *command)
{
    struct host_fixture *f = owner;
    f->proposal_id = proposal_id;
    f->proposed = command->what_case;
    switch (command->what_case) {
    case DROVER__COMMAND__WHAT_MIGRATION_ABORT:
        f->abort_by = command->migration_abort->by;
        break;
    case DROVER__COMMAND__WHAT_MIGRATION_NOTICE:
        (void)snprintf(f->notice, sizeof(f->notice), "%s",
                       command->migration_notice->text);
        break;
    case DROVER__COMMAND__WHAT_MIGRATION_READY:
        (void)snprintf(f->rdma, sizeof(f->rdma), "%s",
                       command->migration_ready->rdma_address);
        (void)snprintf(f->notice, sizeof(f->notice), "%s",
                       command->migration_ready->notice);
        break;
    case DROVER__COMMAND__WHAT_MIGRATION_DONE:
        note_done(f, command->migration_done);
        break;
    case DROVER__COMMAND__WHAT_MIGRATION_COMPLETE:
        f->lost = command->migration_complete->lost;
        break;
    case DROVER__COMMAND__WHAT_VM_STOPPED:
        f->powered_off = command->vm_stopped->guest_powered_off;
        break;
    default:
        break;
    }
}

static void lease_changed(void *owner, uint64_t deadline_ns)
{
    ((struct host_fixture *)owner)->deadline_ns = deadline_ns;
}

static void note(void *owner, const char *text)
{
    (void)owner;
    assert_non_null(text);
}

static const struct host_core_ops ops = {start_vmm, order_vmm,     send_lease_request,
                                         propose,   lease_changed, note};

void host_fixture_new_run(struct host_fixture *f, const char *incarnation)
{
    struct timing timing;
    host_core_free(f->core);
    assert_int_equal(timing_from_lease(5000, &timing, NULL), 0);
    const struct host_core_identity identity = {.host_id = HOST_SELF,
                                                .boot_id = "boot",
                                                .incarnation = incarnation,
                                                .watchdog_ms = 2000,
                                                .version = "1",
                                                .move_bandwidth = HOST_BANDWIDTH};
    assert_int_equal(host_core_create(&timing, &identity, &ops, f, &f->core), 0);
}

int host_fixture_setup(void **state)
{
    static struct host_fixture f;
    f = (struct host_fixture){.now_ms = 100000};
    small_cluster_init(&f.cluster);
    host_fixture_new_run(&f, "run1");
    *state = &f;
    return 0;
}

int host_fixture_teardown(void **state)
{
    struct host_fixture *f = *state;
    host_core_free(f->core);
    small_cluster_done(&f->cluster);
    return 0;
}

void tick(struct host_fixture *f)
{
    (void)host_core_tick(f->core, f->cluster.state, f->now_ms);
}

void grant(struct host_fixture *f, uint64_t required_index)
{
    Drover__LeaseReply reply = DROVER__LEASE_REPLY__INIT;
    reply.sequence = f->sequence;
    reply.granted = true;
    reply.required_index = required_index;
    host_core_lease_reply(f->core, &reply, f->now_ms);
    tick(f);
}

void renew(struct host_fixture *f, uint64_t required_index)
{
    unsigned before = f->requests;
    for (unsigned i = 0; i < 20 && f->requests == before; i++) {
        f->now_ms += 100;
        tick(f);
    }
    assert_true(f->requests > before);
    grant(f, required_index);
}

void settle(struct host_fixture *f)
{
    host_core_scan_done(f->core, f->now_ms);
    tick(f);
    renew(f, f->cluster.index);
}

void says_move_of(struct host_fixture *f, uint64_t vm_id, uint64_t epoch,
                  Drover__VmRunState run_state, Drover__VmMigrationState move,
                  uint64_t next_epoch)
{
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    Drover__VmMigrationStatus migration = DROVER__VM_MIGRATION_STATUS__INIT;
    Drover__MigrationFigures figures = DROVER__MIGRATION_FIGURES__INIT;
    figures.source_encryption =
        DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL; /* which is not its to say */
    migration.figures = &figures;
    status.vm_id = vm_id;
    status.epoch = epoch;
    status.run_state = run_state;
    migration.state = move;
    migration.next_epoch = next_epoch;
    migration.interrupted = f->says_interrupted;
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
void says_move(struct host_fixture *f, uint64_t vm_id, uint64_t epoch,
               Drover__VmRunState run_state, Drover__VmMigrationState move)
{
    says_move_of(f, vm_id, epoch, run_state, move, 0);
}

void says(struct host_fixture *f, uint64_t vm_id, uint64_t epoch,
          Drover__VmRunState run_state)
{
    says_move(f, vm_id, epoch, run_state, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE);
}

void proposal_ends(struct host_fixture *f, int error)
{
    host_core_proposal_done(f->core, f->proposal_id, error, "", f->now_ms);
    f->proposed = DROVER__COMMAND__WHAT__NOT_SET;
    f->now_ms += 1000;
    tick(f);
}

void assert_orders(struct host_fixture *f, unsigned order_case, unsigned count)
{
    assert_int_equal(f->orders[order_case], count);
}

uint64_t running_vm(struct host_fixture *f)
{
    uint64_t vm = small_cluster_vm(&f->cluster);
    small_cluster_assign(&f->cluster, vm, HOST_SELF);
    settle(f);
    says(f, vm, 1, DROVER__VM_RUN_STATE__VM_RUN_RUNNING);
    small_cluster_started(&f->cluster, vm);
    proposal_ends(f, 0);
    return vm;
}
