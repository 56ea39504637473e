/* SPDX-License-Identifier: Apache-2.0 */
/* The target's part of post-copy. */
#include "migration/postcopy_target.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "migration/arrival.h"
#include "migration/gate.h"
#include "migration/status.h"
#include "migration/stream.h"
#include "migration/times.h"
#include "migration/transport.h"

#define WORD_PAGES  64u
#define TELL_PAGES  64u /* the source hears this often how far it got */
#define PUBLISH_MS  100u
#define NS_PER_US   UINT64_C(1000)
#define MEBIBYTE    (UINT64_C(1) << 20)

static void lock_take(pthread_mutex_t *lock)
{
    CHECK(pthread_mutex_lock(lock) == 0);
}

static void lock_give(pthread_mutex_t *lock)
{
    CHECK(pthread_mutex_unlock(lock) == 0);
}

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

/* ---- the link's outward side --------------------------------------------------------- */

/* Whole frames, if there is a link: who receives notices if it breaks. */
static int frames_send(struct postcopy_target *postcopy, const struct buffer *frames)
{
    lock_take(&postcopy->out_lock);
    int rv = postcopy->linked ? stream_out_frames(postcopy->config.out, frames, NULL)
                              : DROVER_ECLOSED;
    lock_give(&postcopy->out_lock);
    return rv;
}

static int plain_send(struct postcopy_target *postcopy, enum wire_type type)
{
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_plain_encode(&frame, type);
    return rv != 0 ? rv : frames_send(postcopy, &frame);
}

static int keepalive_send(struct postcopy_target *postcopy)
{
    lock_take(&postcopy->out_lock);
    int rv = postcopy->linked
                 ? stream_out_keepalive(postcopy->config.out,
                                        postcopy->config.times->keepalive_ms / 2)
                 : DROVER_ECLOSED;
    lock_give(&postcopy->out_lock);
    return rv;
}

static int fetch_send(struct postcopy_target *postcopy, unsigned region, uint64_t page)
{
    struct wire_fetch fetch = {.region = (uint16_t)region, .page = page};
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_fetch_encode(&frame, &fetch);
    return rv != 0 ? rv : frames_send(postcopy, &frame);
}

/* ---- what is missing ------------------------------------------------------------------ */

static int maps_make(struct postcopy_target *postcopy)
{
    struct migration_guest *guest = postcopy->config.guest;
    postcopy->region_count = guest->ops->region_count(guest);
    for (unsigned i = 0; postcopy->staging == NULL && i < postcopy->region_count; i++) {
        struct migration_region where;
        guest->ops->region(guest, i, &where);
        uint64_t page_count = where.size_bytes / MIGRATION_PAGE_SIZE;
        uint64_t words = page_count / WORD_PAGES + 1;
        postcopy->regions[i].page_count = page_count;
        postcopy->regions[i].missing = calloc(words, sizeof(uint64_t));
        postcopy->regions[i].asked = calloc(words, sizeof(uint64_t));
        if (postcopy->regions[i].missing == NULL || postcopy->regions[i].asked == NULL) {
            return -ENOMEM;
        }
    }
    postcopy->staging = aligned_alloc(MIGRATION_PAGE_SIZE, WORD_PAGES * MIGRATION_PAGE_SIZE);
    postcopy->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return postcopy->staging == NULL ? -ENOMEM : postcopy->stop_fd < 0 ? -errno : 0;
}

static bool bit_get(const uint64_t *words, uint64_t bit)
{
    return (words[bit / 64] >> (bit % 64) & 1) != 0;
}

/* Asks for what somebody touches. Memory that is absent and not missing is zero. */
static void *fault_main(void *owner)
{
    struct postcopy_target *postcopy = owner;
    struct migration_guest *guest = postcopy->config.guest;
    unsigned region = 0;
    uint64_t page = 0;
    while (guest->ops->missing_wait(guest, postcopy->stop_fd, &region, &page) == 1) {
        CHECK(region < postcopy->region_count &&
              page < postcopy->regions[region].page_count);
        lock_take(&postcopy->lock);
        bool missing = bit_get(postcopy->regions[region].missing, page);
        bool asked = bit_get(postcopy->regions[region].asked, page);
        if (missing) {
            postcopy->regions[region].asked[page / 64] |= UINT64_C(1) << (page % 64);
        }
        lock_give(&postcopy->lock);
        if (!missing) {
            (void)guest->ops->missing_place(guest, region, page, 1, NULL);
        } else if (!asked) {
            (void)fetch_send(postcopy, region, page); /* or after the link is back */
        }
    }
    return NULL;
}

static void fault_stop(struct postcopy_target *postcopy)
{
    if (postcopy->fault_started) {
        (void)eventfd_write(postcopy->stop_fd, 1); /* full means that it is readable */
        CHECK(pthread_join(postcopy->fault_thread, NULL) == 0);
        postcopy->fault_started = false;
    }
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
    rv = maps_make(postcopy);
    if (rv != 0) {
        return error_set(err, rv, "the target: %s", err_text(rv));
    }
    rv = guest->ops->missing_begin(guest, err);
    if (rv != 0) {
        return rv;
    }
    postcopy->begun = true;
    postcopy->linked = true;
    rv = -pthread_create(&postcopy->fault_thread, NULL, fault_main, postcopy);
    postcopy->fault_started = rv == 0;
    return rv != 0 ? error_set(err, rv, "can't start a thread: %s", err_text(rv)) : 0;
}

static int ask_answer(struct postcopy_target *postcopy)
{
    struct error why = {0};
    struct wire_answer answer = {.code = begin(postcopy, &why)};
    memcpy(answer.reason, why.text, WIRE_REASON_BYTES_MAX);
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_answer_encode(&frame, &answer);
    rv = rv != 0 ? rv : stream_out_frames(postcopy->config.out, &frame, NULL);
    return rv != 0 ? error_set(postcopy->config.err, rv,
                               "answering whether post-copy is possible: %s",
                               err_text(rv))
                   : 0;
}

/* Makes the pages of `fresh` absent that are not yet. */
static int word_add(struct postcopy_target *postcopy, unsigned region, uint64_t word,
                    uint64_t fresh)
{
    struct migration_guest *guest = postcopy->config.guest;
    int rv = 0;
    for (uint64_t bits = fresh; rv == 0 && bits != 0;) {
        unsigned first = (unsigned)__builtin_ctzll(bits);
        uint64_t from = ~(bits >> first);
        unsigned count = from == 0 ? 64 : (unsigned)__builtin_ctzll(from);
        count = count > 64 - first ? 64 - first : count;
        rv = guest->ops->missing_add(guest, region, word * WORD_PAGES + first, count);
        bits &= first + count == 64 ? 0 : UINT64_MAX << (first + count);
    }
    arrival_vacated(postcopy->config.arrival, region, word, fresh);
    lock_take(&postcopy->lock);
    postcopy->regions[region].missing[word] |= fresh;
    postcopy->missing_count += (uint64_t)__builtin_popcountll(fresh);
    lock_give(&postcopy->lock);
    return rv;
}

static int missing_take(struct postcopy_target *postcopy, const uint8_t *payload,
                        size_t size)
{
    struct wire_missing missing;
    bool fits = wire_missing_decode(payload, size, &missing) == 0 &&
                missing.region < postcopy->region_count;
    uint64_t page_count = fits ? postcopy->regions[missing.region].page_count : 0;
    uint64_t words = (page_count + WORD_PAGES - 1) / WORD_PAGES;
    uint64_t first = fits ? missing.first_page / WORD_PAGES : 0;
    if (!fits || first > words || missing.word_count > words - first) {
        return error_set(postcopy->config.err, DROVER_EMALFORMED,
                         "the map of missing memory is malformed");
    }
    for (uint32_t i = 0; i < missing.word_count; i++) {
        uint64_t word = wire_missing_word(&missing, i);
        uint64_t past = (first + i + 1) * WORD_PAGES;
        if (past > page_count) {
            word &= UINT64_MAX >> (past - page_count);
        }
        word &= ~postcopy->regions[missing.region].missing[first + i];
        int rv = word == 0 ? 0 : word_add(postcopy, missing.region, first + i, word);
        if (rv != 0) {
            return error_set(postcopy->config.err, rv, "making memory absent: %s",
                             err_text(rv));
        }
    }
    return 0;
}

bool postcopy_target_hears(struct postcopy_target *postcopy, enum wire_type type,
                           const uint8_t *payload, size_t size, int *ret_result)
{
    if (type == WIRE_POSTCOPY_ASK && !postcopy->begun) {
        *ret_result = ask_answer(postcopy);
    } else if (type == WIRE_MISSING && postcopy->begun) {
        *ret_result = missing_take(postcopy, payload, size);
    } else {
        return false;
    }
    return true;
}

/* ---- pages ---------------------------------------------------------------------------- */

/* Places the runs of `mask`; `data` (NULL: zeros) has the pages of `all` in order. */
static int mask_place(struct postcopy_target *postcopy, const struct wire_pages *pages,
                      uint64_t all, uint64_t mask, const uint8_t *data)
{
    struct migration_guest *guest = postcopy->config.guest;
    int rv = 0;
    while (rv == 0 && mask != 0) {
        unsigned first = (unsigned)__builtin_ctzll(mask);
        uint64_t from = ~(mask >> first);
        unsigned count = from == 0 ? 64 : (unsigned)__builtin_ctzll(from);
        count = count > 64 - first ? 64 - first : count;
        uint64_t before = first == 0 ? 0 : all & (UINT64_MAX >> (64 - first));
        const uint8_t *at =
            data == NULL ? NULL
                         : data + (size_t)__builtin_popcountll(before) * MIGRATION_PAGE_SIZE;
        rv = guest->ops->missing_place(guest, pages->region, pages->first_page + first,
                                       count, at);
        mask &= first + count == 64 ? 0 : UINT64_MAX << (first + count);
    }
    return rv;
}

static int placed_tell(struct postcopy_target *postcopy)
{
    if (postcopy->placed < postcopy->placed_told + TELL_PAGES) {
        return 0;
    }
    postcopy->placed_told = postcopy->placed;
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_placed_encode(&frame, postcopy->placed);
    return rv != 0 ? rv : frames_send(postcopy, &frame);
}

static uint64_t missing_left(struct postcopy_target *postcopy)
{
    lock_take(&postcopy->lock);
    uint64_t count = postcopy->missing_count;
    lock_give(&postcopy->lock);
    return count;
}

/* How far it is. The figures of the go are the runner's to tell, until it has ended. */
static void after_tell(struct postcopy_target *postcopy, bool now)
{
    uint64_t now_ms = clock_now_ms();
    if (!now && now_ms < postcopy->after.told_ms + PUBLISH_MS) {
        return;
    }
    postcopy->after.told_ms = now_ms;
    uint64_t left = missing_left(postcopy);
    struct migration_status *status = status_board_lock(postcopy->config.board);
    status->bytes_remaining = left * MIGRATION_PAGE_SIZE;
    status_board_unlock(postcopy->config.board);
}

/* Takes a PAGES message and the pages behind it. */
static int pages_take(struct postcopy_target *postcopy, const uint8_t *payload, size_t size)
{
    struct wire_pages pages;
    if (wire_pages_decode(payload, size, &pages) != 0 ||
        pages.region >= postcopy->region_count) {
        return DROVER_EMALFORMED;
    }
    uint64_t page_count = postcopy->regions[pages.region].page_count;
    uint64_t all = pages.data | pages.zero;
    unsigned last = 63 - (unsigned)__builtin_clzll(all);
    if (pages.first_page >= page_count || last >= page_count - pages.first_page) {
        return DROVER_EMALFORMED;
    }
    size_t bytes = (size_t)__builtin_popcountll(pages.data) * MIGRATION_PAGE_SIZE;
    struct iovec iov = {.iov_base = postcopy->staging, .iov_len = bytes};
    int rv = bytes == 0 ? 0
                        : stream_in_pages(postcopy->config.in, &iov, 1,
                                          postcopy->config.times->idle_ms);
    if (rv == 0 && postcopy->crc32c(0, postcopy->staging, bytes) != pages.crc) {
        rv = DROVER_EMALFORMED;
    }
    /* Only this thread forgets what is missing: what is not has come, or was never lost. */
    uint64_t word = pages.first_page / WORD_PAGES;
    uint64_t missing = postcopy->regions[pages.region].missing[word];
    rv = rv != 0 ? rv
                 : mask_place(postcopy, &pages, pages.data, pages.data & missing,
                              postcopy->staging);
    rv = rv != 0 ? rv
                 : mask_place(postcopy, &pages, pages.zero, pages.zero & missing, NULL);
    if (rv != 0) {
        return rv;
    }
    lock_take(&postcopy->lock);
    postcopy->regions[pages.region].missing[word] &= ~all;
    postcopy->regions[pages.region].asked[word] &= ~all;
    postcopy->missing_count -= (uint64_t)__builtin_popcountll(all & missing);
    lock_give(&postcopy->lock);
    postcopy->placed += (uint64_t)__builtin_popcountll(all);
    if (postcopy->runner.received_ns != 0) {
        postcopy->after.data += (unsigned)__builtin_popcountll(pages.data & missing);
        postcopy->after.zero += (unsigned)__builtin_popcountll(pages.zero & missing);
        postcopy->after.bytes += size + bytes;
        after_tell(postcopy, false);
    }
    return placed_tell(postcopy);
}

/* ---- load and start -------------------------------------------------------------------- */

static int state_load(struct postcopy_target *postcopy)
{
    struct migration_guest *guest = postcopy->config.guest;
    int rv = guest->ops->load(guest, postcopy->runner.state, postcopy->runner.state_size,
                              &postcopy->runner.err);
    return rv != 0 ? rv : guest->ops->claim(guest, &postcopy->runner.err);
}

static void guest_run(struct postcopy_target *postcopy)
{
    struct migration_guest *guest = postcopy->config.guest;
    uint64_t received_ns = postcopy->runner.received_ns;
    const struct wire_go *go = &postcopy->runner.order;
    uint64_t entered_ns = 0;
    /* Whoever sees the guest run must see figures, if only without its entry. */
    target_figures_tell(postcopy->config.board, go,
                        (clock_now_ns() - received_ns) / NS_PER_US);
    guest->ops->start(guest, &entered_ns);
    struct wire_done done = {.entered_us = entered_ns > received_ns
                                               ? (entered_ns - received_ns) / NS_PER_US
                                               : 0};
    done.answer_us = (clock_now_ns() - received_ns) / NS_PER_US;
    CLEANUP(buffer_done) struct buffer frame = {0};
    if (wire_done_encode(&frame, &done) == 0) {
        /* If the source never hears it, the guest runs here nevertheless. */
        (void)frames_send(postcopy, &frame);
    }
    target_figures_tell(postcopy->config.board, go, done.entered_us);
    status_board_move(postcopy->config.board, MIGRATION_STATE_POSTCOPY, NULL);
    guest->ops->announce(guest);
}

static void *runner_main(void *owner)
{
    struct postcopy_target *postcopy = owner;
    int rv = state_load(postcopy);
    if (rv == 0) {
        lock_take(&postcopy->lock);
        postcopy->runner.ready_ms = clock_now_ms();
        postcopy->runner.ready = true;
        lock_give(&postcopy->lock);
        (void)plain_send(postcopy, WIRE_READY); /* if it gets lost, no go will come */
    }
    lock_take(&postcopy->lock);
    if (rv != 0) {
        postcopy->runner.failed = true;
        (void)eventfd_write(postcopy->config.cancel_fd, 1); /* the engine's thread looks */
    }
    while (!postcopy->runner.go && !postcopy->runner.never) {
        CHECK(pthread_cond_wait(&postcopy->runner.decided, &postcopy->lock) == 0);
    }
    bool go = postcopy->runner.go;
    lock_give(&postcopy->lock);
    if (go) {
        guest_run(postcopy);
    }
    return NULL;
}

static void runner_decide(struct postcopy_target *postcopy, bool go)
{
    lock_take(&postcopy->lock);
    postcopy->runner.go = go;
    postcopy->runner.never = !go;
    CHECK(pthread_cond_signal(&postcopy->runner.decided) == 0);
    lock_give(&postcopy->lock);
}

static void runner_join(struct postcopy_target *postcopy)
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

/* ---- until the go ---------------------------------------------------------------------- */

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
        int rv = pages_take(postcopy, payload, size);
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
    lock_take(&postcopy->lock);
    *ret_ready_ms = postcopy->runner.ready ? postcopy->runner.ready_ms : 0;
    bool failed = postcopy->runner.failed;
    lock_give(&postcopy->lock);
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

/* Nothing came for too long. */
static bool is_silent(struct postcopy_target *postcopy)
{
    uint64_t now_ms = clock_now_ms();
    if (postcopy->config.in->bytes_received != postcopy->heard_bytes) {
        postcopy->heard_bytes = postcopy->config.in->bytes_received;
        postcopy->heard_ms = now_ms;
    }
    return now_ms >= postcopy->heard_ms + postcopy->config.times->idle_ms;
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
        int message = stream_in_message(postcopy->config.in, slice_ms, 0, &type, &payload,
                                        &size);
        int rv = runner_look(postcopy, &ready_ms);
        if (rv != 0) {
            return rv;
        }
        if (message == 0) {
            rv = before_go_take(postcopy, type, payload, size, ready_ms);
        } else if (message != DROVER_ETIMEDOUT2 || is_silent(postcopy)) {
            rv = error_set(postcopy->config.err, message, "no go from the source: %s",
                           err_text(message));
        }
        if (rv != 0) {
            return rv;
        }
    }
}

int postcopy_target_arrive(struct postcopy_target *postcopy, const uint8_t *payload,
                           size_t size)
{
    int rv = runner_start(postcopy, payload, size);
    rv = rv != 0 ? rv : go_wait(postcopy);
    if (rv == 1) {
        runner_decide(postcopy, true);
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
    fault_stop(postcopy);
    postcopy->config.guest->ops->missing_end(postcopy->config.guest);
    runner_decide(postcopy, false);
    runner_join(postcopy);
}

/* ---- after the go ----------------------------------------------------------------------- */

/* As long as the link holds; 0 when all is here. */
static int serve(struct postcopy_target *postcopy)
{
    uint32_t slice_ms = postcopy->config.times->keepalive_ms / 2;
    postcopy->heard_ms = clock_now_ms();
    while (missing_left(postcopy) > 0) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        int rv = stream_in_message(postcopy->config.in, slice_ms, 0, &type, &payload,
                                   &size);
        bool silent = is_silent(postcopy);
        if (rv == 0) {
            rv = type == WIRE_PAGES ? pages_take(postcopy, payload, size)
                                    : DROVER_EMALFORMED;
        } else if (rv == DROVER_ETIMEDOUT2 && !silent) {
            rv = 0;
        }
        rv = rv != 0 ? rv : keepalive_send(postcopy);
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static void link_drop(struct postcopy_target *postcopy)
{
    lock_take(&postcopy->out_lock);
    postcopy->linked = false;
    if (*postcopy->config.link != NULL) {
        stream_out_done(postcopy->config.out);
        stream_in_done(postcopy->config.in);
        transport_link_close(*postcopy->config.link);
        *postcopy->config.link = NULL;
    }
    lock_give(&postcopy->out_lock);
}

/* Under out_lock. What is missing, then what is waited for. */
static int maps_send(struct postcopy_target *postcopy)
{
    struct stream_out *out = postcopy->config.out;
    int rv = 0;
    for (unsigned i = 0; i < postcopy->region_count; i++) {
        uint64_t words = (postcopy->regions[i].page_count + WORD_PAGES - 1) / WORD_PAGES;
        for (uint64_t at = 0; rv == 0 && at < words; at += WIRE_MISSING_WORDS_MAX) {
            uint64_t count = words - at;
            count = count < WIRE_MISSING_WORDS_MAX ? count : WIRE_MISSING_WORDS_MAX;
            CLEANUP(buffer_done) struct buffer frame = {0};
            rv = wire_missing_encode(&frame, (uint16_t)i, at * WORD_PAGES,
                                     postcopy->regions[i].missing + at, (uint32_t)count);
            rv = rv != 0 ? rv : stream_out_frames(out, &frame, NULL);
        }
    }
    return rv != 0 ? rv : stream_out_plain(out, WIRE_RESUMED);
}

static int asked_send(struct postcopy_target *postcopy)
{
    int rv = 0;
    for (unsigned i = 0; i < postcopy->region_count; i++) {
        uint64_t words = (postcopy->regions[i].page_count + WORD_PAGES - 1) / WORD_PAGES;
        for (uint64_t word = 0; rv == 0 && word < words; word++) {
            lock_take(&postcopy->lock);
            uint64_t bits =
                postcopy->regions[i].asked[word] & postcopy->regions[i].missing[word];
            lock_give(&postcopy->lock);
            for (; rv == 0 && bits != 0; bits &= bits - 1) {
                rv = fetch_send(postcopy, i,
                                word * WORD_PAGES + (unsigned)__builtin_ctzll(bits));
            }
        }
    }
    return rv;
}

/* The link is new; whoever is behind it shall be our source. */
static int resume_greet(struct postcopy_target *postcopy)
{
    const struct postcopy_target_config *config = &postcopy->config;
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    struct wire_resume resume;
    int rv = stream_out_init(config->out, *config->link, config->times->idle_ms);
    rv = rv != 0 ? rv : stream_in_init(config->in, *config->link);
    rv = rv != 0 ? rv
                 : stream_in_message(config->in, config->times->idle_ms,
                                     clock_now_ms() + config->times->idle_ms, &type,
                                     &payload, &size);
    if (rv == 0 &&
        (type != WIRE_RESUME || wire_resume_decode(payload, size, &resume) != 0 ||
         resume.vm_id != config->vm_id || resume.session != postcopy->session)) {
        rv = DROVER_EPEER;
    }
    if (rv != 0) {
        return rv;
    }
    postcopy->placed = postcopy->placed_told = 0;
    postcopy->heard_bytes = 0;
    lock_take(&postcopy->out_lock);
    rv = maps_send(postcopy);
    postcopy->linked = rv == 0;
    lock_give(&postcopy->out_lock);
    return rv != 0 ? rv : asked_send(postcopy);
}

/* Until there is a link again: 0, or DROVER_ECANCELLED. */
static int link_wait(struct postcopy_target *postcopy)
{
    const struct postcopy_target_config *config = &postcopy->config;
    while (!atomic_load(&postcopy->quit)) {
        int rv = config->listener->ops->accept(config->listener, config->cancel_fd,
                                               UINT32_MAX, config->times->idle_ms,
                                               config->link);
        if (rv == DROVER_ECANCELLED) {
            break;
        }
        if (rv != 0) {
            /* Out of descriptors, perhaps: later. */
            (void)poll(NULL, 0, (int)config->times->keepalive_ms);
            continue;
        }
        if (resume_greet(postcopy) == 0) {
            return 0;
        }
        link_drop(postcopy);
    }
    return DROVER_ECANCELLED;
}

static void interrupted_tell(struct postcopy_target *postcopy, int error)
{
    struct status_board *board = postcopy->config.board;
    struct migration_status *status = status_board_lock(board);
    status->interrupted = error != 0;
    status->error = (struct error){0};
    if (error != 0) {
        (void)error_set(&status->error, error, "the connection to the source is lost: %s",
                        err_text(error));
    }
    status_board_unlock(board);
    if (board->changed != NULL) {
        board->changed(board->owner);
    }
}

/* All is here: the guest needs nobody any more. */
static void complete(struct postcopy_target *postcopy)
{
    struct migration_guest *guest = postcopy->config.guest;
    runner_join(postcopy);
    fault_stop(postcopy);
    guest->ops->missing_end(guest);
    after_tell(postcopy, true);
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
    runner_join(postcopy);
    fault_stop(postcopy);
    /* Who waits for memory waits on: nothing may run with other memory than its own. */
    (void)error_set(&err, DROVER_ECLOSED,
                    "the source is gone, and %" PRIu64
                    " MiB of the guest's memory with it: start the VM again",
                    (missing_left(postcopy) * MIGRATION_PAGE_SIZE + MEBIBYTE - 1) / MEBIBYTE);
    status_board_move(postcopy->config.board, MIGRATION_STATE_FAILED, &err);
}

/* The source shall know that it may forget the guest. */
static int confirm(struct postcopy_target *postcopy)
{
    enum wire_type type;
    const uint8_t *payload;
    size_t size;
    const struct migration_times *times = postcopy->config.times;
    int rv = plain_send(postcopy, WIRE_COMPLETE);
    while (rv == 0) {
        rv = stream_in_message(postcopy->config.in, times->idle_ms,
                               clock_now_ms() + times->idle_ms, &type, &payload, &size);
        if (rv == 0 && type == WIRE_COMPLETE) {
            return 0;
        }
        if (rv == 0 && type == WIRE_PAGES) {
            rv = pages_take(postcopy, payload, size); /* sent twice; all are there */
        }
    }
    return rv;
}

void postcopy_target_finish(struct postcopy_target *postcopy)
{
    int rv = serve(postcopy);
    while (rv != 0) {
        link_drop(postcopy);
        interrupted_tell(postcopy, rv);
        if (link_wait(postcopy) != 0) {
            lost(postcopy);
            return;
        }
        interrupted_tell(postcopy, 0);
        rv = serve(postcopy);
    }
    complete(postcopy);
    while (confirm(postcopy) != 0) {
        link_drop(postcopy);
        if (link_wait(postcopy) != 0) {
            return;
        }
    }
}


void postcopy_target_quit(struct postcopy_target *postcopy)
{
    atomic_store(&postcopy->quit, true);
    (void)eventfd_write(postcopy->config.cancel_fd, 1); /* full means that it is readable */
}
