/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper's process around the real policy, and the watchdog: a clock of its own that
 * resets the host. */
#include <inttypes.h>

#include "base/clock.h"
#include "tests/sim/sim.h"

static void plan(struct sim *sim, unsigned host, uint64_t at_ms);

static void on_watchdog(struct sim *sim, struct sim_event *event)
{
    unsigned index = (unsigned)event->a;
    struct sim_host *host = &sim->hosts[index];
    if (!host->powered || host->boot != event->b || host->fed_order != event->c) {
        return;
    }
    if (host->soft_watchdog && sim_host_stalled(sim, index)) {
        struct sim_event *again = sim_at(sim, host->stalled_until_ms, on_watchdog);
        again->order = 0; /* the kernel's timers come before all else */
        again->a = event->a;
        again->b = event->b;
        again->c = event->c;
        return;
    }
    sim_check_reset(sim, index);
    sim->resets++;
    sim_power_off(sim, index, "watchdog");
}

static void feed(struct sim *sim, unsigned index)
{
    struct sim_host *host = &sim->hosts[index];
    host->fed_ms = sim->now_ms;
    keeper_policy_fed(&host->keeper, sim_local_ms(sim, index));
    uint64_t span_ms = (uint64_t)sim->timing.watchdog_ms * 1000000 /
                       (uint64_t)(1000000 + host->watchdog_ppm);
    struct sim_event *event = sim_at(sim, sim->now_ms + span_ms, on_watchdog);
    event->a = index;
    event->b = host->boot;
    event->c = ++host->fed_order;
}

static void on_late_feed(struct sim *sim, struct sim_event *event)
{
    sim->hosts[event->host].keeper_hurt_ms = sim->now_ms;
    feed(sim, event->host);
    plan(sim, event->host, sim->now_ms);
}

/* What each VMM's control socket would answer. */
static bool all_still(struct sim *sim, unsigned host)
{
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        const struct sim_vmm *vmm = &sim->vmms[i];
        if (vmm->life == 0 || vmm->host != host) {
            continue;
        }
        Drover__VmStatus status = DROVER__VM_STATUS__INIT;
        status.run_state = sim_vmm_run_state(sim, vmm);
        status.lease_deadline_ns = sim_vmm_deadline_ns(vmm);
        if (!keeper_policy_vm_is_still(&status)) {
            return false;
        }
    }
    return true;
}

static void on_answers(struct sim *sim, struct sim_event *event)
{
    bool still = event->b != 0 && all_still(sim, event->host);
    keeper_policy_answered(&sim->hosts[event->host].keeper, event->a, still);
    plan(sim, event->host, sim->now_ms);
}

/* The feed after this one would have to ask: a stall here is the worst. */
static bool last_chance(const struct sim *sim, const struct sim_host *host)
{
    const struct keeper_policy *keeper = &host->keeper;
    uint64_t ask_ms = sim_local_ms(sim, host->index) + keeper->lead_ms;
    return ask_ms < keeper->deadline_ms &&
           ask_ms + keeper->feed_ms >= keeper->deadline_ms;
}

static void on_keeper(struct sim *sim, struct sim_event *event)
{
    unsigned index = event->host;
    struct sim_host *host = &sim->hosts[index];
    if (event->a != host->keeper_plan) {
        return;
    }
    uint32_t wait_ms = 0;
    switch (keeper_policy_next(&host->keeper, sim_local_ms(sim, index), &wait_ms)) {
    case KEEPER_STEP_FEED:
        /* At times it is stalled between its look at the clock and its feed. */
        if (!sim->healed && sim_random(sim, 1000) < (last_chance(sim, host) ? 300 : 2)) {
            host->keeper_hurt_ms = sim->now_ms;
            (void)sim_at_host(
                sim, sim->now_ms + sim_random(sim, sim->timing.watchdog_ms + 200),
                on_late_feed, index);
            return;
        }
        feed(sim, index);
        plan(sim, index, sim->now_ms);
        break;
    case KEEPER_STEP_ASK: {
        struct sim_event *answers =
            sim_at_host(sim, sim->now_ms + 1 + sim_random(sim, 5), on_answers, index);
        answers->a = keeper_policy_ask(&host->keeper, sim_local_ms(sim, index));
        answers->b = all_still(sim, index);
        plan(sim, index, sim->now_ms + host->keeper.feed_ms);
        break;
    }
    case KEEPER_STEP_WAIT:
        plan(sim, index, sim->now_ms + sim_global_span_ms(sim, index, wait_ms));
        break;
    }
}

static void plan(struct sim *sim, unsigned host, uint64_t at_ms)
{
    struct sim_event *event = sim_at_host(sim, at_ms, on_keeper, host);
    event->a = ++sim->hosts[host].keeper_plan;
}

void sim_keeper_start(struct sim *sim, unsigned host)
{
    struct sim_host *at = &sim->hosts[host];
    keeper_policy_init(&at->keeper, sim->timing.watchdog_ms, sim->timing.watchdog_ms);
    if (sim->mutation == SIM_MUTATION_NO_LEAD_TIME) {
        at->keeper.lead_ms = 0;
    }
    feed(sim, host); /* opening the device arms it */
    plan(sim, host, sim->now_ms);
}

void sim_keeper_lease(struct sim *sim, unsigned host, uint64_t deadline_ns)
{
    uint64_t deadline_ms = deadline_ns / NS_PER_MS;
    if (sim->mutation == SIM_MUTATION_KEEPER_FEEDS) {
        deadline_ms += 20000;
    }
    sim_trace(sim, "h%u lease until local %" PRIu64, host, deadline_ms);
    keeper_policy_lease(&sim->hosts[host].keeper, deadline_ms);
    plan(sim, host, sim->now_ms);
}
