/* SPDX-License-Identifier: Apache-2.0 */
/* A model of the migration engine: ready, go, done over a stream that may fall silent or
 * break at any step. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "tests/sim/sim.h"

#define STEP_MS 150 /* of each side's own timer */

enum word {
    WORD_HELLO,
    WORD_ACCEPT,
    WORD_PING,
    WORD_LAST, /* the guest is stopped, and all of it is here */
    WORD_READY,
    WORD_GO,
    WORD_DONE,
    WORD_NEVER, /* target: never got the go, and never will */
    WORD_CLOSED,
    WORD_RESUME,   /* source, on a new stream, in post-copy */
    WORD_RESUMED,  /* target: runs the guest, and lacks memory of it */
    WORD_COMPLETE, /* target: lacks nothing */
};

struct letter {
    enum word word;
    uint64_t to, to_life, from, from_life, attempt, mem;
    bool paused, postcopy;
};

static bool is_postcopy(const struct sim_vmm *vmm)
{
    return vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY;
}

static bool is_active(const struct sim_vmm *vmm)
{
    return (is_postcopy(vmm) && !vmm->move.interrupted) ||
           vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CONNECTING ||
           vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY ||
           vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER;
}

static void move_to(struct sim *sim, struct sim_vmm *vmm, Drover__VmMigrationState state)
{
    vmm->move.state = state;
    sim_vmm_send_status(sim, vmm);
}

static void on_letter(struct sim *sim, struct sim_event *event);

static void send(struct sim *sim, struct sim_vmm *from, enum word word)
{
    const struct sim_vmm *to = &sim->vmms[from->move.peer];
    if (to->life != from->move.peer_life) {
        return;
    }
    if (sim->cut[from->host][to->host]) {
        from->move.peer_life = 0; /* a stream with a hole in it is silent from here on */
        return;
    }
    struct letter *letter = malloc(sizeof(*letter));
    CHECK(letter != NULL);
    *letter = (struct letter){
        .word = word,
        .to = from->move.peer,
        .to_life = from->move.peer_life,
        .from = (uint64_t)(from - sim->vmms),
        .from_life = from->life,
        .attempt = from->move.attempt,
        /* One that has not run since it came passes on what it came from. */
        .mem = from->mem_parent != 0 ? from->mem_parent : from->mem,
        .paused = from->paused,
        .postcopy = from->move.postcopy,
    };
    uint64_t delay_ms = from->host == to->host ? 1 : 4; /* one stream: in order */
    struct sim_event *event =
        sim_at_host(sim, sim->now_ms + delay_ms, on_letter, to->host);
    sim_event_data(event, letter, sizeof(*letter));
}

/* ---- source --------------------------------------------------------------------------
 */

static void source_fails(struct sim *sim, struct sim_vmm *vmm,
                         Drover__VmMigrationState how)
{
    CHECK(vmm->state == SIM_VMM_GUEST);
    vmm->handover = false;
    move_to(sim, vmm, how);
}

static void interrupt(struct sim *sim, struct sim_vmm *vmm)
{
    vmm->move.interrupted = true;
    vmm->move.peer_life = 0;
    sim_vmm_send_status(sim, vmm);
}

static void source_loses_stream(struct sim *sim, struct sim_vmm *vmm)
{
    if (is_postcopy(vmm)) {
        interrupt(sim, vmm);
    } else if (vmm->state == SIM_VMM_HANDED_OVER) {
        vmm->move.interrupted = vmm->move.postcopy;
        move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_UNKNOWN);
    } else {
        source_fails(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED);
    }
}

static void source_hears(struct sim *sim, struct sim_vmm *vmm, enum word word)
{
    switch (word) {
    case WORD_ACCEPT:
        if (vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CONNECTING) {
            vmm->move.precopy_until_ms = sim->now_ms + 100 + sim_random(sim, 4000);
            move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY);
        }
        break;
    case WORD_READY:
        if (vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER &&
            vmm->state == SIM_VMM_GUEST) {
            vmm->state = SIM_VMM_HANDED_OVER;
            vmm->move.go_sent = true;
            send(sim, vmm, WORD_GO);
            sim_vmm_send_status(sim, vmm);
            sim_fault_near(sim, vmm);
        }
        break;
    case WORD_DONE:
        if (vmm->state == SIM_VMM_HANDED_OVER) {
            move_to(sim, vmm,
                    vmm->move.postcopy
                        ? DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY
                        : DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE);
            sim_fault_near(sim, vmm);
        }
        break;
    case WORD_COMPLETE:
        move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE);
        break;
    case WORD_NEVER:
        vmm->state = SIM_VMM_GUEST; /* also after the go: the target's own word */
        source_fails(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED);
        break;
    case WORD_CLOSED:
        source_loses_stream(sim, vmm);
        break;
    default:
        break;
    }
}

static void source_step(struct sim *sim, struct sim_vmm *vmm)
{
    if (sim->now_ms - vmm->move.heard_ms > sim->timing.migration_idle_ms) {
        source_loses_stream(sim, vmm);
        return;
    }
    send(sim, vmm, WORD_PING);
    if (vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY &&
        sim->now_ms >= vmm->move.precopy_until_ms) {
        vmm->handover = true;
        send(sim, vmm, WORD_LAST);
        sim_fault_near(sim, vmm);
        move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER);
    }
}

/* ---- target --------------------------------------------------------------------------
 */

static void target_never(struct sim *sim, struct sim_vmm *vmm)
{
    send(sim, vmm, WORD_NEVER);
    vmm->state = SIM_VMM_FAILED;
    move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED);
}

static void target_enters(struct sim *sim, struct sim_vmm *vmm)
{
    if (!vmm->move.postcopy) {
        send(sim, vmm, WORD_DONE);
        move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE);
        sim_fault_near(sim, vmm);
        return;
    }
    sim->postcopies++;
    vmm->move.needed_ms = sim_random(sim, 6000);
    if (sim_chance(sim, 20)) {
        sim_vmm_send_status(sim, vmm); /* it runs, and does not know what it is yet */
    }
    send(sim, vmm, WORD_DONE);
    move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY);
    sim_fault_near(sim, vmm);
}

/* In post-copy: its memory comes as long as there is a stream. */
static void target_step(struct sim *sim, struct sim_vmm *vmm)
{
    if (sim->now_ms - vmm->move.heard_ms > sim->timing.migration_idle_ms) {
        interrupt(sim, vmm);
    } else if (vmm->move.needed_ms > STEP_MS) {
        vmm->move.needed_ms -= STEP_MS;
        send(sim, vmm, WORD_PING);
    } else {
        vmm->move.needed_ms = 0;
        send(sim, vmm, WORD_COMPLETE);
        move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE);
        sim_fault_near(sim, vmm);
    }
}

static void target_hears(struct sim *sim, struct sim_vmm *vmm,
                         const struct letter *letter)
{
    switch (letter->word) {
    case WORD_LAST:
        vmm->move.state = DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER;
        send(sim, vmm, WORD_READY);
        break;
    case WORD_GO:
        vmm->state = SIM_VMM_GUEST;
        vmm->paused = letter->paused;
        vmm->mem = letter->mem != 0 ? ++sim->last_id : 0;
        vmm->mem_parent = letter->mem;
        sim->moves++;
        if (!sim->healed && sim_chance(sim, 4)) {
            sim_check(sim); /* it ran for an instant, and nobody was told */
            sim_vmm_gone(sim, vmm, "killed by signal 9");
            break;
        }
        target_enters(sim, vmm);
        break;
    case WORD_CLOSED:
        target_never(sim, vmm);
        break;
    default:
        break;
    }
}

/* ---- both ----------------------------------------------------------------------------
 */

static void on_step(struct sim *sim, struct sim_event *event)
{
    struct sim_vmm *vmm = &sim->vmms[event->a];
    if (vmm->life != event->b || vmm->move.link != event->c || !is_active(vmm)) {
        return;
    }
    if (vmm->move.target && vmm->state != SIM_VMM_INCOMING) {
        target_step(sim, vmm);
    } else if (vmm->state == SIM_VMM_GUEST || vmm->state == SIM_VMM_HANDED_OVER) {
        source_step(sim, vmm);
    } else if (vmm->state == SIM_VMM_INCOMING) {
        if (sim->now_ms - vmm->move.heard_ms > sim->timing.migration_idle_ms) {
            target_never(sim, vmm);
        } else {
            send(sim, vmm, WORD_PING);
        }
    }
    if (is_active(vmm)) {
        struct sim_event *next =
            sim_at_host(sim, sim->now_ms + STEP_MS, on_step, vmm->host);
        next->a = event->a;
        next->b = event->b;
        next->c = event->c;
    }
}

static void step_begin(struct sim *sim, struct sim_vmm *vmm)
{
    struct sim_event *event = sim_at_host(sim, sim->now_ms + STEP_MS, on_step, vmm->host);
    event->a = (uint64_t)(vmm - sim->vmms);
    event->b = vmm->life;
    event->c = vmm->move.link = ++sim->last_id;
}

/* A new stream of a post-copy. */
static void target_resumes(struct sim *sim, struct sim_vmm *vmm,
                           const struct letter *letter)
{
    bool done = vmm->move.state == DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE;
    if (!vmm->move.target || vmm->state != SIM_VMM_GUEST || vmm->quitting ||
        vmm->move.attempt != letter->attempt || (!done && !is_postcopy(vmm))) {
        return;
    }
    vmm->move.peer = (unsigned)letter->from;
    vmm->move.peer_life = letter->from_life;
    vmm->move.heard_ms = sim->now_ms;
    if (done) {
        send(sim, vmm, WORD_COMPLETE);
        return;
    }
    vmm->move.interrupted = false;
    send(sim, vmm, WORD_RESUMED);
    sim_vmm_send_status(sim, vmm);
    step_begin(sim, vmm);
}

static void source_resumes(struct sim *sim, struct sim_vmm *vmm, enum word word)
{
    vmm->move.interrupted = false;
    vmm->move.heard_ms = sim->now_ms;
    sim->resumed++;
    if (word == WORD_COMPLETE) {
        move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_DONE);
        return;
    }
    move_to(sim, vmm, DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY);
    step_begin(sim, vmm);
    sim_fault_near(sim, vmm);
}

static void on_letter(struct sim *sim, struct sim_event *event)
{
    const struct letter *letter = event->data;
    struct sim_vmm *vmm = &sim->vmms[letter->to];
    if (vmm->life != letter->to_life) {
        return;
    }
    if (letter->word == WORD_HELLO) {
        if (vmm->state != SIM_VMM_INCOMING || vmm->quitting ||
            vmm->move.state != DROVER__VM_MIGRATION_STATE__VM_MIGRATION_NONE) {
            return; /* its source's time-out tells it */
        }
        vmm->move = (struct sim_migration){
            .state = DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY,
            .peer = (unsigned)letter->from,
            .peer_life = letter->from_life,
            .heard_ms = sim->now_ms,
            .attempt = letter->attempt,
            .target = true,
            .postcopy = letter->postcopy,
        };
        (void)snprintf(vmm->move.uri, sizeof(vmm->move.uri), "tcp:peer:1");
        send(sim, vmm, WORD_ACCEPT);
        sim_vmm_send_status(sim, vmm);
        step_begin(sim, vmm);
        return;
    }
    if (letter->word == WORD_RESUME) {
        target_resumes(sim, vmm, letter);
        return;
    }
    bool resumes = letter->word == WORD_RESUMED || letter->word == WORD_COMPLETE;
    if (resumes && vmm->move.attempt == letter->attempt && vmm->move.interrupted &&
        vmm->state == SIM_VMM_HANDED_OVER) {
        source_resumes(sim, vmm, letter->word);
        return;
    }
    if (vmm->move.attempt != letter->attempt || !is_active(vmm)) {
        /* Also a word of the target that comes after its source gave up waiting. */
        if (vmm->move.attempt == letter->attempt && vmm->state == SIM_VMM_HANDED_OVER &&
            (letter->word == WORD_DONE || letter->word == WORD_NEVER)) {
            source_hears(sim, vmm, letter->word);
        }
        return;
    }
    vmm->move.heard_ms = sim->now_ms;
    if (vmm->move.target && vmm->state != SIM_VMM_INCOMING) {
        if (letter->word == WORD_CLOSED) {
            interrupt(sim, vmm);
        }
    } else if (vmm->state == SIM_VMM_INCOMING) {
        target_hears(sim, vmm, letter);
    } else if (vmm->state == SIM_VMM_GUEST || vmm->state == SIM_VMM_HANDED_OVER) {
        source_hears(sim, vmm, letter->word);
    }
}

/* The VMM to which it goes, or went; NULL: it is not there (any more). */
static struct sim_vmm *find_peer(struct sim *sim, const struct sim_vmm *vmm)
{
    unsigned host = 0;
    CHECK(sscanf(vmm->move.uri, "handed:10.0.0.%u:", &host) == 1);
    for (unsigned i = 0; i < SIM_VMMS_MAX; i++) {
        struct sim_vmm *other = &sim->vmms[i];
        if (other->life != 0 && other->host == host - 1 && other->vm_id == vmm->vm_id &&
            other->epoch == vmm->move.next_epoch) {
            return other;
        }
    }
    return NULL;
}

void sim_move_start(struct sim *sim, struct sim_vmm *vmm,
                    const Drover__ControlMigrate *order)
{
    if (vmm->state != SIM_VMM_GUEST || vmm->quitting || is_active(vmm) ||
        is_postcopy(vmm)) {
        return; /* refused */
    }
    bool may = order->postcopy != DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_NEVER;
    bool now = order->postcopy == DROVER__MIGRATE_POSTCOPY__MIGRATE_POSTCOPY_NOW;
    vmm->move = (struct sim_migration){
        .state = DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CONNECTING,
        .heard_ms = sim->now_ms,
        .attempt = ++sim->last_id,
        .next_epoch = order->next_epoch,
        .postcopy = may && (now || sim_chance(sim, 50)),
    };
    (void)snprintf(vmm->move.uri, sizeof(vmm->move.uri), "%s", order->uri);
    const struct sim_vmm *peer = find_peer(sim, vmm);
    if (peer != NULL) {
        vmm->move.peer = (unsigned)(peer - sim->vmms);
        vmm->move.peer_life = peer->life;
        send(sim, vmm, WORD_HELLO);
    }
    step_begin(sim, vmm);
}

bool sim_move_resume(struct sim *sim, struct sim_vmm *vmm)
{
    if (vmm->state != SIM_VMM_HANDED_OVER || !vmm->move.interrupted) {
        return false;
    }
    const struct sim_vmm *peer = find_peer(sim, vmm);
    if (peer != NULL && sim_agent_runs(sim, peer->host)) {
        vmm->move.peer = (unsigned)(peer - sim->vmms);
        vmm->move.peer_life = peer->life;
        send(sim, vmm, WORD_RESUME);
    }
    return true;
}

bool sim_move_lost(struct sim *sim, struct sim_vmm *vmm)
{
    if (!vmm->move.target || vmm->state != SIM_VMM_GUEST || !is_postcopy(vmm) ||
        !vmm->move.interrupted) {
        return false;
    }
    sim->lost++;
    vmm->move.state = DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED;
    return true;
}

bool sim_move_cancel(struct sim *sim, struct sim_vmm *vmm)
{
    if (vmm->state != SIM_VMM_GUEST || !is_active(vmm) || vmm->move.target) {
        return false;
    }
    send(sim, vmm, WORD_CLOSED);
    vmm->handover = false;
    vmm->move.state = DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CANCELLED;
    return true;
}

void sim_move_end(struct sim *sim, struct sim_vmm *vmm, const char *why)
{
    if (!is_active(vmm) || !sim->hosts[vmm->host].powered) {
        return; /* a host without power says nothing */
    }
    bool never = vmm->state == SIM_VMM_FAILED;
    send(sim, vmm, never ? WORD_NEVER : WORD_CLOSED);
    vmm->move.state = DROVER__VM_MIGRATION_STATE__VM_MIGRATION_FAILED;
}
