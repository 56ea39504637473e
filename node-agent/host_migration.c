/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One VM that is on its way, from the side of its source and of its target. Who may end a
 * migration is told in consensus/apply_loss.c; here is what each side knows for certain,
 * and so may state:
 *
 * source: it was never ordered to send (by any run of the agent), or the VMM says that it
 *         failed before the go: BY_SOURCE.
 *         The target is lost, and the VMM here (handed over, or gone) is gone:
 *         BY_SOURCE_AFTER_TARGET_DIED.
 *         Else: wait for the target.
 *
 * target: the VMM has the guest, or had it: MigrationDone.
 *         The VMM is gone, and said that it never got it (or nobody could send): BY_TARGET.
 *         The VMM is gone, and nobody knows: BY_TARGET_UNSURE; the source decides.
 */
#include <string.h>

#include "base/check.h"
#include "node-agent/host_core_private.h"

/* A move that gets less never ends. */
#define SHARE_MIN (UINT64_C(1) << 20)
/* Nobody has connected this many leases after the source was told where: nobody will. */
#define TARGET_PATIENCE_LEASES 2
/* A target that isn't ready after this many has trouble that it can't tell. */
#define SOURCE_PATIENCE_LEASES 6

/* ---- both sides ----------------------------------------------------------------------
 */

static void see_phase(struct host_vm *vm, const Drover__Migration *migration,
                      uint64_t now_ms)
{
    if (vm->phase_epoch != migration->next_epoch || vm->phase != migration->phase) {
        vm->phase_epoch = migration->next_epoch;
        vm->phase = migration->phase;
        vm->phase_ms = now_ms;
    }
    if (migration->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_BEGUN) {
        vm->begun_epoch = migration->next_epoch;
    }
}

/* Whether no earlier run of this agent can have ordered the guest to be sent: this one
 * saw the move before it was ready, or was the one known when it began. */
static bool is_watched(const struct host_core *core, const struct host_vm *vm,
                       const Drover__Migration *migration)
{
    return vm->begun_epoch == migration->next_epoch ||
           strcmp(migration->source_incarnation, core->identity.incarnation) == 0;
}

static bool is_ready(const Drover__Migration *migration)
{
    return migration->phase == DROVER__MIGRATION_PHASE__MIGRATION_PHASE_READY;
}

static void state_abort(struct host_core *core, struct host_vm *vm,
                        const Drover__VmRecord *record, Drover__MigrationAbortBy by,
                        const char *reason, uint64_t now_ms)
{
    Drover__MigrationAbort abort = DROVER__MIGRATION_ABORT__INIT;
    abort.next_epoch = record->migration->next_epoch;
    abort.by = by;
    abort.reason = (char *)(uintptr_t)reason;
    HOST_STATE(core, vm, migration_abort, MIGRATION_ABORT, &abort, now_ms);
}

/* ---- source --------------------------------------------------------------------------
 */

/* Before the go, for certain: the source goes on by itself. */
static bool has_failed(const Drover__VmMigrationStatus *status)
{
    return status->state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED ||
           status->state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED;
}

/*
 * The VMM's report, if it is about this migration. Moves to one host have one URI, and the
 * order waits for its connections: until it is given, the VMM tells of the one before.
 */
static const Drover__VmMigrationStatus *report_of(const struct host_vmm *vmm,
                                                  const Drover__Migration *migration)
{
    const Drover__VmMigrationStatus *status = vmm->status->migration;
    if (status == NULL ||
        status->state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE ||
        !is_ready(migration) || strcmp(status->uri, migration->uri) != 0) {
        return NULL;
    }
    /* A VMM of an older version does not say. */
    if (status->next_epoch != 0 && status->next_epoch != migration->next_epoch) {
        return NULL;
    }
    return status;
}

/* Rule: who has said that it never sends, never orders it. */
static void abort_by_source(struct host_core *core, struct host_vm *vm,
                            const Drover__VmRecord *record, const char *reason,
                            uint64_t now_ms)
{
    if (vm->never_sends < record->migration->next_epoch) {
        vm->never_sends = record->migration->next_epoch;
        vm->unsent_reason[0] = '\0';
    }
    state_abort(core, vm, record, DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE,
                reason, now_ms);
}

/* Of one move: the host's bandwidth, in equal parts. 0: no limit. */
static uint64_t share(const struct host_core *core)
{
    unsigned moves = core->moves_out > 0 ? core->moves_out : 1;
    uint64_t part = core->identity.move_bandwidth / moves;
    return core->identity.move_bandwidth == 0 || part > SHARE_MIN ? part : SHARE_MIN;
}

/* Moves have begun or ended since. */
static void order_limit(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                        uint64_t now_ms)
{
    Drover__ControlMigrateLimit limit = DROVER__CONTROL_MIGRATE_LIMIT__INIT;
    limit.bandwidth_bytes_per_second = share(core);
    uint64_t last_ms = vmm->ordered_ms[HOST_ORDER_MIGRATE_LIMIT];
    HOST_ORDER(core, vm, vmm, migrate_limit, MIGRATE_LIMIT, &limit, now_ms);
    if (vmm->ordered_ms[HOST_ORDER_MIGRATE_LIMIT] != last_ms) {
        vmm->bandwidth = limit.bandwidth_bytes_per_second;
    }
}

static Drover__MigratePostcopy postcopy_of(const Drover__Migration *migration)
{
    switch (migration->postcopy) {
    case DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_AUTO:
        return DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_AUTO;
    case DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NOW:
        return DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_NOW;
    default: /* Rule: what is not known is not done. */
        return DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_NEVER;
    }
}

/*
 * Rule: ordered at most once. Was it lost on its way, the target loses its patience and
 * ends the migration; were it sent again, the VMM might be at a second attempt while the
 * end of the first makes us say that it never sends.
 */
static void order_migrate(struct host_core *core, struct host_vm *vm,
                          struct host_vmm *vmm, const Drover__Migration *migration,
                          uint64_t now_ms)
{
    CHECK(is_ready(migration) && migration->next_epoch > vm->never_sends);
    CHECK(!migration->target_dead && vm->ordered_epoch < migration->next_epoch);
    CHECK(is_watched(core, vm, migration));
    vm->ordered_epoch = migration->next_epoch;
    vmm->ordered_ms[HOST_ORDER_MIGRATE] = 0;
    vmm->ordered_ms[HOST_ORDER_MIGRATE_CANCEL] = 0;
    vmm->cancels = vmm->cancels_seen = 0;
    /* What is known of an earlier attempt must not pass for the end of this one. */
    if (vmm->status->migration != NULL) {
        drover__vm_migration_status__free_unpacked(vmm->status->migration, NULL);
        vmm->status->migration = NULL;
    }
    Drover__ControlMigrate migrate = DROVER__CONTROL_MIGRATE__INIT;
    migrate.uri = migration->uri;
    migrate.next_epoch = migration->next_epoch;
    migrate.max_downtime_ms = migration->max_downtime_ms;
    migrate.deadline_s = migration->deadline_s;
    migrate.predict_only = migration->predict_only;
    migrate.rdma_address = migration->rdma_address;
    migrate.postcopy = postcopy_of(migration);
    migrate.bandwidth_bytes_per_second = vmm->bandwidth = share(core);
    HOST_ORDER(core, vm, vmm, migrate, MIGRATE, &migrate, now_ms);
}

static void order_cancel(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                         uint64_t now_ms)
{
    uint64_t last_ms = vmm->ordered_ms[HOST_ORDER_MIGRATE_CANCEL];
    host_order_cancel(core, vm, vmm, now_ms);
    vmm->cancels += vmm->ordered_ms[HOST_ORDER_MIGRATE_CANCEL] != last_ms;
}

/* Why this migration shall end; NULL: it shall go on. */
static const char *unwanted(const struct host_core *core, const struct host_vm *vm,
                            const Drover__VmRecord *record, uint64_t now_ms)
{
    const Drover__Migration *migration = record->migration;
    if (migration->cancel_wanted) {
        return "it was cancelled";
    }
    if (migration->target_dead) {
        return "its target was lost";
    }
    if (record->wanted == DROVER__VM_WANTED__VM_WANTED_STOPPED ||
        record->wanted == DROVER__VM_WANTED__VM_WANTED_KILLED) {
        return "the VM is to be stopped";
    }
    if (!is_ready(migration) &&
        now_ms - vm->phase_ms >= SOURCE_PATIENCE_LEASES * core->timing.lease_ms) {
        return "its target did not get ready in time";
    }
    return NULL;
}

/* What a failed or unwanted migration is said to have ended by: the VMM knows best, but not
 * why it was told to cancel. */
static const char *end_reason(const struct host_core *core, const struct host_vm *vm,
                              const struct host_vmm *vmm, const Drover__VmRecord *record,
                              const char *otherwise, uint64_t now_ms)
{
    const Drover__VmMigrationStatus *report = report_of(vmm, record->migration);
    const char *why = unwanted(core, vm, record, now_ms);
    bool told = report != NULL &&
                report->state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED &&
                why != NULL;
    if (report != NULL && has_failed(report) && !told && report->error[0] != '\0') {
        return report->error;
    }
    return why != NULL ? why : otherwise;
}

/* What the VMM says that is not as it was asked for, such as RDMA that fell back to TCP. */
static void state_notice(struct host_core *core, struct host_vm *vm,
                         const struct host_vmm *vmm, const Drover__Migration *migration,
                         uint64_t now_ms)
{
    const Drover__VmMigrationStatus *report = report_of(vmm, migration);
    bool rdma = migration->transport ==
                DROVER__MIGRATION_TRANSPORT__MIGRATION_TRANSPORT_RDMA;
    if (!rdma || report == NULL || report->notice[0] == '\0' ||
        migration->notice[0] != '\0' || has_failed(report)) {
        return;
    }
    Drover__MigrationNotice notice = DROVER__MIGRATION_NOTICE__INIT;
    notice.next_epoch = migration->next_epoch;
    notice.text = report->notice;
    HOST_STATE(core, vm, migration_notice, MIGRATION_NOTICE, &notice, now_ms);
}

static void source_with_guest(struct host_core *core, struct host_vm *vm,
                              struct host_vmm *vmm, const Drover__VmRecord *record,
                              uint64_t now_ms)
{
    const Drover__Migration *migration = record->migration;
    const Drover__VmMigrationStatus *report = report_of(vmm, migration);
    const char *why = unwanted(core, vm, record, now_ms);
    if (report != NULL && has_failed(report)) {
        abort_by_source(
            core, vm, record,
            end_reason(core, vm, vmm, record, "it failed before the handover", now_ms),
            now_ms);
        return;
    }
    bool ordered = report != NULL || vm->ordered_epoch == migration->next_epoch ||
                   (is_ready(migration) && !is_watched(core, vm, migration));
    /* Orders are handled in turn: a VMM that answered two cancels and knows of no attempt
     * never got that order. */
    bool unheard = report == NULL && vmm->cancels_seen >= 2;
    if (why != NULL && ordered && !unheard) {
        order_cancel(core, vm, vmm, now_ms);
    } else if (why != NULL) {
        abort_by_source(core, vm, record, why, now_ms);
    } else if (!ordered && is_ready(migration) &&
               host_vmm_state(vmm) != DROVER__VM_RUN_STATE__VM_RUN_FROZEN &&
               host_vmm_state(vmm) != DROVER__VM_RUN_STATE__VM_RUN_FREEZING) {
        order_migrate(core, vm, vmm, migration, now_ms);
    } else if (report != NULL && vmm->bandwidth != share(core)) {
        order_limit(core, vm, vmm, now_ms);
    }
}

/* No VMM of our epoch is left here. Whether it sent the go, only the target may know. */
static void source_without_vmm(struct host_core *core, struct host_vm *vm,
                               const Drover__VmRecord *record, uint64_t now_ms)
{
    const Drover__Migration *migration = record->migration;
    if (migration->target_dead) {
        if (vm->given_up_epoch < record->epoch) {
            vm->given_up_epoch = record->epoch;
        }
        state_abort(
            core, vm, record,
            DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_SOURCE_AFTER_TARGET_DIED,
            "its target was lost, and the guest may have run there", now_ms);
        return;
    }
    if (!is_ready(migration) ||
        (is_watched(core, vm, migration) && vm->ordered_epoch != migration->next_epoch &&
         vm->gone.epoch != 0)) {
        abort_by_source(core, vm, record, "its source's VMM ended", now_ms);
    }
}

void host_source_reconcile(struct host_core *core, struct host_vm *vm,
                           struct host_vmm *vmm, const Drover__VmRecord *record,
                           uint64_t now_ms)
{
    const Drover__Migration *migration = record->migration;
    CHECK(migration->source_host_id == core->identity.host_id);
    see_phase(vm, migration, now_ms);
    host_wake_at(core, now_ms + core->timing.retry_ms);
    if (vmm == NULL) {
        if (vm->never_sends >= migration->next_epoch) {
            abort_by_source(core, vm, record, "its source's VMM ended", now_ms);
        } else if (vm->vmm_count == 0) {
            source_without_vmm(core, vm, record, now_ms);
        }
        return;
    }
    if (vmm->status == NULL) {
        return;
    }
    if (host_vmm_state(vmm) != DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER) {
        host_extend(core, vm, vmm, record, now_ms); /* what is handed over takes none */
    }
    if (vm->never_sends >= migration->next_epoch) {
        abort_by_source(core, vm, record,
                        end_reason(core, vm, vmm, record,
                                   vm->unsent_reason[0] != '\0'
                                       ? vm->unsent_reason
                                       : "it was given up before the handover",
                                   now_ms),
                        now_ms);
        return;
    }
    state_notice(core, vm, vmm, migration, now_ms);
    switch (host_vmm_state(vmm)) {
    case DROVER__VM_RUN_STATE__VM_RUN_RUNNING:
    case DROVER__VM_RUN_STATE__VM_RUN_PAUSED:
    case DROVER__VM_RUN_STATE__VM_RUN_FROZEN:
    case DROVER__VM_RUN_STATE__VM_RUN_FREEZING:
        source_with_guest(core, vm, vmm, record, now_ms);
        break;
    case DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER:
        if (migration->target_dead) {
            host_order_quit(core, vm, vmm, now_ms); /* older than the disks, maybe */
        } else {
            host_order_links(core, vm, vmm, now_ms);
        }
        break;
    case DROVER__VM_RUN_STATE__VM_RUN_FAILED:
        host_order_quit(core, vm, vmm, now_ms);
        break;
    default:
        break;
    }
}

/* ---- target --------------------------------------------------------------------------
 */

static void state_ready(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                        const Drover__Migration *migration, uint64_t now_ms)
{
    vm->ready_epoch = migration->next_epoch;
    Drover__MigrationReady ready = DROVER__MIGRATION_READY__INIT;
    ready.next_epoch = migration->next_epoch;
    ready.uri = vmm->status->incoming_uri;
    ready.rdma_address = vmm->status->incoming_rdma;
    if (vmm->status->migration != NULL) {
        ready.notice = vmm->status->migration->notice;
    }
    HOST_STATE(core, vm, migration_ready, MIGRATION_READY, &ready, now_ms);
}

bool host_figures(const struct host_vmm *vmm, Drover__MigrationFigures *ret_figures)
{
    const Drover__VmMigrationStatus *report =
        vmm != NULL && vmm->status != NULL ? vmm->status->migration : NULL;
    if (report == NULL || report->figures == NULL) {
        return false;
    }
    *ret_figures = *report->figures;
    /* Not the VMM's to say. */
    ret_figures->source_encryption = vmm->source_encryption;
    ret_figures->target_encryption = vmm->target_encryption;
    return true;
}

static void state_done(struct host_core *core, struct host_vm *vm,
                       const struct host_vmm *vmm, const Drover__Migration *migration,
                       uint64_t now_ms)
{
    CHECK(vm->given_up_epoch < migration->next_epoch);
    Drover__MigrationDone done = DROVER__MIGRATION_DONE__INIT;
    Drover__MigrationFigures figures;
    done.figures = host_figures(vmm, &figures) ? &figures : NULL;
    done.next_epoch = migration->next_epoch;
    if (vmm != NULL && vmm->status->migration != NULL) {
        /* Also while that is not known yet: it is told when all has come. */
        done.depends = migration->postcopy !=
                           DROVER__MIGRATION_POSTCOPY__MIGRATION_POSTCOPY_NEVER &&
                       vmm->status->migration->state !=
                           DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE;
    }
    HOST_STATE(core, vm, migration_done, MIGRATION_DONE, &done, now_ms);
}

/* No VMM of the next epoch is here (any more). */
static void target_without_vmm(struct host_core *core, struct host_vm *vm,
                               const Drover__VmRecord *record, uint64_t now_ms)
{
    const Drover__Migration *migration = record->migration;
    uint64_t next = migration->next_epoch;
    bool had_one = vm->gone.epoch == next;
    if (had_one && vm->gone.had_guest) {
        state_done(core, vm, NULL, migration,
                   now_ms); /* it is ours, and is started again then */
        return;
    }
    bool could_send = is_ready(migration) || vm->ready_epoch == next;
    bool unwanted_now = migration->cancel_wanted || migration->source_dead ||
                        migration->target_dead || had_one || could_send;
    if (!unwanted_now && vm->given_up_epoch < next) {
        host_start(core, vm, record, next, now_ms);
        return;
    }
    /* Rule: from the first time that this is said, the epoch is never started here again.
     */
    if (vm->given_up_epoch < next) {
        vm->given_up_epoch = next;
    }
    bool sure = !could_send || (had_one && vm->gone.failed);
    state_abort(core, vm, record,
                sure ? DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET
                     : DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE,
                had_one ? vm->gone.reason : "the target's VMM ended", now_ms);
}

static void target_waits(struct host_core *core, struct host_vm *vm, struct host_vmm *vmm,
                         const Drover__VmRecord *record, uint64_t now_ms)
{
    const Drover__Migration *migration = record->migration;
    if (!is_ready(migration)) {
        if (migration->cancel_wanted || migration->source_dead) {
            host_order_quit(core, vm, vmm, now_ms);
        } else if (vmm->status->incoming_uri[0] != '\0') {
            state_ready(core, vm, vmm, migration, now_ms);
        }
        return;
    }
    const Drover__VmMigrationStatus *report = vmm->status->migration;
    bool nobody = report == NULL ||
                  report->state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE ||
                  report->state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CONNECTING;
    uint64_t patience_ms = (uint64_t)TARGET_PATIENCE_LEASES * core->timing.lease_ms;
    bool waited = now_ms - vm->phase_ms >= patience_ms;
    bool elsewhere = strcmp(vmm->status->incoming_uri, migration->uri) != 0 &&
                     vmm->status->incoming_uri[0] != '\0';
    if (migration->source_dead || (nobody && waited) || elsewhere) {
        host_order_quit(core, vm, vmm, now_ms);
    }
}

void host_target_reconcile(struct host_core *core, struct host_vm *vm,
                           struct host_vmm *vmm, const Drover__VmRecord *record,
                           uint64_t now_ms)
{
    const Drover__Migration *migration = record->migration;
    CHECK(migration->target_host_id == core->identity.host_id);
    see_phase(vm, migration, now_ms);
    host_wake_at(core, now_ms + core->timing.retry_ms);
    if (vmm == NULL) {
        if (vm->vmm_count == 0) {
            target_without_vmm(core, vm, record, now_ms);
        }
        return;
    }
    if (vmm->status == NULL) {
        return;
    }
    /* Rule: a target that was called dead neither runs nor thaws the VM, unless its word
     * came first. */
    if (!migration->target_dead) {
        host_extend(core, vm, vmm, record, now_ms);
    }
    if (vmm->got_go) {
        state_done(core, vm, vmm, migration, now_ms);
    } else if (vmm->failed || migration->target_dead) {
        host_order_quit(core, vm, vmm, now_ms);
    } else if (host_vmm_state(vmm) == DROVER__VM_RUN_STATE__VM_RUN_INCOMING) {
        target_waits(core, vm, vmm, record, now_ms);
    }
}
