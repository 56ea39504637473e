/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers, the trace, planned events, and the hosts' clocks. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "tests/sim/sim.h"

/* SplitMix64. */
static uint64_t next_random(struct sim *sim)
{
    uint64_t z = (sim->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t sim_random(struct sim *sim, uint64_t below)
{
    CHECK(below > 0);
    return next_random(sim) % below;
}

bool sim_chance(struct sim *sim, unsigned percent)
{
    return sim_random(sim, 100) < percent;
}

/* ---- trace ---------------------------------------------------------------------------
 */

void sim_trace(struct sim *sim, const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof(line), format, arguments); /* cut is fine */
    va_end(arguments);
    for (const char *c = line; *c != '\0'; c++) {
        sim->trace_hash = (sim->trace_hash ^ (uint8_t)*c) * UINT64_C(1099511628211);
    }
    sim->trace_hash = (sim->trace_hash ^ sim->now_ms) * UINT64_C(1099511628211);
    sim->trace_lines++;
    if (sim->trace) {
        printf("%8llu %s\n", (unsigned long long)sim->now_ms, line);
    }
}

void sim_fail(struct sim *sim, const char *format, ...)
{
    if (sim->failed) {
        return; /* the first is the cause */
    }
    sim->failed = true;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(sim->failure, sizeof(sim->failure), format,
                    arguments); /* cut is fine */
    va_end(arguments);
    sim_trace(sim, "FAILED: %s", sim->failure);
}

/* ---- events --------------------------------------------------------------------------
 */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order;
}

static void heap_push(struct sim *sim, struct sim_event *event)
{
    if (sim->heap_count == sim->heap_capacity) {
        sim->heap_capacity = sim->heap_capacity * 2 + 64;
        sim->heap = realloc(sim->heap, sim->heap_capacity * sizeof(*sim->heap));
        CHECK(sim->heap != NULL);
    }
    size_t at = sim->heap_count++;
    while (at > 0 && before(event, sim->heap[(at - 1) / 2])) {
        sim->heap[at] = sim->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    sim->heap[at] = event;
}

static struct sim_event *heap_pop(struct sim *sim)
{
    struct sim_event *first = sim->heap[0];
    struct sim_event *last = sim->heap[--sim->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= sim->heap_count) {
            break;
        }
        if (child + 1 < sim->heap_count &&
            before(sim->heap[child + 1], sim->heap[child])) {
            child++;
        }
        if (!before(sim->heap[child], last)) {
            break;
        }
        sim->heap[at] = sim->heap[child];
        at = child;
    }
    sim->heap[at] = last;
    return first;
}

struct sim_event *sim_at(struct sim *sim, uint64_t at_ms, sim_event_run run)
{
    struct sim_event *event = calloc(1, sizeof(*event));
    CHECK(event != NULL);
    event->at_ms = at_ms > sim->now_ms ? at_ms : sim->now_ms;
    event->order = ++sim->last_order;
    event->run = run;
    event->host = SIM_HOSTS_MAX;
    heap_push(sim, event);
    return event;
}

struct sim_event *sim_at_host(struct sim *sim, uint64_t at_ms, sim_event_run run,
                              unsigned host)
{
    struct sim_event *event = sim_at(sim, at_ms, run);
    event->host = host;
    event->boot = sim->hosts[host].boot;
    return event;
}

void sim_event_data(struct sim_event *event, void *data, size_t size)
{
    event->data = data;
    event->size = size;
}

static void event_free(struct sim_event *event)
{
    free(event->data);
    free(event);
}

/* When the one whose time it takes can run it; 0: now, SIM_NEVER: not any more. */
static uint64_t delayed_until(const struct sim *sim, const struct sim_event *event)
{
    if (event->host >= SIM_HOSTS_MAX) {
        return 0;
    }
    const struct sim_host *host = &sim->hosts[event->host];
    if (!host->powered || (event->boot != 0 && event->boot != host->boot) ||
        (event->agent_run != 0 &&
         (event->agent_run != host->agent_run || !host->agent_alive))) {
        return SIM_NEVER;
    }
    if (host->stalled_until_ms > sim->now_ms) {
        return host->stalled_until_ms;
    }
    if (event->agent_run != 0 && host->agent_stalled_until_ms > sim->now_ms) {
        return host->agent_stalled_until_ms;
    }
    return 0;
}

void sim_run_due(struct sim *sim)
{
    /* The fixture's time jumps: each event happens at its own, or what is due before it has
     * not happened yet and is seen as if it were late (a watchdog at a stall's end). */
    uint64_t until_now_ms = sim->now_ms;
    uint64_t at_ms = 0;
    while (sim->heap_count > 0 && sim->heap[0]->at_ms <= until_now_ms && !sim->failed) {
        struct sim_event *event = heap_pop(sim);
        at_ms = event->at_ms > at_ms ? event->at_ms : at_ms;
        sim->now_ms = at_ms;
        uint64_t until_ms = delayed_until(sim, event);
        if (until_ms == SIM_NEVER) {
            event_free(event);
        } else if (until_ms > 0) {
            event->at_ms = until_ms; /* keeps its order among those that wait too */
            heap_push(sim, event);
        } else {
            event->run(sim, event);
            event_free(event);
            sim_check(sim);
        }
    }
    sim->now_ms = until_now_ms;
}

void sim_events_free(struct sim *sim)
{
    while (sim->heap_count > 0) {
        event_free(heap_pop(sim));
    }
    free(sim->heap);
    sim->heap = NULL;
    sim->heap_capacity = 0;
}

/* ---- clocks --------------------------------------------------------------------------
 */

uint64_t sim_local_ms(const struct sim *sim, unsigned host)
{
    const struct sim_host *at = &sim->hosts[host];
    uint64_t rate = (uint64_t)(1000000 + at->ppm);
    return at->base_ms + sim->now_ms * rate / 1000000;
}

uint64_t sim_global_span_ms(const struct sim *sim, unsigned host, uint64_t local_ms)
{
    uint64_t rate = (uint64_t)(1000000 + sim->hosts[host].ppm);
    return (local_ms * 1000000 + rate - 1) / rate;
}

bool sim_host_stalled(const struct sim *sim, unsigned host)
{
    return sim->hosts[host].stalled_until_ms > sim->now_ms;
}

bool sim_agent_runs(const struct sim *sim, unsigned host)
{
    const struct sim_host *at = &sim->hosts[host];
    return at->powered && at->agent_alive && !sim_host_stalled(sim, host) &&
           at->agent_stalled_until_ms <= sim->now_ms;
}
