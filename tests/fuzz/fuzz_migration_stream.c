/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The incoming migration stream under hostile input: whole, valid streams are mutated,
 * their frames' checksums mended in most cases, so that the mutations reach what is
 * behind them. Guard pages around the guest's memory catch stray writes; the guest must
 * start only with a whole go, and the target always decides.
 *
 *     fuzz_migration_stream [ITERATIONS [SEED]]     (or libFuzzer, with -DLIBFUZZER)
 */
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "migration/compress.h"
#include "migration/crc32c.h"
#include "migration/target.h"
#include "migration/transport.h"
#include "migration/wire.h"
#include "migration/wire_postcopy.h"
#include "proto/frame.h"

#define GUARD_BYTES      (1u << 20)
#define REGION_PAGES     700u
#define REGION_BYTES     (REGION_PAGES * MIGRATION_PAGE_SIZE)
#define ITERATIONS       3000u
#define HOLD_MS          20u
#define MUTATIONS_MAX    6u
#define STREAM_BYTES_MAX (4u << 20)

/* ---- a guest that is nothing but memory ----------------------------------- */

struct bare_guest {
    struct migration_guest guest;
    uint8_t *regions[2];
    bool started, abandoned;
};

static unsigned region_count(struct migration_guest *guest)
{
    return 2;
}

static void region(struct migration_guest *guest, unsigned index,
                   struct migration_region *ret_region)
{
    *ret_region =
        (struct migration_region){.gpa = index * UINT64_C(0x100000000),
                                  .size_bytes = REGION_BYTES,
                                  .host = ((struct bare_guest *)guest)->regions[index]};
}

static int config_compare(struct migration_guest *guest, const uint8_t *config,
                          size_t size, struct error *err)
{
    return size == 1 && config[0] == 'c' ? 0
                                         : error_set(err, DROVER_EBADINPUT, "differs");
}

static int load(struct migration_guest *guest, const uint8_t *state, size_t size,
                struct error *err)
{
    uint32_t sum =
        crc32c_portable(0, state, size); /* reads all of it, for the sanitizer */
    return size > 100000 && sum == 1 ? error_set(err, DROVER_EMALFORMED, "unlikely") : 0;
}

static int claim(struct migration_guest *guest, struct error *err)
{
    return 0;
}

static void start(struct migration_guest *guest, uint64_t *ret_entered_ns)
{
    ((struct bare_guest *)guest)->started = true;
    *ret_entered_ns = 1;
}

static void announce(struct migration_guest *guest)
{
}

static void abandon(struct migration_guest *guest)
{
    ((struct bare_guest *)guest)->abandoned = true;
}

/* Absent memory: who touches it is not played here. */
static int missing_possible(struct migration_guest *guest, struct error *err)
{
    return 0;
}

static int missing_begin(struct migration_guest *guest, struct error *err)
{
    return 0;
}

static int missing_add(struct migration_guest *guest, unsigned index, uint64_t first_page,
                       uint64_t page_count)
{
    CHECK(index < 2 && page_count > 0 && first_page + page_count <= REGION_PAGES);
    return 0;
}

static int missing_wait(struct migration_guest *guest, int stop_fd, unsigned *ret_region,
                        uint64_t *ret_page)
{
    struct pollfd stop = {.fd = stop_fd, .events = POLLIN};
    CHECK(poll(&stop, 1, -1) == 1);
    return 0;
}

static int missing_place(struct migration_guest *guest, unsigned index,
                         uint64_t first_page, uint64_t page_count, const uint8_t *data)
{
    CHECK(index < 2 && page_count > 0 && first_page + page_count <= REGION_PAGES);
    uint8_t *to = ((struct bare_guest *)guest)->regions[index] +
                  first_page * MIGRATION_PAGE_SIZE;
    if (data != NULL) {
        memcpy(to, data, page_count * MIGRATION_PAGE_SIZE);
    }
    return 0;
}

static void missing_end(struct migration_guest *guest)
{
}

static const struct migration_guest_ops guest_ops = {
    .region_count = region_count,
    .region = region,
    .config_compare = config_compare,
    .load = load,
    .claim = claim,
    .start = start,
    .announce = announce,
    .abandon = abandon,
    .missing_possible = missing_possible,
    .missing_begin = missing_begin,
    .missing_add = missing_add,
    .missing_wait = missing_wait,
    .missing_place = missing_place,
    .missing_end = missing_end,
};

static uint8_t *guarded(void)
{
    uint8_t *all = mmap(NULL, REGION_BYTES + 2 * GUARD_BYTES, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(all != MAP_FAILED);
    CHECK(mprotect(all + GUARD_BYTES, REGION_BYTES, PROT_READ | PROT_WRITE) == 0);
    return all + GUARD_BYTES;
}

/* ---- a link that plays a recorded stream ---------------------------------- */

struct player {
    struct transport_link link;
    struct transport_listener listener;
    const uint8_t *data;
    size_t size, at;
    unsigned accepts;
    unsigned chunk; /* bytes at a time, at most */
    size_t hold_at; /* a go, which must not come before READY; 0: none */
    unsigned held;
    atomic_bool ready;
};

static struct player the_player; /* transports carry no context */

static int play_send(struct transport_link *link, struct iovec *iov, unsigned count,
                     uint32_t idle_ms, size_t *ret_accepted)
{
    size_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        size += iov[i].iov_len;
        const uint8_t *frame = iov[i].iov_base;
        if (iov[i].iov_len == FRAME_HEADER_SIZE + 2 &&
            frame[FRAME_HEADER_SIZE + 1] == WIRE_READY) {
            atomic_store(&the_player.ready, true);
        }
    }
    *ret_accepted = size;
    return 0;
}

static int play_recv(struct transport_link *link, const struct iovec *iov, unsigned count,
                     uint32_t wait_ms, size_t *ret_size)
{
    if (the_player.hold_at != 0 && the_player.at >= the_player.hold_at &&
        !atomic_load(&the_player.ready) && the_player.held++ < HOLD_MS) {
        (void)usleep(1000); /* a shorter sleep does no harm */
        return DROVER_ETIMEDOUT2;
    }
    size_t left = the_player.size - the_player.at;
    if (the_player.at < the_player.hold_at && the_player.hold_at < the_player.size) {
        left = the_player.hold_at - the_player.at;
    }
    left = left < the_player.chunk ? left : the_player.chunk;
    if (left == 0) {
        return DROVER_ECLOSED;
    }
    size_t got = 0;
    for (unsigned i = 0; i < count && left > 0; i++) {
        size_t size = iov[i].iov_len < left ? iov[i].iov_len : left;
        memcpy(iov[i].iov_base, the_player.data + the_player.at, size);
        the_player.at += size;
        got += size;
        left -= size;
    }
    *ret_size = got;
    return got == 0 ? DROVER_ECLOSED : 0;
}

static void play_set_cancel(struct transport_link *link, int cancel_fd)
{
}

static void play_close(struct transport_link *link)
{
}

static const struct transport_link_ops play_link_ops = {
    .send = play_send,
    .recv = play_recv,
    .set_cancel = play_set_cancel,
    .close = play_close,
};

static int play_accept(struct transport_listener *listener, int cancel_fd,
                       uint32_t wait_ms, uint32_t idle_ms,
                       struct transport_link **ret_link)
{
    if (the_player.accepts++ > 0) {
        return DROVER_ECANCELLED;
    }
    the_player.link.ops = &play_link_ops;
    *ret_link = &the_player.link;
    return 0;
}

static void play_uri(struct transport_listener *listener,
                     char ret_uri[TRANSPORT_URI_SIZE])
{
    ret_uri[0] = '\0';
}

static void play_listener_close(struct transport_listener *listener)
{
}

static const struct transport_listener_ops play_listener_ops = {
    .accept = play_accept,
    .uri = play_uri,
    .close = play_listener_close,
};

static int play_listen(const char *address, struct transport_listener **ret_listener,
                       struct error *err)
{
    the_player.listener.ops = &play_listener_ops;
    *ret_listener = &the_player.listener;
    return 0;
}

static const struct transport_ops play_transport = {.scheme = "tcp",
                                                    .listen = play_listen};

/* ---- one run -------------------------------------------------------------- */

static bool run_one(struct bare_guest *guest, const uint8_t *data, size_t size,
                    unsigned chunk, size_t hold_at)
{
    the_player = (struct player){
        .data = data, .size = size, .chunk = chunk, .hold_at = hold_at};
    guest->guest.ops = &guest_ops;
    guest->started = false;
    guest->abandoned = false;
    struct migration_target_config config = {.guest = &guest->guest,
                                             .uri = "tcp:x:1",
                                             .vm_id = 1,
                                             .epoch = 2,
                                             .times = migration_times_from(20),
                                             .transport = &play_transport};
    struct migration_target *target = NULL;
    struct error err = {0};
    struct migration_status status;
    CHECK(migration_target_create(&config, &target, &err) == 0);
    CHECK(migration_target_start(target) == 0);
    do {
        migration_target_status(target, &status);
    } while (!migration_state_final(status.state));
    CHECK(guest->started || status.state != MIGRATION_STATE_DONE);
    CHECK(guest->abandoned != guest->started);
    CHECK(guest->started || status.error.code < 0);
    migration_target_free(target);
    return guest->started;
}

static struct bare_guest the_guest;

static void guest_make(void)
{
    if (the_guest.regions[0] == NULL) {
        the_guest.regions[0] = guarded();
        the_guest.regions[1] = guarded();
    }
}

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    guest_make();
    (void)run_one(&the_guest, data, size, size == 0 ? 1 : 1 + data[0] * 64u, 0);
    return 0;
}
#else

static uint64_t random_next(uint64_t *seed)
{
    /* splitmix64: the same seed, the same runs, everywhere */
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* The pages of a coded extent: some as they are, some by lz4 or as changes, mostly
 * proper. */
static void add_coded(struct buffer *stream, struct extent *extent, uint8_t *pages,
                        uint64_t *seed)
{
    static struct compress_cache *cache;
    static struct compress_coder *coder;
    if (coder == NULL) {
        CHECK(compress_cache_create(4u << 20, &cache) == 0);
        CHECK(compress_coder_create(cache, COMPRESS_ALWAYS, &coder) == 0);
    }
    size_t size = 0;
    uint8_t *host = pages;
    /* The coder takes the pages from where the runs lie. */
    for (unsigned i = 0; i < extent->run_count; i++) {
        host += (size_t)extent->runs[i].page_count * MIGRATION_PAGE_SIZE;
    }
    for (size_t i = 0; i < (size_t)(host - pages); i += 512) {
        pages[i] = (uint8_t)random_next(seed);
    }
    const uint8_t *data = compress_extent(coder, extent, pages, &size);
    extent->pages_checked = true;
    extent->coded_bytes = (uint32_t)size;
    CHECK(wire_extent_encode(stream, extent) == 0 &&
          buffer_append(stream, data, size) == 0);
}

static void add_extent(struct buffer *stream, uint64_t *seed, bool standing,
                       uint16_t version)
{
    static struct extent extent;
    static uint8_t pages[EXTENT_PAGES * MIGRATION_PAGE_SIZE];
    uint64_t first_page = random_next(seed) % 2 * EXTENT_PAGES;
    unsigned room = (unsigned)(REGION_PAGES - first_page);
    room = room < EXTENT_PAGES ? room : EXTENT_PAGES;
    extent_init(&extent, (uint16_t)(random_next(seed) % 2), first_page);
    for (unsigned i = 0; i < 4 && room > 0; i++) {
        unsigned count = 1 + (unsigned)(random_next(seed) % 9);
        count = count < room ? count : room;
        extent_add(&extent, (enum extent_run_kind)(random_next(seed) % 3), count);
        room -= count;
    }
    size_t size = (size_t)extent.data_pages * MIGRATION_PAGE_SIZE;
    if (version == 2 && extent.data_pages > 0 && random_next(seed) % 2 == 0) {
        add_coded(stream, &extent, pages, seed);
        return;
    }
    memset(pages, (int)random_next(seed), size);
    extent.checked = standing && version == 1;
    extent.crc = crc32c_pick()(0, pages, size);
    extent.pages_checked = version == 2;
    for (unsigned i = 0; i < extent.data_pages; i++) {
        extent.page_crcs[i] = crc32c_pick()(0, pages, MIGRATION_PAGE_SIZE);
    }
    CHECK(wire_extent_encode(stream, &extent) == 0 &&
          buffer_append(stream, pages, size) == 0);
}

/* Where the frames begin is noted, so that their checksums can be mended. */
struct recording {
    struct buffer stream;
    size_t frames[64];
    unsigned count;
    size_t go_at; /* of a post-copy; 0: none */
};

static void note(struct recording *recording)
{
    recording->frames[recording->count++] = recording->stream.size;
}

static void add_missing(struct recording *recording, uint64_t *seed)
{
    uint64_t words[4];
    for (unsigned i = 0; i < 4; i++) {
        words[i] = random_next(seed);
    }
    note(recording);
    CHECK(wire_missing_encode(&recording->stream, (uint16_t)(random_next(seed) % 2),
                              random_next(seed) % 7 * 64, words, 4) == 0);
}

static void add_pages(struct recording *recording, uint64_t *seed)
{
    static uint8_t data[64 * MIGRATION_PAGE_SIZE];
    struct wire_pages pages = {.region = (uint16_t)(random_next(seed) % 2),
                               .first_page = random_next(seed) % 10 * 64};
    pages.data = random_next(seed) & random_next(seed) & random_next(seed);
    pages.zero = (random_next(seed) & ~pages.data) | (pages.data == 0 ? 1 : 0);
    size_t size = (size_t)__builtin_popcountll(pages.data) * MIGRATION_PAGE_SIZE;
    memset(data, (int)random_next(seed), size);
    pages.crc = crc32c_pick()(0, data, size);
    note(recording);
    CHECK(wire_pages_encode(&recording->stream, &pages) == 0 &&
          buffer_append(&recording->stream, data, size) == 0);
}

static void record(struct recording *recording, uint64_t *seed)
{
    struct buffer *stream = &recording->stream;
    uint16_t version = (uint16_t)(1 + random_next(seed) % 2);
    struct wire_hello hello = {.version_min = 1,
                               .version_max = version,
                               .vm_id = 1,
                               .epoch = 1,
                               .region_count = 2,
                               .config = (const uint8_t *)"c",
                               .config_size = 1};
    hello.regions[0].size_bytes = REGION_BYTES;
    hello.regions[1].gpa = UINT64_C(0x100000000);
    hello.regions[1].size_bytes = REGION_BYTES;
    note(recording);
    CHECK(wire_hello_encode(stream, &hello) == 0);
    if (version == 2) {
        note(recording);
        CHECK(wire_streams_encode(stream, 1) == 0);
    }
    for (unsigned round = 1; round <= 2; round++) {
        for (unsigned i = random_next(seed) % 6; i > 0; i--) {
            note(recording);
            add_extent(stream, seed, false, version);
        }
        note(recording);
        CHECK(wire_round_encode(stream, WIRE_ROUND_END,
                                &(struct wire_round){.round = round}) == 0);
    }
    bool postcopy = random_next(seed) % 2 == 0;
    if (postcopy) {
        note(recording);
        CHECK(wire_plain_encode(stream, WIRE_POSTCOPY_ASK) == 0);
        add_missing(recording, seed);
    }
    note(recording);
    CHECK(wire_plain_encode(stream, WIRE_HANDOVER) == 0);
    if (postcopy) {
        add_missing(recording, seed);
    } else {
        note(recording);
        add_extent(stream, seed, true, version);
    }
    note(recording);
    CHECK(wire_state_encode(stream, stream->data, random_next(seed) % 200) == 0);
    recording->go_at = postcopy ? stream->size : 0;
    note(recording);
    CHECK(wire_go_encode(stream, &(struct wire_go){.rounds = 3}) == 0);
    for (unsigned i = postcopy ? random_next(seed) % 8 : 0; i > 0; i--) {
        add_pages(recording, seed);
    }
}

static void mutate(struct recording *recording, uint64_t *seed)
{
    struct buffer *stream = &recording->stream;
    unsigned which = (unsigned)(random_next(seed) % recording->count);
    size_t at = recording->frames[which];
    switch (random_next(seed) % 6) {
    case 0: /* anywhere */
        stream->data[random_next(seed) % stream->size] = (uint8_t)random_next(seed);
        break;
    case 1: /* the end */
        stream->size = 1 + random_next(seed) % stream->size;
        break;
    default: /* a frame's payload: its first bytes decide most */
        at += FRAME_HEADER_SIZE + random_next(seed) % 40;
        if (at < stream->size) {
            stream->data[at] =
                random_next(seed) % 2 == 0
                    ? (uint8_t)random_next(seed)
                    : (uint8_t)(stream->data[at] ^ 1u << random_next(seed) % 8);
        }
        break;
    }
}

static void mend(struct recording *recording)
{
    struct buffer *stream = &recording->stream;
    for (unsigned i = 0; i < recording->count; i++) {
        size_t at = recording->frames[i];
        if (at + FRAME_HEADER_SIZE > stream->size) {
            return;
        }
        uint8_t *header = stream->data + at;
        size_t size = (size_t)header[8] << 24 | (size_t)header[9] << 16 |
                      (size_t)header[10] << 8 | header[11];
        if (size > stream->size - at - FRAME_HEADER_SIZE) {
            continue;
        }
        uint32_t crc =
            (uint32_t)crc32_z(crc32_z(0, NULL, 0), header + FRAME_HEADER_SIZE, size);
        for (unsigned byte = 0; byte < 4; byte++) {
            header[12 + byte] = (uint8_t)(crc >> (24 - 8 * byte));
        }
    }
}

int main(int argc, char **argv)
{
    unsigned iterations = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : ITERATIONS;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    unsigned arrived = 0;
    guest_make();
    printf("seed %" PRIu64 ", %u streams\n", seed, iterations);
    for (unsigned i = 0; i < iterations; i++) {
        struct recording recording = {0};
        record(&recording, &seed);
        CHECK(recording.stream.size <= STREAM_BYTES_MAX);
        unsigned mutations = i == 0 ? 0 : (unsigned)(random_next(&seed) % MUTATIONS_MAX);
        for (unsigned k = 0; k < mutations; k++) {
            mutate(&recording, &seed);
        }
        if (random_next(&seed) % 8 != 0) {
            mend(&recording);
        }
        unsigned chunk = 1 + (unsigned)(random_next(&seed) % 100000);
        bool started =
            run_one(&the_guest, recording.stream.data, recording.stream.size, chunk,
                    recording.go_at);
        CHECK(i > 0 || started); /* the unharmed one arrives */
        arrived += started ? 1 : 0;
        buffer_done(&recording.stream);
    }
    printf("%u arrived, %u were turned away\n", arrived, iterations - arrived);
    return 0;
}
#endif
