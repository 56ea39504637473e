/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to the cluster: power, stalls, links, crashes; and what its users do. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "tests/sim/sim.h"

struct sim_vm *sim_vm_find(struct sim *sim, uint64_t vm_id)
{
    for (unsigned i = 0; i < SIM_VMS_MAX; i++) {
        if (sim->vms[i].vm_id == vm_id) {
            return &sim->vms[i];
        }
    }
    return NULL;
}

/* ---- power ---------------------------------------------------------------------------
 */

static void on_power_on(struct sim *sim, struct sim_event *event)
{
    if (!sim->hosts[event->a].powered) {
        sim_power_on(sim, (unsigned)event->a);
    }
}

void sim_power_off(struct sim *sim, unsigned index, const char *why)
{
    struct sim_host *host = &sim->hosts[index];
    if (!host->powered) {
        return;
    }
    sim_trace(sim, "h%u loses power: %s", index, why);
    sim_agent_stop(sim, index);
    host->powered = false;
    host->stalled_until_ms = host->agent_stalled_until_ms = 0;
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        if (sim->vmms[i].life != 0 && sim->vmms[i].host == index) {
            sim->vmms[i] = (struct sim_vmm){0};
        }
    }
    sim_raft_sync(sim, index);
    uint64_t off_ms = sim->healed ? 3000 : 2000 + sim_random(sim, 40000);
    sim_at(sim, sim->now_ms + off_ms, on_power_on)->a = index;
}

static void on_agent_start(struct sim *sim, struct sim_event *event)
{
    if (!sim->hosts[event->host].agent_alive) {
        sim_agent_start(sim, event->host);
        sim_raft_sync(sim, event->host);
    }
}

void sim_power_on(struct sim *sim, unsigned index)
{
    struct sim_host *host = &sim->hosts[index];
    host->powered = true;
    host->boot++;
    host->base_ms = 100000 + sim_random(sim, 1000000);
    (void)snprintf(host->boot_id, sizeof(host->boot_id), "boot%u-%" PRIu64 "-%" PRIu64,
                   index, host->boot, sim_random(sim, 1000000));
    sim_trace(sim, "h%u boots (%s)", index, host->boot_id);
    sim_keeper_start(sim, index);
    (void)sim_at_host(sim, sim->now_ms + 500, on_agent_start, index);
}

/* ---- faults --------------------------------------------------------------------------
 */

static unsigned any_host(struct sim *sim)
{
    return (unsigned)sim_random(sim, sim->host_count);
}

static void on_unstall(struct sim *sim, struct sim_event *event)
{
    unsigned index = (unsigned)event->a;
    if (sim->hosts[index].powered) {
        sim_raft_sync(sim, index);
        if (sim_agent_runs(sim, index)) {
            sim_agent_wake(sim, index, sim->now_ms);
        }
    }
}

static void stall(struct sim *sim, unsigned index, bool whole, uint64_t for_ms)
{
    struct sim_host *host = &sim->hosts[index];
    uint64_t until_ms = sim->now_ms + for_ms;
    if (!host->powered) {
        return;
    }
    sim_trace(sim, "h%u %s stalls for %" PRIu64, index, whole ? "wholly" : "agent",
              for_ms);
    uint64_t *at_ms = whole ? &host->stalled_until_ms : &host->agent_stalled_until_ms;
    *at_ms = until_ms > *at_ms ? until_ms : *at_ms;
    sim_raft_sync(sim, index);
    struct sim_event *event = sim_at(sim, *at_ms, on_unstall);
    event->order = 1; /* before whatever waited for it, but after the kernel's timers */
    event->a = index;
}

static void agent_crash(struct sim *sim, unsigned index)
{
    struct sim_host *host = &sim->hosts[index];
    if (!host->powered || !host->agent_alive) {
        return;
    }
    sim_trace(sim, "h%u agent crashes", index);
    sim_agent_stop(sim, index);
    sim_raft_sync(sim, index);
    (void)sim_at_host(sim, sim->now_ms + 1500 + sim_random(sim, 6000), on_agent_start,
                      index);
}

static void vmm_crash(struct sim *sim)
{
    struct sim_vmm *vmm = &sim->vmms[sim_random(sim, SIM_VMMS_MAX)];
    for (unsigned i = 0; i < SIM_VMMS_MAX && vmm->life == 0; i++) {
        vmm = &sim->vmms[i];
    }
    bool hangs =
        sim_vmm_run_state(sim, vmm) == DROVER__VM_RUN_STATE__VM_RUN_FREEZING; /* in I/O */
    if (vmm->life != 0 && !hangs && !sim_host_stalled(sim, vmm->host)) {
        sim_vmm_gone(sim, vmm, "killed by signal 9");
    }
}

static void guest_powers_off(struct sim *sim)
{
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        struct sim_vmm *vmm = &sim->vmms[i];
        if (sim_vmm_executes(sim, vmm) && sim_chance(sim, 20)) {
            vmm->powered_off = true;
            vmm->state = SIM_VMM_STOPPED;
            sim_vm_find(sim, vmm->vm_id)->powered_off = true;
            sim_vmm_gone(sim, vmm, "the guest powered off");
            return;
        }
    }
}

static void isolate(struct sim *sim, unsigned index, bool in, bool out)
{
    for (unsigned i = 0; i < sim->host_count; i++) {
        if (i != index) {
            sim->cut[i][index] |= in;
            sim->cut[index][i] |= out;
        }
    }
    sim_raft_links(sim);
}

static void links_heal(struct sim *sim)
{
    memset(sim->cut, 0, sizeof(sim->cut));
    sim->loss_percent = 0;
    sim->delay_max_ms = 10;
    sim_raft_links(sim);
}

static void on_mended(struct sim *sim, struct sim_event *event)
{
    sim->cut[event->a][event->b] = sim->cut[event->b][event->a] = false;
    sim_raft_links(sim);
}

static void on_near(struct sim *sim, struct sim_event *event)
{
    struct sim_vmm *vmm = &sim->vmms[event->a];
    if (sim->healed) {
        return;
    }
    switch (event->c) {
    case 0:
        if (vmm->life == event->b &&
            sim_vmm_run_state(sim, vmm) != DROVER__VM_RUN_STATE__VM_RUN_FREEZING) {
            sim_vmm_gone(sim, vmm, "killed by signal 9");
        }
        break;
    case 1:
        agent_crash(sim, event->host);
        break;
    case 2:
        sim_power_off(sim, event->host, "cut");
        break;
    case 3:
        if (vmm->life == event->b) {
            unsigned peer = sim->vmms[vmm->move.peer].host;
            sim->cut[vmm->host][peer] = sim->cut[peer][vmm->host] = true;
            sim_raft_links(sim);
            struct sim_event *mended =
                sim_at(sim, sim->now_ms + sim_random(sim, 8000), on_mended);
            mended->a = vmm->host;
            mended->b = peer;
        }
        break;
    default:
        isolate(sim, event->host, true, true);
        break;
    }
}

void sim_fault_near(struct sim *sim, const struct sim_vmm *vmm)
{
    if (sim->healed || !sim_chance(sim, 15)) {
        return;
    }
    uint64_t delay_ms = sim_chance(sim, 50) ? sim_random(sim, 8) : sim_random(sim, 400);
    struct sim_event *event =
        sim_at_host(sim, sim->now_ms + delay_ms, on_near, vmm->host);
    event->a = (uint64_t)(vmm - sim->vmms);
    event->b = vmm->life;
    event->c = sim_chance(sim, 40) ? 0 : sim_random(sim, 5);
    if (vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY &&
        sim_chance(sim, 50)) {
        event->c = 3; /* what it is made to survive */
    }
}

/* The worst for leases: the leader sleeps while another is elected, and wakes up alone.
 */
static void leader_sleeps(struct sim *sim, unsigned host)
{
    unsigned leader = sim_raft_leader(sim, host);
    if (leader == SIM_HOSTS_MAX) {
        return;
    }
    bool in = sim_chance(sim, 60);
    bool out = sim_chance(sim, 60);
    isolate(sim, leader, in, out);
    stall(sim, leader, sim_chance(sim, 30), 500 + sim_random(sim, 9500));
}

void sim_fault(struct sim *sim)
{
    unsigned host = any_host(sim);
    unsigned other = any_host(sim);
    unsigned kind = (unsigned)sim_random(sim, 18);
    switch (kind) {
    case 0:
    case 1:
        sim_power_off(sim, host, "cut");
        break;
    case 2:
    case 3:
        agent_crash(sim, host);
        break;
    case 4:
        stall(sim, host, false, 200 + sim_random(sim, 12000));
        break;
    case 5:
        stall(sim, host, true, 200 + sim_random(sim, 12000));
        break;
    case 6:
        sim->cut[host][other] = true;
        sim_raft_links(sim);
        break;
    case 7:
        isolate(sim, host, true, true);
        break;
    case 8:
        isolate(sim, host, sim_chance(sim, 50), true);
        break;
    case 9:
        isolate(sim, host, true, false);
        break;
    case 10:
        sim->loss_percent = (unsigned)sim_random(sim, 30);
        sim->delay_max_ms = sim_chance(sim, 30) ? 3000 : 200;
        break;
    case 11:
        vmm_crash(sim);
        break;
    case 13:
    case 14:
        leader_sleeps(sim, host);
        break;
    case 12:
        if (sim_chance(sim, 20)) {
            guest_powers_off(sim);
        }
        break;
    default:
        links_heal(sim);
        break;
    }
    sim_trace(sim, "fault %u h%u h%u", kind, host, other);
}

void sim_heal(struct sim *sim)
{
    sim_trace(sim, "healed");
    sim->healed = true;
    links_heal(sim);
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->freeze_ms > 40) { /* a watchdog may fire yet for what hung until now */
            sim->hosts[vmm->host].keeper_hurt_ms = sim->now_ms;
            vmm->freeze_ms = 40;
        }
    }
    for (unsigned i = 0; i < sim->host_count; i++) {
        if (!sim->hosts[i].powered) {
            sim_at(sim, sim->now_ms + 3000, on_power_on)->a = i;
        }
    }
}

/* ---- users ---------------------------------------------------------------------------
 */

static void create_vm(struct sim *sim, unsigned host)
{
    unsigned used = 0;
    for (unsigned i = 0; i < SIM_VMS_MAX; i++) {
        used += sim->vms[i].vm_id != 0 && !sim->vms[i].deleted;
    }
    /* What is out and not answered yet may become one too. */
    if (used + sim->creating >= SIM_VMS_MAX) {
        return;
    }
    sim->creating++;
    char name[32];
    (void)snprintf(name, sizeof(name), "vm-%" PRIu64, ++sim->last_id);
    Drover__VmSpec spec = DROVER__VM_SPEC__INIT;
    spec.name = name;
    spec.memory_bytes = UINT64_C(1) << 30;
    spec.cpus = 1;
    spec.kernel = (char *)(uintptr_t) "/boot/vmlinuz";
    spec.ha = true;
    Drover__VmCreate create = DROVER__VM_CREATE__INIT;
    create.spec = &spec;
    create.wanted = DROVER__VM_WANTED__VM_WANTED_RUNNING;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_CREATE;
    command.vm_create = &create;
    sim_user_propose(sim, host, &command, 1);
}

static void set_wanted(struct sim *sim, unsigned host, uint64_t vm_id,
                       Drover__VmWanted wanted)
{
    Drover__VmSetWanted set = DROVER__VM_SET_WANTED__INIT;
    set.vm_id = vm_id;
    set.wanted = wanted;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_SET_WANTED;
    command.vm_set_wanted = &set;
    sim_user_propose(sim, host, &command, 2);
}

static void migrate(struct sim *sim, unsigned host, const Drover__VmRecord *vm)
{
    Drover__MigrationBegin begin = DROVER__MIGRATION_BEGIN__INIT;
    begin.vm_id = vm->vm_id;
    begin.expected_epoch = vm->epoch;
    begin.target_host_id = any_host(sim) + 1;
    begin.postcopy = (Drover__MigrationPostcopy)sim_random(sim, 3);
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_BEGIN;
    command.migration_begin = &begin;
    sim_user_propose(sim, host, &command, 3);
}

static void cancel(struct sim *sim, unsigned host, const Drover__VmRecord *vm)
{
    if (vm->migration == NULL) {
        return;
    }
    Drover__MigrationCancel order = DROVER__MIGRATION_CANCEL__INIT;
    order.vm_id = vm->vm_id;
    order.next_epoch = vm->migration->next_epoch;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_MIGRATION_CANCEL;
    command.migration_cancel = &order;
    sim_user_propose(sim, host, &command, 4);
}

static void delete_vm(struct sim *sim, unsigned host, uint64_t vm_id)
{
    Drover__VmDelete order = DROVER__VM_DELETE__INIT;
    order.vm_id = vm_id;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_VM_DELETE;
    command.vm_delete = &order;
    sim_user_propose(sim, host, &command, 5);
}

static void drain(struct sim *sim, unsigned host, bool draining)
{
    Drover__HostDrain order = DROVER__HOST_DRAIN__INIT;
    order.host_id = any_host(sim) + 1;
    order.draining = draining;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DRAIN;
    command.host_drain = &order;
    sim_user_propose(sim, host, &command, 6);
}

void sim_user_done(struct sim *sim, uint64_t user, int error, uint64_t index,
                   uint64_t result_id)
{
    if (error != 0) {
        sim->creating -= user == 1 && error == DROVER_ENOLEADER;
        return; /* not acknowledged: else it may or may not have happened */
    }
    sim->acknowledged++;
    int judged = -1;
    uint64_t result = 0;
    sim_check_result(sim, index, &judged, &result);
    if (judged != 0 || result != result_id) {
        sim_fail(sim, "invariant 2: an acknowledged command is not in the log");
    }
}

void sim_user_action(struct sim *sim)
{
    unsigned host = any_host(sim);
    if (!sim_agent_runs(sim, host)) {
        return;
    }
    const Drover__ClusterState *view = cluster_state_view(sim->hosts[host].view);
    unsigned kind = (unsigned)sim_random(sim, 20);
    if (view->n_vms == 0 || kind < 3) {
        create_vm(sim, host);
        return;
    }
    const Drover__VmRecord *vm = view->vms[sim_random(sim, view->n_vms)];
    switch (kind) {
    case 3:
        set_wanted(sim, host, vm->vm_id, DROVER__VM_WANTED__VM_WANTED_STOPPED);
        break;
    case 4:
        set_wanted(sim, host, vm->vm_id, DROVER__VM_WANTED__VM_WANTED_KILLED);
        break;
    case 5:
        set_wanted(sim, host, vm->vm_id, DROVER__VM_WANTED__VM_WANTED_PAUSED);
        break;
    case 6:
    case 7:
    case 8:
        set_wanted(sim, host, vm->vm_id, DROVER__VM_WANTED__VM_WANTED_RUNNING);
        break;
    case 9:
        cancel(sim, host, vm);
        break;
    case 10:
        delete_vm(sim, host, vm->vm_id);
        break;
    case 11:
        drain(sim, host, sim_chance(sim, 30));
        break;
    default:
        migrate(sim, host, vm);
        break;
    }
}
