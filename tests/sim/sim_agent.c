/* SPDX-License-Identifier: Apache-2.0 */
/* One host's agent: the real host core and controller, with messages in place of their
 * sockets. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/sim/sim.h"

#define REPEAT_MS           8000u
#define PROPOSAL_TIMEOUT_MS 2000
#define REPLAY_CHUNK                                                                     \
    8 /* log entries that an agent that has just started applies in one turn */

/* ---- messages ------------------------------------------------------------------------
 */

static void *packed(const ProtobufCMessage *message, size_t *ret_size)
{
    *ret_size = protobuf_c_message_get_packed_size(message);
    void *data = malloc(*ret_size + 1);
    CHECK(data != NULL);
    (void)protobuf_c_message_pack(message, data); /* fills that size */
    return data;
}

static void deliver(struct sim *sim, unsigned from, unsigned to, uint64_t delay_ms,
                    sim_event_run run, const ProtobufCMessage *message, uint64_t a)
{
    struct sim_event *event = sim_at_host(sim, sim->now_ms + delay_ms, run, to);
    event->agent_run = sim->hosts[to].agent_run;
    event->a = a;
    event->b = from;
    event->c = sim->hosts[from].agent_run;
    size_t size;
    void *data = packed(message, &size);
    sim_event_data(event, data, size);
}

static void send_message(struct sim *sim, unsigned from, unsigned to, sim_event_run run,
                         const ProtobufCMessage *message, uint64_t a)
{
    if (from == to) {
        deliver(sim, from, to, 0, run, message, a);
        return;
    }
    if (sim->cut[from][to] || !sim->hosts[to].powered || !sim->hosts[to].agent_alive ||
        sim_chance(sim, sim->loss_percent)) {
        return;
    }
    deliver(sim, from, to, 1 + sim_random(sim, sim->delay_max_ms), run, message, a);
    if (sim->loss_percent > 0 && sim_chance(sim, 2)) {
        deliver(sim, from, to, 1 + sim_random(sim, sim->delay_max_ms), run, message, a);
    }
}

/* ---- proposals -----------------------------------------------------------------------
 */

static struct sim_pending *pending_find(struct sim_host *host, uint64_t id)
{
    for (unsigned i = 0; i < SIM_PENDING_MAX; i++) {
        if (host->pending[i].id == id) {
            return &host->pending[i];
        }
    }
    return NULL;
}

void sim_proposal_done(struct sim *sim, unsigned host, uint64_t pending_id, int error,
                       const char *text, uint64_t index, uint64_t result_id)
{
    struct sim_host *at = &sim->hosts[host];
    struct sim_pending *pending = pending_find(at, pending_id);
    if (pending == NULL) {
        return; /* its time-out came first */
    }
    struct sim_pending was = *pending;
    pending->id = 0;
    if (was.user != 0) {
        sim_user_done(sim, was.user, error, index, result_id);
    } else if (was.controller) {
        controller_proposal_done(at->controller, was.proposal_id, error,
                                 sim_local_ms(sim, host));
    } else {
        host_core_proposal_done(at->core, was.proposal_id, error, text,
                                sim_local_ms(sim, host));
    }
    sim_agent_wake(sim, host, sim->now_ms);
}

static void failed_proposal(struct sim *sim, struct sim_event *event)
{
    sim_proposal_done(sim, event->host, event->a, (int)(int64_t)event->b, "", 0, 0);
}

static void fail_later(struct sim *sim, unsigned host, uint64_t id, int error,
                       uint64_t delay_ms)
{
    struct sim_event *event =
        sim_at_host(sim, sim->now_ms + delay_ms, failed_proposal, host);
    event->agent_run = sim->hosts[host].agent_run;
    event->a = id;
    event->b = (uint64_t)(int64_t)error;
}

static void on_propose(struct sim *sim, struct sim_event *event)
{
    /* Not the leader any more: no answer, the other side's time-out tells it. */
    (void)sim_raft_propose(sim, event->host, event->data, event->size, event->a,
                           (unsigned)event->b, event->c);
}

static void propose(struct sim *sim, unsigned host, const Drover__Command *command,
                    struct sim_pending what)
{
    struct sim_host *at = &sim->hosts[host];
    what.id = ++sim->last_id;
    struct sim_pending *slot = pending_find(at, 0);
    CHECK(slot != NULL);
    *slot = what;
    Drover__Command dated = *command;
    dated.at_unix_ms = SIM_UNIX_MS + sim->now_ms;
    unsigned leader = sim_raft_leader(sim, host);
    if (leader == SIM_HOSTS_MAX) {
        fail_later(sim, host, what.id, DROVER_ENOLEADER, 10);
        return;
    }
    fail_later(sim, host, what.id, DROVER_ETIMEDOUT2, PROPOSAL_TIMEOUT_MS);
    if (leader != host) {
        send_message(sim, host, leader, on_propose, &dated.base, what.id);
        return;
    }
    size_t size;
    void *data = packed(&dated.base, &size);
    int rv = sim_raft_propose(sim, host, data, size, what.id, host, at->agent_run);
    free(data);
    if (rv != 0) {
        fail_later(sim, host, what.id, rv, 1);
    }
}

static void on_repeat(struct sim *sim, struct sim_event *event)
{
    Drover__Command *command = drover__command__unpack(NULL, event->size, event->data);
    CHECK(command != NULL);
    if (sim_agent_runs(sim, event->host)) {
        propose(sim, event->host, command, (struct sim_pending){.user = event->a});
    }
    drover__command__free_unpacked(command, NULL);
}

/* Some ask again, of this host or another one, whatever became of the first time. */
void sim_user_propose(struct sim *sim, unsigned host, const Drover__Command *command,
                      uint64_t user)
{
    char id[32];
    (void)snprintf(id, sizeof(id), "u%" PRIu64, ++sim->last_id);
    Drover__Command tagged = *command;
    tagged.request_id = id;
    tagged.request_digest = sim->last_id;
    bool repeated = sim_chance(sim, 25);
    if (repeated) {
        size_t size;
        void *data = packed(&tagged.base, &size);
        struct sim_event *event =
            sim_at_host(sim, sim->now_ms + sim_random(sim, REPEAT_MS), on_repeat,
                        (unsigned)sim_random(sim, sim->host_count));
        event->a = user =
            SIM_USER_REPEATED; /* its slot stays taken if none of it comes through */
        sim_event_data(event, data, size);
    }
    propose(sim, host, &tagged, (struct sim_pending){.user = user});
}

/* ---- the host core's world -----------------------------------------------------------
 */

static struct sim_host *self(void *owner)
{
    return owner;
}

static void core_start_vmm(void *owner, const Drover__VmRecord *vm, uint64_t epoch,
                           bool incoming)
{
    sim_vmm_start(self(owner)->sim, self(owner)->index, vm, epoch, incoming);
}

static void on_order(struct sim *sim, struct sim_event *event)
{
    Drover__ControlRequest *request =
        drover__control_request__unpack(NULL, event->size, event->data);
    CHECK(request != NULL);
    sim_vmm_order(sim, event->host, event->a, event->b, request);
    drover__control_request__free_unpacked(request, NULL);
}

static void core_order_vmm(void *owner, uint64_t vm_id, uint64_t epoch,
                           const Drover__ControlRequest *request)
{
    struct sim *sim = self(owner)->sim;
    struct sim_event *event =
        sim_at_host(sim, sim->now_ms + 1, on_order, self(owner)->index);
    event->a = vm_id;
    event->b = epoch;
    size_t size;
    void *data = packed(&request->base, &size);
    sim_event_data(event, data, size);
}

static void on_lease_reply(struct sim *sim, struct sim_event *event)
{
    Drover__LeaseReply *reply =
        drover__lease_reply__unpack(NULL, event->size, event->data);
    CHECK(reply != NULL);
    host_core_lease_reply(sim->hosts[event->host].core, reply,
                          sim_local_ms(sim, event->host));
    drover__lease_reply__free_unpacked(reply, NULL);
    sim_agent_wake(sim, event->host, sim->now_ms);
}

static void on_lease_request(struct sim *sim, struct sim_event *event)
{
    struct sim_host *host = &sim->hosts[event->host];
    Drover__LeaseRequest *request =
        drover__lease_request__unpack(NULL, event->size, event->data);
    CHECK(request != NULL);
    controller_lease_request(host->controller, host->view, request,
                             sim_local_ms(sim, event->host));
    drover__lease_request__free_unpacked(request, NULL);
    sim_agent_wake(sim, event->host, sim->now_ms);
}

static void core_send_lease_request(void *owner, const Drover__LeaseRequest *request)
{
    struct sim *sim = self(owner)->sim;
    unsigned leader = sim_raft_leader(sim, self(owner)->index);
    if (leader != SIM_HOSTS_MAX) {
        send_message(sim, self(owner)->index, leader, on_lease_request, &request->base,
                     0);
    }
}

static void core_propose(void *owner, uint64_t proposal_id,
                         const Drover__Command *command)
{
    struct sim *sim = self(owner)->sim;
    sim_trace(sim, "h%u states %d", self(owner)->index, (int)command->what_case);
    Drover__Command tampered = *command;
    Drover__MigrationAbort abort;
    Drover__MigrationDone done;
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_DONE) {
        done = *command->migration_done;
        done.depends = done.depends && sim->mutation != SIM_MUTATION_NO_DEPENDENCE;
        tampered.migration_done = &done;
    }
    if (command->what_case == DROVER__COMMAND__WHAT_MIGRATION_ABORT) {
        abort = *command->migration_abort;
        if (sim->mutation == SIM_MUTATION_SURE_TARGET &&
            abort.by == DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET_UNSURE) {
            abort.by = DROVER__MIGRATION_ABORT_BY__MIGRATION_ABORT_BY_TARGET;
        }
        tampered.migration_abort = &abort;
    }
    propose(sim, self(owner)->index, &tampered,
            (struct sim_pending){.proposal_id = proposal_id});
}

static void core_lease_changed(void *owner, uint64_t deadline_ns)
{
    sim_keeper_lease(self(owner)->sim, self(owner)->index, deadline_ns);
}

static void note(void *owner, const char *text)
{
    sim_trace(self(owner)->sim, "h%u note: %s", self(owner)->index, text);
}

static const struct host_core_ops core_ops = {
    .start_vmm = core_start_vmm,
    .order_vmm = core_order_vmm,
    .send_lease_request = core_send_lease_request,
    .propose = core_propose,
    .lease_changed = core_lease_changed,
    .note = note,
};

/* ---- the controller's world ----------------------------------------------------------
 */

static void controller_propose_op(void *owner, uint64_t proposal_id,
                                  const Drover__Command *command)
{
    struct sim *sim = self(owner)->sim;
    sim_trace(sim, "h%u proposes %d", self(owner)->index, (int)command->what_case);
    propose(sim, self(owner)->index, command,
            (struct sim_pending){.proposal_id = proposal_id, .controller = true});
}

static void on_confirm_reply(struct sim *sim, struct sim_event *event)
{
    struct sim_host *host = &sim->hosts[event->host];
    Drover__ConfirmReply *reply =
        drover__confirm_reply__unpack(NULL, event->size, event->data);
    CHECK(reply != NULL);
    controller_confirm_reply(host->controller, host->view, reply,
                             sim_local_ms(sim, event->host));
    drover__confirm_reply__free_unpacked(reply, NULL);
    sim_agent_wake(sim, event->host, sim->now_ms);
}

static void on_confirm(struct sim *sim, struct sim_event *event)
{
    Drover__ConfirmRequest *request =
        drover__confirm_request__unpack(NULL, event->size, event->data);
    CHECK(request != NULL);
    Drover__ConfirmReply reply = DROVER__CONFIRM_REPLY__INIT;
    reply.term = request->term;
    reply.round = request->round;
    reply.voter_id = event->host + 1;
    reply.confirmed =
        raft_current_term(raft_fixture_get(&sim->fixture, event->host)) == request->term;
    drover__confirm_request__free_unpacked(request, NULL);
    send_message(sim, event->host, (unsigned)event->b, on_confirm_reply, &reply.base, 0);
}

static void controller_send_confirm(void *owner, uint64_t host_id,
                                    const Drover__ConfirmRequest *request)
{
    struct sim *sim = self(owner)->sim;
    unsigned from = self(owner)->index;
    if (sim->mutation == SIM_MUTATION_NO_CONFIRM) {
        Drover__ConfirmReply reply = DROVER__CONFIRM_REPLY__INIT;
        reply.term = request->term;
        reply.round = request->round;
        reply.voter_id = host_id;
        reply.confirmed = true;
        deliver(sim, from, from, 0, on_confirm_reply, &reply.base, 0);
        return;
    }
    send_message(sim, from, (unsigned)host_id - 1, on_confirm, &request->base, 0);
}

static void controller_send_lease_reply(void *owner, uint64_t host_id,
                                        const Drover__LeaseReply *reply)
{
    struct sim *sim = self(owner)->sim;
    Drover__LeaseReply tampered = *reply;
    if (sim->mutation == SIM_MUTATION_NO_REQUIRED_INDEX) {
        tampered.required_index = 0;
    }
    send_message(sim, self(owner)->index, (unsigned)host_id - 1, on_lease_reply,
                 &tampered.base, 0);
}

static unsigned controller_voters(void *owner, uint64_t *ret_ids, unsigned size)
{
    unsigned count = self(owner)->sim->host_count;
    CHECK(count <= size);
    for (unsigned i = 0; i < count; i++) {
        ret_ids[i] = i + 1;
    }
    return count;
}

static const struct controller_ops controller_ops = {
    .propose = controller_propose_op,
    .send_confirm = controller_send_confirm,
    .send_lease_reply = controller_send_lease_reply,
    .voters = controller_voters,
    .note = note,
};

/* ---- turns ---------------------------------------------------------------------------
 */

static void on_turn(struct sim *sim, struct sim_event *event)
{
    struct sim_host *host = &sim->hosts[event->host];
    if (event->a == host->turn_id) {
        host->turn_ms = SIM_NEVER;
        sim_agent_turn(sim, event->host);
    }
}

void sim_agent_wake(struct sim *sim, unsigned host, uint64_t at_ms)
{
    struct sim_host *at = &sim->hosts[host];
    if (at->turn_ms <= at_ms) {
        return;
    }
    at->turn_ms = at_ms;
    struct sim_event *event = sim_at_host(sim, at_ms, on_turn, host);
    event->agent_run = at->agent_run;
    event->a = ++at->turn_id;
}

static void view_catch_up(struct sim *sim, struct sim_host *host)
{
    unsigned left = host->replaying ? REPLAY_CHUNK : UINT32_MAX;
    while (host->view_applied < host->raft_applied && left-- > 0) {
        const struct sim_entry *entry = &sim->log[host->view_applied++];
        struct apply_result result;
        CHECK(cluster_state_apply(host->view, entry->index, entry->data, entry->size,
                                  &result) == 0);
        CHECK(result.error == entry->error && result.result_id == entry->result_id);
    }
    if (host->view_applied == host->raft_applied) {
        host->replaying = false;
    } else {
        sim_agent_wake(sim, host->index, sim->now_ms + 1 + sim_random(sim, 20));
    }
}

void sim_leads(struct sim *sim, unsigned host, uint64_t term)
{
    sim->hosts[host].ready_term = term;
    sim_agent_wake(sim, host, sim->now_ms);
}

static void follow_role(struct sim *sim, struct sim_host *host)
{
    struct raft *raft = raft_fixture_get(&sim->fixture, host->index);
    uint64_t term = raft_current_term(raft);
    bool leader = raft_state(raft) == RAFT_LEADER;
    if (controller_leads(host->controller) && (!leader || term != host->led_term)) {
        sim_trace(sim, "h%u follows", host->index);
        controller_follow(host->controller);
    }
    if (!leader || controller_leads(host->controller)) {
        return;
    }
    if (host->ready_term != term) {
        if (host->barrier_term != term) {
            sim_raft_barrier(sim, host->index);
        }
        return;
    }
    if (host->view_applied == host->raft_applied) {
        uint64_t local_ms = sim_local_ms(sim, host->index);
        if (sim->mutation == SIM_MUTATION_NO_NEW_LEADER_WAIT) {
            local_ms -= 20000;
        }
        host->led_term = term;
        sim_trace(sim, "h%u leads term %" PRIu64, host->index, term);
        controller_lead(host->controller, term, local_ms);
        if (sim->mutation == SIM_MUTATION_NO_NEW_LEADER_WAIT) {
            (void)controller_tick(host->controller, host->view, local_ms);
        }
    }
}

void sim_agent_turn(struct sim *sim, unsigned host_index)
{
    struct sim_host *host = &sim->hosts[host_index];
    CHECK(sim_agent_runs(sim, host_index));
    view_catch_up(sim, host);
    follow_role(sim, host);
    uint64_t local_ms = sim_local_ms(sim, host_index);
    uint32_t core_ms = host_core_tick(host->core, host->view, local_ms);
    uint32_t controller_ms = controller_tick(host->controller, host->view, local_ms);
    uint32_t wait_ms = core_ms < controller_ms ? core_ms : controller_ms;
    uint64_t late_ms = sim_random(sim, 4); /* timers are never exact */
    sim_agent_wake(sim, host_index,
                   sim->now_ms + sim_global_span_ms(sim, host_index, wait_ms) + late_ms);
}

/* ---- start and end -------------------------------------------------------------------
 */

static void on_scan_done(struct sim *sim, struct sim_event *event)
{
    host_core_scan_done(sim->hosts[event->host].core, sim_local_ms(sim, event->host));
    sim_agent_wake(sim, event->host, sim->now_ms);
}

void sim_agent_start(struct sim *sim, unsigned host_index)
{
    struct sim_host *host = &sim->hosts[host_index];
    CHECK(host->powered && !host->agent_alive);
    host->agent_alive = true;
    host->agent_run++;
    host->turn_ms = SIM_NEVER;
    host->barrier_term = host->ready_term = host->led_term = 0;
    (void)snprintf(host->incarnation, sizeof(host->incarnation),
                   "run%u-%" PRIu64 "-%" PRIu64, host_index, host->agent_run,
                   sim_random(sim, 1000000));
    struct host_core_identity identity = {
        .host_id = host_index + 1,
        .boot_id = host->boot_id,
        .incarnation = host->incarnation,
        .memory_bytes = UINT64_C(64) << 30,
        .cpus = 8,
        .watchdog_ms = sim->mutation == SIM_MUTATION_NO_WATCHDOG_WAIT
                           ? 100
                           : sim->timing.watchdog_ms,
        .version = "0.1.0",
    };
    CHECK(host_core_create(&sim->host_timing, &identity, &core_ops, host, &host->core) ==
          0);
    CHECK(controller_create(&sim->controller_timing, host_index + 1, &controller_ops,
                            host, &host->controller) == 0);
    CHECK(cluster_state_create(&host->view) == 0);
    host->view_applied = 0;
    host->replaying = true;
    memset(host->pending, 0, sizeof(host->pending));
    sim_trace(sim, "h%u agent starts (%s)", host_index, host->incarnation);
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->life != 0 && vmm->host == host_index) {
            sim_vmm_send_status(sim, vmm);
        }
    }
    struct sim_event *event =
        sim_at_host(sim, sim->now_ms + 10, on_scan_done, host_index);
    event->agent_run = host->agent_run;
    sim_agent_wake(sim, host_index, sim->now_ms + 1);
}

void sim_agent_stop(struct sim *sim, unsigned host_index)
{
    struct sim_host *host = &sim->hosts[host_index];
    if (!host->agent_alive) {
        return;
    }
    host->agent_alive = false;
    host_core_free(host->core);
    host->core = NULL;
    controller_free(host->controller);
    host->controller = NULL;
    cluster_state_free(host->view);
    host->view = NULL;
}
