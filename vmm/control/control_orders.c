/* SPDX-License-Identifier: Apache-2.0 */
/* The orders, one by one. Each is judged first: is it for this VM, of this epoch, and
 * possible now? */
#include "vmm/control/control_orders.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "proto/unix_files.h"
#include "vmm/devices/panic.h"
#include "vmm/jail/broker.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/move/migrate.h"
#include "vmm/virtio/virtio_balloon.h"
#include "vmm/virtio/virtio_block.h"

#define US_PER_MS 1000

static Drover__VmRunState run_state(struct vm *vm, struct migrate *migrate)
{
    unsigned holds = vm_holds(vm);
    if (vm_ended(vm)) {
        /* The watchdog is fed on this word: not before vCPUs are out and I/O is drained.
         */
        bool failed = vm_failed(vm) &&
                      (vm_config(vm)->vm_id == 0 || !migrate_guest_lost(migrate));
        return !vm_quiet(vm) ? DROVER__VM_RUN_STATE__VM_RUN_FREEZING
               : failed      ? DROVER__VM_RUN_STATE__VM_RUN_FAILED
                             : DROVER__VM_RUN_STATE__VM_RUN_STOPPED;
    }
    if (vm_handed_over(vm)) {
        return DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER;
    }
    if ((holds & VM_HOLD_INCOMING) != 0) {
        return DROVER__VM_RUN_STATE__VM_RUN_INCOMING;
    }
    bool lease_over = vm_config(vm)->ha && clock_now_ns() >= vm_lease_deadline_ns(vm);
    if (lease_over || (holds & VM_HOLD_LEASE) != 0) {
        bool frozen = (holds & VM_HOLD_LEASE) != 0 && vm_quiet(vm);
        return frozen ? DROVER__VM_RUN_STATE__VM_RUN_FROZEN
                      : DROVER__VM_RUN_STATE__VM_RUN_FREEZING;
    }
    if ((holds & (VM_HOLD_OPERATOR | VM_HOLD_PANIC)) != 0) {
        return DROVER__VM_RUN_STATE__VM_RUN_PAUSED;
    }
    return DROVER__VM_RUN_STATE__VM_RUN_RUNNING;
}

static void snapshot_fill(const struct snapshot_status *now,
                          struct control_status *status)
{
    drover__vm_snapshot_status__init(&status->snapshot);
    if (now->state == SNAPSHOT_STATE_NONE) {
        return;
    }
    (void)snprintf(status->snapshot_error, sizeof(status->snapshot_error), "%s",
                   now->error.text);
    /* The job's numbers are those of the message (vmm/move/snapshot.h). */
    status->snapshot.state = (Drover__VmSnapshotState)now->state;
    status->snapshot.bytes_total = now->bytes_total;
    status->snapshot.bytes_remaining = now->bytes_remaining;
    status->snapshot.total_ms = now->figures.total_us / US_PER_MS;
    status->snapshot.pause_us = now->figures.pause_us;
    status->snapshot.bytes_written = now->figures.bytes_written;
    status->snapshot.pages_written = now->figures.pages_written;
    status->snapshot.pages_zero = now->figures.pages_zero;
    status->snapshot.rounds = now->figures.rounds;
    status->snapshot.error = status->snapshot_error;
    status->status.snapshot = &status->snapshot;
}

static void migration_fill(struct migrate *migrate, struct control_status *status)
{
    struct migrate_status now = {0};
    migrate_status(migrate, &now);
    const struct migration_status *engine = &now.engine;
    drover__vm_migration_status__init(&status->migration);
    drover__migration_figures__init(&status->figures);
    (void)snprintf(status->uri, sizeof(status->uri), "%s", now.uri);
    (void)snprintf(status->incoming_uri, sizeof(status->incoming_uri), "%s",
                   now.incoming_uri);
    (void)snprintf(status->error, sizeof(status->error), "%s", engine->error.text);
    (void)snprintf(status->notice, sizeof(status->notice), "%s", engine->notice);
    status->migration.notice = status->notice;
    /* The engine's numbers are those of the message (migration/status.h). */
    status->migration.state = (Drover__VmMigrationState)engine->state;
    status->migration.uri = status->uri;
    status->migration.next_epoch = now.next_epoch;
    status->migration.round = engine->round;
    status->migration.interrupted = engine->interrupted;
    status->migration.streams = engine->streams;
    status->migration.bytes_total = engine->bytes_total;
    status->migration.bytes_remaining = engine->bytes_remaining;
    status->migration.bytes_per_second = engine->bytes_per_second;
    status->migration.dirty_bytes_per_second = engine->dirty_bytes_per_second;
    status->migration.predicted_total_ms = engine->figures.predicted_total_ms;
    status->migration.throttle_percent = engine->throttle_percent;
    if (engine->started_ns != 0) {
        uint64_t end_ns = engine->ended_ns != 0 ? engine->ended_ns : clock_now_ns();
        status->migration.elapsed_ms = (end_ns - engine->started_ns) / NS_PER_MS;
    }
    status->figures.total_ms = engine->figures.total_us / US_PER_MS;
    status->figures.downtime_us = engine->figures.downtime_us;
    status->figures.predicted_downtime_us = engine->figures.predicted_downtime_us;
    status->figures.predicted_total_ms = engine->figures.predicted_total_ms;
    status->figures.bytes_sent = engine->figures.bytes_sent;
    status->figures.bytes_placed = engine->figures.bytes_placed;
    status->figures.pages_sent = engine->figures.pages_sent;
    status->figures.pages_zero = engine->figures.pages_zero;
    status->figures.rounds = engine->figures.rounds;
    status->figures.over_rdma = engine->over_rdma;
    status->figures.postcopy_pages = engine->figures.postcopy_pages;
    status->migration.figures = &status->figures;
    status->migration.error = status->error;
    status->status.migration = &status->migration;
    status->status.incoming_uri = status->incoming_uri;
    (void)snprintf(status->incoming_rdma, sizeof(status->incoming_rdma), "%s",
                   now.incoming_rdma);
    status->status.incoming_rdma = status->incoming_rdma;
    snapshot_fill(&now.snapshot, status);
}

static uint64_t stat(const struct virtio_balloon_status *balloon,
                     enum virtio_balloon_stat which)
{
    return (balloon->stats_known >> which & 1) != 0 ? balloon->stats[which] : 0;
}

static void balloon_fill(struct vm *vm, struct control_status *status)
{
    struct virtio_balloon_status now = {0};
    if (!virtio_balloon_status(vm, &now)) {
        return;
    }
    Drover__VmBalloonStatus *balloon = &status->balloon;
    drover__vm_balloon_status__init(balloon);
    balloon->has_driver = now.has_driver;
    balloon->target_bytes = now.target_bytes;
    balloon->actual_bytes = now.actual_bytes;
    balloon->reported_bytes = now.reported_bytes;
    balloon->has_stats = now.stats_known != 0;
    balloon->stats_age_ms = now.stats_known != 0 ? now.stats_age_ms : 0;
    balloon->total_bytes = stat(&now, VIRTIO_BALLOON_TOTAL_BYTES);
    balloon->free_bytes = stat(&now, VIRTIO_BALLOON_FREE_BYTES);
    balloon->available_bytes = stat(&now, VIRTIO_BALLOON_AVAILABLE_BYTES);
    balloon->cache_bytes = stat(&now, VIRTIO_BALLOON_CACHE_BYTES);
    balloon->swap_in_bytes = stat(&now, VIRTIO_BALLOON_SWAP_IN_BYTES);
    balloon->swap_out_bytes = stat(&now, VIRTIO_BALLOON_SWAP_OUT_BYTES);
    balloon->major_faults = stat(&now, VIRTIO_BALLOON_MAJOR_FAULTS);
    balloon->minor_faults = stat(&now, VIRTIO_BALLOON_MINOR_FAULTS);
    status->status.balloon = balloon;
}

static void panic_fill(struct vm *vm, Drover__VmStatus *status)
{
    struct panic_status now;
    panic_status(vm, &now);
    status->guest_panicked = now.panicked;
    status->guest_panics = now.panics;
    status->guest_panicked_unix_ms = now.last_unix_ms;
}

void control_status_fill(struct vm *vm, struct migrate *migrate,
                         struct control_status *ret_status)
{
    const struct vm_config *config = vm_config(vm);
    Drover__VmStatus *status = &ret_status->status;
    drover__vm_status__init(status);
    vm_end_reason(vm, ret_status->reason, sizeof(ret_status->reason));
    status->name = (char *)config->name; /* protobuf-c does not write to them */
    status->version = (char *)DROVER_VERSION;
    status->vm_id = config->vm_id;
    status->epoch = config->epoch;
    status->run_state = run_state(vm, migrate);
    status->lease_deadline_ns = config->ha ? vm_lease_deadline_ns(vm) : 0;
    status->pid = broker_host_pid(config->broker);
    status->memory_bytes = guest_ram_size(vm_ram(vm));
    status->memory_resident_bytes = guest_ram_resident(vm_ram(vm));
    status->cpus = config->cpus;
    status->reason = ret_status->reason;
    status->guest_powered_off = vm_guest_powered_off(vm);
    status->paused_wanted = (vm_holds(vm) & VM_HOLD_OPERATOR) != 0;
    status->uptime_ms = vm_uptime_ms(vm);
    virtio_block_trouble(vm_devices(vm), ret_status->storage_trouble,
                         sizeof(ret_status->storage_trouble));
    status->storage_trouble = ret_status->storage_trouble;
    panic_fill(vm, status);
    balloon_fill(vm, ret_status);
    migration_fill(migrate, ret_status);
}

static int request_judge(const struct vm_config *config,
                         const Drover__ControlRequest *request, struct error *err)
{
    if (request->vm_id != 0 && request->vm_id != config->vm_id) {
        return error_set(err, DROVER_ENOTFOUND,
                         "the order is for VM %" PRIu64 ", this is VM %" PRIu64,
                         request->vm_id, config->vm_id);
    }
    if (request->epoch != 0 && request->epoch != config->epoch) {
        return error_set(err, DROVER_ESTALEEPOCH,
                         "the order carries epoch %" PRIu64
                         ", this VM runs in epoch %" PRIu64,
                         request->epoch, config->epoch);
    }
    return 0;
}

/* Most orders make no sense for a VM that is gone. */
static int alive_judge(struct vm *vm, struct error *err)
{
    if (vm_ended(vm)) {
        return error_set(err, DROVER_EWRONGSTATE, "the VM has ended: start it again");
    }
    if (vm_handed_over(vm)) {
        return error_set(
            err, DROVER_EHANDEDOVER,
            "the guest was handed over to another host: give the order there");
    }
    return 0;
}

static int order_pause(struct vm *vm, vm_quiet_handler quiet, void *owner, bool *ret_wait,
                       struct error *err)
{
    int result = alive_judge(vm, err);
    if (result < 0) {
        return result;
    }
    result = vm_hold_set(vm, VM_HOLD_OPERATOR, quiet, owner);
    if (result < 0) {
        return error_set(err, result,
                         "too many orders wait for this VM to stop: try again");
    }
    *ret_wait = true;
    return 0;
}

static int order_quit(struct vm *vm, struct migrate *migrate, vm_quiet_handler quiet,
                      void *owner, bool *ret_wait, struct error *err)
{
    migrate_quit(migrate);
    vm_quit(vm);
    int result = vm_hold_set(vm, VM_HOLD_SHUTDOWN, quiet, owner);
    if (result < 0) {
        return error_set(err, result,
                         "too many orders wait for this VM to stop: it will end");
    }
    *ret_wait = true;
    return 0;
}

static int order_migrate(struct vm *vm, struct migrate *migrate,
                         const Drover__ControlMigrate *order, struct unix_files *files,
                         struct error *err)
{
    if (files->count == 0 && vm_config(vm)->seccomp != SECCOMP_OFF) {
        return error_set(
            err, DROVER_EBADINPUT,
            "this VM's jail can't connect to %s by itself: whoever gives the "
            "order sends the connection along (a number as host, such as "
            "tcp:192.0.2.1:7200, always works)",
            order->uri);
    }
    return migrate_leave(migrate, order, files, err);
}

static int order_simple(struct vm *vm, struct migrate *migrate,
                        const Drover__ControlRequest *request, struct unix_files *files,
                        struct error *err)
{
    int result = alive_judge(vm, err);
    bool reclaims = request->order_case == DROVER__CONTROL_REQUEST__ORDER_RECLAIM ||
                    request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS;
    if (result < 0 && !(reclaims && result == DROVER_EHANDEDOVER)) {
        return result;
    }
    switch (request->order_case) {
    case DROVER__CONTROL_REQUEST__ORDER_RESUME:
        vm_hold_clear(vm, VM_HOLD_OPERATOR);
        vm_hold_clear(vm, VM_HOLD_PANIC);
        return 0;
    case DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON:
        vm_power_button(vm);
        return 0;
    case DROVER__CONTROL_REQUEST__ORDER_LEASE:
        result = vm_lease_set(vm, request->lease->deadline_ns);
        return result == 0 ? 0
                           : error_set(err, result,
                                       "this VM is bound to no lease: start it "
                                       "with --ha");
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE:
        return order_migrate(vm, migrate, request->migrate, files, err);
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS:
        return migrate_links(migrate, files, err);
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LIMIT:
        return migrate_limit(migrate, request->migrate_limit->bandwidth_bytes_per_second,
                             err);
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE_CANCEL:
        return migrate_cancel(migrate, err);
    case DROVER__CONTROL_REQUEST__ORDER_RECLAIM:
        return migrate_reclaim(migrate, err);
    case DROVER__CONTROL_REQUEST__ORDER_BALLOON:
        return virtio_balloon_order(vm, request->balloon->memory_bytes, err);
    case DROVER__CONTROL_REQUEST__ORDER_SNAPSHOT:
        return migrate_snapshot(migrate, files, err);
    default:
        return error_set(err, DROVER_EBADINPUT,
                         "an order that this drover-vmm (%s) does not know",
                         DROVER_VERSION);
    }
}

int control_order(struct vm *vm, struct migrate *migrate,
                  const Drover__ControlRequest *request, struct unix_files *files,
                  vm_quiet_handler quiet, void *owner, bool *ret_wait, struct error *err)
{
    int result = request_judge(vm_config(vm), request, err);
    if (result < 0) {
        return result;
    }
    switch (request->order_case) {
    case DROVER__CONTROL_REQUEST__ORDER_STATUS:
    case DROVER__CONTROL_REQUEST__ORDER_SUBSCRIBE: /* control.c notes it */
        return 0;
    case DROVER__CONTROL_REQUEST__ORDER_PAUSE:
        return order_pause(vm, quiet, owner, ret_wait, err);
    case DROVER__CONTROL_REQUEST__ORDER_QUIT:
        return order_quit(vm, migrate, quiet, owner, ret_wait, err);
    default:
        return order_simple(vm, migrate, request, files, err);
    }
}
