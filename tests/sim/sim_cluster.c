/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim_cluster: runs simulated clusters by seed. A failure prints the seed, and the same
 * seed replays it: sim_cluster --seed N [--steps M] [--trace]      one run sim_cluster
 * --seeds A-B [--steps M]             many sim_cluster --seeds A-B --mutate NAME with a
 * fault built in: says which seed found it, exit 0 if one did
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "tests/sim/sim.h"

#define STEPS_DEFAULT 60
#define SETTLE_MS     240000
#define PEM           "pem"

/* ---- one run -------------------------------------------------------------------------
 */

static void advance(struct sim *sim, uint64_t until_ms)
{
    while (sim->now_ms < until_ms && !sim->failed) {
        sim_raft_step(sim);
        sim_run_due(sim);
        sim_check(sim);
    }
}

static void setup_propose(struct sim *sim, Drover__Command *command)
{
    for (unsigned tries = 0; tries < 200; tries++) {
        unsigned leader = sim_raft_leader(sim, 0);
        size_t before = sim->log_count;
        if (leader != SIM_HOSTS_MAX) {
            command->at_unix_ms = SIM_UNIX_MS + sim->now_ms;
            uint8_t data[4096];
            size_t size = drover__command__get_packed_size(command);
            CHECK(size <= sizeof(data));
            (void)drover__command__pack(command, data); /* fills `size` */
            (void)sim_raft_propose(sim, leader, data, size, 0, leader, 0);
        }
        for (unsigned i = 0; i < 100 && sim->log_count == before; i++) {
            advance(sim, sim->now_ms + 20);
        }
        if (sim->log_count > before) {
            CHECK(sim->log[sim->log_count - 1].error == 0);
            return;
        }
    }
    CHECK(false); /* no leader without any fault */
}

static void setup_hosts(struct sim *sim)
{
    Drover__HostRecord first = DROVER__HOST_RECORD__INIT;
    first.name = (char *)(uintptr_t) "h0";
    first.address = (char *)(uintptr_t) "10.0.0.1:7400";
    Drover__ClusterInit init = DROVER__CLUSTER_INIT__INIT;
    init.cluster_id = (char *)(uintptr_t) "sim";
    init.ca_certificate_pem = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t)PEM};
    init.ca_key_pem = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t)PEM};
    init.lease_ms = sim->timing.lease_ms;
    init.first_host = &first;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_CLUSTER_INIT;
    command.cluster_init = &init;
    setup_propose(sim, &command);
    for (unsigned i = 1; i < sim->host_count; i++) {
        uint8_t hash[32] = {(uint8_t)i};
        char token_id[16], name[16], address[32];
        (void)snprintf(token_id, sizeof(token_id), "t%u", i);
        (void)snprintf(name, sizeof(name), "h%u", i);
        (void)snprintf(address, sizeof(address), "10.0.0.%u:7400", i + 1);
        Drover__TokenCreate token = DROVER__TOKEN_CREATE__INIT;
        token.token_id = token_id;
        token.secret_sha256 = (ProtobufCBinaryData){sizeof(hash), hash};
        token.expires_unix_ms = SIM_UNIX_MS + 1000000;
        command.what_case = DROVER__COMMAND__WHAT_TOKEN_CREATE;
        command.token_create = &token;
        setup_propose(sim, &command);
        Drover__HostAdd add = DROVER__HOST_ADD__INIT;
        add.token_id = token_id;
        add.secret_sha256 = token.secret_sha256;
        add.name = name;
        add.address = address;
        command.what_case = DROVER__COMMAND__WHAT_HOST_ADD;
        command.host_add = &add;
        setup_propose(sim, &command);
    }
}

static void mutate(struct sim *sim)
{
    struct timing *controller = &sim->controller_timing;
    switch (sim->mutation) {
    case SIM_MUTATION_SHORT_GRANT:
        controller->grantor_ms = sim->timing.lease_ms / 5;
        break;
    case SIM_MUTATION_LONG_HOLD:
        sim->host_timing.holder_ms *= 2;
        break;
    case SIM_MUTATION_DRIFT:
        for (unsigned i = 0; i < sim->host_count; i++) {
            sim->hosts[i].ppm *= 80;
        }
        break;
    default:
        break;
    }
}

static void begin(struct sim *sim)
{
    CHECK(timing_from_lease(TIMING_LEASE_MS_DEFAULT, &sim->timing, NULL) == 0);
    sim->controller_timing = sim->host_timing = sim->timing;
    sim->host_count = 3 + (unsigned)sim_random(sim, SIM_HOSTS_MAX - 2);
    sim->delay_max_ms = 10;
    CHECK(cluster_state_create(&sim->truth) == 0);
    for (unsigned i = 0; i < SIM_HOSTS_MAX; i++) {
        struct sim_host *host = &sim->hosts[i];
        int drift = (int)sim_random(sim, SIM_PPM + 1);
        drift =
            sim_chance(sim, 60) ? SIM_PPM : drift; /* the extremes are where it hurts */
        host->ppm = sim_chance(sim, 50) ? drift : -drift;
        host->watchdog_ppm = sim_chance(sim, 50) ? SIM_PPM : -SIM_PPM;
        host->soft_watchdog = sim_chance(sim, 50);
        host->turn_ms = SIM_NEVER;
    }
    mutate(sim);
    /* While the cluster is made, raft runs and the agents do not: the hosts are "powered"
     * for it. */
    for (unsigned i = 0; i < sim->host_count; i++) {
        sim->hosts[i].boot = 1;
    }
    sim_raft_start(sim);
    setup_hosts(sim);
    for (unsigned i = 0; i < sim->host_count; i++) {
        sim_power_on(sim, i);
    }
    advance(sim, sim->now_ms + 6000);
}

static void end(struct sim *sim)
{
    sim->failed = true; /* late callbacks of raft find nothing to do */
    for (unsigned i = 0; i < sim->host_count; i++) {
        sim_agent_stop(sim, i);
    }
    raft_fixture_close(&sim->fixture);
    sim_events_free(sim);
    cluster_state_free(sim->truth);
    for (size_t i = 0; i < sim->log_count; i++) {
        free(sim->log[i].data);
    }
    free(sim->log);
}

static void run_world(struct sim *sim, unsigned steps)
{
    unsigned user_percent = 30 + (unsigned)sim_random(sim, 60);
    uint64_t pace_ms = 300 + sim_random(sim, 6000);
    for (unsigned i = 0; i < steps && !sim->failed; i++) {
        if (sim_chance(sim, user_percent)) {
            sim_user_action(sim);
        } else {
            sim_fault(sim);
        }
        sim_check(sim);
        advance(sim, sim->now_ms + sim_random(sim, pace_ms));
    }
}

static void run_until_settled(struct sim *sim)
{
    sim_heal(sim);
    uint64_t until_ms = sim->now_ms + SETTLE_MS;
    char why[256] = "";
    unsigned calm = 0;
    while (sim->now_ms < until_ms && calm < 3 && !sim->failed) {
        advance(sim, sim->now_ms + 2000);
        calm = sim_settled(sim, why, sizeof(why)) ? calm + 1 : 0;
    }
    if (calm < 3) {
        sim_fail(sim, "not settled %d s after all was healed: %s", SETTLE_MS / 1000, why);
    }
}

int sim_run(struct sim *sim, uint64_t seed, unsigned steps, enum sim_mutation mutation,
            bool trace)
{
    memset(sim, 0, sizeof(*sim));
    sim->seed = seed;
    sim->random = seed * UINT64_C(0x2545f4914f6cdd1d) + 1;
    sim->mutation = mutation;
    sim->trace = trace;
    sim->trace_hash = UINT64_C(14695981039346656037);
    begin(sim);
    run_world(sim, steps);
    if (!sim->failed) {
        run_until_settled(sim);
    }
    bool failed = sim->failed;
    end(sim);
    return failed ? 1 : 0;
}

/* ---- program -------------------------------------------------------------------------
 */

static const char *const mutation_names[SIM_MUTATION_COUNT] = {
    [SIM_MUTATION_NONE] = "none",
    [SIM_MUTATION_NO_CONFIRM] = "no-confirm",
    [SIM_MUTATION_NO_REQUIRED_INDEX] = "no-required-index",
    [SIM_MUTATION_NO_NEW_LEADER_WAIT] = "no-new-leader-wait",
    [SIM_MUTATION_SHORT_GRANT] = "short-grant",
    [SIM_MUTATION_NO_WATCHDOG_WAIT] = "no-watchdog-wait",
    [SIM_MUTATION_KEEPER_FEEDS] = "keeper-feeds",
    [SIM_MUTATION_LONG_HOLD] = "long-hold",
    [SIM_MUTATION_DRIFT] = "drift",
    [SIM_MUTATION_SURE_TARGET] = "sure-target",
    [SIM_MUTATION_NO_FREEZE] = "no-freeze",
    [SIM_MUTATION_NO_LEAD_TIME] = "no-lead-time",
    [SIM_MUTATION_NO_DEPENDENCE] = "no-dependence",
};

struct options {
    uint64_t first, last;
    unsigned steps;
    enum sim_mutation mutation;
    bool trace;
    unsigned seconds;
};

static int usage(void)
{
    fprintf(stderr, "usage: sim_cluster --seed N | --seeds A-B [--steps M] [--seconds S] "
                    "[--trace] [--mutate NAME]\nmutations:");
    for (unsigned i = 1; i < SIM_MUTATION_COUNT; i++) {
        fprintf(stderr, " %s", mutation_names[i]);
    }
    fprintf(stderr, "\n");
    return 2;
}

static bool parse_mutation(const char *name, enum sim_mutation *ret_mutation)
{
    for (unsigned i = 0; i < SIM_MUTATION_COUNT; i++) {
        if (strcmp(mutation_names[i], name) == 0) {
            *ret_mutation = (enum sim_mutation)i;
            return true;
        }
    }
    return false;
}

static bool parse(int argc, char **argv, struct options *options)
{
    static const struct option names[] = {
        {"seed", required_argument, NULL, 's'},
        {"seeds", required_argument, NULL, 'S'},
        {"steps", required_argument, NULL, 'n'},
        {"trace", no_argument, NULL, 't'},
        {"mutate", required_argument, NULL, 'm'},
        {"seconds", required_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    for (int letter; (letter = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (letter) {
        case 's':
            options->first = options->last = strtoull(optarg, NULL, 10);
            break;
        case 'S':
            if (sscanf(optarg, "%" SCNu64 "-%" SCNu64, &options->first, &options->last) !=
                2) {
                return false;
            }
            break;
        case 'n':
            options->steps = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'w':
            options->seconds = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 't':
            options->trace = true;
            break;
        case 'm':
            if (!parse_mutation(optarg, &options->mutation)) {
                return false;
            }
            break;
        default:
            return false;
        }
    }
    return optind == argc && options->first <= options->last;
}

static void report(const struct sim *sim, const struct options *options, bool failed)
{
    if (failed) {
        printf("seed %" PRIu64 " steps %u FAILED at %" PRIu64 " ms: %s\n", sim->seed,
               options->steps, sim->now_ms, sim->failure);
    } else if (options->first == options->last) {
        printf(
            "seed %" PRIu64 " ok: trace %016" PRIx64 " (%" PRIu64 " lines), hosts %u, "
            "log %zu, deaths %u, resets %u, freezes %u, thaws %u, moves %u, aborts %u, "
            "boots %u, acknowledged %u, post-copies %u (%u resumed, %u lost)\n",
            sim->seed, sim->trace_hash, sim->trace_lines, sim->host_count, sim->log_count,
            sim->deaths, sim->resets, sim->freezes, sim->thaws, sim->moves, sim->aborts,
            sim->restarts, sim->acknowledged, sim->postcopies, sim->resumed, sim->lost);
    }
}

int main(int argc, char **argv)
{
    /* What `make check` does: as many of these as a minute allows. */
    struct options options = {
        .first = 1, .last = 60, .steps = STEPS_DEFAULT, .seconds = 60};
    if (!parse(argc, argv, &options)) {
        return usage();
    }
    static struct sim sim; /* too large for the stack */
    time_t began = time(NULL);
    unsigned runs = 0, failures = 0;
    unsigned deaths = 0, resets = 0, thaws = 0, moves = 0, aborts = 0;
    unsigned postcopies = 0, resumed = 0, lost = 0;
    for (uint64_t seed = options.first; seed <= options.last; seed++) {
        if (options.seconds > 0 && time(NULL) - began >= (time_t)options.seconds) {
            break;
        }
        bool failed =
            sim_run(&sim, seed, options.steps, options.mutation, options.trace) != 0;
        report(&sim, &options, failed);
        runs++;
        failures += failed;
        deaths += sim.deaths;
        resets += sim.resets;
        thaws += sim.thaws;
        moves += sim.moves;
        aborts += sim.aborts;
        postcopies += sim.postcopies;
        resumed += sim.resumed;
        lost += sim.lost;
        if (failed && options.mutation != SIM_MUTATION_NONE) {
            break; /* caught */
        }
    }
    if (options.first != options.last || options.mutation != SIM_MUTATION_NONE) {
        printf(
            "%u runs, %u failed; deaths %u, resets %u, thaws %u, moves %u, aborts %u, "
            "post-copies %u (%u resumed, %u lost)\n",
            runs, failures, deaths, resets, thaws, moves, aborts, postcopies, resumed,
            lost);
    }
    bool caught = options.mutation != SIM_MUTATION_NONE;
    return (failures > 0) == caught ? 0 : 1;
}
