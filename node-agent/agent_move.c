/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encrypted connections for moves of this host's VMs (moves.h): as the source, an order to
 * a VMM waits until they stand and then goes with them; as the target, they are judged and
 * given to the VMM that waits.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "consensus/cluster_state.h"
#include "node-agent/agent_private.h"
#include "proto/move_link.h"
#include "proto/unix_files.h"

#define HANDED "handed:"

/* The first, for control, stands before the others are dialled: the target's VMM gets them
 * in the order in which they come. */
#define STREAMS_MAX UNIX_FILES_MAX

struct slot {
    struct agent_move *move;
    struct move_dial *dial; /* NULL: not yet, or over */
    int fd;                 /* -1: not yet */
};

/* An order that waits for its connections. */
struct agent_move {
    struct agent *agent;
    struct agent_move *next;
    uint64_t vm_id, epoch; /* of the VMM that gets the order */
    uint64_t next_epoch;   /* of the VMM at the target */
    uint64_t host_id;
    char address[LIMIT_ADDRESS_SIZE];
    Drover__ControlRequest *request;
    bool resumes; /* the guest has left already: only for what is still missing there */
    unsigned stream_count;
    struct slot slots[STREAMS_MAX];
};

static const Drover__Migration *migration_of(const struct agent *agent, uint64_t vm_id,
                                             const Drover__VmRecord **ret_record)
{
    const Drover__VmRecord *record = cluster_state_vm(agent->member->state, vm_id);
    *ret_record = record;
    return record == NULL ? NULL : record->migration;
}

/* ---- source ---- */

static struct agent_move *move_unlink(struct agent *agent, struct agent_move *move)
{
    struct agent_move **at = &agent->member->waiting_moves;
    while (*at != move) {
        at = &(*at)->next;
    }
    *at = move->next;
    return move;
}

static void move_free(struct agent_move *move)
{
    for (unsigned i = 0; i < move->stream_count; i++) {
        if (move->slots[i].dial != NULL) {
            moves_dial_cancel(move->slots[i].dial);
        }
        cleanup_fd(&move->slots[i].fd);
    }
    drover__control_request__free_unpacked(move->request, NULL);
    free(move);
}

/* The order is never given: the host's decisions may say so. */
static void move_fail(struct agent_move *move, const char *text)
{
    struct agent *agent = move->agent;
    log_warn(agent->log,
             "no connection for a move vm=%" PRIu64 " host=%" PRIu64 " address=%s err=%s",
             move->vm_id, move->host_id, move->address, text);
    char reason[ERROR_TEXT_SIZE];
    (void)snprintf(reason, sizeof(reason), "no connection to its target: %.250s", text);
    uint64_t vm_id = move->vm_id;
    uint64_t next_epoch = move->next_epoch;
    bool resumes = move->resumes;
    move_free(move_unlink(agent, move));
    /* Rule: of a move whose order was given, nobody says that it never was. */
    if (agent->member->core != NULL && !resumes) {
        host_core_move_unsent(agent->member->core, vm_id, next_epoch, reason,
                              clock_now_ms());
    }
    agent_wake(agent);
}

static void move_give(struct agent_move *move)
{
    struct agent *agent = move->agent;
    struct unix_files files = {0};
    for (unsigned i = 0; i < move->stream_count; i++) {
        files.fds[files.count++] = take_fd(&move->slots[i].fd);
    }
    move_unlink(agent, move);
    vmm_supervisor_order_with(agent->member->supervisor, move->vm_id, move->epoch,
                              move->request, &files);
    move_free(move);
}

static int slot_dial(struct agent_move *move, unsigned index, struct error *err);

static void on_opened(void *owner, const struct move_socket *socket)
{
    struct slot *slot = owner;
    struct agent_move *move = slot->move;
    unsigned index = (unsigned)(slot - move->slots);
    struct error err = {0};
    slot->dial = NULL;
    slot->fd = socket->fd;
    log_info(move->agent->log,
             "a connection for a move stands vm=%" PRIu64 " to=%s stream=%u cipher=%s "
             "encrypted_by=%s",
             move->vm_id, move->address, index, socket->cipher,
             socket->by_kernel ? "kernel" : "relay");
    for (unsigned i = 1; index == 0 && i < move->stream_count; i++) {
        if (slot_dial(move, i, &err) != 0) {
            move_fail(move, err.text);
            return;
        }
    }
    for (unsigned i = 0; i < move->stream_count; i++) {
        if (move->slots[i].fd < 0) {
            return;
        }
    }
    move_give(move);
}

static void on_failed(void *owner, int error, const char *text)
{
    struct slot *slot = owner;
    (void)error;
    slot->dial = NULL;
    move_fail(slot->move, text);
}

static const struct move_dial_ops dial_ops = {.opened = on_opened, .failed = on_failed};

static int slot_dial(struct agent_move *move, unsigned index, struct error *err)
{
    const struct move_wish wish = {
        .vm_id = move->vm_id, .epoch = move->next_epoch, .stream = index};
    return moves_dial(move->agent->member->moves, move->host_id, move->address, &wish,
                      &dial_ops, &move->slots[index], &move->slots[index].dial, err);
}

static Drover__ControlRequest *request_copy(const Drover__ControlRequest *request)
{
    size_t size = drover__control_request__get_packed_size(request);
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return NULL;
    }
    CHECK(drover__control_request__pack(request, packed) == size);
    return drover__control_request__unpack(NULL, size, packed);
}

/* Told in the next turn, as everything that fails. */
struct failed_move {
    struct agent_deferred deferred;
    uint64_t vm_id, next_epoch;
    char text[ERROR_TEXT_SIZE];
};

static void run_failed(struct agent *agent, struct agent_deferred *deferred)
{
    struct failed_move *failed = (struct failed_move *)deferred;
    if (agent->member != NULL && agent->member->closing == 0 &&
        agent->member->core != NULL) {
        host_core_move_unsent(agent->member->core, failed->vm_id, failed->next_epoch,
                              failed->text, clock_now_ms());
    }
    free(failed);
}

static void fail_later(struct agent *agent, uint64_t vm_id, uint64_t next_epoch,
                       const char *text)
{
    struct failed_move *failed = calloc(1, sizeof(*failed));
    if (failed == NULL) {
        return; /* the target loses its patience */
    }
    failed->deferred.run = run_failed;
    failed->vm_id = vm_id;
    failed->next_epoch = next_epoch;
    (void)snprintf(failed->text, sizeof(failed->text), "no connection to its target: %.250s",
                   text);
    agent_defer(agent, &failed->deferred);
}

static void fail_order(struct agent *agent, const struct agent_move_order *order,
                       const char *text)
{
    if (!order->resumes) { /* else it is ordered again */
        fail_later(agent, order->vm_id, order->next_epoch, text);
    }
}

void agent_move_order(struct agent *agent, const struct agent_move_order *order)
{
    struct agent_member *member = agent->member;
    struct error err = {0};
    CHECK(order->stream_count > 0 && order->stream_count <= STREAMS_MAX);
    agent_move_drop(agent, order->vm_id, order->epoch);
    struct agent_move *move = calloc(1, sizeof(*move));
    Drover__ControlRequest *request = request_copy(order->request);
    if (move == NULL || request == NULL) {
        free(move);
        drover__control_request__free_unpacked(request, NULL);
        fail_order(agent, order, "out of memory");
        return;
    }
    *move = (struct agent_move){.agent = agent,
                                .next = member->waiting_moves,
                                .vm_id = order->vm_id,
                                .epoch = order->epoch,
                                .next_epoch = order->next_epoch,
                                .host_id = order->host_id,
                                .request = request,
                                .resumes = order->resumes,
                                .stream_count = order->stream_count};
    (void)snprintf(move->address, sizeof(move->address), "%s", order->address);
    for (unsigned i = 0; i < move->stream_count; i++) {
        move->slots[i] = (struct slot){.move = move, .fd = -1};
    }
    member->waiting_moves = move;
    if (slot_dial(move, 0, &err) != 0) {
        move_free(move_unlink(agent, move));
        fail_order(agent, order, err.text);
    }
}

static unsigned stream_count(uint32_t wanted)
{
    return wanted == 0 ? MOVE_LINK_STREAMS : wanted < STREAMS_MAX ? wanted : STREAMS_MAX;
}

void agent_move_drop(struct agent *agent, uint64_t vm_id, uint64_t epoch)
{
    for (struct agent_move **at = &agent->member->waiting_moves; *at != NULL;) {
        struct agent_move *move = *at;
        if (move->vm_id == vm_id && move->epoch == epoch) {
            *at = move->next;
            move_free(move);
        } else {
            at = &move->next;
        }
    }
}

static bool is_waiting(const struct agent *agent, uint64_t vm_id, uint64_t epoch)
{
    const struct agent_move *move = agent->member->waiting_moves;
    while (move != NULL && (move->vm_id != vm_id || move->epoch != epoch)) {
        move = move->next;
    }
    return move != NULL;
}

/* A new connection for a post-copy from here that has lost its own; one at a time. */
static bool take_links(struct agent *agent, uint64_t vm_id, uint64_t epoch,
                       const Drover__ControlRequest *request)
{
    const Drover__VmRecord *record = NULL;
    const Drover__Migration *migration = migration_of(agent, vm_id, &record);
    const Drover__VmStatus *status =
        vmm_supervisor_status(agent->member->supervisor, vm_id, epoch);
    if (record == NULL || status == NULL || status->migration == NULL ||
        strncmp(status->migration->uri, HANDED, strlen(HANDED)) != 0 ||
        is_waiting(agent, vm_id, epoch)) {
        return true; /* nobody to connect to (any more), or it is being done */
    }
    const struct agent_move_order order = {
        .vm_id = vm_id,
        .epoch = epoch,
        .next_epoch = status->migration->next_epoch,
        .host_id = migration != NULL ? migration->target_host_id : record->owner_host_id,
        .address = status->migration->uri + strlen(HANDED),
        .stream_count = 1,
        .resumes = true,
        .request = request,
    };
    if (order.host_id != 0 && order.host_id != agent->member->self.host_id) {
        agent_move_order(agent, &order);
    }
    return true;
}

bool agent_move_take_order(struct agent *agent, uint64_t vm_id, uint64_t epoch,
                           const Drover__ControlRequest *request)
{
    const Drover__VmRecord *record = NULL;
    if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE_CANCEL ||
        request->order_case == DROVER__CONTROL_REQUEST__ORDER_QUIT) {
        /* Rule: no order to move comes after one that ends the move. */
        agent_move_drop(agent, vm_id, epoch);
        return false;
    }
    if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS) {
        return take_links(agent, vm_id, epoch, request);
    }
    const Drover__Migration *migration = migration_of(agent, vm_id, &record);
    if (request->order_case != DROVER__CONTROL_REQUEST__ORDER_MIGRATE ||
        migration == NULL || strncmp(request->migrate->uri, HANDED, strlen(HANDED)) != 0) {
        return false; /* the target's agent is of a version that does not encrypt */
    }
    const struct agent_move_order order = {
        .vm_id = vm_id,
        .epoch = epoch,
        .next_epoch = migration->next_epoch,
        .host_id = migration->target_host_id,
        .address = request->migrate->uri + strlen(HANDED),
        .stream_count = stream_count(request->migrate->streams),
        .request = request,
    };
    agent_move_order(agent, &order);
    return true;
}

/* ---- target ---- */

static bool waits_handed(const Drover__VmStatus *status)
{
    return status->run_state == DROVER__VM_RUN_STATE__VM_RUN_INCOMING &&
           strncmp(status->incoming_uri, HANDED, strlen(HANDED)) == 0;
}

/* Its source, or its target, has memory that the other needs. */
static bool is_postcopy(const Drover__VmStatus *status)
{
    return status->migration != NULL &&
           status->migration->state ==
               DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY;
}

static int on_judge(void *owner, uint64_t host_id, const struct move_wish *wish,
                    struct error *err)
{
    struct agent *agent = owner;
    struct agent_member *member = agent->member;
    const Drover__VmStatus *status =
        member->closing > 0 || member->supervisor == NULL
            ? NULL
            : vmm_supervisor_status(member->supervisor, wish->vm_id, wish->epoch);
    if (status == NULL || (!waits_handed(status) && !is_postcopy(status))) {
        return error_set(err, DROVER_ENOTFOUND,
                         "VM %" PRIu64 ", epoch %" PRIu64 " does not wait on host %" PRIu64
                         " (any more)",
                         wish->vm_id, wish->epoch, member->self.host_id);
    }
    const Drover__VmRecord *record = NULL;
    const Drover__Migration *migration = migration_of(agent, wish->vm_id, &record);
    /* While it waits for its guest, it is known whose that is. */
    if (waits_handed(status) &&
        (migration == NULL || migration->next_epoch != wish->epoch ||
         migration->source_host_id != host_id)) {
        return error_set(err, DROVER_EPEER,
                         "VM %" PRIu64 ", epoch %" PRIu64
                         " does not come from host %" PRIu64,
                         wish->vm_id, wish->epoch, host_id);
    }
    /* Later, of whom it still depends. */
    const Drover__Dependence *dependence = record != NULL ? record->dependence : NULL;
    bool from_source = (migration != NULL && migration->source_host_id == host_id) ||
                       (dependence != NULL && dependence->host_id == host_id);
    if (!waits_handed(status) && !from_source) {
        return error_set(err, DROVER_EPEER,
                         "VM %" PRIu64 ", epoch %" PRIu64
                         " needs no memory of host %" PRIu64,
                         wish->vm_id, wish->epoch, host_id);
    }
    return wish->stream < STREAMS_MAX
               ? 0
               : error_set(err, DROVER_ELIMIT, "a move has at most %u connections here",
                           STREAMS_MAX);
}

static void on_arrived(void *owner, uint64_t host_id, const struct move_wish *wish,
                       const struct move_socket *socket)
{
    struct agent *agent = owner;
    struct unix_files files = {.count = 1, .fds = {socket->fd}};
    if (agent->member->closing > 0 || agent->member->supervisor == NULL) {
        unix_files_done(&files);
        return;
    }
    log_info(agent->log,
             "a connection for a move has come vm=%" PRIu64 " epoch=%" PRIu64
             " from=%" PRIu64 " stream=%u cipher=%s encrypted_by=%s",
             wish->vm_id, wish->epoch, host_id, wish->stream, socket->cipher,
             socket->by_kernel ? "kernel" : "relay");
    if (agent->member->core != NULL) {
        host_core_move_encrypted(
            agent->member->core, wish->vm_id, wish->epoch, wish->encryption,
            socket->by_kernel ? DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL
                              : DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY);
    }
    Drover__ControlMigrateLinks links = DROVER__CONTROL_MIGRATE_LINKS__INIT;
    Drover__ControlRequest request = DROVER__CONTROL_REQUEST__INIT;
    request.order_case = DROVER__CONTROL_REQUEST__ORDER_MIGRATE_LINKS;
    request.migrate_links = &links;
    vmm_supervisor_order_with(agent->member->supervisor, wish->vm_id, wish->epoch,
                              &request, &files);
}

static void on_note(void *owner, const char *text)
{
    const struct agent *agent = owner;
    log_info(agent->log, "%s", text);
}

static const struct moves_ops moves_ops = {
    .judge = on_judge,
    .arrived = on_arrived,
    .note = on_note,
};

/* ---- all of them ---- */

int agent_move_start(struct agent *agent)
{
    struct agent_member *member = agent->member;
    const struct moves_config config = {
        .loop = agent->loop,
        .context = member->tls,
        .self = &member->self,
        .open_ms = member->timing.migration_idle_ms,
        .ack_ms = member->timing.migration_idle_ms,
        .ops = &moves_ops,
        .owner = agent,
    };
    return moves_create(&config, &member->moves);
}

void agent_move_stop(struct agent *agent, void (*closed)(void *owner), void *owner)
{
    while (agent->member->waiting_moves != NULL) {
        move_free(move_unlink(agent, agent->member->waiting_moves));
    }
    moves_close(agent->member->moves, closed, owner);
}
