/* SPDX-License-Identifier: Apache-2.0 */
/* The leader's judgement of silent hosts: suspect, unprovable, dead. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "consensus/cluster_state.h"
#include "fencing/death.h"
#include "node-agent/controller_private.h"

/* Whether an ended proposal may still be committed by somebody. */
static bool fate_unknown(int error)
{
    return error == DROVER_ENOTLEADER || error == DROVER_ENOLEADER ||
           error == DROVER_ECLOSED || error == DROVER_ETIMEDOUT2 ||
           error == DROVER_ECANCELLED;
}

bool controller_death_done(struct controller *controller, uint64_t proposal_id, int error,
                           uint64_t now_ms)
{
    for (unsigned i = 0; i < controller->host_count; i++) {
        struct controller_host *host = &controller->hosts[i];
        if (host->death_proposal != proposal_id || proposal_id == 0) {
            continue;
        }
        if (!fate_unknown(error)) {
            host->death_proposal = 0; /* applied, or refused by the state: known now */
            host->judge_again_ms = now_ms + controller->timing.retry_ms;
        }
        return true;
    }
    return false;
}

static void host_event(struct controller *controller, const Drover__HostRecord *record,
                       const char *kind, const char *text)
{
    Drover__Event event = DROVER__EVENT__INIT;
    event.kind = (char *)(uintptr_t)kind;
    event.text = (char *)(uintptr_t)text;
    event.host_id = record->host_id;
    controller_event(controller, &event);
}

/* Shown, and told, long before anything is done about it. */
static void watch_silence(struct controller *controller, const Drover__HostRecord *record,
                          struct controller_host *host, uint64_t now_ms)
{
    uint64_t since_ms = host->up_ms > controller->grantor.lead_ms
                            ? host->up_ms
                            : controller->grantor.lead_ms;
    const struct lease_host *lease =
        lease_grantor_host(&controller->grantor, host->host_id);
    if (lease != NULL && lease->heard_ms > since_ms) {
        since_ms = lease->heard_ms;
    }
    bool suspect = now_ms - since_ms >= controller->timing.suspect_ms;
    if (suspect == host->suspect) {
        return;
    }
    host->suspect = suspect;
    char text[ERROR_TEXT_SIZE];
    if (suspect) {
        (void)snprintf(text, sizeof(text), "host '%s' has been silent for %llu ms",
                       record->name, (unsigned long long)(now_ms - since_ms));
    } else {
        (void)snprintf(text, sizeof(text), "host '%s' is heard again", record->name);
    }
    host_event(controller, record, suspect ? "host.suspect" : "host.heard", text);
}

static void propose_death(struct controller *controller, const Drover__HostRecord *record,
                          struct controller_host *host, Drover__Proof *proof)
{
    CHECK(host->death_proposal == 0);
    CHECK(record->state == DROVER__HOST_STATE__HOST_STATE_UP && record->watchdog_ms > 0);
    uint64_t out_ms = proof->silent_ms - controller->timing.grantor_ms;
    char detail[ERROR_TEXT_SIZE];
    (void)snprintf(
        detail, sizeof(detail),
        "silent for %llu ms: its lease (%llu ms) has been out for %llu ms, its "
        "watchdog (%llu ms) has fired or all its VMs are frozen",
        (unsigned long long)proof->silent_ms, (unsigned long long)proof->lease_ms,
        (unsigned long long)out_ms, (unsigned long long)proof->watchdog_ms);
    proof->detail = detail;
    proof->leader_host_id = controller->own_host_id;
    proof->term = controller->grantor.term;
    Drover__HostDead dead = DROVER__HOST_DEAD__INIT;
    dead.host_id = record->host_id;
    dead.boot_id = record->boot_id;
    dead.incarnation = record->incarnation;
    dead.proof = proof;
    Drover__Command command = DROVER__COMMAND__INIT;
    command.what_case = DROVER__COMMAND__WHAT_HOST_DEAD;
    command.host_dead = &dead;
    /* From here until its fate is known this host gets no lease: refusal() looks at it.
     */
    host->death_proposal = controller_propose(controller, &command);
}

static void tell_unprovable(struct controller *controller,
                            const Drover__HostRecord *record,
                            struct controller_host *host)
{
    if (host->unprovable_told) {
        return;
    }
    host->unprovable_told = true;
    char text[ERROR_TEXT_SIZE];
    (void)snprintf(
        text, sizeof(text),
        "host '%s' is silent, but has no armed watchdog: nothing proves that its "
        "VMs have stopped: they wait until it is back (modprobe softdog gives a host "
        "without a watchdog one)",
        record->name);
    host_event(controller, record, "host.unprovable", text);
}

static uint32_t judge_host(struct controller *controller,
                           const Drover__HostRecord *record, struct controller_host *host,
                           uint64_t now_ms)
{
    const struct lease_host *lease =
        lease_grantor_host(&controller->grantor, host->host_id);
    struct death_case known = {
        .host = record,
        .lead_ms = host->up_ms > controller->grantor.lead_ms
                       ? host->up_ms
                       : controller->grantor.lead_ms,
        .granted_ms = lease != NULL ? lease->granted_ms : 0,
        .confirmed_ms = controller->grantor.confirmed_ms,
        .pending = lease_grantor_pending(&controller->grantor, host->host_id),
    };
    Drover__Proof proof = DROVER__PROOF__INIT;
    uint32_t wait_ms = 0;
    switch (death_judge(&controller->timing, &known, now_ms, &proof, &wait_ms)) {
    case DEATH_VERDICT_DEAD:
        propose_death(controller, record, host, &proof);
        return controller->timing.retry_ms;
    case DEATH_VERDICT_UNPROVABLE:
        tell_unprovable(controller, record, host);
        break;
    case DEATH_VERDICT_ALIVE:
        if (!host->suspect) {
            host->unprovable_told = false;
        }
        break;
    }
    return wait_ms;
}

/* A host that has just reported up had no time to ask for a lease yet: it is not silent
 * since its last one. */
static void see_run(struct controller_host *host, const Drover__HostRecord *record,
                    uint64_t now_ms)
{
    bool up = record->state == DROVER__HOST_STATE__HOST_STATE_UP;
    const char *incarnation = up ? record->incarnation : "";
    if (strncmp(host->incarnation, incarnation, sizeof(host->incarnation) - 1) != 0) {
        (void)snprintf(host->incarnation, sizeof(host->incarnation), "%s", incarnation);
        host->up_ms = now_ms;
    }
}

uint32_t controller_judge(struct controller *controller,
                          const struct cluster_state *state, uint64_t now_ms)
{
    const Drover__ClusterState *view = cluster_state_view(state);
    uint32_t wait_ms = controller->timing.renew_ms;
    for (size_t i = 0; i < view->n_hosts; i++) {
        const Drover__HostRecord *record = view->hosts[i];
        struct controller_host *host = controller_host_get(controller, record->host_id);
        if (host == NULL) {
            continue;
        }
        see_run(host, record, now_ms);
        if (record->state != DROVER__HOST_STATE__HOST_STATE_UP || record->witness) {
            continue;
        }
        watch_silence(controller, record, host, now_ms);
        /* A judge is another host; and a judgement that is out is waited for. */
        if (record->host_id == controller->own_host_id || host->death_proposal != 0 ||
            now_ms < host->judge_again_ms) {
            continue;
        }
        uint32_t host_wait_ms = judge_host(controller, record, host, now_ms);
        wait_ms = host_wait_ms < wait_ms ? host_wait_ms : wait_ms;
    }
    return wait_ms;
}
