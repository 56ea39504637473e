/* SPDX-License-Identifier: Apache-2.0 */
/* Moves of this VM: the orders of the control socket, and what follows from how a move
 * ends. */
#include "vmm/move/migrate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "migration/source.h"
#include "migration/target.h"
#include "migration/times.h"
#include "proto/control.pb-c.h"
#include "proto/unix_files.h"
#include "vmm/host/event_loop.h"
#include "vmm/move/migrate_guest.h"
#include "vmm/move/migrate_log.h"
#include "vmm/move/migrate_rdma.h"
#include "vmm/move/snapshot_pager.h"
#include "vmm/move/snapshot_restore.h"
#include "vmm/vm.h"

/* The engine's states go over the control socket by number. */
#define SAME(state)                                                                      \
    _Static_assert((int)MIGRATION_STATE_##state ==                                       \
                       (int)DROVER__VM_MIGRATION_STATE__VM_MIGRATION_##state,            \
                   "same numbers")
SAME(NONE);
SAME(CONNECTING);
SAME(PRECOPY);
SAME(HANDOVER);
SAME(DONE);
SAME(FAILED);
SAME(CANCELLED);
SAME(UNKNOWN);
SAME(POSTCOPY);
_Static_assert((int)COMPRESS_AUTO == (int)DROVER__MIGRATE_COMPRESS__MIGRATE_COMPRESS_AUTO &&
                   (int)COMPRESS_NEVER ==
                       (int)DROVER__MIGRATE_COMPRESS__MIGRATE_COMPRESS_NEVER &&
                   (int)COMPRESS_ALWAYS ==
                       (int)DROVER__MIGRATE_COMPRESS__MIGRATE_COMPRESS_ALWAYS,
               "same numbers");
_Static_assert(UNIX_FILES_MAX <= MIGRATION_STREAMS_MAX,
               "as many streams as sockets can come with an order");

/* Without a cluster nobody orders a VMM to quit whose guest has left: so long it still
 * answers. */
#define MOVED_STAYS_NS (5 * NS_PER_S)
/* A VM that ends while memory of it is missing: so long it may still become quiet. */
#define STUCK_NS (2 * NS_PER_S)

struct migrate {
    struct migrate_guest guest;
    struct vm *vm;
    struct migration_times times;
    struct migration_source *source; /* the latest departure; NULL: none */
    struct migration_target *target; /* NULL: this VM did not arrive */
    struct migrate_rdma *rdma;       /* NULL: was not asked for */
    struct snapshot *snapshot;
    struct snapshot_restore *restore; /* NULL: this VM did not come from a snapshot */
    struct event_source *moved;      /* timer: MOVED_STAYS_NS are over */
    struct event_source *stuck;      /* timer: STUCK_NS are over */
    int uffd;                        /* of an arrival that may be by post-copy, or -1 */
    char uri[TRANSPORT_URI_SIZE];
    uint64_t next_epoch; /* of the latest departure, as its order said */
};

static void moved_over(void *owner)
{
    struct migrate *migrate = owner;
    char reason[TRANSPORT_URI_SIZE + 16];
    (void)snprintf(reason, sizeof(reason), "moved to %s", migrate->uri); /* fits */
    vm_end(migrate->vm, false, reason);
}

/* Main loop. */
static void moved_begin(void *owner)
{
    struct migrate *migrate = owner;
    if (event_loop_timer_set(migrate->moved, clock_now_ns() + MOVED_STAYS_NS) != 0) {
        moved_over(migrate);
    }
}

bool migrate_memory_missing(struct migrate *migrate)
{
    struct migration_status status = {0};
    if (migrate != NULL && migrate->target != NULL) {
        migration_target_status(migrate->target, &status);
    }
    return status.state == MIGRATION_STATE_POSTCOPY ||
           (status.state == MIGRATION_STATE_FAILED && migrate->guest.missing);
}

/*
 * Main loop. Who waits for memory that never comes can't be stopped in an orderly way, and
 * must not get other memory instead: what it has under way might reach the disk.
 */
static void stuck_over(void *owner)
{
    struct migrate *migrate = owner;
    /* The agent must be able to ask what became of it. */
    bool stays = vm_failed(migrate->vm) && vm_config(migrate->vm)->vm_id != 0 &&
                 !vm_quit_wanted(migrate->vm) && !migrate_guest_lost(migrate);
    if (!stays && vm_ended(migrate->vm) && !vm_quiet(migrate->vm) && migrate_memory_missing(migrate)) {
        log_error(vm_log(migrate->vm),
                  "the VM ends at once: it waits for memory that did not come vm=%s",
                  vm_config(migrate->vm)->name);
        event_loop_stop(vm_main_loop(migrate->vm)); /* main() waits for no thread then */
    }
}

static void stuck_begin(void *owner)
{
    struct migrate *migrate = owner;
    if (migrate_memory_missing(migrate) &&
        event_loop_timer_set(migrate->stuck, clock_now_ns() + STUCK_NS) != 0) {
        log_error(vm_log(migrate->vm), "no timer for the VM's end vm=%s",
                  vm_config(migrate->vm)->name);
    }
}

int migrate_create(struct vm *vm, uint32_t patience_ms, struct migrate_rdma *rdma,
                   struct migrate **ret_migrate)
{
    struct migrate *migrate = calloc(1, sizeof(*migrate));
    if (migrate == NULL) {
        return -ENOMEM;
    }
    migrate->vm = vm;
    migrate->uffd = -1;
    migrate->times = migration_times_from(patience_ms);
    int rv = migrate_guest_init(&migrate->guest, vm, VM_HOLD_HANDOVER);
    rv = rv != 0 ? rv : snapshot_create(vm, &migrate->snapshot);
    if (rv == 0) {
        rv = event_loop_timer_create(vm_main_loop(vm), moved_over, migrate,
                                     &migrate->moved);
    }
    if (rv == 0) {
        rv = event_loop_timer_create(vm_main_loop(vm), stuck_over, migrate,
                                     &migrate->stuck);
    }
    if (rv != 0) {
        event_loop_remove(migrate->moved);
        snapshot_free(migrate->snapshot);
        migrate_guest_done(&migrate->guest);
        free(migrate);
        return rv;
    }
    migrate->rdma = rdma;
    *ret_migrate = migrate;
    return 0;
}

void migrate_free(struct migrate *migrate)
{
    if (migrate == NULL) {
        return;
    }
    snapshot_free(migrate->snapshot);
    snapshot_restore_free(migrate->restore);
    migration_source_free(migrate->source);
    migration_target_free(migrate->target);
    migrate_rdma_free(migrate->rdma);
    event_loop_remove(migrate->moved);
    event_loop_remove(migrate->stuck);
    migrate_guest_done(&migrate->guest);
    cleanup_fd(&migrate->uffd);
    free(migrate);
}

/* Any thread of the engine. */
static void postcopy_log(struct migrate *migrate, const struct migration_status *status)
{
    const char *name = vm_config(migrate->vm)->name;
    if (status->state != MIGRATION_STATE_POSTCOPY) {
        return;
    }
    if (status->interrupted) {
        log_warn(vm_log(migrate->vm),
                 "post-copy is interrupted, and waits for a connection vm=%s why=%s", name,
                 status->error.text);
    } else {
        log_notice(vm_log(migrate->vm),
                   "the guest runs on the target, its memory follows vm=%s", name);
    }
}

/* ---- arriving ---------------------------------------------------------------------- */

/* Engine's threads. */
static void engine_begun(void *owner)
{
    struct migrate *migrate = owner;
    vm_thread_confine(migrate->vm, migrate->rdma != NULL ? SECCOMP_ROLE_MOVE_RDMA
                                                         : SECCOMP_ROLE_MOVE);
}

/* Engine's thread. */
static void target_changed(void *owner)
{
    struct migrate *migrate = owner;
    struct migration_status status;
    migration_target_status(migrate->target, &status);
    postcopy_log(migrate, &status);
    if (migration_state_final(status.state)) {
        migrate_log_end(migrate->vm,
                        status.state == MIGRATION_STATE_DONE ? "the guest has arrived"
                        : migrate_memory_missing(migrate)    ? "the guest is lost"
                                                             : "no guest arrived",
                        &status);
    }
    if (status.state == MIGRATION_STATE_FAILED ||
        status.state == MIGRATION_STATE_CANCELLED) {
        /* To a cluster, failed means that no guest ever ran here, and that the source may
         * be told so: this one did, and ends like one that crashed. */
        bool lost = migrate_guest_lost(migrate);
        vm_end(migrate->vm, !lost || vm_config(migrate->vm)->vm_id == 0,
               status.error.text);
        if (lost && event_loop_post(vm_main_loop(migrate->vm), stuck_begin, migrate) != 0) {
            log_error(vm_log(migrate->vm), "no word of the VM's end vm=%s",
                      vm_config(migrate->vm)->name);
        }
    }
    if (status.state != MIGRATION_STATE_HANDOVER) { /* as on the source */
        vm_state_changed(migrate->vm);
    }
}

/* What `uri` alone does not say. */
static int listener_make(struct migrate *migrate, const char *uri, const char *rdma,
                         struct transport_listener **ret_listener, struct error *err)
{
    if (rdma != NULL) {
        CHECK(migrate->rdma != NULL);
        return migrate_rdma_listen_beside(migrate->rdma, rdma, uri, ret_listener, err);
    }
    if (strncmp(uri, "rdma:", 5) == 0) {
        CHECK(migrate->rdma != NULL);
        return migrate_rdma_listen(migrate->rdma, uri + 5, ret_listener, err);
    }
    return 0;
}

int migrate_listen(struct migrate *migrate, const char *uri, const char *rdma,
                   struct error *err)
{
    CHECK(migrate->target == NULL && vm_config(migrate->vm)->incoming);
    if (snapshot_restore_wanted(uri)) {
        return snapshot_restore_open(migrate->vm, uri, &migrate->restore, err);
    }
    migrate->uffd = snapshot_pager_uffd();
    migrate->guest.uffd = migrate->uffd;
    struct migration_target_config config = {
        .guest = &migrate->guest.guest,
        .uri = uri,
        .vm_id = vm_config(migrate->vm)->vm_id,
        .epoch = vm_config(migrate->vm)->epoch,
        .times = migrate->times,
        .begun = engine_begun,
        .changed = target_changed,
        .owner = migrate,
    };
    int rv = listener_make(migrate, uri, rdma, &config.listener, err);
    if (rv != 0) {
        return rv;
    }
    rv = migration_target_create(&config, &migrate->target, err);
    if (rv != 0) {
        transport_listener_close(config.listener);
    }
    return rv;
}

int migrate_await(struct migrate *migrate, struct error *err)
{
    if (migrate->restore != NULL) {
        return snapshot_restore_run(migrate->restore, &migrate->guest.guest,
                                    migrate->snapshot, err);
    }
    CHECK(migrate->target != NULL);
    int rv = migration_target_start(migrate->target);
    if (rv != 0) {
        migration_target_free(migrate->target);
        migrate->target = NULL;
        return error_set(err, rv, "can't start a thread: %s", err_text(rv));
    }
    vm_state_changed(migrate->vm);
    return 0;
}

/* For a post-copy from here whose connection is lost. */
static int resume(struct migrate *migrate, struct unix_files *files, struct error *err)
{
    int rv = migration_source_resume(migrate->source, unix_files_take(files, 0));
    return rv == 0 ? 0
                   : error_set(err, rv,
                               "no post-copy from here is interrupted: there is nothing to "
                               "resume");
}

int migrate_links(struct migrate *migrate, struct unix_files *files, struct error *err)
{
    if (files->count > 0 && migrate->source != NULL) {
        return resume(migrate, files, err);
    }
    if (files->count == 0) {
        return error_set(err, DROVER_EBADINPUT, "no connection came with the order");
    }
    for (unsigned i = 0; i < files->count; i++) {
        int rv = migrate->target == NULL
                     ? DROVER_EWRONGSTATE
                     : migration_target_give(migrate->target, files->fds[i]);
        if (rv != 0) {
            return error_set(err, rv,
                             "this VM takes no connections for a move: start it with "
                             "--incoming handed, and hand over few at a time");
        }
        (void)unix_files_take(files, i); /* the target's now */
    }
    return 0;
}

void migrate_quit(struct migrate *migrate)
{
    if (migrate != NULL && migrate->target != NULL &&
        migration_target_abandon(migrate->target) == 0) {
        vm_end(migrate->vm, true, "stopped by order before a guest arrived");
    }
    if (migrate != NULL) {
        stuck_begin(migrate);
    }
}

/* ---- leaving ----------------------------------------------------------------------- */

/* Engine's thread. */
static void source_changed(void *owner)
{
    struct migrate *migrate = owner;
    struct migration_status status;
    migration_source_status(migrate->source, &status);
    postcopy_log(migrate, &status);
    if (migration_state_final(status.state)) {
        migrate_log_end(migrate->vm,
                        status.state == MIGRATION_STATE_DONE ? "the guest has left"
                                                             : "the guest did not leave",
                        &status);
        migrate_log_pause(migrate->vm, &status);
    }
    if (status.state == MIGRATION_STATE_DONE && vm_config(migrate->vm)->vm_id == 0 &&
        event_loop_post(vm_main_loop(migrate->vm), moved_begin, migrate) != 0) {
        moved_over(migrate);
    }
    /* Nobody is told in the middle of the pause: who is wants processors. */
    if (status.state != MIGRATION_STATE_HANDOVER) {
        vm_state_changed(migrate->vm);
    }
}

/* Engine's thread. */
static void source_round_done(void *owner, const struct migration_round *round)
{
    struct migrate *migrate = owner;
    migrate_log_round(migrate->vm, round);
}

/* Whether the guest may leave now; an earlier move that is over is forgotten. */
static int may_leave(struct migrate *migrate, struct error *err)
{
    struct vm *vm = migrate->vm;
    unsigned holds = vm_holds(vm);
    if (vm_ended(vm)) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "the VM has ended: there is nothing to move");
    }
    if ((holds & VM_HOLD_INCOMING) != 0) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "the VM has not arrived here yet: wait until it runs");
    }
    if (snapshot_runs(migrate->snapshot)) {
        return error_set(err, DROVER_EINUSE,
                         "a snapshot is being taken: wait for its end, or cancel it");
    }
    if (migrate_memory_missing(migrate)) {
        return error_set(err, DROVER_EINUSE,
                         "the VM's memory is still on its way here: wait for its end");
    }
    struct migrate_status status;
    migrate_status(migrate, &status);
    if (vm_handed_over(vm) ||
        (migrate->source != NULL && (status.engine.state == MIGRATION_STATE_DONE ||
                                     status.engine.state == MIGRATION_STATE_POSTCOPY ||
                                     status.engine.state == MIGRATION_STATE_UNKNOWN))) {
        return error_set(err, DROVER_EHANDEDOVER, "the VM was handed over already to %s",
                         migrate->uri);
    }
    if (migrate->source != NULL && !migration_state_final(status.engine.state)) {
        return error_set(err, DROVER_EINUSE,
                         "the VM is being moved to %s: cancel that first", migrate->uri);
    }
    return 0;
}

/* Whether, and where to, RDMA is tried; or why not. */
static void rdma_config(const struct migrate *migrate, const Drover__ControlMigrate *order,
                        struct migration_source_config *config)
{
    bool beside = order->rdma_address[0] != '\0';
    if (!beside && strncmp(order->uri, "rdma:", 5) != 0) {
        return;
    }
    config->rdma_address = beside ? order->rdma_address : NULL;
    config->notice = "over TCP: this VM was started without --rdma";
    if (migrate->rdma != NULL) {
        config->rdma = migrate_rdma_transport(migrate->rdma);
        config->notice = migrate_rdma_notice(migrate->rdma);
    }
}

int migrate_leave(struct migrate *migrate, const Drover__ControlMigrate *order,
                  struct unix_files *files, struct error *err)
{
    int rv = may_leave(migrate, err);
    if (rv != 0) {
        return rv;
    }
    if (order->deadline_s > UINT32_MAX / 1000) {
        return error_set(err, DROVER_EBADINPUT, "a deadline of %u s is too long",
                         order->deadline_s);
    }
    if ((unsigned)order->postcopy > MIGRATION_POSTCOPY_NOW) {
        return error_set(err, DROVER_EBADINPUT,
                         "post-copy %u is unknown here: update this host",
                         (unsigned)order->postcopy);
    }
    const char *uri = order->uri;
    struct migration_source_config config = {
        .guest = &migrate->guest.guest,
        .uri = uri,
        .vm_id = vm_config(migrate->vm)->vm_id,
        .epoch = vm_config(migrate->vm)->epoch,
        .max_downtime_ms = order->max_downtime_ms,
        .deadline_ms = order->deadline_s * 1000,
        .postcopy = (enum migration_postcopy)order->postcopy, /* judged above */
        .predict_only = order->predict_only,
        .link_count = files->count,
        .streams = order->streams,
        .compress = (enum compress_mode)order->compress,
        .bandwidth_bytes_per_second = order->bandwidth_bytes_per_second,
        .times = migrate->times,
        .begun = engine_begun,
        .changed = source_changed,
        .round_done = source_round_done,
        .owner = migrate,
    };
    rdma_config(migrate, order, &config);
    for (unsigned i = 0; i < files->count; i++) {
        config.link_fds[i] = files->fds[i];
    }
    migration_source_free(migrate->source); /* its thread has ended */
    migrate->source = NULL;
    rv = migration_source_create(&config, &migrate->source, err);
    if (rv != 0) {
        return rv;
    }
    files->count = 0; /* the source's now */
    (void)snprintf(migrate->uri, sizeof(migrate->uri), "%s",
                   uri); /* create() judged its size */
    migrate->next_epoch = order->next_epoch;
    rv = migration_source_start(migrate->source);
    if (rv != 0) {
        migration_source_free(migrate->source);
        migrate->source = NULL;
        return error_set(err, rv, "can't start a thread: %s", err_text(rv));
    }
    log_notice(vm_log(migrate->vm), "moving vm=%s to=%s", vm_config(migrate->vm)->name,
               uri);
    return 0;
}

int migrate_snapshot(struct migrate *migrate, struct unix_files *files,
                     struct error *err)
{
    struct migrate_status status;
    migrate_status(migrate, &status);
    if (migrate->source != NULL && !migration_state_final(status.engine.state)) {
        return error_set(err, DROVER_EINUSE,
                         "the VM is being moved to %s: take the snapshot there, or "
                         "cancel that first",
                         migrate->uri);
    }
    if (migrate_memory_missing(migrate)) {
        return error_set(err, DROVER_EINUSE,
                         "the VM's memory is still on its way here: wait for its end");
    }
    return snapshot_begin(migrate->snapshot, files, err);
}

int migrate_disk_add(struct migrate *migrate, const char *path)
{
    return snapshot_disk_add(migrate->snapshot, path);
}

/* The source of a guest that runs here already is gone for good. */
static int arrival_lost(struct migrate *migrate, struct error *err)
{
    int rv = migration_target_lost(migrate->target);
    if (rv != 0) {
        return error_set(err, rv,
                         "the VM runs here, and its memory is on its way: only when the "
                         "connection to its source is lost can it be given up");
    }
    stuck_begin(migrate);
    return 0;
}

int migrate_limit(struct migrate *migrate, uint64_t bytes_per_second, struct error *err)
{
    struct migrate_status status;
    migrate_status(migrate, &status);
    if (migrate->source == NULL || migration_state_final(status.engine.state)) {
        return error_set(err, DROVER_EWRONGSTATE, "no move is under way");
    }
    migration_source_limit(migrate->source, bytes_per_second);
    return 0;
}

int migrate_cancel(struct migrate *migrate, struct error *err)
{
    if (snapshot_runs(migrate->snapshot)) {
        snapshot_cancel(migrate->snapshot);
        return 0;
    }
    struct migrate_status status;
    migrate_status(migrate, &status);
    if (migrate->source == NULL && status.engine.state == MIGRATION_STATE_POSTCOPY) {
        return arrival_lost(migrate, err);
    }
    if (migrate->source == NULL || migration_state_final(status.engine.state)) {
        return status.engine.state == MIGRATION_STATE_UNKNOWN
                   ? error_set(err, DROVER_EHANDEDOVER,
                               "the VM was handed over: too late to cancel")
                   : error_set(err, DROVER_EWRONGSTATE,
                               "no move or snapshot is under way");
    }
    int rv = migration_source_cancel(migrate->source);
    return rv != 0 ? error_set(err, rv, "the VM was handed over: too late to cancel") : 0;
}

int migrate_reclaim(struct migrate *migrate, struct error *err)
{
    int rv = migrate->source == NULL
                 ? DROVER_EWRONGSTATE
                 : migration_source_reclaim(migrate->source,
                                            "reclaimed: the target never got the go");
    if (rv != 0) {
        return error_set(
            err, rv,
            "nothing to reclaim: only a VM that was handed over with an unknown end");
    }
    return 0;
}

bool migrate_guest_lost(struct migrate *migrate)
{
    return migrate != NULL && migrate->target != NULL &&
           migration_target_guest_lost(migrate->target);
}

void migrate_status(struct migrate *migrate, struct migrate_status *ret_status)
{
    memset(ret_status, 0, sizeof(*ret_status));
    snapshot_status(migrate->snapshot, &ret_status->snapshot);
    if (migrate->target != NULL && (vm_holds(migrate->vm) & VM_HOLD_INCOMING) != 0) {
        migration_target_uri(migrate->target, ret_status->incoming_uri);
        if (migrate->rdma != NULL) {
            migrate_rdma_incoming(migrate->rdma, ret_status->incoming_rdma);
        }
    }
    if (migrate->source != NULL) {
        migration_source_status(migrate->source, &ret_status->engine);
        memcpy(ret_status->uri, migrate->uri, sizeof(ret_status->uri));
        ret_status->next_epoch = migrate->next_epoch;
    } else if (migrate->target != NULL) {
        migration_target_status(migrate->target, &ret_status->engine);
        if (migrate->rdma != NULL) {
            (void)snprintf(ret_status->engine.notice, sizeof(ret_status->engine.notice),
                           "%s", migrate_rdma_notice(migrate->rdma)); /* may be cut */
        }
        /* The agent tells never from unknown by this, and the process may end before the
         * engine has come to tell. */
        if (!migration_state_final(ret_status->engine.state) &&
            migration_target_given_up(migrate->target)) {
            ret_status->engine.state = MIGRATION_STATE_CANCELLED;
        }
    }
}
