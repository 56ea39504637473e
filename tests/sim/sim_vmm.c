/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model of drover-vmm: its states as in control.proto, its own enforcement of the
 * deadline, a freeze that takes time (and sometimes hangs on I/O), orders refused by
 * epoch. Which memory it holds is followed by number.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "tests/sim/sim.h"

/* ---- how it stands -------------------------------------------------------------------
 */

static bool lease_over(const struct sim *sim, const struct sim_vmm *vmm)
{
    uint64_t late_ms = sim->mutation == SIM_MUTATION_NO_FREEZE ? 15000 : 0;
    return vmm->ha && sim_local_ms(sim, vmm->host) >= vmm->deadline_ms + late_ms;
}

static bool freeze_confirmed(const struct sim *sim, const struct sim_vmm *vmm)
{
    return vmm->ha && (vmm->deadline_ms == 0 ||
                       sim_local_ms(sim, vmm->host) >= vmm->deadline_ms + vmm->freeze_ms);
}

bool sim_vmm_executes(const struct sim *sim, const struct sim_vmm *vmm)
{
    return vmm->life != 0 && vmm->state == SIM_VMM_GUEST && !vmm->paused &&
           !vmm->handover && !lease_over(sim, vmm) && !sim_host_stalled(sim, vmm->host);
}

bool sim_vmm_active(const struct sim *sim, const struct sim_vmm *vmm)
{
    if (vmm->life == 0 || vmm->state != SIM_VMM_GUEST) {
        return false;
    }
    if (!lease_over(sim, vmm)) {
        return !vmm->paused && !vmm->handover;
    }
    /* I/O that hangs in a kernel which stands still goes no further; when that goes on,
     * its watchdog comes first. */
    if (sim_host_stalled(sim, vmm->host)) {
        return false;
    }
    return !freeze_confirmed(sim, vmm) && !vmm->handover;
}

Drover__VmRunState sim_vmm_run_state(const struct sim *sim, const struct sim_vmm *vmm)
{
    switch (vmm->state) {
    case SIM_VMM_STARTING:
        return DROVER__VM_RUN_STATE__VM_RUN_UNSPECIFIED;
    case SIM_VMM_INCOMING:
        return DROVER__VM_RUN_STATE__VM_RUN_INCOMING;
    case SIM_VMM_HANDED_OVER:
        return DROVER__VM_RUN_STATE__VM_RUN_HANDED_OVER;
    case SIM_VMM_STOPPED:
        return DROVER__VM_RUN_STATE__VM_RUN_STOPPED;
    case SIM_VMM_FAILED:
        return DROVER__VM_RUN_STATE__VM_RUN_FAILED;
    case SIM_VMM_GUEST:
        break;
    }
    if (lease_over(sim, vmm)) {
        return freeze_confirmed(sim, vmm) ? DROVER__VM_RUN_STATE__VM_RUN_FROZEN
                                          : DROVER__VM_RUN_STATE__VM_RUN_FREEZING;
    }
    return vmm->paused ? DROVER__VM_RUN_STATE__VM_RUN_PAUSED
                       : DROVER__VM_RUN_STATE__VM_RUN_RUNNING;
}

uint64_t sim_vmm_deadline_ns(const struct sim_vmm *vmm)
{
    if (!vmm->ha) {
        return 0;
    }
    return vmm->deadline_ms == 0 ? 1 : vmm->deadline_ms * NS_PER_MS;
}

/* ---- reports -------------------------------------------------------------------------
 */

static struct sim_vmm *find(struct sim *sim, unsigned host, uint64_t vm_id,
                            uint64_t epoch)
{
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->life != 0 && vmm->host == host && vmm->vm_id == vm_id &&
            vmm->epoch == epoch) {
            return vmm;
        }
    }
    return NULL;
}

static void on_status(struct sim *sim, struct sim_event *event)
{
    Drover__VmStatus *status = drover__vm_status__unpack(NULL, event->size, event->data);
    CHECK(status != NULL);
    host_core_vmm_status(sim->hosts[event->host].core, status,
                         sim_local_ms(sim, event->host));
    drover__vm_status__free_unpacked(status, NULL);
    sim_agent_wake(sim, event->host, sim->now_ms);
}

void sim_vmm_send_status(struct sim *sim, struct sim_vmm *vmm)
{
    struct sim_host *host = &sim->hosts[vmm->host];
    if (!host->agent_alive || vmm->state == SIM_VMM_STARTING) {
        return;
    }
    char name[16], uri[64];
    (void)snprintf(name, sizeof(name), "vm%" PRIu64, vmm->vm_id);
    (void)snprintf(uri, sizeof(uri), "handed:10.0.0.%u:7400", vmm->host + 1);
    Drover__VmStatus status = DROVER__VM_STATUS__INIT;
    Drover__VmMigrationStatus move = DROVER__VM_MIGRATION_STATUS__INIT;
    status.name = name;
    status.vm_id = vmm->vm_id;
    status.epoch = vmm->epoch;
    status.run_state = sim_vmm_run_state(sim, vmm);
    status.lease_deadline_ns = sim_vmm_deadline_ns(vmm);
    status.paused_wanted = vmm->paused;
    status.guest_powered_off = vmm->powered_off;
    if (vmm->state == SIM_VMM_INCOMING) {
        status.incoming_uri = uri;
    }
    if (vmm->move.state != DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE) {
        move.state = vmm->move.state;
        move.uri = vmm->move.uri;
        move.next_epoch = vmm->move.next_epoch;
        move.interrupted = vmm->move.interrupted;
        status.migration = &move;
    }
    sim_trace(sim, "h%u vm%" PRIu64 ".%" PRIu64 " says %d, move %d", vmm->host,
              vmm->vm_id, vmm->epoch, (int)status.run_state, (int)vmm->move.state);
    size_t size = drover__vm_status__get_packed_size(&status);
    void *data = malloc(size + 1);
    CHECK(data != NULL);
    (void)drover__vm_status__pack(&status, data); /* fills `size` */
    struct sim_event *event = sim_at_host(sim, sim->now_ms + 1, on_status, vmm->host);
    event->agent_run = host->agent_run;
    sim_event_data(event, data, size);
}

static void on_gone(struct sim *sim, struct sim_event *event)
{
    host_core_vmm_gone(sim->hosts[event->host].core, event->a, event->b, event->data,
                       event->c != 0, sim_local_ms(sim, event->host));
    sim_agent_wake(sim, event->host, sim->now_ms);
}

void sim_vmm_gone(struct sim *sim, struct sim_vmm *vmm, const char *reason)
{
    sim_trace(sim, "h%u vm%" PRIu64 ".%" PRIu64 " is gone: %s", vmm->host, vmm->vm_id,
              vmm->epoch, reason);
    sim_move_end(sim, vmm, reason);
    struct sim_host *host = &sim->hosts[vmm->host];
    if (host->powered && host->agent_alive) {
        struct sim_event *event = sim_at_host(sim, sim->now_ms + 2, on_gone, vmm->host);
        event->agent_run = host->agent_run;
        event->a = vmm->vm_id;
        event->b = vmm->epoch;
        event->c = vmm->powered_off;
        char *copy = strdup(reason);
        CHECK(copy != NULL);
        sim_event_data(event, copy, strlen(copy) + 1);
    }
    *vmm = (struct sim_vmm){0};
}

/* ---- birth and death -----------------------------------------------------------------
 */

static struct sim_vmm *by_life(struct sim *sim, uint64_t slot, uint64_t life)
{
    struct sim_vmm *vmm = &sim->vmms[slot];
    return vmm->life == life ? vmm : NULL;
}

static void on_born(struct sim *sim, struct sim_event *event)
{
    struct sim_vmm *vmm = by_life(sim, event->a, event->b);
    if (vmm == NULL || vmm->state != SIM_VMM_STARTING) {
        return;
    }
    if (!sim->healed && sim_chance(sim, 5)) {
        sim_vmm_gone(sim, vmm, "its kernel is missing: copy it to this host");
        return;
    }
    vmm->state = event->c != 0 ? SIM_VMM_INCOMING : SIM_VMM_GUEST;
    sim_vmm_send_status(sim, vmm);
}

void sim_vmm_start(struct sim *sim, unsigned host, const Drover__VmRecord *vm,
                   uint64_t epoch, bool incoming)
{
    sim_trace(sim, "h%u starts vm%" PRIu64 ".%" PRIu64 "%s", host, vm->vm_id, epoch,
              incoming ? " incoming" : "");
    if (find(sim, host, vm->vm_id, epoch) != NULL) {
        sim_fail(sim, "h%u starts vm%" PRIu64 ".%" PRIu64 " twice", host, vm->vm_id,
                 epoch);
        return;
    }
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->life != 0) {
            continue;
        }
        *vmm = (struct sim_vmm){
            .life = ++sim->last_id,
            .vm_id = vm->vm_id,
            .epoch = epoch,
            .host = host,
            .state = SIM_VMM_STARTING,
            .ha = vm->spec->ha,
            .freeze_ms = 1 + sim_random(sim, 40),
        };
        struct sim_event *event =
            sim_at_host(sim, sim->now_ms + 20 + sim_random(sim, 300), on_born, host);
        event->a = i;
        event->b = vmm->life;
        event->c = incoming;
        return;
    }
    CHECK(false); /* more VMMs than a run can have */
}

static void on_end(struct sim *sim, struct sim_event *event)
{
    struct sim_vmm *vmm = by_life(sim, event->a, event->b);
    if (vmm == NULL) {
        return;
    }
    /* What hangs in I/O does not end before that does. */
    if (lease_over(sim, vmm) && vmm->deadline_ms != 0 && !freeze_confirmed(sim, vmm) &&
        vmm->state == SIM_VMM_GUEST) {
        struct sim_event *again = sim_at_host(sim, sim->now_ms + 50, on_end, vmm->host);
        again->a = event->a;
        again->b = event->b;
        return;
    }
    sim_vmm_gone(sim, vmm, vmm->powered_off ? "the guest powered off" : "it was stopped");
}

static void end_soon(struct sim *sim, struct sim_vmm *vmm)
{
    struct sim_event *event =
        sim_at_host(sim, sim->now_ms + 1 + sim_random(sim, 60), on_end, vmm->host);
    event->a = (uint64_t)(vmm - sim->vmms);
    event->b = vmm->life;
}

static void on_power_button(struct sim *sim, struct sim_event *event)
{
    struct sim_vmm *vmm = by_life(sim, event->a, event->b);
    if (vmm == NULL || !sim_vmm_executes(sim, vmm) || sim_chance(sim, 15)) {
        return; /* a guest may not listen */
    }
    vmm->powered_off = true;
    sim_vm_find(sim, vmm->vm_id)->powered_off = true;
    vmm->state = SIM_VMM_STOPPED;
    sim_vmm_send_status(sim, vmm);
    end_soon(sim, vmm);
}

/* ---- orders --------------------------------------------------------------------------
 */

static void on_order_failed(struct sim *sim, struct sim_event *event)
{
    host_core_vmm_order_failed(sim->hosts[event->host].core, event->a, event->b,
                               (int)(int64_t)event->c, "refused",
                               sim_local_ms(sim, event->host));
    sim_agent_wake(sim, event->host, sim->now_ms);
}

static void refuse(struct sim *sim, unsigned host, uint64_t vm_id, uint64_t epoch,
                   int error)
{
    if (!sim->hosts[host].agent_alive) {
        return;
    }
    struct sim_event *event = sim_at_host(sim, sim->now_ms + 1, on_order_failed, host);
    event->agent_run = sim->hosts[host].agent_run;
    event->a = vm_id;
    event->b = epoch;
    event->c = (uint64_t)(int64_t)error;
}

static void on_frozen(struct sim *sim, struct sim_event *event)
{
    struct sim_vmm *vmm = by_life(sim, event->a, event->b);
    if (vmm == NULL || vmm->deadline_ms != event->c || vmm->state != SIM_VMM_GUEST) {
        return;
    }
    if (!freeze_confirmed(sim, vmm)) {
        struct sim_event *again = sim_at_host(sim, sim->now_ms + 5, on_frozen, vmm->host);
        again->a = event->a;
        again->b = event->b;
        again->c = event->c;
        return;
    }
    sim->freezes++;
    sim_vmm_send_status(sim, vmm);
}

static void take_lease(struct sim *sim, struct sim_vmm *vmm, uint64_t deadline_ns)
{
    uint64_t deadline_ms = deadline_ns / NS_PER_MS;
    if (!vmm->ha || deadline_ms <= vmm->deadline_ms) {
        return;
    }
    if (sim_local_ms(sim, vmm->host) >= deadline_ms) {
        return;
    }
    bool was_over = lease_over(sim, vmm);
    bool hung = was_over && vmm->deadline_ms != 0 && !freeze_confirmed(sim, vmm);
    vmm->deadline_ms = deadline_ms;
    if (!hung) {
        /* At times its I/O will hang at the next deadline. */
        vmm->freeze_ms = 1 + sim_random(sim, 40);
        if (!sim->healed && sim_chance(sim, 10)) {
            vmm->freeze_ms = 500 + sim_random(sim, 20000);
        }
    }
    uint64_t left_ms = deadline_ms - sim_local_ms(sim, vmm->host) + vmm->freeze_ms;
    struct sim_event *event =
        sim_at_host(sim, sim->now_ms + sim_global_span_ms(sim, vmm->host, left_ms) + 1,
                    on_frozen, vmm->host);
    event->a = (uint64_t)(vmm - sim->vmms);
    event->b = vmm->life;
    event->c = deadline_ms;
    if (was_over && vmm->state == SIM_VMM_GUEST) {
        sim->thaws++;
        sim_vmm_send_status(sim, vmm);
    }
}

static void quit(struct sim *sim, struct sim_vmm *vmm)
{
    if (vmm->quitting) {
        return;
    }
    vmm->quitting = true;
    if (vmm->state == SIM_VMM_INCOMING || vmm->state == SIM_VMM_STARTING) {
        vmm->state = SIM_VMM_FAILED; /* abandons: it can't get the go any more */
        sim_move_end(sim, vmm, "quit");
        sim_vmm_send_status(sim, vmm);
    } else if (vmm->state == SIM_VMM_GUEST &&
               (!lease_over(sim, vmm) || vmm->deadline_ms == 0 ||
                freeze_confirmed(sim, vmm))) {
        vmm->state = SIM_VMM_STOPPED;
    }
    end_soon(sim, vmm);
}

static void reclaim(struct sim *sim, struct sim_vmm *vmm)
{
    if (vmm->state != SIM_VMM_HANDED_OVER ||
        vmm->move.state != DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN) {
        refuse(sim, vmm->host, vmm->vm_id, vmm->epoch, DROVER_EWRONGSTATE);
        return;
    }
    vmm->state = SIM_VMM_GUEST;
    vmm->handover = false;
    vmm->move.state = DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED;
}

void sim_vmm_order(struct sim *sim, unsigned host, uint64_t vm_id, uint64_t epoch,
                   const Drover__ControlRequest *request)
{
    struct sim_vmm *vmm = find(sim, host, vm_id, epoch);
    if (vmm == NULL || (vmm->state == SIM_VMM_STARTING &&
                        request->order_case != DROVER__CONTROL_REQUEST__ORDER_QUIT)) {
        refuse(sim, host, vm_id, epoch, DROVER_ECLOSED);
        return;
    }
    sim_trace(sim, "h%u vm%" PRIu64 ".%" PRIu64 " order %d", host, vm_id, epoch,
              (int)request->order_case);
    switch (request->order_case) {
    case DROVER__CONTROL_REQUEST__ORDER_LEASE:
        take_lease(sim, vmm, request->lease->deadline_ns);
        break;
    case DROVER__CONTROL_REQUEST__ORDER_PAUSE:
        vmm->paused = true;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_RESUME:
        vmm->paused = false;
        break;
    case DROVER__CONTROL_REQUEST__ORDER_POWER_BUTTON: {
        struct sim_event *event = sim_at_host(
            sim, sim->now_ms + 200 + sim_random(sim, 2000), on_power_button, host);
        event->a = (uint64_t)(vmm - sim->vmms);
        event->b = vmm->life;
        break;
    }
    case DROVER__CONTROL_REQUEST__ORDER_QUIT:
        sim_check_quit(sim, vmm);
        quit(sim, vmm);
        return;
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE:
        sim_move_start(sim, vmm, request->migrate);
        break;
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS:
        if (!sim_move_resume(sim, vmm)) {
            refuse(sim, host, vm_id, epoch, DROVER_EWRONGSTATE);
        }
        break;
    case DROVER__CONTROL_REQUEST__ORDER_MIGRATE_CANCEL:
        if (sim_move_lost(sim, vmm)) {
            quit(sim, vmm);
        } else if (!sim_move_cancel(sim, vmm)) {
            refuse(sim, host, vm_id, epoch, DROVER_EHANDEDOVER);
        }
        break;
    case DROVER__CONTROL_REQUEST__ORDER_RECLAIM:
        reclaim(sim, vmm);
        break;
    default:
        break;
    }
    sim_vmm_send_status(sim, vmm);
}
