/* SPDX-License-Identifier: Apache-2.0 */
/* A VM as the API shows it: its record, joined with what is observed of it. */
#include "node-agent/json_vm.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "consensus/placement.h"
#include "node-agent/json_reader.h"
#include "node-agent/json_view.h"

static const char *wanted_text(Drover__VmWanted wanted)
{
    switch (wanted) {
    case DROVER__VM_WANTED__VM_WANTED_RUNNING:
        return "running";
    case DROVER__VM_WANTED__VM_WANTED_PAUSED:
        return "paused";
    default:
        return "stopped";
    }
}

static bool wanted_up(const Drover__VmRecord *vm)
{
    return vm->wanted == DROVER__VM_WANTED__VM_WANTED_RUNNING ||
           vm->wanted == DROVER__VM_WANTED__VM_WANTED_PAUSED;
}

static bool any_host(const void *owner, uint64_t host_id)
{
    return true;
}

/* Nobody has the right to run it. Leases aside, is there room for it at all? */
static const char *state_without_owner(const Drover__VmRecord *vm,
                                       const struct cluster_state *state,
                                       char *ret_reason, size_t size)
{
    if (!wanted_up(vm)) {
        (void)snprintf(ret_reason, size, "%s", vm->last_error);
        return "stopped";
    }
    struct placement_view view = {.usable = any_host};
    struct error err = {.text = "waits for a host"};
    if (vm->last_error[0] == '\0') {
        (void)placement_choose(state, &view, vm, 0, &err);
    }
    (void)snprintf(ret_reason, size, "%s",
                   vm->last_error[0] != '\0' ? vm->last_error : err.text);
    return "unowned";
}

/* Its host reports it. */
static const char *state_as_seen(const Drover__VmRecord *vm,
                                 const Drover__VmStatus *status, char *ret_reason,
                                 size_t size)
{
    if (status->guest_panicked) {
        (void)snprintf(ret_reason, size, "its guest's kernel has crashed");
    }
    switch (status->run_state) {
    case DROVER__VM_RUN_STATE__VM_RUN_RUNNING:
        return wanted_up(vm) ? "running" : "stopping";
    case DROVER__VM_RUN_STATE__VM_RUN_PAUSED:
        return wanted_up(vm) ? "paused" : "stopping";
    case DROVER__VM_RUN_STATE__VM_RUN_FROZEN:
    case DROVER__VM_RUN_STATE__VM_RUN_FREEZING:
        (void)snprintf(ret_reason, size,
                       "its host has lost its lease: it stands still until "
                       "the lease is back, or it is started elsewhere");
        return "frozen";
    case DROVER__VM_RUN_STATE__VM_RUN_INCOMING:
        return "starting";
    case DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER:
        return "migrating";
    case DROVER__VM_RUN_STATE__VM_RUN_FAILED:
        (void)snprintf(ret_reason, size, "%s", status->reason);
        return "failed";
    default:
        (void)snprintf(ret_reason, size, "%s", status->reason);
        return "stopping";
    }
}

const char *json_vm_state(const Drover__VmRecord *vm, const struct cluster_state *state,
                          const struct json_vm_seen *seen, char *ret_reason, size_t size)
{
    ret_reason[0] = '\0';
    if (vm->owner_host_id == 0) {
        return state_without_owner(vm, state, ret_reason, size);
    }
    const char *owner = json_host_name(state, vm->owner_host_id);
    if (!seen->leads) {
        (void)snprintf(ret_reason, size, "the cluster has no leader just now");
        return "unknown";
    }
    if (seen->owner_silent) {
        if (seen->owner_silent_ms == UINT64_MAX) {
            (void)snprintf(ret_reason, size,
                           "its host %s has not been heard of since the leader changed",
                           owner);
        } else {
            (void)snprintf(ret_reason, size,
                           "its host %s has been silent for %llu.%llu s", owner,
                           (unsigned long long)(seen->owner_silent_ms / MS_PER_S),
                           (unsigned long long)(seen->owner_silent_ms % MS_PER_S / 100));
        }
        return "unknown";
    }
    if (vm->migration != NULL) {
        return "migrating";
    }
    bool current = seen->status != NULL && seen->status->epoch == vm->epoch &&
                   seen->host_id == vm->owner_host_id;
    if (current) {
        return state_as_seen(vm, seen->status, ret_reason, size);
    }
    if (!wanted_up(vm)) {
        return "stopping";
    }
    (void)snprintf(ret_reason, size, "%s", vm->last_error);
    return vm->last_error[0] != '\0' ? "failed" : "starting";
}

static const char *phase_text(const Drover__Migration *migration,
                              const Drover__VmStatus *source)
{
    if (migration->phase != DROVER__MIGRATION_PHASE__MIGRATION_PHASE_READY) {
        return "preparing";
    }
    if (source == NULL || source->migration == NULL) {
        return "preparing";
    }
    switch (source->migration->state) {
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY:
        return "copying";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER:
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN:
        return "handover";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY:
        return "postcopy";
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE:
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED:
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED:
        return "finishing";
    default:
        return "preparing";
    }
}

static json_t *json_migration(const Drover__VmRecord *vm,
                              const struct cluster_state *state,
                              const struct json_vm_seen *seen)
{
    static const Drover__VmMigrationStatus nothing = DROVER__VM_MIGRATION_STATUS__INIT;
    const Drover__Migration *migration = vm->migration;
    if (migration == NULL) {
        return json_null();
    }
    const Drover__VmStatus *source =
        seen->status != NULL && seen->status->epoch == vm->epoch ? seen->status : NULL;
    const Drover__VmMigrationStatus *progress =
        source != NULL && source->migration != NULL ? source->migration : &nothing;
    uint64_t done = progress->bytes_total > progress->bytes_remaining
                        ? progress->bytes_total - progress->bytes_remaining
                        : 0;
    uint64_t percent =
        progress->bytes_total == 0 ? 0 : done / (progress->bytes_total / 100 + 1);
    json_t *object = json_pack("{s:s?, s:s?, s:s, s:b, s:i, s:I, s:I, s:I}", "source",
                               json_host_name(state, migration->source_host_id), "target",
                               json_host_name(state, migration->target_host_id), "phase",
                               phase_text(migration, source), "cancel_wanted",
                               migration->cancel_wanted, "round", (int)progress->round,
                               "bytes_total", (json_int_t)progress->bytes_total,
                               "bytes_remaining", (json_int_t)progress->bytes_remaining,
                               "progress_percent", (json_int_t)percent);
    json_t *rest =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:i, s:i, s:f, s:I, s:s, s:s}",
                  "bytes_per_second",
                  (json_int_t)progress->bytes_per_second, "dirty_bytes_per_second",
                  (json_int_t)progress->dirty_bytes_per_second, "elapsed_ms",
                  (json_int_t)progress->elapsed_ms, "max_downtime_ms",
                  (json_int_t)migration->max_downtime_ms, "deadline_s",
                  (json_int_t)migration->deadline_s, "begun_unix_ms",
                  (json_int_t)migration->begun_unix_ms, "predict_only",
                  migration->predict_only, "streams", (int)progress->streams,
                  "throttle_percent", (int)progress->throttle_percent,
                  "predicted_downtime_ms",
                  progress->figures == NULL
                      ? 0.0
                      : (double)progress->figures->predicted_downtime_us / 1000.0,
                  "predicted_total_ms", (json_int_t)progress->predicted_total_ms,
                  "transport",
                  migration->transport ==
                          DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA
                      ? "rdma"
                      : "tcp",
                  "notice", migration->notice);
    (void)json_object_update(object, rest);
    json_decref(rest);
    return object;
}

/* What its owner still needs of the host that it has left; null: nothing. */
static json_t *json_postcopy(const Drover__VmRecord *vm,
                             const struct cluster_state *state,
                             const Drover__VmStatus *status)
{
    const Drover__Dependence *dependence = vm->dependence;
    const Drover__VmMigrationStatus *move = status != NULL ? status->migration : NULL;
    if (dependence == NULL) {
        return json_null();
    }
    return json_pack("{s:s?, s:b, s:b, s:I}", "source",
                     json_host_name(state, dependence->host_id), "lost", dependence->lost,
                     "interrupted", move != NULL && move->interrupted, "bytes_remaining",
                     (json_int_t)(move != NULL ? move->bytes_remaining : 0));
}

static const char *encryption_text(const Drover__MigrationFigures *figures,
                                   Drover__MoveEncryption encryption)
{
    if (figures->over_rdma) {
        return "none";
    }
    switch (encryption) {
    case DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL:
        return "kernel";
    case DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY:
        return "relay";
    default:
        return "unknown";
    }
}

static json_t *json_figures(const Drover__MigrationFigures *figures)
{
    if (figures == NULL) {
        return json_null();
    }
    return json_pack(
        "{s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:i, s:s, s:{s:s, s:s}, s:s}", "total_ms",
        (json_int_t)figures->total_ms,
        "downtime_ms", (double)figures->downtime_us / 1000.0, "predicted_downtime_ms",
        (double)figures->predicted_downtime_us / 1000.0, "bytes_sent",
        (json_int_t)figures->bytes_sent, "pages_sent", (json_int_t)figures->pages_sent,
        "pages_zero", (json_int_t)figures->pages_zero, "postcopy_pages",
        (json_int_t)figures->postcopy_pages, "rounds", (int)figures->rounds,
        "transport", figures->over_rdma ? "rdma" : "tcp", "encryption", "source",
        encryption_text(figures, figures->source_encryption), "target",
        encryption_text(figures, figures->target_encryption), "notice", figures->notice);
}

/* What the guest has of its memory, and what it says of it; null: not known. */
static json_t *json_guest_memory(const Drover__VmStatus *status)
{
    const Drover__VmBalloonStatus *balloon = status != NULL ? status->balloon : NULL;
    if (balloon == NULL || !balloon->has_driver) {
        return json_null();
    }
    json_t *object =
        json_pack("{s:I, s:I}", "actual_bytes", (json_int_t)balloon->actual_bytes,
                  "reported_bytes", (json_int_t)balloon->reported_bytes);
    if (object != NULL && balloon->has_stats) {
        json_t *told = json_pack("{s:I, s:I, s:I, s:I, s:I}", "stats_age_ms",
                                 (json_int_t)balloon->stats_age_ms, "total_bytes",
                                 (json_int_t)balloon->total_bytes, "free_bytes",
                                 (json_int_t)balloon->free_bytes, "available_bytes",
                                 (json_int_t)balloon->available_bytes, "cache_bytes",
                                 (json_int_t)balloon->cache_bytes);
        (void)json_object_update(object, told);
        json_decref(told);
    }
    return object;
}

json_t *json_vm(const Drover__VmRecord *vm, const struct cluster_state *state,
                const struct json_vm_seen *seen)
{
    char reason[400];
    const char *text = json_vm_state(vm, state, seen, reason, sizeof(reason));
    bool current =
        seen->leads && seen->status != NULL && seen->status->epoch == vm->epoch;
    json_t *since =
        current ? json_integer((json_int_t)seen->status->uptime_ms) : json_null();
    char balloon[JSON_SIZE_TEXT_SIZE];
    json_size_text(vm->balloon_bytes != 0 ? vm->balloon_bytes : vm->spec->memory_bytes,
                   balloon);
    return json_pack(
        "{s:s, s:I, s:s, s:o, s:s, s:s?, s:I, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:I, "
        "s:b, "
        "s:I, s:I, s:b}",
        "name", vm->spec->name, "id", (json_int_t)vm->vm_id, "state", text, "reason",
        json_text(reason), "wanted", wanted_text(vm->wanted), "host",
        json_host_name(state, vm->owner_host_id), "epoch", (json_int_t)vm->epoch,
        "since_ms", since, "spec", json_vm_spec(vm->spec), "memory_wanted", balloon,
        "guest_memory", json_guest_memory(current ? seen->status : NULL), "migration",
        json_migration(vm, state, seen), "postcopy",
        json_postcopy(vm, state, current ? seen->status : NULL), "last_migration",
        json_figures(vm->last_migration), "proof_index", (json_int_t)vm->proof_index,
        "guest_panicked", current && seen->status->guest_panicked, "panics",
        (json_int_t)vm->panics, "applied_index",
        (json_int_t)cluster_state_applied_index(state), "stale", !seen->leads);
}
