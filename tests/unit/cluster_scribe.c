/* SPDX-License-Identifier: Apache-2.0 */
/* Writes random commands. */
#include "tests/unit/cluster_scribe.h"

#include <stdbool.h>
#include <stdio.h>

#define HOSTS 6u
#define VMS   8u
#define BOOTS 3u

/* splitmix64 */
static uint64_t next_random(struct scribe *scribe)
{
    uint64_t z = scribe->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

unsigned scribe_below(struct scribe *scribe, unsigned limit)
{
    return (unsigned)(next_random(scribe) % limit);
}

static bool rarely(struct scribe *scribe)
{
    return scribe_below(scribe, 20) == 0;
}

static char *text(struct scribe *scribe, unsigned slot, const char *stem, unsigned number)
{
    (void)snprintf(scribe->texts[slot], TEXT_SIZE, "%s%u", stem, number);
    return scribe->texts[slot];
}

/* Mostly one that exists. */
static uint64_t some_host(struct scribe *scribe)
{
    if (rarely(scribe) || scribe->view->n_hosts == 0) {
        return scribe_below(scribe, 12);
    }
    return scribe->view->hosts[scribe_below(scribe, (unsigned)scribe->view->n_hosts)]
        ->host_id;
}

static const Drover__VmRecord *some_vm(struct scribe *scribe)
{
    static const Drover__VmRecord none = DROVER__VM_RECORD__INIT;
    if (rarely(scribe) || scribe->view->n_vms == 0) {
        return &none;
    }
    return scribe->view->vms[scribe_below(scribe, (unsigned)scribe->view->n_vms)];
}

static const Drover__HostRecord *find_host(const struct scribe *scribe, uint64_t host_id)
{
    for (size_t i = 0; i < scribe->view->n_hosts; i++) {
        if (scribe->view->hosts[i]->host_id == host_id) {
            return scribe->view->hosts[i];
        }
    }
    return NULL;
}

/* Mostly the host's current run. */
static char *run_of(struct scribe *scribe, uint64_t host_id)
{
    const Drover__HostRecord *host = find_host(scribe, host_id);
    if (host == NULL || rarely(scribe)) {
        return text(scribe, 0, "run", scribe_below(scribe, 50));
    }
    (void)snprintf(scribe->texts[0], TEXT_SIZE, "%s", host->incarnation);
    return scribe->texts[0];
}

static uint64_t near(struct scribe *scribe, uint64_t epoch)
{
    return rarely(scribe) ? epoch + scribe_below(scribe, 3) - 1 : epoch;
}

static void make_host_dead(struct scribe *scribe)
{
    Drover__HostDead *dead = &scribe->order.host_dead;
    drover__host_dead__init(dead);
    drover__proof__init(&scribe->proof);
    dead->host_id = some_host(scribe);
    const Drover__HostRecord *host = find_host(scribe, dead->host_id);
    dead->incarnation = run_of(scribe, dead->host_id);
    if (host != NULL) {
        dead->boot_id = host->boot_id;
    }
    Drover__Proof *proof = &scribe->proof;
    proof->kind = (Drover__ProofKind)scribe_below(scribe, 5);
    proof->detail = text(scribe, 1, rarely(scribe) ? "" : "detail", 1);
    proof->silent_ms = 5000 + scribe_below(scribe, 4) * 1000;
    proof->lease_ms = 5000;
    proof->watchdog_ms = 2000;
    proof->leader_host_id = some_host(scribe);
    proof->term = scribe_below(scribe, 5);
    dead->proof = rarely(scribe) ? NULL : proof;
    scribe->command.what_case = DROVER__COMMAND__WHAT_HOST_DEAD;
    scribe->command.host_dead = dead;
}

static void make_host(struct scribe *scribe, unsigned kind)
{
    Drover__Command *command = &scribe->command;
    if (kind == 0) {
        Drover__TokenCreate *create = &scribe->order.token_create;
        drover__token_create__init(create);
        create->token_id = text(scribe, 1, "token", scribe_below(scribe, 5000));
        create->secret_sha256 = (ProtobufCBinaryData){.data = scribe->secret, .len = 32};
        create->expires_unix_ms = command->at_unix_ms + scribe_below(scribe, 30000);
        command->what_case = DROVER__COMMAND__WHAT_TOKEN_CREATE;
        command->token_create = create;
    } else if (kind == 1) {
        Drover__HostAdd *add = &scribe->order.host_add;
        drover__host_add__init(add);
        add->token_id = scribe->view->n_tokens == 0 || rarely(scribe)
                            ? text(scribe, 1, "token", scribe_below(scribe, 100))
                            : scribe->view->tokens[scribe->view->n_tokens - 1]->token_id;
        add->secret_sha256 = (ProtobufCBinaryData){.data = scribe->secret, .len = 32};
        unsigned number = scribe_below(scribe, HOSTS);
        add->name = text(scribe, 2, rarely(scribe) ? "BAD" : "host", number);
        add->address = text(scribe, 3, "host:700", number);
        add->witness = rarely(scribe);
        command->what_case = DROVER__COMMAND__WHAT_HOST_ADD;
        command->host_add = add;
    } else if (kind < 6) {
        Drover__HostUp *up = &scribe->order.host_up;
        drover__host_up__init(up);
        up->host_id = some_host(scribe);
        up->boot_id =
            text(scribe, 1, "boot",
                 scribe_below(scribe, 4) == 0 ? scribe_below(scribe, BOOTS) : 0);
        up->incarnation = text(scribe, 2, "run", scribe_below(scribe, 50));
        up->memory_bytes = (uint64_t)scribe_below(scribe, 8) << 31;
        up->watchdog_ms = rarely(scribe) ? 0 : 2000;
        command->what_case = DROVER__COMMAND__WHAT_HOST_UP;
        up->postcopy = scribe_below(scribe, 40) != 0;
        command->host_up = up;
    } else if (kind == 6) {
        drover__host_remove__init(&scribe->order.host_remove);
        scribe->order.host_remove.host_id = some_host(scribe);
        command->what_case = DROVER__COMMAND__WHAT_HOST_REMOVE;
        command->host_remove = &scribe->order.host_remove;
    } else {
        drover__host_drain__init(&scribe->order.host_drain);
        scribe->order.host_drain.host_id = some_host(scribe);
        scribe->order.host_drain.draining = rarely(scribe);
        command->what_case = DROVER__COMMAND__WHAT_HOST_DRAIN;
        command->host_drain = &scribe->order.host_drain;
    }
}

static void make_vm_create(struct scribe *scribe)
{
    Drover__VmCreate *create = &scribe->order.vm_create;
    drover__vm_create__init(create);
    drover__vm_spec__init(&scribe->spec);
    drover__disk_spec__init(&scribe->disk);
    drover__nic_spec__init(&scribe->nic);
    unsigned number = scribe_below(scribe, VMS);
    scribe->spec.name = text(scribe, 1, rarely(scribe) ? "Bad" : "vm", number);
    scribe->disk.path =
        text(scribe, 2, rarely(scribe) ? "srv" : "/srv/", scribe_below(scribe, VMS));
    scribe->disk.readonly = rarely(scribe);
    scribe->disks[0] = &scribe->disk;
    scribe->nics[0] = &scribe->nic;
    scribe->spec.memory_bytes =
        rarely(scribe) ? scribe_below(scribe, 9999) : UINT64_C(1) << 29;
    scribe->spec.cpus = 1;
    scribe->spec.kernel = (char *)"/k";
    scribe->spec.disks = scribe->disks;
    scribe->spec.n_disks = 1;
    scribe->spec.nics = scribe->nics;
    scribe->spec.n_nics = 1;
    scribe->spec.ha = scribe_below(scribe, 3) != 0;
    create->spec = rarely(scribe) ? NULL : &scribe->spec;
    create->wanted = rarely(scribe) ? (Drover__VmWanted)scribe_below(scribe, 6)
                                    : DROVER__VM_WANTED__VM_WANTED_RUNNING;
    scribe->command.what_case = DROVER__COMMAND__WHAT_VM_CREATE;
    scribe->command.vm_create = create;
}

static void make_vm(struct scribe *scribe, unsigned kind)
{
    Drover__Command *command = &scribe->command;
    const Drover__VmRecord *vm = some_vm(scribe);
    uint64_t speaker = rarely(scribe) ? some_host(scribe) : vm->owner_host_id;
    if (kind == 0) {
        drover__vm_delete__init(&scribe->order.vm_delete);
        scribe->order.vm_delete.vm_id = vm->vm_id;
        command->what_case = DROVER__COMMAND__WHAT_VM_DELETE;
        command->vm_delete = &scribe->order.vm_delete;
    } else if (kind < 4) {
        Drover__VmSetWanted *set = &scribe->order.vm_set_wanted;
        drover__vm_set_wanted__init(set);
        set->vm_id = vm->vm_id;
        set->wanted = scribe_below(scribe, 3) != 0
                          ? DROVER__VM_WANTED__VM_WANTED_RUNNING
                          : (Drover__VmWanted)scribe_below(scribe, 6);
        command->what_case = DROVER__COMMAND__WHAT_VM_SET_WANTED;
        command->vm_set_wanted = set;
    } else if (kind < 9) {
        Drover__VmAssign *assign = &scribe->order.vm_assign;
        drover__vm_assign__init(assign);
        assign->vm_id = vm->vm_id;
        assign->expected_epoch_high = near(scribe, vm->epoch_high);
        assign->host_id = some_host(scribe);
        assign->why = text(scribe, 1, "why", 0);
        command->what_case = DROVER__COMMAND__WHAT_VM_ASSIGN;
        command->vm_assign = assign;
    } else if (kind < 14) {
        Drover__VmStarted *started = &scribe->order.vm_started;
        drover__vm_started__init(started);
        started->vm_id = vm->vm_id;
        started->epoch = near(scribe, vm->epoch);
        started->host_id = speaker;
        started->incarnation = run_of(scribe, speaker);
        command->what_case = DROVER__COMMAND__WHAT_VM_STARTED;
        command->vm_started = started;
    } else if (kind == 14) {
        Drover__VmProblem *problem = &scribe->order.vm_problem;
        drover__vm_problem__init(problem);
        problem->vm_id = vm->vm_id;
        problem->epoch = near(scribe, vm->epoch);
        problem->host_id = speaker;
        problem->incarnation = run_of(scribe, speaker);
        problem->text = text(scribe, 1, "problem", scribe_below(scribe, 3));
        command->what_case = DROVER__COMMAND__WHAT_VM_PROBLEM;
        command->vm_problem = problem;
    } else {
        Drover__VmStopped *stopped = &scribe->order.vm_stopped;
        drover__vm_stopped__init(stopped);
        stopped->vm_id = vm->vm_id;
        stopped->epoch = near(scribe, vm->epoch);
        stopped->host_id = speaker;
        stopped->incarnation = run_of(scribe, speaker);
        stopped->reason = text(scribe, 1, "reason", 0);
        stopped->guest_powered_off = scribe_below(scribe, 2) == 0;
        command->what_case = DROVER__COMMAND__WHAT_VM_STOPPED;
        command->vm_stopped = stopped;
    }
}

static void make_abort(struct scribe *scribe, const Drover__VmRecord *vm)
{
    const Drover__Migration *migration = vm->migration;
    Drover__MigrationAbort *order = &scribe->order.migration_abort;
    drover__migration_abort__init(order);
    order->vm_id = vm->vm_id;
    order->next_epoch = near(scribe, migration->next_epoch);
    order->by = (Drover__MigrationAbortBy)scribe_below(scribe, 6);
    bool target = order->by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET ||
                  order->by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE;
    order->host_id = rarely(scribe) ? some_host(scribe)
                     : target       ? migration->target_host_id
                                    : migration->source_host_id;
    order->incarnation = run_of(scribe, order->host_id);
    order->reason = text(scribe, 1, "reason", 1);
    scribe->command.what_case = DROVER__COMMAND__WHAT_MIGRATION_ABORT;
    scribe->command.migration_abort = order;
}

static void make_postcopy_end(struct scribe *scribe, const Drover__VmRecord *vm)
{
    Drover__Command *command = &scribe->command;
    uint64_t speaker = rarely(scribe)                 ? some_host(scribe)
                       : scribe_below(scribe, 2) == 0 ? vm->owner_host_id
                                                      : vm->dependence->host_id;
    if (scribe_below(scribe, 3) == 0) {
        Drover__MigrationSourceLost *lost = &scribe->order.migration_source_lost;
        drover__migration_source_lost__init(lost);
        lost->vm_id = vm->vm_id;
        lost->epoch = near(scribe, vm->epoch);
        lost->host_id = speaker;
        lost->incarnation = run_of(scribe, speaker);
        command->what_case = DROVER__COMMAND__WHAT_MIGRATION_SOURCE_LOST;
        command->migration_source_lost = lost;
        return;
    }
    Drover__MigrationComplete *complete = &scribe->order.migration_complete;
    drover__migration_complete__init(complete);
    complete->vm_id = vm->vm_id;
    complete->epoch = near(scribe, vm->epoch);
    complete->host_id = speaker;
    complete->incarnation = run_of(scribe, speaker);
    complete->lost = scribe_below(scribe, 2) == 0;
    complete->reason = text(scribe, 1, "reason", 1);
    command->what_case = DROVER__COMMAND__WHAT_MIGRATION_COMPLETE;
    command->migration_complete = complete;
}

static void make_migration_step(struct scribe *scribe, const Drover__VmRecord *vm)
{
    Drover__Command *command = &scribe->command;
    const Drover__Migration *migration = vm->migration;
    uint64_t next_epoch = near(scribe, migration->next_epoch);
    uint64_t target = rarely(scribe) ? some_host(scribe) : migration->target_host_id;
    unsigned kind = scribe_below(scribe, 13);
    if (kind == 12) {
        Drover__MigrationNotice *notice = &scribe->order.migration_notice;
        drover__migration_notice__init(notice);
        notice->vm_id = vm->vm_id;
        notice->next_epoch = next_epoch;
        notice->host_id = rarely(scribe) ? some_host(scribe) : migration->source_host_id;
        notice->incarnation = run_of(scribe, notice->host_id);
        notice->text = text(scribe, 1, "over TCP: ", scribe_below(scribe, 3));
        command->what_case = DROVER__COMMAND__WHAT_MIGRATION_NOTICE;
        command->migration_notice = notice;
    } else if (kind < 5) {
        Drover__MigrationReady *ready = &scribe->order.migration_ready;
        drover__migration_ready__init(ready);
        ready->vm_id = vm->vm_id;
        ready->next_epoch = next_epoch;
        ready->host_id = target;
        ready->incarnation = run_of(scribe, target);
        ready->uri =
            text(scribe, 1, rarely(scribe) ? "x" : "tcp:h:", 1 + scribe_below(scribe, 2));
        ready->rdma_address = text(scribe, 2, rarely(scribe) ? "" : "10.0.0.1:",
                                   scribe_below(scribe, 2) * 7);
        command->what_case = DROVER__COMMAND__WHAT_MIGRATION_READY;
        command->migration_ready = ready;
    } else if (kind == 5) {
        drover__migration_cancel__init(&scribe->order.migration_cancel);
        scribe->order.migration_cancel.vm_id = vm->vm_id;
        scribe->order.migration_cancel.next_epoch = next_epoch;
        command->what_case = DROVER__COMMAND__WHAT_MIGRATION_CANCEL;
        command->migration_cancel = &scribe->order.migration_cancel;
    } else if (kind < 9) {
        Drover__MigrationDone *done = &scribe->order.migration_done;
        drover__migration_done__init(done);
        drover__migration_figures__init(&scribe->figures);
        scribe->figures.total_ms = scribe_below(scribe, 9999);
        done->vm_id = vm->vm_id;
        done->next_epoch = next_epoch;
        done->host_id = target;
        done->incarnation = run_of(scribe, target);
        done->figures = rarely(scribe) ? NULL : &scribe->figures;
        command->what_case = DROVER__COMMAND__WHAT_MIGRATION_DONE;
        done->depends = scribe_below(scribe, 2) == 0;
        command->migration_done = done;
    } else {
        make_abort(scribe, vm);
    }
}

static void make_migration(struct scribe *scribe)
{
    const Drover__VmRecord *vm = some_vm(scribe);
    if (vm->migration != NULL) {
        make_migration_step(scribe, vm);
        return;
    }
    if (vm->dependence != NULL && scribe_below(scribe, 3) != 0) {
        make_postcopy_end(scribe, vm);
        return;
    }
    Drover__MigrationBegin *begin = &scribe->order.migration_begin;
    drover__migration_begin__init(begin);
    begin->vm_id = vm->vm_id;
    begin->expected_epoch = near(scribe, vm->epoch);
    begin->target_host_id = some_host(scribe);
    begin->transport = (Drover__MigrationTransport)scribe_below(scribe, 4);
    scribe->command.what_case = DROVER__COMMAND__WHAT_MIGRATION_BEGIN;
    begin->postcopy = (Drover__MigrationPostcopy)scribe_below(scribe, 4);
    scribe->command.migration_begin = begin;
}

void scribe_write(struct scribe *scribe, const Drover__ClusterState *view,
                  uint64_t now_unix_ms)
{
    scribe->view = view;
    drover__command__init(&scribe->command);
    scribe->command.at_unix_ms = now_unix_ms;
    unsigned kind = scribe_below(scribe, 100);
    if (kind < 2) {
        make_host_dead(scribe);
    } else if (kind < 12) {
        make_host(scribe, scribe_below(scribe, 8));
    } else if (kind < 16) {
        make_vm_create(scribe);
    } else if (kind < 65) {
        make_vm(scribe, scribe_below(scribe, 17));
    } else if (kind < 98) {
        make_migration(scribe);
    } else {
        drover__event_add__init(&scribe->order.event_add);
        drover__event__init(&scribe->event);
        scribe->event.kind = (char *)"test.event";
        scribe->event.text = text(scribe, 1, "event ", 1);
        scribe->order.event_add.event = rarely(scribe) ? NULL : &scribe->event;
        scribe->command.what_case = DROVER__COMMAND__WHAT_EVENT_ADD;
        scribe->command.event_add = &scribe->order.event_add;
    }
}
