/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target: waits for the source, compares, takes memory and state, and decides once.
 */
#include "migration/target.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/arrival.h"
#include "migration/gate.h"
#include "migration/stream.h"

#define NS_PER_US UINT64_C(1000)
/* Connections that did not even say a proper hello, before the target gives up: somebody
 * scans ports. */
#define STRANGERS_MAX 64u
/* After an ABORT: how long the source is listened to, so that the reason reaches it
 * before a reset does. */
#define LINGER_MS    100u
#define LINGER_READS 4096u

struct migration_target {
    struct migration_target_config config;
    struct transport_listener *listener;
    int cancel_fd;
    pthread_t thread;
    bool thread_started;
    struct gate gate;
    struct status_board board;

    /* the engine's thread only */
    struct transport_link *link;
    struct stream_out out;
    struct stream_in in;
    struct arrival arrival;
    struct error err; /* why the guest will not run here */
};

/* ---- hello ------------------------------------------------------------------------- */

static int compare(struct migration_target *target, const struct wire_hello *hello)
{
    struct migration_guest *guest = target->config.guest;
    struct error *err = &target->err;
    if (hello->version_max < WIRE_VERSION_OLDEST || hello->version_min > WIRE_VERSION) {
        return error_set(err, DROVER_EVERSION,
                         "the source speaks versions %u to %u, the target %u to %u: "
                         "update the older host",
                         hello->version_min, hello->version_max, WIRE_VERSION_OLDEST,
                         WIRE_VERSION);
    }
    if (hello->vm_id != target->config.vm_id) {
        return error_set(err, DROVER_EBADINPUT,
                         "the target waits for VM %" PRIu64 ", and this is VM %" PRIu64,
                         target->config.vm_id, hello->vm_id);
    }
    if (hello->vm_id != 0 && hello->epoch >= target->config.epoch) {
        return error_set(err, DROVER_ESTALEEPOCH,
                         "the target's epoch %" PRIu64
                         " is not newer than the source's %" PRIu64,
                         target->config.epoch, hello->epoch);
    }
    int rv = arrival_compare(&target->arrival, hello, err);
    return rv != 0 ? rv
                   : guest->ops->config_compare(guest, hello->config, hello->config_size,
                                                err);
}

static void say(struct migration_target *target, enum wire_type type)
{
    struct wire_refusal refusal = {.code = target->err.code};
    CLEANUP(buffer_done) struct buffer frame = {0};
    memcpy(refusal.reason, target->err.text, WIRE_REASON_BYTES_MAX);
    target->link->ops->set_cancel(target->link, -1);
    target->out.idle_ms = 0;
    if (wire_refusal_encode(&frame, type, &refusal) == 0) {
        (void)stream_out_frames(&target->out, &frame,
                                NULL); /* it will notice the end anyway */
    }
}

static int greet(struct migration_target *target)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct wire_hello hello;
    const struct migration_times *times = &target->config.times;
    int rv = stream_in_message(&target->in, times->idle_ms,
                               clock_now_ms() + times->idle_ms, &type, &payload, &size);
    if (rv != 0) {
        return error_set(&target->err, rv, "waiting for a hello: %s", err_text(rv));
    }
    if (type != WIRE_HELLO || wire_hello_decode(payload, size, &hello) != 0) {
        return error_set(&target->err, DROVER_EMALFORMED,
                         "somebody connected with no proper hello");
    }
    rv = compare(target, &hello);
    if (rv != 0) {
        say(target, WIRE_REFUSE);
        return rv;
    }
    uint16_t version =
        hello.version_max < WIRE_VERSION ? hello.version_max : WIRE_VERSION;
    CLEANUP(buffer_done) struct buffer frame = {0};
    rv = wire_accept_encode(&frame, version, target->config.epoch);
    rv = rv != 0 ? rv : stream_out_frames(&target->out, &frame, NULL);
    return rv != 0 ? error_set(&target->err, rv, "answering the hello: %s", err_text(rv))
                   : 0;
}

static void close_link(struct migration_target *target)
{
    stream_out_done(&target->out);
    stream_in_done(&target->in);
    transport_link_close(target->link);
    target->link = NULL;
}

/* Until somebody has said a proper hello. What others did wrong leaves no trace in the
 * guest. */
static int wait_for_source(struct migration_target *target)
{
    for (unsigned i = 0; i < STRANGERS_MAX; i++) {
        int rv =
            target->listener->ops->accept(target->listener, target->cancel_fd, UINT32_MAX,
                                          target->config.times.idle_ms, &target->link);
        if (rv != 0) {
            return error_set(&target->err, rv, "waiting for the source: %s",
                             err_text(rv));
        }
        rv = stream_out_init(&target->out, target->link, target->config.times.idle_ms);
        rv = rv != 0 ? rv : stream_in_init(&target->in, target->link);
        rv = rv != 0 ? error_set(&target->err, rv, "out of memory") : greet(target);
        if (rv == 0) {
            target->err = (struct error){0};
            return 0;
        }
        close_link(target);
        if (rv == DROVER_ECANCELLED || rv == -ENOMEM) {
            return rv;
        }
    }
    return target->err.code;
}

/* ---- memory and state -------------------------------------------------------------- */

static int round_end(struct migration_target *target, const uint8_t *payload, size_t size)
{
    struct wire_round round;
    if (wire_round_decode(payload, size, &round) != 0) {
        return error_set(&target->err, DROVER_EMALFORMED,
                         "the source sent a garbled end of a round");
    }
    round.bytes = target->in.bytes_received;
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_round_encode(&frame, WIRE_ROUND_ACK, &round);
    rv = rv != 0 ? rv : stream_out_frames(&target->out, &frame, NULL);
    if (rv != 0) {
        return error_set(&target->err, rv, "confirming a round: %s", err_text(rv));
    }
    struct migration_status *status = status_board_lock(&target->board);
    status->round = round.round;
    status->figures.bytes_sent = target->in.bytes_received;
    status->figures.pages_sent = target->arrival.pages_received;
    status_board_unlock(&target->board);
    return 0;
}

static int load(struct migration_target *target, const uint8_t *payload, size_t size)
{
    struct migration_guest *guest = target->config.guest;
    const uint8_t *state;
    size_t state_size;
    if (wire_state_decode(payload, size, &state, &state_size) != 0) {
        return error_set(&target->err, DROVER_EMALFORMED,
                         "the devices' state is garbled");
    }
    int rv = guest->ops->load(guest, state, state_size, &target->err);
    return rv != 0 ? rv : guest->ops->claim(guest, &target->err);
}

static int out_of_turn(struct migration_target *target, enum wire_type type,
                       const uint8_t *payload, size_t size)
{
    struct wire_refusal refusal;
    if (type == WIRE_ABORT && wire_refusal_decode(payload, size, &refusal) == 0) {
        return error_set(&target->err, refusal.code, "the source gave up: %s",
                         refusal.reason);
    }
    return error_set(&target->err, DROVER_EMALFORMED,
                     "the source sent something out of turn");
}

/* Rounds and the handover, until everything is loaded. */
static int receive(struct migration_target *target)
{
    uint32_t idle_ms = target->config.times.idle_ms;
    bool standing = false;
    for (;;) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        int rv = stream_in_message(&target->in, idle_ms, 0, &type, &payload, &size);
        if (rv != 0) {
            return error_set(&target->err, rv, "receiving: %s", err_text(rv));
        }
        if (type == WIRE_EXTENT) {
            rv = arrival_extent(&target->arrival, payload, size, &target->in, standing,
                                idle_ms, &target->err);
        } else if (type == WIRE_ROUND_END && !standing) {
            rv = round_end(target, payload, size);
        } else if (type == WIRE_HANDOVER && !standing) {
            standing = true;
            status_board_move(&target->board, MIGRATION_STATE_HANDOVER, NULL);
        } else if (type == WIRE_STATE && standing) {
            return load(target, payload, size);
        } else {
            rv = out_of_turn(target, type, payload, size);
        }
        if (rv == 0) {
            rv = stream_out_keepalive(&target->out, target->config.times.keepalive_ms);
            rv = rv != 0 ? error_set(&target->err, rv, "receiving: %s", err_text(rv)) : 0;
        }
        if (rv != 0) {
            return rv;
        }
    }
}

/* ---- the decision ------------------------------------------------------------------ */

static int wait_for_go(struct migration_target *target, struct wire_go *ret_go,
                       uint64_t *ret_received_ns)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    uint32_t go_ms = target->config.times.go_ms;
    uint64_t until_ms = clock_now_ms() + go_ms;
    int rv = stream_out_plain(&target->out, WIRE_READY);
    rv = rv != 0
             ? rv
             : stream_in_message(&target->in, go_ms, until_ms, &type, &payload, &size);
    if (rv != 0) {
        return error_set(&target->err, rv, "no go from the source: %s", err_text(rv));
    }
    *ret_received_ns = clock_now_ns();
    if (type != WIRE_GO || wire_go_decode(payload, size, ret_go) != 0) {
        return out_of_turn(target, type, payload, size);
    }
    /* It may have lain here while this process did not run. */
    if (clock_now_ms() >= until_ms) {
        return error_set(&target->err, DROVER_ETIMEDOUT2, "the go came too late");
    }
    if (!gate_decide(&target->gate, GATE_GO)) {
        return error_set(&target->err, DROVER_ECANCELLED,
                         "the go came after the guest was given up");
    }
    return 0;
}

static void tell_figures(struct migration_target *target, const struct wire_go *go,
                         uint64_t entered_us)
{
    uint64_t entry_us = go->one_way_us + entered_us;
    struct migration_status *status = status_board_lock(&target->board);
    status->figures = (struct migration_figures){
        .total_us = go->total_us + entry_us,
        .downtime_us = go->standing_us + entry_us,
        .predicted_downtime_us = go->predicted_downtime_us,
        .bytes_sent = go->bytes_sent,
        .pages_sent = go->pages_sent,
        .pages_zero = go->pages_zero,
        .rounds = go->rounds,
    };
    status_board_unlock(&target->board);
}

static void run(struct migration_target *target, const struct wire_go *go,
                uint64_t received_ns)
{
    struct migration_guest *guest = target->config.guest;
    uint64_t entered_ns = 0;
    /* Whoever sees the guest run must see figures, if only without its entry. */
    tell_figures(target, go, (clock_now_ns() - received_ns) / NS_PER_US);
    guest->ops->start(guest, &entered_ns);
    struct wire_done done = {.entered_us = entered_ns > received_ns
                                               ? (entered_ns - received_ns) / NS_PER_US
                                               : 0};
    done.answer_us = (clock_now_ns() - received_ns) / NS_PER_US;
    CLEANUP(buffer_done) struct buffer frame = {0};
    target->link->ops->set_cancel(target->link, -1);
    if (wire_done_encode(&frame, &done) == 0) {
        /* If the source never hears it, the guest runs here nevertheless. */
        (void)stream_out_frames(&target->out, &frame, NULL);
    }
    tell_figures(target, go, done.entered_us);
    status_board_move(&target->board, MIGRATION_STATE_DONE, NULL);
    guest->ops->announce(guest);
}

static int arrive(struct migration_target *target, struct wire_go *ret_go,
                  uint64_t *ret_received_ns)
{
    status_board_move(&target->board, MIGRATION_STATE_CONNECTING, NULL);
    int rv = arrival_init(&target->arrival, target->config.guest);
    if (rv != 0) {
        return error_set(&target->err, rv, "out of memory");
    }
    rv = wait_for_source(target);
    if (rv != 0) {
        return rv;
    }
    status_board_move(&target->board, MIGRATION_STATE_PRECOPY, NULL);
    rv = receive(target);
    return rv != 0 ? rv : wait_for_go(target, ret_go, ret_received_ns);
}

/* Reads on for a moment: closing with unread input would reset the connection, and lose
 * the reason. */
static void linger(struct migration_target *target)
{
    uint8_t waste[16384];
    struct iovec iov = {.iov_base = waste, .iov_len = sizeof(waste)};
    size_t size;
    uint64_t until_ms = clock_now_ms() + LINGER_MS;
    for (unsigned i = 0; i < LINGER_READS && clock_now_ms() < until_ms; i++) {
        if (target->link->ops->recv(target->link, &iov, 1, LINGER_MS, &size) != 0) {
            return;
        }
    }
}

static void *target_main(void *owner)
{
    struct migration_target *target = owner;
    if (target->config.begun != NULL) {
        target->config.begun(target->config.owner);
    }
    struct wire_go go;
    uint64_t received_ns = 0;
    int rv = arrive(target, &go, &received_ns);
    if (rv == 0) {
        CHECK(gate_get(&target->gate) == GATE_GO);
        run(target, &go, received_ns);
    } else {
        /* Decided before anybody hears of it. */
        bool never = gate_decide(&target->gate, GATE_NEVER);
        CHECK(never && target->err.code != 0);
        target->config.guest->ops->abandon(target->config.guest);
        if (target->link != NULL && !target->out.broken) {
            say(target, WIRE_ABORT);
            linger(target);
        }
        status_board_move(&target->board,
                          rv == DROVER_ECANCELLED ? MIGRATION_STATE_CANCELLED
                                                  : MIGRATION_STATE_FAILED,
                          &target->err);
    }
    close_link(target);
    return NULL;
}

int migration_target_create(const struct migration_target_config *config,
                            struct migration_target **ret_target, struct error *err)
{
    const struct transport_ops *transport = NULL;
    const char *address = NULL;
    int rv = transport_find(config->uri, &transport, &address, err);
    if (rv != 0) {
        return rv;
    }
    transport = config->transport != NULL ? config->transport : transport;
    struct migration_target *target = calloc(1, sizeof(*target));
    if (target == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    target->config = *config;
    target->config.uri = NULL; /* was borrowed */
    target->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rv = target->cancel_fd < 0
             ? error_set(err, -errno, "can't make an eventfd: %s", err_text(-errno))
             : transport->listen(address, &target->listener, err);
    if (rv == 0) {
        rv = status_board_init(&target->board, config->changed, config->owner);
    }
    if (rv != 0) {
        transport_listener_close(target->listener);
        cleanup_fd(&target->cancel_fd);
        free(target);
        return rv;
    }
    *ret_target = target;
    return 0;
}

int migration_target_start(struct migration_target *target)
{
    CHECK(!target->thread_started);
    int rv = -pthread_create(&target->thread, NULL, target_main, target);
    target->thread_started = rv == 0;
    return rv;
}

void migration_target_uri(const struct migration_target *target,
                          char ret_uri[TRANSPORT_URI_SIZE])
{
    target->listener->ops->uri(target->listener, ret_uri);
}

int migration_target_abandon(struct migration_target *target)
{
    if (!gate_decide(&target->gate, GATE_NEVER)) {
        return DROVER_EHANDEDOVER;
    }
    (void)eventfd_write(target->cancel_fd, 1); /* full means that it is readable */
    return 0;
}

bool migration_target_given_up(struct migration_target *target)
{
    return gate_get(&target->gate) == GATE_NEVER;
}

void migration_target_status(struct migration_target *target,
                             struct migration_status *ret_status)
{
    status_board_get(&target->board, ret_status);
}

void migration_target_free(struct migration_target *target)
{
    if (target == NULL) {
        return;
    }
    (void)migration_target_abandon(target); /* or it has ended */
    if (target->thread_started) {
        CHECK(pthread_join(target->thread, NULL) == 0);
    }
    arrival_done(&target->arrival);
    transport_listener_close(target->listener);
    status_board_done(&target->board);
    (void)close(target->cancel_fd); /* an eventfd */
    free(target);
}
