/* SPDX-License-Identifier: Apache-2.0 */
/* The source's part of post-copy. One thread: what the target asks for is looked at
 * between two blocks of the background. */
#include "migration/postcopy_source.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/source_internal.h"
#include "migration/wire_postcopy.h"

#define WORD_PAGES 64u
/* What comes along with a page that somebody waits for: the rest of its 64 KiB. */
#define NEIGHBOURS 16u
/* Pages that may be on their way in the background: what is asked for waits behind them. */
#define WINDOW_PAGES 256u
#define PUBLISH_MS   100u
#define NS_PER_US    UINT64_C(1000)

int postcopy_source_init(struct migration_source *source, bool connects)
{
    struct postcopy_source *postcopy = &source->postcopy;
    postcopy->connects = connects;
    postcopy->is_zero = zero_page_pick();
    postcopy->crc32c = crc32c_pick();
    postcopy->orders.link_fd = -1;
    return -pthread_mutex_init(&postcopy->orders.lock, NULL);
}

void postcopy_source_done(struct migration_source *source)
{
    struct postcopy_source *postcopy = &source->postcopy;
    for (unsigned i = 0; i < MIGRATION_REGIONS_MAX; i++) {
        free(postcopy->told[i]);
    }
    cleanup_fd(&postcopy->orders.link_fd);
    (void)pthread_mutex_destroy(&postcopy->orders.lock); /* nobody uses it any more */
}

/* ---- before the go ------------------------------------------------------------------ */

static uint64_t words_of(const struct pages_region *region)
{
    return (region->page_count + WORD_PAGES - 1) / WORD_PAGES;
}

static int told_make(struct migration_source *source)
{
    for (unsigned i = 0; i < source->pages.region_count; i++) {
        uint64_t words = words_of(&source->pages.regions[i]);
        source->postcopy.told[i] = calloc(words, sizeof(uint64_t));
        if (source->postcopy.told[i] == NULL) {
            return error_set(&source->err, -ENOMEM, "out of memory");
        }
    }
    return 0;
}

int postcopy_source_ask(struct migration_source *source, struct error *ret_why)
{
    const uint8_t *payload;
    size_t size;
    struct wire_answer answer;
    int rv = stream_out_plain(&source->out, WIRE_POSTCOPY_ASK);
    if (rv != 0) {
        return source_link_error(source, rv, "asking for post-copy");
    }
    rv = source_expect(source, WIRE_POSTCOPY_ANSWER, source_patience_ms(source), 0,
                       "asking for post-copy", &payload, &size);
    if (rv != 0) {
        return rv;
    }
    if (wire_answer_decode(payload, size, &answer) != 0) {
        return error_set(&source->err, DROVER_EPEER,
                         "asking for post-copy: the answer is garbled");
    }
    if (answer.code != 0) {
        (void)error_set(ret_why, answer.code, "%s", answer.reason);
        return 0;
    }
    rv = told_make(source);
    rv = rv != 0 ? rv : postcopy_source_missing(source);
    source->postcopy.agreed = rv == 0;
    return rv;
}

/* Tells of words [first, first + count) of a region, and notes that. */
static int missing_send(struct migration_source *source, unsigned index, uint64_t first,
                        uint32_t count)
{
    uint64_t *told = source->postcopy.told[index] + first;
    const uint64_t *pending = source->pages.regions[index].pending + first;
    memcpy(told, pending, count * sizeof(uint64_t));
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_missing_encode(&frame, (uint16_t)index, first * WORD_PAGES, told, count);
    rv = rv != 0 ? rv : stream_out_frames(&source->out, &frame, NULL);
    return rv != 0 ? source_link_error(source, rv, "telling what is missing") : 0;
}

int postcopy_source_missing(struct migration_source *source)
{
    for (unsigned i = 0; i < source->pages.region_count; i++) {
        const struct pages_region *region = &source->pages.regions[i];
        const uint64_t *told = source->postcopy.told[i];
        uint64_t words = words_of(region);
        for (uint64_t at = 0; at < words; at += WIRE_MISSING_WORDS_MAX) {
            uint64_t first = at;
            uint64_t end = at + WIRE_MISSING_WORDS_MAX;
            end = end < words ? end : words;
            while (first < end && (region->pending[first] & ~told[first]) == 0) {
                first++;
            }
            while (end > first && (region->pending[end - 1] & ~told[end - 1]) == 0) {
                end--;
            }
            int rv = end == first
                         ? 0
                         : missing_send(source, i, first, (uint32_t)(end - first));
            if (rv != 0) {
                return rv;
            }
        }
    }
    return 0;
}

/* ---- sending ------------------------------------------------------------------------ */

/* Which of the pages of a word may hold anything but zeros: what the guest gave back is
 * not even read. */
static int there_find(struct migration_source *source, unsigned index,
                      uint64_t first_page, uint64_t *ret_there)
{
    struct migration_guest *guest = source->config.guest;
    uint64_t base = first_page * MIGRATION_PAGE_SIZE;
    uint64_t limit = base + (uint64_t)WORD_PAGES * MIGRATION_PAGE_SIZE;
    *ret_there = guest->ops->populated == NULL ? UINT64_MAX : 0;
    for (uint64_t at = base; guest->ops->populated != NULL && at < limit;) {
        uint64_t start = 0;
        uint64_t end = 0;
        int rv = guest->ops->populated(guest, index, at, &start, &end);
        if (rv <= 0 || start >= limit) {
            return rv < 0 ? rv : 0;
        }
        CHECK(start >= at && end > start);
        end = end < limit ? end : limit;
        for (uint64_t page = (start - base) / MIGRATION_PAGE_SIZE;
             page < (end - base + MIGRATION_PAGE_SIZE - 1) / MIGRATION_PAGE_SIZE;
             page++) {
            *ret_there |= UINT64_C(1) << page;
        }
        at = end;
    }
    return 0;
}

/* Sends the pages of `mask`, a part of what is pending in one word. */
static int pages_answer(struct migration_source *source, unsigned index,
                        uint64_t first_page, uint64_t mask)
{
    struct postcopy_source *postcopy = &source->postcopy;
    struct pages *pages = &source->pages;
    uint8_t *host =
        pages->regions[index].where.host + first_page * MIGRATION_PAGE_SIZE;
    struct wire_pages message = {.region = (uint16_t)index, .first_page = first_page};
    struct iovec iov[1 + WORD_PAGES];
    unsigned count = 1;
    uint64_t there = 0;
    int rv = there_find(source, index, first_page, &there);
    for (uint64_t bits = mask; rv == 0 && bits != 0; bits &= bits - 1) {
        unsigned page = (unsigned)__builtin_ctzll(bits);
        uint8_t *data = host + (size_t)page * MIGRATION_PAGE_SIZE;
        if ((there >> page & 1) == 0 || postcopy->is_zero(data)) {
            message.zero |= UINT64_C(1) << page;
            continue;
        }
        message.data |= UINT64_C(1) << page;
        message.crc = postcopy->crc32c(message.crc, data, MIGRATION_PAGE_SIZE);
        iov[count++] = (struct iovec){.iov_base = data, .iov_len = MIGRATION_PAGE_SIZE};
    }
    CLEANUP(buffer_done) struct buffer frame = {0};
    rv = rv != 0 ? rv : wire_pages_encode(&frame, &message);
    iov[0] = (struct iovec){.iov_base = frame.data, .iov_len = frame.size};
    rv = rv != 0 ? rv : stream_out_vector(&source->out, iov, count);
    if (rv == 0) {
        unsigned sent = (unsigned)__builtin_popcountll(mask);
        pages->regions[index].pending[first_page / WORD_PAGES] &= ~mask;
        pages->pending_count -= sent;
        pages->sent_count += count - 1;
        pages->zero_count += sent - (count - 1);
        postcopy->pages_sent += sent;
        postcopy->pages_after += postcopy->entered ? sent : 0;
    }
    return rv;
}

static int fetch_serve(struct migration_source *source, const uint8_t *payload,
                       size_t size)
{
    struct wire_fetch fetch;
    struct pages *pages = &source->pages;
    if (wire_fetch_decode(payload, size, &fetch) != 0 ||
        fetch.region >= pages->region_count ||
        fetch.page >= pages->regions[fetch.region].page_count) {
        return DROVER_EMALFORMED;
    }
    uint64_t first_page = fetch.page / WORD_PAGES * WORD_PAGES;
    uint64_t pending = pages->regions[fetch.region].pending[fetch.page / WORD_PAGES];
    unsigned bit = (unsigned)(fetch.page % WORD_PAGES);
    if ((pending >> bit & 1) == 0) {
        return 0; /* it is on its way */
    }
    uint64_t block = ((UINT64_C(1) << NEIGHBOURS) - 1) << bit / NEIGHBOURS * NEIGHBOURS;
    /* What lies ahead in the background is most likely wanted next. */
    source->postcopy.region = fetch.region;
    source->postcopy.page = first_page;
    return pages_answer(source, fetch.region, first_page, pending & block);
}

bool postcopy_source_hears(struct migration_source *source, unsigned type,
                           const uint8_t *payload, size_t size, int *ret_result)
{
    if (!source->postcopy.agreed || (type != WIRE_FETCH && type != WIRE_PLACED)) {
        return false;
    }
    if (type == WIRE_FETCH) {
        *ret_result = fetch_serve(source, payload, size);
    } else {
        *ret_result = wire_placed_decode(payload, size, &source->postcopy.pages_placed);
    }
    return true;
}

/* The next block in turn. There is one. */
static int background_send(struct migration_source *source)
{
    struct postcopy_source *postcopy = &source->postcopy;
    struct pages *pages = &source->pages;
    CHECK(pages->pending_count > 0);
    for (;;) {
        const struct pages_region *region = &pages->regions[postcopy->region];
        if (postcopy->page >= region->page_count) {
            postcopy->region = (postcopy->region + 1) % pages->region_count;
            postcopy->page = 0;
            continue;
        }
        uint64_t first_page = postcopy->page;
        uint64_t pending = region->pending[first_page / WORD_PAGES];
        postcopy->page += WORD_PAGES;
        if (pending != 0) {
            return pages_answer(source, postcopy->region, first_page, pending);
        }
    }
}

/* ---- a link ------------------------------------------------------------------------- */

static void publish(struct migration_source *source, bool now)
{
    struct postcopy_source *postcopy = &source->postcopy;
    uint64_t now_ms = clock_now_ms();
    if (!now && now_ms < postcopy->published_ms + PUBLISH_MS) {
        return;
    }
    postcopy->published_ms = now_ms;
    struct migration_status *status = status_board_lock(&source->board);
    status->bytes_remaining = source->pages.pending_count * MIGRATION_PAGE_SIZE;
    status->figures.bytes_sent = source_bytes_sent(source);
    status->figures.pages_sent = source->pages.sent_count;
    status->figures.pages_zero = source->pages.zero_count;
    status->figures.postcopy_pages = postcopy->pages_after;
    status->figures.total_us =
        (clock_now_ns() - source->started_ns) / NS_PER_US;
    status_board_unlock(&source->board);
}

/* The target runs the guest: nobody may reclaim it. */
static int prove(struct migration_source *source)
{
    struct postcopy_source *postcopy = &source->postcopy;
    CHECK(pthread_mutex_lock(&postcopy->orders.lock) == 0);
    postcopy->orders.proven = !postcopy->orders.quit;
    bool proven = postcopy->orders.proven;
    CHECK(pthread_mutex_unlock(&postcopy->orders.lock) == 0);
    if (!proven) {
        return DROVER_ECANCELLED;
    }
    if (!postcopy->done_heard) {
        postcopy->done_heard = true;
        status_board_move(&source->board, MIGRATION_STATE_POSTCOPY, NULL);
    }
    return 0;
}

/* A message of the target. 1: it has all. */
static int message_take(struct migration_source *source, enum wire_type type,
                        const uint8_t *payload, size_t size)
{
    struct wire_done done;
    int rv = 0;
    if (postcopy_source_hears(source, type, payload, size, &rv)) {
        return rv;
    }
    if (type == WIRE_DONE && !source->postcopy.done_heard &&
        wire_done_decode(payload, size, &done) == 0) {
        source_reckon(source, source->postcopy.stopped_ns, source->postcopy.go_sent_ns,
                      clock_now_ns(), &done);
        publish(source, true);
        return prove(source);
    }
    if (type == WIRE_COMPLETE && wire_plain_decode(payload, size) == 0) {
        rv = prove(source);
        (void)stream_out_plain(&source->out, WIRE_COMPLETE); /* it has all anyway */
        return rv != 0 ? rv : 1;
    }
    return DROVER_EMALFORMED; /* an ABORT too: the target never runs the guest */
}

/* Looks at what the target says: 1 when it has all, 0 when nothing more came in time. */
static int listen(struct migration_source *source, uint32_t wait_ms)
{
    struct postcopy_source *postcopy = &source->postcopy;
    for (;;) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        int rv = stream_in_message(&source->in, wait_ms, 0, &type, &payload, &size);
        uint64_t now_ms = clock_now_ms();
        if (source->in.bytes_received != postcopy->heard_bytes) {
            postcopy->heard_bytes = source->in.bytes_received;
            postcopy->heard_ms = now_ms;
        }
        if (rv == DROVER_ETIMEDOUT2) {
            bool silent = now_ms >= postcopy->heard_ms + source->config.times.idle_ms;
            return silent ? rv : 0;
        }
        rv = rv != 0 ? rv : message_take(source, type, payload, size);
        if (rv != 0) {
            return rv;
        }
        wait_ms = 0;
    }
}

/* No DONE for too long, or no link to hear it: whoever knows better may decide. */
static void unknown_look(struct migration_source *source, bool lost)
{
    struct postcopy_source *postcopy = &source->postcopy;
    struct migration_status status;
    status_board_get(&source->board, &status);
    if (postcopy->done_heard || status.state == MIGRATION_STATE_UNKNOWN ||
        (!lost && clock_now_ns() < postcopy->go_sent_ns +
                                       source->config.times.done_ms * NS_PER_MS)) {
        return;
    }
    struct error err;
    (void)error_set(&err, DROVER_ETIMEDOUT2,
                    "waiting for word that the guest runs: no answer in time");
    status_board_move(&source->board, MIGRATION_STATE_UNKNOWN, &err);
}

static bool background_wants(const struct migration_source *source)
{
    const struct postcopy_source *postcopy = &source->postcopy;
    /* Before it is known that the target runs, only what it asks for. */
    return source->pages.pending_count > 0 && postcopy->done_heard &&
           postcopy->pages_sent < postcopy->pages_placed + WINDOW_PAGES;
}

/* As long as the link holds. 1: the target has all. */
static int serve(struct migration_source *source)
{
    struct postcopy_source *postcopy = &source->postcopy;
    uint32_t keepalive_ms = source->config.times.keepalive_ms;
    source->out.idle_ms = source->config.times.idle_ms;
    postcopy->heard_ms = clock_now_ms();
    for (;;) {
        int rv = listen(source, background_wants(source) ? 0 : keepalive_ms / 2);
        if (rv == 0 && background_wants(source)) {
            source->out.pace = &source->pace; /* nobody waits for it */
            rv = background_send(source);
            source->out.pace = NULL;
        } else if (rv == 0) {
            rv = stream_out_keepalive(&source->out, keepalive_ms / 2);
        }
        if (rv != 0) {
            return rv;
        }
        publish(source, false);
        unknown_look(source, false);
    }
}

static void link_drop(struct migration_source *source)
{
    if (source->link == NULL) {
        return;
    }
    stream_out_done(&source->out);
    stream_in_done(&source->in);
    transport_link_close(source->link);
    source->link = NULL;
}

/* What the target lacks is what there is to send. */
static int missing_take(struct migration_source *source, const uint8_t *payload,
                        size_t size)
{
    struct wire_missing missing;
    struct pages *pages = &source->pages;
    if (wire_missing_decode(payload, size, &missing) != 0 ||
        missing.region >= pages->region_count) {
        return DROVER_EMALFORMED;
    }
    struct pages_region *region = &pages->regions[missing.region];
    uint64_t first = missing.first_page / WORD_PAGES;
    if (first > words_of(region) || missing.word_count > words_of(region) - first) {
        return DROVER_EMALFORMED;
    }
    for (uint32_t i = 0; i < missing.word_count; i++) {
        uint64_t word = wire_missing_word(&missing, i);
        uint64_t past = (first + i + 1) * WORD_PAGES;
        if (past > region->page_count) {
            word &= UINT64_MAX >> (past - region->page_count);
        }
        pages->pending_count += (uint64_t)__builtin_popcountll(word & ~region->pending[first + i]);
        region->pending[first + i] |= word;
    }
    return 0;
}

/* Says which move it is, and hears what the target still lacks. */
static int resume_greet(struct migration_source *source)
{
    const struct migration_times *times = &source->config.times;
    struct wire_resume resume = {.vm_id = source->config.vm_id,
                                 .session = source->postcopy.session};
    CLEANUP(buffer_done) struct buffer frame = {0};
    int rv = wire_resume_encode(&frame, &resume);
    rv = rv != 0 ? rv : stream_out_frames(&source->out, &frame, NULL);
    for (unsigned i = 0; i < source->pages.region_count; i++) {
        memset(source->pages.regions[i].pending, 0,
               words_of(&source->pages.regions[i]) * sizeof(uint64_t));
    }
    source->pages.pending_count = 0;
    /* It may not have noticed yet that the old link is gone. */
    uint64_t until_ms = clock_now_ms() + UINT64_C(2) * times->idle_ms;
    while (rv == 0) {
        enum wire_type type;
        const uint8_t *payload;
        size_t size;
        rv = stream_in_message(&source->in, 2 * times->idle_ms, until_ms, &type, &payload,
                               &size);
        if (rv == 0 && type == WIRE_RESUMED) {
            return wire_plain_decode(payload, size);
        }
        if (rv == 0) {
            rv = type == WIRE_MISSING ? missing_take(source, payload, size)
                                      : DROVER_EMALFORMED;
        }
    }
    return rv;
}

/* `link_fd` -1: connects itself. */
static int resume(struct migration_source *source, int link_fd, struct error *err)
{
    const struct migration_source_config *config = &source->config;
    CHECK(link_fd < 0 || config->transport->adopt != NULL);
    int rv = link_fd >= 0
                 ? config->transport->adopt(link_fd, source->address, source->cancel_fd,
                                            config->times.connect_ms,
                                            config->times.idle_ms, &source->link, err)
                 : config->transport->connect(source->address, source->cancel_fd,
                                              config->times.connect_ms,
                                              config->times.idle_ms, &source->link, err);
    if (rv != 0) {
        return rv;
    }
    uint64_t bytes_sent = source->out.bytes_sent;
    rv = stream_out_init(&source->out, source->link, config->times.idle_ms);
    source->out.bytes_sent = bytes_sent;
    rv = rv != 0 ? rv : stream_in_init(&source->in, source->link);
    source->postcopy.pages_sent = source->postcopy.pages_placed = 0;
    source->postcopy.heard_bytes = 0;
    rv = rv != 0 ? rv : resume_greet(source);
    if (rv != 0) {
        (void)error_set(err, rv, "resuming at %s: %s", source->uri, err_text(rv));
        link_drop(source);
        return rv;
    }
    return prove(source);
}

static void interrupted_tell(struct migration_source *source, bool interrupted,
                             const struct error *err)
{
    struct migration_status *status = status_board_lock(&source->board);
    bool changed = status->interrupted != interrupted;
    status->interrupted = interrupted;
    if (err != NULL) {
        status->error = *err;
    } else if (!interrupted) {
        status->error = (struct error){0};
    }
    status_board_unlock(&source->board);
    if (changed && source->board.changed != NULL) {
        source->board.changed(source->board.owner);
    }
}

/* Waits for an order, or for the time to try by itself. DROVER_ECANCELLED: to end. */
static int order_wait(struct migration_source *source, int *ret_link_fd)
{
    struct postcopy_source *postcopy = &source->postcopy;
    for (;;) {
        struct pollfd woken = {.fd = source->cancel_fd, .events = POLLIN};
        int wait_ms = postcopy->connects ? (int)source->config.times.keepalive_ms : -1;
        int events = poll(&woken, 1, wait_ms);
        eventfd_t count;
        (void)eventfd_read(source->cancel_fd, &count); /* nothing is fine */
        CHECK(pthread_mutex_lock(&postcopy->orders.lock) == 0);
        bool quit = postcopy->orders.quit;
        bool ordered = postcopy->orders.resume;
        *ret_link_fd = postcopy->orders.link_fd;
        postcopy->orders.resume = false;
        postcopy->orders.link_fd = -1;
        CHECK(pthread_mutex_unlock(&postcopy->orders.lock) == 0);
        if (quit) {
            cleanup_fd(ret_link_fd);
            return DROVER_ECANCELLED;
        }
        if (ordered || (postcopy->connects && events == 0)) {
            return 0;
        }
    }
}

/* Until there is a link again. */
static int reconnect(struct migration_source *source, int link_error)
{
    struct error err = {0};
    int link_fd = -1;
    (void)error_set(&err, link_error, "the connection to %s is lost: %s", source->uri,
                    err_text(link_error));
    link_drop(source);
    for (;;) {
        unknown_look(source, true);
        interrupted_tell(source, true, &err);
        int rv = order_wait(source, &link_fd);
        if (rv != 0) {
            return rv;
        }
        rv = resume(source, link_fd, &err);
        if (rv == 0) {
            interrupted_tell(source, false, NULL);
            return 0;
        }
    }
}

int postcopy_source_run(struct migration_source *source, uint64_t stopped_ns,
                        uint64_t go_sent_ns, int link_error)
{
    struct postcopy_source *postcopy = &source->postcopy;
    postcopy->entered = true;
    postcopy->stopped_ns = stopped_ns;
    postcopy->go_sent_ns = go_sent_ns;
    /* From here on it only wakes: nobody can cancel any more. */
    source->link->ops->set_cancel(source->link, source->cancel_fd);
    int rv = link_error;
    for (;;) {
        rv = rv != 0 ? rv : serve(source);
        if (rv == 1) {
            publish(source, true);
            source->err = (struct error){0};
            return 0;
        }
        rv = reconnect(source, rv);
        if (rv != 0) {
            return error_set(&source->err, rv, "ended by order");
        }
    }
}

/* ---- orders ------------------------------------------------------------------------- */

bool postcopy_source_quit(struct migration_source *source, bool if_unproven)
{
    struct postcopy_source *postcopy = &source->postcopy;
    CHECK(pthread_mutex_lock(&postcopy->orders.lock) == 0);
    bool quits = !(if_unproven && postcopy->orders.proven);
    postcopy->orders.quit = postcopy->orders.quit || quits;
    CHECK(pthread_mutex_unlock(&postcopy->orders.lock) == 0);
    if (quits) {
        (void)eventfd_write(source->cancel_fd, 1); /* full means that it is readable */
    }
    return quits;
}

int migration_source_resume(struct migration_source *source, int link_fd)
{
    struct postcopy_source *postcopy = &source->postcopy;
    struct migration_status status;
    status_board_get(&source->board, &status);
    bool wanted = status.state == MIGRATION_STATE_POSTCOPY ||
                  (status.state == MIGRATION_STATE_UNKNOWN && status.interrupted);
    if (!wanted) {
        cleanup_fd(&link_fd);
        return DROVER_EWRONGSTATE;
    }
    CHECK(pthread_mutex_lock(&postcopy->orders.lock) == 0);
    cleanup_fd(&postcopy->orders.link_fd); /* a later one is better */
    postcopy->orders.link_fd = link_fd;
    postcopy->orders.resume = true;
    CHECK(pthread_mutex_unlock(&postcopy->orders.lock) == 0);
    (void)eventfd_write(source->cancel_fd, 1); /* full means that it is readable */
    return 0;
}
