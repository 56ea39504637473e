/* SPDX-License-Identifier: Apache-2.0 */
/* The target waits for its source, and compares what it says. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/placing.h"
#include "migration/target_internal.h"

/* Connections that did not even say a proper hello, before the target gives up: somebody
 * scans ports. */
#define STRANGERS_MAX 64u

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

void target_say(struct migration_target *target, enum wire_type type)
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

static int accept_say(struct migration_target *target, const struct wire_hello *hello)
{
    struct wire_accept accept = {.epoch = target->config.epoch,
                                 .streams_max = MIGRATION_STREAMS_MAX};
    accept.version =
        hello->version_max < WIRE_VERSION ? hello->version_max : WIRE_VERSION;
    target->version = accept.version;
    target->session = hello->session;
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_accept_encode(&frame, &accept);
    rv = rv != 0 ? rv : stream_out_frames(&target->out, &frame, NULL);
    return rv != 0 ? error_set(&target->err, rv, "answering the hello: %s", err_text(rv))
                   : 0;
}

/* The first message of a connection: 0 when it was a proper hello; 1 when it was taken as
 * a data stream, whose hello may still be under way. */
static int greet(struct migration_target *target)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct wire_hello hello;
    struct wire_join join;
    const struct migration_times *times = &target->config.times;
    int rv = stream_in_message(&target->in, times->idle_ms,
                               clock_now_ms() + times->idle_ms, &type, &payload, &size);
    if (rv != 0) {
        return error_set(&target->err, rv, "waiting for a hello: %s", err_text(rv));
    }
    if (type == WIRE_JOIN && wire_join_decode(payload, size, &join) == 0 &&
        arrival_streams_take(&target->streams, &join, target->link, &target->in) == 0) {
        target->link = NULL;
        return 1;
    }
    if (type != WIRE_HELLO || wire_hello_decode(payload, size, &hello) != 0) {
        return error_set(&target->err, DROVER_EMALFORMED,
                         "somebody connected with no proper hello");
    }
    rv = compare(target, &hello);
    if (rv != 0) {
        target_say(target, WIRE_REFUSE);
        return rv;
    }
    arrival_streams_keep(&target->streams, hello.session);
    target->in.places = placing_begin(target->link, target->config.guest, true);
    target->placing += target->in.places;
    struct migration_status *status = status_board_lock(&target->board);
    status->over_rdma = target->link->ops->offer != NULL;
    status_board_unlock(&target->board);
    return accept_say(target, &hello);
}

void target_close_link(struct migration_target *target)
{
    stream_out_done(&target->out);
    stream_in_done(&target->in);
    transport_link_close(target->link);
    target->link = NULL;
}

/* Until somebody has said a proper hello. What others did wrong leaves no trace in the
 * guest. */
int target_greet(struct migration_target *target)
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
        target_close_link(target);
        if (rv == DROVER_ECANCELLED || rv == -ENOMEM) {
            return rv;
        }
    }
    return error_set(&target->err, DROVER_EPEER,
                     "%u connections came, and none with a proper hello", STRANGERS_MAX);
}
