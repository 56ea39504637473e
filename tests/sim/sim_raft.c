/* SPDX-License-Identifier: Apache-2.0 */
/* libraft's fixture: the cluster's log on the virtual clock. One more server, outside of
 * the cluster, ticks the clock. */
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/sim/sim.h"

#define CLOCK_TICK_MS 4

struct sim_request {
    struct raft_apply apply; /* first: libraft gives it back */
    struct raft_barrier barrier;
    struct sim *sim;
    unsigned host;
    uint64_t run;
    uint64_t term;
    uint64_t pending_id;
    unsigned origin;
    uint64_t origin_run;
    uint64_t index;
};

static struct raft *raft_of(struct sim *sim, unsigned host)
{
    return raft_fixture_get(&sim->fixture, host);
}

/* ---- state machine -------------------------------------------------------------------
 */

static void log_append(struct sim *sim, uint64_t index, const struct raft_buffer *entry)
{
    if (sim->log_count == sim->log_capacity) {
        sim->log_capacity = sim->log_capacity * 2 + 256;
        sim->log = realloc(sim->log, sim->log_capacity * sizeof(*sim->log));
        CHECK(sim->log != NULL);
    }
    uint32_t size;
    CHECK(entry->len >= sizeof(size));
    memcpy(&size, entry->base, sizeof(size));
    void *data = malloc(size + 1u);
    CHECK(data != NULL);
    memcpy(data, (const char *)entry->base + sizeof(size), size);
    sim->log[sim->log_count++] =
        (struct sim_entry){.index = index, .data = data, .size = size};
    Drover__Command *command = drover__command__unpack(NULL, size, data);
    CHECK(command != NULL);
    sim_check_command(sim, command);
    drover__command__free_unpacked(command, NULL);
}

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *entry,
                     void **ret_result)
{
    struct sim_host *host = fsm->data;
    struct sim *sim = host->sim;
    *ret_result = NULL;
    if (host->index >= sim->host_count) {
        return 0; /* the clock */
    }
    uint64_t index = raft_last_applied(raft_of(sim, host->index)) + 1;
    if (host->raft_applied == sim->log_count) {
        log_append(sim, index, entry);
    }
    CHECK(sim->log[host->raft_applied].index == index); /* same order on every host */
    host->raft_applied++;
    if (host->powered && host->agent_alive) {
        sim_agent_wake(sim, host->index, sim->now_ms);
    }
    return 0;
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[],
                        unsigned *n_bufs)
{
    CHECK(false); /* the threshold is out of reach */
    return 0;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    CHECK(false);
    return 0;
}

static void grow(struct sim *sim, unsigned index)
{
    struct sim_host *host = &sim->hosts[index];
    host->index = index;
    host->sim = sim;
    host->fsm = (struct raft_fsm){.version = 1,
                                  .data = host,
                                  .apply = fsm_apply,
                                  .snapshot = fsm_snapshot,
                                  .restore = fsm_restore};
    CHECK(raft_fixture_grow(&sim->fixture, &host->fsm) == 0);
    struct raft *raft = raft_of(sim, index);
    raft->tracer = NULL; /* the fixture's own writes each step to stderr */
    raft_set_snapshot_threshold(raft, 1u << 30);
    raft_set_pre_vote(raft, true);
    raft_set_election_timeout(raft, sim->timing.election_ms);
    raft_set_heartbeat_timeout(raft, index < sim->host_count ? sim->timing.heartbeat_ms
                                                             : CLOCK_TICK_MS);
}

static void draw_latencies(struct sim *sim, unsigned host)
{
    unsigned base = sim->timing.election_ms;
    raft_fixture_set_randomized_election_timeout(&sim->fixture, host,
                                                 base + (unsigned)sim_random(sim, base));
    raft_fixture_set_network_latency(&sim->fixture, host,
                                     1 + (unsigned)sim_random(sim, 8));
    unsigned disk = sim_chance(sim, 5) ? 200 : 6; /* at times a slow disk */
    raft_fixture_set_disk_latency(&sim->fixture, host,
                                  1 + (unsigned)sim_random(sim, disk));
}

void sim_raft_start(struct sim *sim)
{
    CHECK(raft_fixture_initialize(&sim->fixture) == 0);
    for (unsigned i = 0; i < sim->host_count; i++) {
        grow(sim, i);
    }
    struct raft_configuration configuration;
    CHECK(raft_fixture_configuration(&sim->fixture, sim->host_count, &configuration) ==
          0);
    grow(sim, sim->host_count);
    CHECK(raft_fixture_bootstrap(&sim->fixture, &configuration) == 0);
    raft_configuration_close(&configuration);
    /* Before the start: libraft asks again until it is given one within [election, 2
     * election]. */
    for (unsigned i = 0; i <= sim->host_count; i++) {
        draw_latencies(sim, i);
    }
    CHECK(raft_fixture_start(&sim->fixture) == 0);
}

void sim_raft_step(struct sim *sim)
{
    (void)raft_fixture_step(&sim->fixture);
    sim->now_ms = raft_fixture_time(&sim->fixture);
    if (sim_chance(sim, 2)) {
        draw_latencies(sim, (unsigned)sim_random(sim, sim->host_count));
    }
}

void sim_raft_sync(struct sim *sim, unsigned host)
{
    bool alive = sim_agent_runs(sim, host);
    if (alive == raft_fixture_alive(&sim->fixture, host)) {
        return;
    }
    if (alive) {
        raft_fixture_revive(&sim->fixture, host);
    } else {
        raft_fixture_kill(&sim->fixture, host);
    }
}

void sim_raft_links(struct sim *sim)
{
    for (unsigned from = 0; from < sim->host_count; from++) {
        for (unsigned to = 0; to < sim->host_count; to++) {
            if (from == to) {
                continue;
            }
            if (sim->cut[from][to]) {
                raft_fixture_saturate(&sim->fixture, from, to);
            } else {
                raft_fixture_desaturate(&sim->fixture, from, to);
            }
        }
    }
}

unsigned sim_raft_leader(struct sim *sim, unsigned host)
{
    raft_id id = 0;
    const char *address = NULL;
    raft_leader(raft_of(sim, host), &id, &address);
    return id >= 1 && id <= sim->host_count ? (unsigned)id - 1 : SIM_HOSTS_MAX;
}

/* ---- requests ------------------------------------------------------------------------
 */

static void done_event(struct sim *sim, struct sim_event *event)
{
    const struct sim_request *request = event->data;
    sim_proposal_done(sim, request->origin, request->pending_id, (int)(int64_t)event->a,
                      "", event->b, event->c);
}

/* The answer travels to the one who proposed. */
static void send_done(struct sim *sim, const struct sim_request *request, int error,
                      uint64_t index, uint64_t result_id)
{
    if (request->pending_id == 0) {
        return; /* nobody waits */
    }
    bool remote = request->origin != request->host;
    if (remote && (sim->cut[request->host][request->origin] ||
                   sim_chance(sim, sim->loss_percent))) {
        return; /* its time-out tells it */
    }
    uint64_t delay_ms = remote ? 1 + sim_random(sim, sim->delay_max_ms) : 0;
    struct sim_event *event =
        sim_at_host(sim, sim->now_ms + delay_ms, done_event, request->origin);
    event->agent_run = request->origin_run;
    event->a = (uint64_t)(int64_t)error;
    event->b = index;
    event->c = result_id;
    struct sim_request *copy = malloc(sizeof(*copy));
    CHECK(copy != NULL);
    *copy = *request;
    sim_event_data(event, copy, sizeof(*copy));
}

static void applied(struct raft_apply *apply, int status, void *result)
{
    struct sim_request *request = (struct sim_request *)apply;
    struct sim *sim = request->sim;
    if (sim->failed || request->run != sim->hosts[request->host].agent_run) {
        free(request);
        return;
    }
    if (status != 0) {
        send_done(sim, request, DROVER_ENOTLEADER, 0, 0);
    } else {
        int error = 0;
        uint64_t result_id = 0;
        uint64_t index = sim->log[sim->hosts[request->host].raft_applied - 1].index;
        sim_check_result(sim, index, &error, &result_id);
        send_done(sim, request, error, index, result_id);
    }
    free(request);
}

int sim_raft_propose(struct sim *sim, unsigned host, const void *data, size_t size,
                     uint64_t pending_id, unsigned origin, uint64_t origin_run)
{
    struct sim_request *request = calloc(1, sizeof(*request));
    CHECK(request != NULL);
    request->sim = sim;
    request->host = host;
    request->run = sim->hosts[host].agent_run;
    request->pending_id = pending_id;
    request->origin = origin;
    request->origin_run = origin_run;
    uint32_t length = (uint32_t)size;
    struct raft_buffer entry = {.len = (sizeof(length) + size + 7) & ~(size_t)7};
    entry.base = raft_calloc(1, entry.len);
    CHECK(entry.base != NULL);
    memcpy(entry.base, &length, sizeof(length));
    memcpy((char *)entry.base + sizeof(length), data, size);
    int rv = raft_apply(raft_of(sim, host), &request->apply, &entry, 1, applied);
    if (rv != 0) {
        raft_free(entry.base);
        free(request);
        return DROVER_ENOTLEADER;
    }
    return 0;
}

static void barrier_done(struct raft_barrier *barrier, int status)
{
    struct sim_request *request =
        (struct sim_request *)((char *)barrier - offsetof(struct sim_request, barrier));
    struct sim *sim = request->sim;
    struct sim_host *host = &sim->hosts[request->host];
    if (!sim->failed && request->run == host->agent_run) {
        host->barrier_term = 0;
        struct raft *raft = raft_of(sim, request->host);
        if (status == 0 && raft_state(raft) == RAFT_LEADER &&
            raft_current_term(raft) == request->term) {
            sim_leads(sim, request->host, request->term);
        }
    }
    free(request);
}

void sim_raft_barrier(struct sim *sim, unsigned host)
{
    struct raft *raft = raft_of(sim, host);
    struct sim_request *request = calloc(1, sizeof(*request));
    CHECK(request != NULL);
    request->sim = sim;
    request->host = host;
    request->run = sim->hosts[host].agent_run;
    request->term = raft_current_term(raft);
    sim->hosts[host].barrier_term = request->term;
    if (raft_barrier(raft, &request->barrier, barrier_done) != 0) {
        sim->hosts[host].barrier_term = 0;
        free(request);
    }
}
