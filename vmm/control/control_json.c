/* SPDX-License-Identifier: Apache-2.0 */
/* VmStatus as JSON. */
#include "vmm/control/control_client.h"

#include <stdbool.h>

#define US_PER_MS 1000.0

static const char *run_state_name(Drover__VmRunState state)
{
    switch (state) {
    case DROVER__VM_RUN_STATE__VM_RUN_RUNNING:
        return "running";
    case DROVER__VM_RUN_STATE__VM_RUN_PAUSED:
        return "paused";
    case DROVER__VM_RUN_STATE__VM_RUN_FROZEN:
        return "frozen";
    case DROVER__VM_RUN_STATE__VM_RUN_INCOMING:
        return "incoming";
    case DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER:
        return "handed-over";
    case DROVER__VM_RUN_STATE__VM_RUN_STOPPED:
        return "stopped";
    case DROVER__VM_RUN_STATE__VM_RUN_FAILED:
        return "failed";
    case DROVER__VM_RUN_STATE__VM_RUN_FREEZING:
        return "freezing";
    default:
        return "unknown";
    }
}

static const char *migration_state_name_of(Drover__VmMigrationState state)
{
    switch (state) {
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CONNECTING:
        return "connecting";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY:
        return "precopy";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER:
        return "handover";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE:
        return "completed";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED:
        return "failed";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED:
        return "cancelled";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN:
        return "unknown";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY:
        return "postcopy";
    default:
        return "none";
    }
}

json_t *control_json_migration(const Drover__VmMigrationStatus *migration)
{
    const Drover__MigrationFigures none = DROVER__MIGRATION_FIGURES__INIT;
    const Drover__MigrationFigures *figures =
        migration->figures != NULL ? migration->figures : &none;
    return json_pack(
        "{s:s, s:b, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:i, s:I, "
        "s:I, s:I, s:I, s:i, s:s, s:s, s:I, s:b}",
        "status", migration_state_name_of(migration->state), "interrupted",
        (int)migration->interrupted, "uri", migration->uri,
        "round", (int)migration->round, "streams", (int)migration->streams, "bytes_total", (json_int_t)migration->bytes_total,
        "bytes_remaining", (json_int_t)migration->bytes_remaining, "bytes_per_second",
        (json_int_t)migration->bytes_per_second, "dirty_bytes_per_second",
        (json_int_t)migration->dirty_bytes_per_second, "elapsed_ms",
        (json_int_t)migration->elapsed_ms, "total_ms", (json_int_t)figures->total_ms,
        "downtime_ms", (double)figures->downtime_us / US_PER_MS, "predicted_downtime_ms",
        (double)figures->predicted_downtime_us / US_PER_MS, "predicted_total_ms",
        (json_int_t)figures->predicted_total_ms, "throttle_percent",
        (int)migration->throttle_percent, "bytes_sent",
        (json_int_t)figures->bytes_sent, "pages_sent", (json_int_t)figures->pages_sent,
        "pages_zero", (json_int_t)figures->pages_zero, "postcopy_pages",
        (json_int_t)figures->postcopy_pages, "rounds", (int)figures->rounds,
        "error", migration->error, "notice", migration->notice, "bytes_placed",
        (json_int_t)figures->bytes_placed, "over_rdma", (int)figures->over_rdma);
}

static json_t *balloon_json(const Drover__VmBalloonStatus *balloon)
{
    json_t *object = json_pack("{s:b, s:I, s:I, s:I}", "driver", balloon->has_driver,
                               "target_bytes", (json_int_t)balloon->target_bytes,
                               "actual_bytes", (json_int_t)balloon->actual_bytes,
                               "reported_bytes", (json_int_t)balloon->reported_bytes);
    if (object == NULL || !balloon->has_stats) {
        return object;
    }
    json_t *stats = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "age_ms",
                              (json_int_t)balloon->stats_age_ms, "total_bytes",
                              (json_int_t)balloon->total_bytes, "free_bytes",
                              (json_int_t)balloon->free_bytes, "available_bytes",
                              (json_int_t)balloon->available_bytes, "cache_bytes",
                              (json_int_t)balloon->cache_bytes, "swap_in_bytes",
                              (json_int_t)balloon->swap_in_bytes, "swap_out_bytes",
                              (json_int_t)balloon->swap_out_bytes, "major_faults",
                              (json_int_t)balloon->major_faults, "minor_faults",
                              (json_int_t)balloon->minor_faults);
    if (json_object_set_new(object, "stats", stats) < 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

json_t *control_json_snapshot(const Drover__VmSnapshotStatus *snapshot)
{
    static const char *const names[] = {"none", "runs", "completed", "failed"};
    unsigned state = (unsigned)snapshot->state;
    return json_pack("{s:s, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:i, s:s}", "status",
                     state < sizeof(names) / sizeof(names[0]) ? names[state] : "unknown",
                     "bytes_total", (json_int_t)snapshot->bytes_total, "bytes_remaining",
                     (json_int_t)snapshot->bytes_remaining, "total_ms",
                     (json_int_t)snapshot->total_ms, "pause_ms",
                     (double)snapshot->pause_us / US_PER_MS, "bytes_written",
                     (json_int_t)snapshot->bytes_written, "pages_written",
                     (json_int_t)snapshot->pages_written, "pages_zero",
                     (json_int_t)snapshot->pages_zero, "rounds", (int)snapshot->rounds,
                     "error", snapshot->error);
}

json_t *control_json_status(const Drover__VmStatus *status)
{
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:I, s:i, s:I, s:I, s:i, s:b, s:I, s:s, s:I, s:b, s:b, s:I, s:s, "
        "s:s, s:s}",
        "name", status->name, "state", run_state_name(status->run_state), "vm_id",
        (json_int_t)status->vm_id, "epoch", (json_int_t)status->epoch, "pid",
        (int)status->pid, "memory_bytes", (json_int_t)status->memory_bytes,
        "memory_resident_bytes", (json_int_t)status->memory_resident_bytes, "cpus",
        (int)status->cpus, "paused_wanted", status->paused_wanted, "lease_deadline_ns",
        (json_int_t)status->lease_deadline_ns, "incoming_uri", status->incoming_uri,
        "uptime_ms", (json_int_t)status->uptime_ms, "guest_powered_off",
        status->guest_powered_off, "guest_panicked", status->guest_panicked,
        "guest_panics", (json_int_t)status->guest_panics, "reason", status->reason,
        "storage_trouble", status->storage_trouble, "version", status->version);
    if (object != NULL && status->balloon != NULL &&
        json_object_set_new(object, "balloon", balloon_json(status->balloon)) < 0) {
        json_decref(object);
        return NULL;
    }
    bool moves =
        status->migration != NULL &&
        status->migration->state != DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE;
    if (object != NULL && moves &&
        json_object_set_new(object, "migration",
                            control_json_migration(status->migration)) < 0) {
        json_decref(object);
        return NULL;
    }
    if (object != NULL && status->snapshot != NULL &&
        json_object_set_new(object, "snapshot",
                            control_json_snapshot(status->snapshot)) < 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}
