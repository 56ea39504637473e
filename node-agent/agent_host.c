/* SPDX-License-Identifier: Apache-2.0 */
/* This host's own part: its VMMs, its lease, its watchdog, and the decisions about them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"

static bool has_core(const struct agent *agent)
{
    return agent->member != NULL && agent->member->core != NULL &&
           agent->member->closing == 0;
}

/* ---- what the VMMs report ---- */

static void on_vmm_status(void *owner, const Drover__VmStatus *status)
{
    struct agent *agent = owner;
    if (has_core(agent)) {
        host_core_vmm_status(agent->member->core, status, clock_now_ms());
        agent_wake(agent);
    }
}

static void on_vmm_gone(void *owner, uint64_t vm_id, uint64_t epoch, const char *reason,
                        bool guest_powered_off)
{
    struct agent *agent = owner;
    log_notice(agent->log, "a VMM has ended vm=%" PRIu64 " epoch=%" PRIu64 " why=%s",
               vm_id, epoch, reason);
    if (has_core(agent)) {
        host_core_vmm_gone(agent->member->core, vm_id, epoch, reason, guest_powered_off,
                           clock_now_ms());
        agent_wake(agent);
    }
}

static void on_vmm_order_failed(void *owner, uint64_t vm_id, uint64_t epoch, int error,
                                const char *text)
{
    struct agent *agent = owner;
    if (has_core(agent)) {
        host_core_vmm_order_failed(agent->member->core, vm_id, epoch, error, text,
                                   clock_now_ms());
        agent_wake(agent);
    }
}

static void on_vmm_scan_done(void *owner)
{
    struct agent *agent = owner;
    if (has_core(agent)) {
        log_info(agent->log, "VMMs found running count=%zu",
                 vmm_supervisor_count(agent->member->supervisor));
        host_core_scan_done(agent->member->core, clock_now_ms());
        agent_wake(agent);
    }
}

static void on_note(void *owner, const char *text)
{
    const struct agent *agent = owner;
    log_info(agent->log, "%s", text);
}

static const struct vmm_supervisor_ops supervisor_ops = {
    .status = on_vmm_status,
    .gone = on_vmm_gone,
    .order_failed = on_vmm_order_failed,
    .scan_done = on_vmm_scan_done,
    .note = on_note,
};

/* ---- what the host's decisions ask for ---- */

static void op_start_vmm(void *owner, const Drover__VmRecord *vm, uint64_t epoch,
                         bool incoming)
{
    struct agent *agent = owner;
    log_notice(agent->log, "starting a VMM vm=%" PRIu64 " name=%s epoch=%" PRIu64 "%s",
               vm->vm_id, vm->spec != NULL ? vm->spec->name : "?", epoch,
               incoming ? " incoming" : "");
    CHECK(agent->member->supervisor != NULL); /* witnesses own no VMs */
    vmm_supervisor_allow_rdma(
        agent->member->supervisor,
        cluster_state_view(agent->member->state)->allow_unencrypted_rdma);
    vmm_supervisor_start(agent->member->supervisor, vm, epoch, incoming);
}

static void op_order_vmm(void *owner, uint64_t vm_id, uint64_t epoch,
                         const Drover__ControlRequest *request)
{
    struct agent *agent = owner;
    CHECK(agent->member->supervisor != NULL);
    if (!agent_move_take_order(agent, vm_id, epoch, request)) {
        vmm_supervisor_order(agent->member->supervisor, vm_id, epoch, request);
    }
}

/* The cluster was told of a watchdog, and nobody is there to keep it. */
static bool is_unguarded(const struct agent_member *member)
{
    return member->keeper_lost_at_ms != 0 && member->watchdog_told != 0;
}

static void op_send_lease_request(void *owner, const Drover__LeaseRequest *request)
{
    const struct agent *agent = owner;
    if (is_unguarded(agent->member)) {
        return; /* a new keeper is there long before the lease is over, or never */
    }
    uint64_t leader = agent_raft_leader(owner);
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_LEASE_REQUEST;
    message.lease_request = (Drover__LeaseRequest *)request;
    if (leader != 0) {
        (void)agent_send(owner, leader, &message); /* asked again soon */
    }
}

/* One proposal of the host's; also the deferred word that it could not even be made. */
struct host_proposal {
    struct agent_deferred deferred;
    struct agent *agent;
    uint64_t proposal_id;
    int error;
};

static void proposal_end(struct host_proposal *proposal, int error, const char *text)
{
    if (has_core(proposal->agent)) {
        host_core_proposal_done(proposal->agent->member->core, proposal->proposal_id,
                                error, text, clock_now_ms());
    }
    agent_wake(proposal->agent);
    free(proposal);
}

static void on_proposed(void *owner, const struct propose_answer *answer)
{
    proposal_end(owner, answer->error, answer->text);
}

static void run_proposal_failed(struct agent *agent, struct agent_deferred *deferred)
{
    struct host_proposal *proposal = (struct host_proposal *)deferred;
    proposal_end(proposal, proposal->error, err_text(proposal->error));
}

static void op_propose(void *owner, uint64_t proposal_id, const Drover__Command *command)
{
    struct agent *agent = owner;
    struct host_proposal *proposal = calloc(1, sizeof(*proposal));
    if (proposal == NULL) {
        agent_member_fail(agent, "out of memory");
        return;
    }
    proposal->agent = agent;
    proposal->proposal_id = proposal_id;
    int rv = propose_command(agent->member->propose, command, clock_now_ms(),
                             2 * agent->member->timing.lease_ms, on_proposed, proposal);
    if (rv != 0) {
        proposal->error = rv;
        proposal->deferred.run = run_proposal_failed;
        agent_defer(agent, &proposal->deferred);
    }
}

static void op_lease_changed(void *owner, uint64_t deadline_ns)
{
    struct agent *agent = owner;
    if (agent->member->keeper != NULL) {
        keeper_client_lease(agent->member->keeper, deadline_ns);
    }
}

static const struct host_core_ops core_ops = {
    .start_vmm = op_start_vmm,
    .order_vmm = op_order_vmm,
    .send_lease_request = op_send_lease_request,
    .propose = op_propose,
    .lease_changed = op_lease_changed,
    .note = on_note,
};

/* ---- making the core ---- */

static uint64_t memory_for_vms(const struct agent *agent)
{
    struct sysinfo info;
    if (agent->identity->witness || sysinfo(&info) != 0) {
        return 0;
    }
    uint64_t total = (uint64_t)info.totalram * info.mem_unit;
    uint64_t reserve = agent->config->memory_reserve_bytes;
    return total > reserve ? total - reserve : 0;
}

static int make_core(struct agent *agent, struct error *err)
{
    struct agent_member *member = agent->member;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct host_core_identity identity = {
        .host_id = member->self.host_id,
        .boot_id = agent->boot_id,
        .incarnation = member->incarnation,
        .memory_bytes = memory_for_vms(agent),
        .cpus = agent->identity->witness || cpus < 1 ? 0 : (uint32_t)cpus,
        .watchdog_ms = agent->watchdog_ms,
        .version = DROVER_VERSION,
        .move_bandwidth = agent->config->move_bandwidth,
    };
    if (identity.move_bandwidth != 0) {
        log_notice(agent->log, "VMs that leave share bytes_per_s=%" PRIu64,
                   identity.move_bandwidth);
    }
    member->watchdog_told = agent->watchdog_ms;
    int rv =
        host_core_create(&member->timing, &identity, &core_ops, agent, &member->core);
    if (rv != 0) {
        return error_set(err, rv, "the host's decisions can't be set up: %s",
                         err_text(rv));
    }
    if (member->supervisor == NULL) {
        host_core_scan_done(member->core, clock_now_ms());
        return 0;
    }
    return vmm_supervisor_scan(member->supervisor, err);
}

static void make_core_or_fail(struct agent *agent)
{
    struct error err = {0};
    if (agent->member->core == NULL && make_core(agent, &err) != 0) {
        agent_member_fail(agent, err.text);
    }
    agent_wake(agent);
}

/* ---- the watchdog's keeper ---- */

static void on_keeper_ready(void *owner, uint32_t watchdog_ms, const char *text)
{
    struct agent *agent = owner;
    if (agent->member == NULL || agent->member->closing > 0) {
        return;
    }
    agent->watchdog_ms = watchdog_ms;
    agent->member->keeper_lost_at_ms = 0;
    (void)snprintf(agent->watchdog_text, sizeof(agent->watchdog_text), "%s", text);
    if (watchdog_ms == 0) {
        log_warn(agent->log,
                 "no watchdog: if this host is lost, its VMs restart elsewhere only "
                 "after its power is confirmed off why=%s",
                 text);
    } else {
        log_notice(agent->log, "the watchdog is armed timeout_ms=%u", watchdog_ms);
    }
    if (agent->member->core != NULL && agent->member->watchdog_told != watchdog_ms) {
        agent_member_fail(agent, "the watchdog is not what the cluster was told");
        return;
    }
    make_core_or_fail(agent);
}

static void on_keeper_lost(void *owner, const char *text)
{
    struct agent *agent = owner;
    log_error(agent->log, "the watchdog's keeper is lost err=%s", text);
    if (agent->member != NULL && agent->member->keeper_lost_at_ms == 0) {
        agent->member->keeper_lost_at_ms = clock_now_ms();
        agent_wake(agent);
    }
}

static const struct keeper_client_ops keeper_ops = {.ready = on_keeper_ready,
                                                    .lost = on_keeper_lost};

static int start_supervisor(struct agent *agent, struct error *err)
{
    char host[LIMIT_ADDRESS_SIZE], address[LIMIT_ADDRESS_SIZE];
    char incoming[LIMIT_ADDRESS_SIZE + 16];
    unsigned port = 0;
    int rv = config_split_address(agent->identity->address, CONFIG_PEER_PORT_DEFAULT,
                                  host, &port, err);
    rv = rv != 0 ? rv : config_join_address(host, port, address, sizeof(address));
    if (rv != 0) {
        return rv;
    }
    char rdma[LIMIT_ADDRESS_SIZE + 16];
    rv = config_join_address(agent->config->rdma_address[0] != '\0'
                                 ? agent->config->rdma_address
                                 : host,
                             0, rdma, LIMIT_ADDRESS_SIZE);
    if (rv != 0) {
        return error_set(err, rv, "rdma-address is too long: give an address of this host");
    }
    /* Guests come in over this agent's own port. */
    (void)snprintf(incoming, sizeof(incoming), "handed:%s", address); /* fits */
    struct vmm_supervisor_config config = {
        .loop = agent->loop,
        .run_directory = agent->config->run_dir,
        .vmm_program = agent->config->vmm_path,
        .default_bridge = agent->config->bridge[0] != '\0' ? agent->config->bridge : NULL,
        .incoming = incoming,
        .incoming_rdma = rdma,
        .migration_patience_ms = agent->member->timing.migration_idle_ms,
        .ops = &supervisor_ops,
        .owner = agent,
    };
    return vmm_supervisor_create(&config, &agent->member->supervisor, err);
}

int agent_host_start(struct agent *agent, struct error *err)
{
    struct agent_member *member = agent->member;
    if (agent->identity->witness) {
        return make_core(agent, err);
    }
    int rv = start_supervisor(agent, err);
    if (rv != 0) {
        return rv;
    }
    struct keeper_client_config config = {
        .loop = agent->loop,
        .options = {.run_directory = agent->config->run_dir,
                    .device = agent->config->watchdog,
                    .watchdog_ms = member->timing.watchdog_ms},
        .ops = &keeper_ops,
        .owner = agent,
    };
    agent->watchdog_ms = 0; /* what an earlier keeper said is no word of this one's */
    member->core_at_ms = clock_now_ms() + AGENT_KEEPER_WAIT_MS;
    return keeper_client_create(&config, &member->keeper, err);
}

/* An armed watchdog that nobody feeds resets the host: a host that lives on has none, and
 * must tell the cluster so. */
static uint32_t watch_keeper(struct agent *agent, uint64_t now_ms)
{
    const struct agent_member *member = agent->member;
    if (!is_unguarded(member)) {
        return UINT32_MAX;
    }
    uint64_t until_ms =
        member->keeper_lost_at_ms + member->watchdog_told + member->timing.lease_ms;
    if (now_ms < until_ms) {
        return (uint32_t)(until_ms - now_ms);
    }
    agent_member_fail(agent, "the watchdog's keeper is gone, and this host was not "
                             "reset: no watchdog is armed");
    return UINT32_MAX;
}

uint32_t agent_host_tick(struct agent *agent, uint64_t now_ms)
{
    struct agent_member *member = agent->member;
    if (member->core != NULL) {
        return watch_keeper(agent, now_ms);
    }
    if (now_ms < member->core_at_ms) {
        return (uint32_t)(member->core_at_ms - now_ms);
    }
    log_warn(agent->log,
             "the watchdog's keeper does not answer: this host runs without a watchdog");
    make_core_or_fail(agent);
    return UINT32_MAX;
}
