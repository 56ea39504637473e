/* SPDX-License-Identifier: Apache-2.0 */
/* The target's part of post-copy, from the question whether it can to the last page. */
#include "migration/postcopy_target.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/gate.h"
#include "migration/postcopy_target_internal.h"
#include "migration/status.h"
#include "migration/stream.h"
#include "migration/times.h"

#define NS_PER_US UINT64_C(1000)
#define MEBIBYTE  (UINT64_C(1) << 20)

int postcopy_target_init(struct postcopy_target *postcopy,
                         const struct postcopy_target_config *config)
{
    *postcopy = (struct postcopy_target){
        .config = *config, .crc32c = crc32c_pick(), .stop_fd = -1};
    int rv = -pthread_mutex_init(&postcopy->lock, NULL);
    rv = rv != 0 ? rv : -pthread_mutex_init(&postcopy->out_lock, NULL);
    return rv != 0 ? rv : -pthread_cond_init(&postcopy->runner.decided, NULL);
}

void postcopy_target_done(struct postcopy_target *postcopy)
{
    for (unsigned i = 0; i < MIGRATION_REGIONS_MAX; i++) {
        free(postcopy->regions[i].missing);
        free(postcopy->regions[i].asked);
    }
    free(postcopy->staging);
    free(postcopy->runner.state);
    cleanup_fd(&postcopy->stop_fd);
    /* Nobody uses these any more. */
    (void)pthread_cond_destroy(&postcopy->runner.decided);
    (void)pthread_mutex_destroy(&postcopy->out_lock);
    (void)pthread_mutex_destroy(&postcopy->lock);
}

/* From here on pages may be absent, and whoever touches one waits. */
static int begin(struct postcopy_target *postcopy, struct error *err)
{
    struct migration_guest *guest = postcopy->config.guest;
    if (guest->ops->missing_possible == NULL) {
        return error_set(err, DROVER_EWRONGSTATE, "the target can't do it");
    }
    if (*postcopy->config.placing != 0) {
        return error_set(err, DROVER_EWRONGSTATE,
                         "an RDMA device has the target's memory registered");
    }
    int rv = guest->ops->missing_possible(guest, err);
    if (rv != 0) {
        return rv;
    }
    return postcopy_missing_begin(postcopy, err);
}

static int ask_answer(struct postcopy_target *postcopy)
{
    struct error why = {0};
    struct wire_answer answer = {.code = begin(postcopy, &why)};
    memcpy(answer.reason, why.text, WIRE_REASON_BYTES_MAX);
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_answer_encode(&frame, &answer);
    rv = rv != 0 ? rv : stream_out_frames(postcopy->config.out, &frame, NULL);
    return rv != 0
               ? error_set(postcopy->config.err, rv,
                           "answering whether post-copy is possible: %s", err_text(rv))
               : 0;
}

bool postcopy_target_hears(struct postcopy_target *postcopy, enum wire_type type,
                           const uint8_t *payload, size_t size, int *ret_result)
{
    if (type == WIRE_POSTCOPY_ASK && !postcopy->begun) {
        *ret_result = ask_answer(postcopy);
    } else if (type == WIRE_MISSING && postcopy->begun) {
        *ret_result = postcopy_missing_take(postcopy, payload, size);
    } else {
        return false;
    }
    return true;
}

/* ---- until the go ---- */

int postcopy_target_arrive(struct postcopy_target *postcopy, const uint8_t *payload,
                           size_t size)
{
    int rv = postcopy_runner_arrive(postcopy, payload, size);
    if (rv == 1) {
        postcopy_runner_decide(postcopy, true);
        return 0;
    }
    return rv;
}

void postcopy_target_never(struct postcopy_target *postcopy)
{
    CHECK(gate_get(postcopy->config.gate) == GATE_NEVER);
    if (!postcopy->begun) {
        return;
    }
    postcopy_faults_stop(postcopy);
    postcopy->config.guest->ops->missing_end(postcopy->config.guest);
    postcopy_runner_decide(postcopy, false);
    postcopy_runner_join(postcopy);
}

/* ---- after the go ---- */

/* As long as the link holds; 0 when all is here. */
static int serve(struct postcopy_target *postcopy)
{
    uint32_t slice_ms = postcopy->config.times->keepalive_ms / 2;
    postcopy->heard_ms = clock_now_ms();
    while (postcopy_missing_left(postcopy) > 0) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        int rv =
            stream_in_message(postcopy->config.in, slice_ms, 0, &type, &payload, &size);
        bool silent = postcopy_link_silent(postcopy);
        if (rv == 0) {
            rv = type == WIRE_PAGES ? postcopy_pages_take(postcopy, payload, size)
                                    : DROVER_EMALFORMED;
        } else if (rv == DROVER_ETIMEDOUT2 && !silent) {
            rv = 0;
        }
        rv = rv != 0 ? rv : postcopy_link_keepalive(postcopy);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static void interrupted_tell(struct postcopy_target *postcopy, int error)
{
    struct error err;
    (void)error_set(&err, error, "the connection to the source is lost: %s",
                    err_text(error));
    status_board_interrupt(postcopy->config.board, &err);
}

/* All is here: the guest needs nobody any more. */
static void complete(struct postcopy_target *postcopy)
{
    struct migration_guest *guest = postcopy->config.guest;
    postcopy_runner_join(postcopy);
    postcopy_faults_stop(postcopy);
    guest->ops->missing_end(guest);
    postcopy_pages_tell(postcopy, true);
    struct migration_status *status = status_board_lock(postcopy->config.board);
    status->figures.total_us +=
        (clock_now_ns() - postcopy->runner.received_ns) / NS_PER_US;
    status->figures.pages_sent += postcopy->after.data;
    status->figures.pages_zero += postcopy->after.zero;
    status->figures.bytes_sent += postcopy->after.bytes;
    status->figures.postcopy_pages = postcopy->after.data + postcopy->after.zero;
    status->interrupted = false;
    status_board_unlock(postcopy->config.board);
    status_board_move(postcopy->config.board, MIGRATION_STATE_DONE, NULL);
}

static void lost(struct postcopy_target *postcopy)
{
    struct error err;
    postcopy_runner_join(postcopy);
    postcopy_faults_stop(postcopy);
    /* Who waits for memory waits on: nothing may run with other memory than its own. */
    (void)error_set(
        &err, DROVER_ECLOSED,
        "the source is gone, and %" PRIu64
        " MiB of the guest's memory with it: start the VM again",
        (postcopy_missing_left(postcopy) * MIGRATION_PAGE_SIZE + MEBIBYTE - 1) /
            MEBIBYTE);
    status_board_move(postcopy->config.board, MIGRATION_STATE_FAILED, &err);
}

/* The source shall know that it may forget the guest. */
static int confirm(struct postcopy_target *postcopy)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    const struct migration_times *times = postcopy->config.times;
    int rv = postcopy_link_plain(postcopy, WIRE_COMPLETE);
    while (rv == 0) {
        rv = stream_in_message(postcopy->config.in, times->idle_ms,
                               clock_now_ms() + times->idle_ms, &type, &payload, &size);
        if (rv == 0 && type == WIRE_COMPLETE) {
            return 0;
        }
        if (rv == 0 && type == WIRE_PAGES) {
            rv = postcopy_pages_take(postcopy, payload,
                                     size); /* sent twice; all are there */
        }
    }
    return rv;
}

void postcopy_target_finish(struct postcopy_target *postcopy)
{
    int rv = serve(postcopy);
    while (rv != 0) {
        postcopy_link_drop(postcopy);
        interrupted_tell(postcopy, rv);
        if (postcopy_link_wait(postcopy) != 0) {
            lost(postcopy);
            return;
        }
        status_board_interrupt(postcopy->config.board, NULL);
        rv = serve(postcopy);
    }
    complete(postcopy);
    while (confirm(postcopy) != 0) {
        postcopy_link_drop(postcopy);
        if (postcopy_link_wait(postcopy) != 0) {
            return;
        }
    }
}

void postcopy_target_quit(struct postcopy_target *postcopy)
{
    atomic_store(&postcopy->quit, true);
    (void)eventfd_write(postcopy->config.cancel_fd,
                        1); /* full means that it is readable */
}
