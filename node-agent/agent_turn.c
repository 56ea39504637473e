/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's turns: events only note what happened and wake the agent; one function then
 * lets each decision look at the state. So no decision is called from inside another, and
 * a burst of events costs one turn.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"

#define TURN_MS_MAX      60000u
#define DEFERRED_IN_TURN 10000u /* what comes on top waits for the next */

static uint32_t sooner(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void run_deferred(struct agent *agent)
{
    for (unsigned i = 0; i < DEFERRED_IN_TURN && agent->deferred != NULL; i++) {
        struct agent_deferred *first = agent->deferred;
        agent->deferred = first->next;
        if (agent->deferred == NULL) {
            agent->deferred_end = &agent->deferred;
        }
        first->run(agent, first);
    }
}

/* Each looks at the clock anew: what the one before has done (that this host leads, say) is
 * noted with a later time than any that was read before it. */
static uint32_t tick_member(struct agent *agent)
{
    struct agent_member *member = agent->member;
    uint32_t wait_ms = agent_raft_tick(agent, clock_now_ms());
    wait_ms = sooner(wait_ms, agent_host_tick(agent, clock_now_ms()));
    if (member->core != NULL) {
        wait_ms = sooner(wait_ms,
                         host_core_tick(member->core, member->state, clock_now_ms()));
    }
    if (member->leads) {
        wait_ms = sooner(wait_ms, controller_tick(member->controller, member->state,
                                                  clock_now_ms()));
    }
    /* After the decisions: what they ask for goes out in this turn. */
    return sooner(wait_ms, propose_tick(member->propose, clock_now_ms()));
}

static void on_turn(uv_timer_t *timer)
{
    struct agent *agent = timer->data;
    CHECK(!agent->in_turn);
    agent->in_turn = true;
    agent->woken = false;
    run_deferred(agent);
    uint32_t wait_ms = sooner(TURN_MS_MAX, agent_cluster_tick(agent, clock_now_ms()));
    if (agent->member != NULL && agent->member->closing == 0) {
        wait_ms = sooner(wait_ms, tick_member(agent));
    }
    if (agent->state_changed && agent->api != NULL) {
        agent->state_changed = false;
        api_state_changed(agent->api);
    }
    agent->in_turn = false;
    if (agent->closed == NULL) {
        bool now = agent->woken || agent->deferred != NULL;
        CHECK(uv_timer_start(&agent->turn, on_turn, now ? 0 : wait_ms, 0) == 0);
    }
}

void agent_turn_start(struct agent *agent)
{
    CHECK(uv_timer_init(agent->loop, &agent->turn) == 0);
    agent->turn.data = agent;
    agent->deferred_end = &agent->deferred;
    CHECK(uv_timer_start(&agent->turn, on_turn, 0, 0) == 0);
}

void agent_wake(struct agent *agent)
{
    if (!agent->woken && !agent->in_turn && agent->closed == NULL) {
        CHECK(uv_timer_start(&agent->turn, on_turn, 0, 0) == 0);
    }
    agent->woken = true;
}

void agent_defer(struct agent *agent, struct agent_deferred *deferred)
{
    deferred->next = NULL;
    *agent->deferred_end = deferred;
    agent->deferred_end = &deferred->next;
    agent_wake(agent);
}

void agent_deferred_drop(struct agent *agent)
{
    /* Each looks whether what it is for still exists, and frees itself. */
    run_deferred(agent);
}
