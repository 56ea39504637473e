/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target: takes memory and state, and decides once. How a source is waited for, and
 * judged: target_greet.c.
 */
#include "migration/target.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/placing.h"
#include "migration/target_internal.h"
#include "migration/target_start.h"

/* After an ABORT: how long the source is listened to, so that the reason reaches it
 * before a reset does. */
#define LINGER_MS    100u

/* ---- memory and state -------------------------------------------------------------- */

static uint64_t bytes_received(const struct migration_target *target)
{
    return atomic_load(&target->in.bytes_received) +
           arrival_streams_bytes(&target->streams);
}

/* Until the round has ended on the data streams too. */
static int streams_round_end(struct migration_target *target, uint32_t round)
{
    for (;;) {
        uint32_t keepalive_ms = target->config.times.keepalive_ms;
        int rv = arrival_streams_wait(&target->streams, round, keepalive_ms / 2,
                                      &target->err);
        if (rv != -EAGAIN) {
            return rv;
        }
        if (gate_get(&target->gate) == GATE_NEVER) {
            return error_set(&target->err, DROVER_ECANCELLED, "receiving: cancelled");
        }
        rv = stream_out_keepalive(&target->out, keepalive_ms);
        if (rv != 0) {
            return error_set(&target->err, rv, "receiving: %s", err_text(rv));
        }
    }
}

static int round_end(struct migration_target *target, const uint8_t *payload, size_t size)
{
    struct wire_round round;
    if (wire_round_decode(payload, size, &round) != 0 ||
        !stream_in_round_ended(&target->in, round.round)) {
        return error_set(&target->err, DROVER_EMALFORMED,
                         "the source sent a garbled end of a round");
    }
    int rv = streams_round_end(target, round.round);
    if (rv != 0) {
        return rv;
    }
    round.bytes = bytes_received(target);
    CLEANUP(buffer_done) struct buffer frame = {0};
    rv = wire_round_encode(&frame, WIRE_ROUND_ACK, &round);
    rv = rv != 0 ? rv : stream_out_frames(&target->out, &frame, NULL);
    if (rv != 0) {
        return error_set(&target->err, rv, "confirming a round: %s", err_text(rv));
    }
    struct migration_status *status = status_board_lock(&target->board);
    status->round = round.round;
    status->figures.bytes_sent = round.bytes;
    status->figures.pages_sent = target->arrival.pages_received;
    status_board_unlock(&target->board);
    return 0;
}

static int load(struct migration_target *target, const uint8_t *payload, size_t size)
{
    struct migration_guest *guest = target->config.guest;
    const uint8_t *state;
    size_t state_size;
    /* All memory is there: what a source still wrote would go unseen. */
    arrival_streams_seal(&target->streams);
    if (target->in.places) {
        target->link->ops->seal(target->link);
    }
    uint64_t suspects = arrival_suspects(&target->arrival);
    if (suspects != 0) {
        return error_set(&target->err, DROVER_EMALFORMED,
                         "%" PRIu64 " pages came with a wrong checksum, and not again: is "
                         "the network or a host's memory broken?",
                         suspects);
    }
    if (target->postcopy.begun) {
        return postcopy_target_arrive(&target->postcopy, payload, size);
    }
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

static int streams_open(struct migration_target *target, const uint8_t *payload,
                        size_t size)
{
    unsigned count = 0;
    if (wire_streams_decode(payload, size, &count) != 0) {
        return error_set(&target->err, DROVER_EMALFORMED,
                         "the source sent a garbled number of streams");
    }
    int rv = arrival_streams_start(&target->streams, count - 1, target->session,
                                   target->listener, &target->err);
    target->placing += arrival_streams_placing(&target->streams);
    if (rv == 0) {
        struct migration_status *status = status_board_lock(&target->board);
        status->streams = count;
        status_board_unlock(&target->board);
    }
    return rv;
}

/* The source stops its guest: from here on all comes on the control stream. */
static int handover_begin(struct migration_target *target)
{
    status_board_move(&target->board, MIGRATION_STATE_HANDOVER, NULL);
    return arrival_streams_end(&target->streams, &target->err);
}

/* An error in the words of the source, if it said why. A data stream that fails wakes
 * this thread in the same way as an order to give up does. */
static int receive_failed(struct migration_target *target, int code)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct error err = {0};
    if (gate_get(&target->gate) == GATE_NEVER ||
        arrival_streams_error(&target->streams, &err) == 0) {
        return code;
    }
    target->err = err;
    target->link->ops->set_cancel(target->link, -1);
    for (uint64_t until_ms = clock_now_ms() + LINGER_MS;
         stream_in_message(&target->in, LINGER_MS, until_ms, &type, &payload, &size) ==
         0;) {
        if (type == WIRE_ABORT) {
            return out_of_turn(target, type, payload, size);
        }
        /* Its pages can't be told from messages: they are taken, for nothing. */
        struct error again = {0};
        if (type == WIRE_EXTENT &&
            (target->postcopy.begun ||
             arrival_extent(&target->arrival, payload, size, &target->in, false,
                            LINGER_MS, &again) != 0)) {
            break;
        }
    }
    return err.code;
}

/* Rounds and the handover, until everything is loaded. */
static int receive(struct migration_target *target)
{
    uint32_t idle_ms = target->config.times.idle_ms;
    bool standing = false;
    bool streams_known = target->version < WIRE_VERSION_STREAMS;
    for (;;) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        int rv = stream_in_message(&target->in, idle_ms, 0, &type, &payload, &size);
        if (rv != 0) {
            return error_set(&target->err, rv, "receiving: %s", err_text(rv));
        }
        if (!streams_known && type == WIRE_STREAMS) {
            streams_known = true;
            rv = streams_open(target, payload, size);
        } else if (!streams_known) {
            rv = out_of_turn(target, type, payload, size);
        } else if (type == WIRE_EXTENT && !target->postcopy.begun) {
            rv = arrival_extent(&target->arrival, payload, size, &target->in, standing,
                                idle_ms, &target->err);
        } else if (type == WIRE_PROBE && !standing) {
            rv = probe_answer(&target->probe, target->config.guest, &target->out, payload,
                              size, &target->err);
        } else if (type == WIRE_ROUND_END && !standing) {
            rv = round_end(target, payload, size);
        } else if (type == WIRE_HANDOVER && !standing) {
            standing = true;
            rv = handover_begin(target);
        } else if (type == WIRE_STATE && standing) {
            return load(target, payload, size);
        } else if (postcopy_target_hears(&target->postcopy, type, payload, size, &rv)) {
            /* From now on pages are missing. */
        } else {
            rv = out_of_turn(target, type, payload, size);
        }
        if (rv == 0 && !target->postcopy.begun) { /* then others send, too */
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
    if (rv == 0 && target->config.guest->ops->go_expected != NULL) {
        target->config.guest->ops->go_expected(target->config.guest);
    }
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

static void run(struct migration_target *target, const struct wire_go *go,
                uint64_t received_ns)
{
    struct wire_done done;
    target_guest_start(target->config.guest, &target->board, go, received_ns, &done);
    CLEANUP(buffer_done) struct buffer frame = {0};
    target->link->ops->set_cancel(target->link, -1);
    if (wire_done_encode(&frame, &done) == 0) {
        /* If the source never hears it, the guest runs here nevertheless. */
        (void)stream_out_frames(&target->out, &frame, NULL);
    }
    status_board_move(&target->board, MIGRATION_STATE_DONE, NULL);
    target->config.guest->ops->announce(target->config.guest);
}

static int arrive(struct migration_target *target, struct wire_go *ret_go,
                  uint64_t *ret_received_ns)
{
    status_board_move(&target->board, MIGRATION_STATE_CONNECTING, NULL);
    int rv = arrival_init(&target->arrival, target->config.guest);
    if (rv != 0) {
        return error_set(&target->err, rv, "out of memory");
    }
    rv = target_greet(target);
    if (rv != 0) {
        return rv;
    }
    target->postcopy.session = target->session;
    status_board_move(&target->board, MIGRATION_STATE_PRECOPY, NULL);
    rv = receive(target);
    rv = rv != 0 ? receive_failed(target, rv) : 0;
    return rv != 0 || target->postcopy.begun ? rv
                                             : wait_for_go(target, ret_go, ret_received_ns);
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
        if (target->postcopy.begun) {
            postcopy_target_finish(&target->postcopy);
        } else {
            run(target, &go, received_ns);
        }
    } else {
        /* Decided before anybody hears of it. */
        bool never = gate_decide(&target->gate, GATE_NEVER);
        CHECK(never && target->err.code != 0);
        postcopy_target_never(&target->postcopy);
        target->config.guest->ops->abandon(target->config.guest);
        if (target->link != NULL && !target->out.broken) {
            target_say(target, WIRE_ABORT);
            transport_link_linger(target->link, LINGER_MS);
        }
        status_board_move(&target->board,
                          rv == DROVER_ECANCELLED ? MIGRATION_STATE_CANCELLED
                                                  : MIGRATION_STATE_FAILED,
                          &target->err);
    }
    arrival_streams_stop(&target->streams);
    target_close_link(target);
    placing_end(target->config.guest, target->placing);
    return NULL;
}

static int postcopy_begin(struct migration_target *target)
{
    const struct postcopy_target_config config = {
        .guest = target->config.guest,
        .times = &target->config.times,
        .vm_id = target->config.vm_id,
        .gate = &target->gate,
        .board = &target->board,
        .listener = target->listener,
        .link = &target->link,
        .out = &target->out,
        .in = &target->in,
        .arrival = &target->arrival,
        .placing = &target->placing,
        .cancel_fd = target->cancel_fd,
        .err = &target->err,
    };
    return postcopy_target_init(&target->postcopy, &config);
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
         : config->listener != NULL
             ? 0
             : transport->listen(address, &target->listener, err);
    if (rv == 0) {
        rv = arrival_streams_init(&target->streams, &target->arrival, &config->times,
                                  target->cancel_fd);
        if (rv == 0) {
            rv = status_board_init(&target->board, config->changed, config->owner);
            rv = rv != 0 ? rv : postcopy_begin(target);
            if (rv != 0) {
                arrival_streams_done(&target->streams);
            }
        }
    }
    if (rv != 0) {
        transport_listener_close(target->listener);
        cleanup_fd(&target->cancel_fd);
        free(target);
        return rv;
    }
    target->listener = config->listener != NULL ? config->listener : target->listener;
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

int migration_target_give(struct migration_target *target, int fd)
{
    struct transport_listener *listener = target->listener;
    return listener->ops->give == NULL ? DROVER_EWRONGSTATE
                                       : listener->ops->give(listener, fd);
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

bool migration_target_guest_lost(struct migration_target *target)
{
    struct migration_status status;
    status_board_get(&target->board, &status);
    return status.state == MIGRATION_STATE_FAILED && gate_get(&target->gate) == GATE_GO;
}

int migration_target_lost(struct migration_target *target)
{
    struct migration_status status;
    status_board_get(&target->board, &status);
    if (status.state != MIGRATION_STATE_POSTCOPY || !status.interrupted) {
        return DROVER_EWRONGSTATE;
    }
    postcopy_target_quit(&target->postcopy);
    return 0;
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
    postcopy_target_quit(&target->postcopy);
    if (target->thread_started) {
        CHECK(pthread_join(target->thread, NULL) == 0);
    }
    arrival_streams_done(&target->streams);
    arrival_done(&target->arrival);
    postcopy_target_done(&target->postcopy);
    transport_listener_close(target->listener);
    status_board_done(&target->board);
    (void)close(target->cancel_fd); /* an eventfd */
    free(target);
}
