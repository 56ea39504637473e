/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest whose memory is not all here: a thread loads its devices' state and starts it,
 * as both may touch what is missing, while the engine's goes on placing pages, and waits
 * for the go.
 */
#include "migration/postcopy_target_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/gate.h"
#include "migration/status.h"
#include "migration/stream.h"
#include "migration/target_start.h"
#include "migration/times.h"

static int state_load(struct postcopy_target *postcopy)
{
    struct migration_guest *guest = postcopy->config.guest;
    int rv = guest->ops->load(guest, postcopy->runner.state, postcopy->runner.state_size,
                              &postcopy->runner.err);
    return rv != 0 ? rv : guest->ops->claim(guest, &postcopy->runner.err);
}

static void guest_run(struct postcopy_target *postcopy)
{
    struct wire_done done;
    target_guest_start(postcopy->config.guest, postcopy->config.board,
                       &postcopy->runner.order, postcopy->runner.received_ns, &done);
    CLEANUP(buffer_done) struct buffer frame = {0};
    if (wire_done_encode(&frame, &done) == 0) {
        /* If the source never hears it, the guest runs here nevertheless. */
        (void)postcopy_link_send(postcopy, &frame);
    }
    status_board_move(postcopy->config.board, MIGRATION_STATE_POSTCOPY, NULL);
    postcopy->config.guest->ops->announce(postcopy->config.guest);
}

static void *runner_main(void *owner)
{
    struct postcopy_target *postcopy = owner;
    int rv = state_load(postcopy);
    if (rv == 0) {
        postcopy_lock(&postcopy->lock);
        postcopy->runner.ready_ms = clock_now_ms();
        postcopy->runner.ready = true;
        postcopy_unlock(&postcopy->lock);
        (void)postcopy_link_plain(postcopy,
                                  WIRE_READY); /* if it gets lost, no go will come */
    }
    postcopy_lock(&postcopy->lock);
    if (rv != 0) {
        postcopy->runner.failed = true;
        (void)eventfd_write(postcopy->config.cancel_fd,
                            1); /* the engine's thread looks */
    }
    while (!postcopy->runner.go && !postcopy->runner.never) {
        CHECK(pthread_cond_wait(&postcopy->runner.decided, &postcopy->lock) == 0);
    }
    bool go = postcopy->runner.go;
    postcopy_unlock(&postcopy->lock);
    if (go) {
        guest_run(postcopy);
    }
    return NULL;
}

void postcopy_runner_decide(struct postcopy_target *postcopy, bool go)
{
    postcopy_lock(&postcopy->lock);
    postcopy->runner.go = go;
    postcopy->runner.never = !go;
    CHECK(pthread_cond_signal(&postcopy->runner.decided) == 0);
    postcopy_unlock(&postcopy->lock);
}

void postcopy_runner_join(struct postcopy_target *postcopy)
{
    if (postcopy->runner.started) {
        CHECK(pthread_join(postcopy->runner.thread, NULL) == 0);
        postcopy->runner.started = false;
    }
}

static int runner_start(struct postcopy_target *postcopy, const uint8_t *payload,
                        size_t size)
{
    const uint8_t *state;
    size_t state_size;
    struct error *err = postcopy->config.err;
    if (wire_state_decode(payload, size, &state, &state_size) != 0) {
        return error_set(err, DROVER_EMALFORMED, "the devices' state is garbled");
    }
    postcopy->runner.state = malloc(state_size + 1);
    if (postcopy->runner.state == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    memcpy(postcopy->runner.state, state, state_size);
    postcopy->runner.state_size = state_size;
    int rv = -pthread_create(&postcopy->runner.thread, NULL, runner_main, postcopy);
    postcopy->runner.started = rv == 0;
    return rv != 0 ? error_set(err, rv, "can't start a thread: %s", err_text(rv)) : 0;
}

/* 1: the go was obeyed. */
static int go_take(struct postcopy_target *postcopy, const uint8_t *payload, size_t size,
                   uint64_t ready_ms)
{
    struct error *err = postcopy->config.err;
    struct wire_go go;
    if (ready_ms == 0 || wire_go_decode(payload, size, &go) != 0) {
        return error_set(err, DROVER_EMALFORMED, "the source sent something out of turn");
    }
    /* It may have lain here while this process did not run. */
    if (clock_now_ms() >= ready_ms + postcopy->config.times->go_ms) {
        return error_set(err, DROVER_ETIMEDOUT2, "the go came too late");
    }
    if (!gate_decide(postcopy->config.gate, GATE_GO)) {
        return error_set(err, DROVER_ECANCELLED,
                         "the go came after the guest was given up");
    }
    postcopy->runner.order = go;
    postcopy->runner.received_ns = clock_now_ns();
    return 1;
}

static int before_go_take(struct postcopy_target *postcopy, enum wire_type type,
                          const uint8_t *payload, size_t size, uint64_t ready_ms)
{
    struct error *err = postcopy->config.err;
    struct wire_refusal refusal;
    switch (type) {
    case WIRE_PAGES: {
        int rv = postcopy_pages_take(postcopy, payload, size);
        return rv != 0 ? error_set(err, rv, "receiving memory: %s", err_text(rv)) : 0;
    }
    case WIRE_GO:
        return go_take(postcopy, payload, size, ready_ms);
    case WIRE_ABORT:
        if (wire_refusal_decode(payload, size, &refusal) == 0) {
            return error_set(err, refusal.code, "the source gave up: %s", refusal.reason);
        }
        break;
    default:
        break;
    }
    return error_set(err, DROVER_EMALFORMED, "the source sent something out of turn");
}

/* 0 as long as the go may come; when READY was sent, if it was. */
static int runner_look(struct postcopy_target *postcopy, uint64_t *ret_ready_ms)
{
    postcopy_lock(&postcopy->lock);
    *ret_ready_ms = postcopy->runner.ready ? postcopy->runner.ready_ms : 0;
    bool failed = postcopy->runner.failed;
    postcopy_unlock(&postcopy->lock);
    if (failed) {
        *postcopy->config.err = postcopy->runner.err;
        return postcopy->runner.err.code;
    }
    if (*ret_ready_ms != 0 &&
        clock_now_ms() >= *ret_ready_ms + postcopy->config.times->go_ms) {
        return error_set(postcopy->config.err, DROVER_ETIMEDOUT2,
                         "no go from the source: %s", err_text(DROVER_ETIMEDOUT2));
    }
    return 0;
}

static int go_wait(struct postcopy_target *postcopy)
{
    uint32_t slice_ms = postcopy->config.times->keepalive_ms / 2;
    postcopy->heard_ms = clock_now_ms();
    for (;;) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        uint64_t ready_ms = 0;
        int message =
            stream_in_message(postcopy->config.in, slice_ms, 0, &type, &payload, &size);
        int rv = runner_look(postcopy, &ready_ms);
        if (rv != 0) {
            return rv;
        }
        if (message == 0) {
            rv = before_go_take(postcopy, type, payload, size, ready_ms);
        } else if (message != DROVER_ETIMEDOUT2 || postcopy_link_silent(postcopy)) {
            rv = error_set(postcopy->config.err, message, "no go from the source: %s",
                           err_text(message));
        }
        if (rv != 0) {
            return rv;
        }
    }
}

int postcopy_runner_arrive(struct postcopy_target *postcopy, const uint8_t *payload,
                           size_t size)
{
    int rv = runner_start(postcopy, payload, size);
    return rv != 0 ? rv : go_wait(postcopy);
}
