/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host says when it opens a connection for a move, up to the handing over, and what one that was dialled answers: right
 * words, cut, swapped and changed, in pieces of any size. The real peer_channel.c and moves.c work on a stream of this
 * file's own, without TLS. What must hold: no crash, nothing is lost or kept, an end for each beginning, and nobody is
 * handed over who was not judged.
 *
 * usage: fuzz_move_opening [COUNT [SEED]]; or with libFuzzer's main(): tests/fuzz/run SECONDS fuzz_move_opening
 *
 * fuzz-sources: node-agent/peer_channel.c node-agent/moves.c
 * fuzz-libraries: -luv -lssl -lcrypto
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/ktls.h"
#include "node-agent/move_relay.h"
#include "node-agent/moves.h"
#include "node-agent/peer_channel.h"

#define COUNT_DEFAULT 20000
#define HOST_ID       7
#define INPUT_MAX     8192

enum {
    FLAG_DIALLED = 1,  /* the other side answers; else it opens */
    FLAG_NO_MOVE = 2,  /* its ALPN names no move */
    FLAG_REFUSED = 4,  /* no VM waits */
    FLAG_STRANGER = 8, /* it shows no certificate */
};

/* ---- a stream without TLS: at most one at a time ---- */

struct tls_stream {
    const struct tls_stream_ops *ops;
    void *owner;
    unsigned flags;
    bool closed, taken, paused, unflushed;
};

struct world {
    uv_loop_t loop;
    SSL_CTX *ssl;
    struct moves *moves;
    struct tls_stream *stream; /* NULL: none */
    unsigned flags;
    bool channel_failed;
    unsigned judged, yes, arrived, opened, failed;
};

static struct world world;

static int stream_begin(const struct tls_stream_config *config,
                        struct tls_stream **ret_stream)
{
    struct tls_stream *stream = calloc(1, sizeof(*stream));
    CHECK(stream != NULL && world.stream == NULL);
    stream->ops = config->ops;
    stream->owner = config->owner;
    stream->flags = world.flags;
    world.stream = stream;
    *ret_stream = stream;
    return 0;
}

int tls_stream_connect(const struct tls_stream_config *config, const char *address,
                       struct tls_stream **ret_stream, struct error *err)
{
    return stream_begin(config, ret_stream);
}

int tls_stream_accept(const struct tls_stream_config *config, uv_stream_t *listener,
                      struct tls_stream **ret_stream, struct error *err)
{
    return stream_begin(config, ret_stream);
}

void tls_stream_set_ops(struct tls_stream *stream, const struct tls_stream_ops *ops,
                        void *owner)
{
    stream->ops = ops;
    stream->owner = owner;
}

void tls_stream_close(struct tls_stream *stream, int error, const char *text)
{
    stream->closed = true; /* told from the loop: on_stream_end() */
}

void tls_stream_end(struct tls_stream *stream)
{
    stream->closed = true;
}

void tls_stream_pause(struct tls_stream *stream)
{
    stream->paused = true;
}

int tls_stream_write(struct tls_stream *stream, const void *data, size_t size)
{
    CHECK(size > 0 && !stream->closed);
    stream->unflushed = true;
    return 0;
}

bool tls_stream_is_move(const struct tls_stream *stream)
{
    return (stream->flags & FLAG_NO_MOVE) == 0;
}

int tls_stream_peer_identity(const struct tls_stream *stream,
                             struct pki_identity *ret_identity)
{
    if ((stream->flags & FLAG_STRANGER) != 0) {
        return DROVER_EPEER;
    }
    *ret_identity = (struct pki_identity){.host_id = HOST_ID};
    (void)snprintf(ret_identity->cluster_id, sizeof(ret_identity->cluster_id), "cluster");
    return 0;
}

int tls_stream_fd(const struct tls_stream *stream)
{
    (void)stream;
    return -1;
}

const char *tls_stream_peer_text(const struct tls_stream *stream)
{
    return "fuzz";
}

int tls_stream_take(struct tls_stream *stream, struct tls_taken *ret_taken)
{
    CHECK(!stream->closed && (stream->flags & (FLAG_STRANGER | FLAG_NO_MOVE)) == 0);
    stream->taken = true;
    stream->closed = true;
    *ret_taken = (struct tls_taken){.fd = dup(STDERR_FILENO), .ssl = SSL_new(world.ssl)};
    CHECK(ret_taken->fd >= 0 && ret_taken->ssl != NULL);
    return 0;
}

void tls_taken_done(struct tls_taken *taken)
{
    cleanup_fd(&taken->fd);
    SSL_free(taken->ssl);
    *taken = (struct tls_taken){.fd = -1};
}

int ktls_attach(int fd)
{
    abort();
}

int ktls_install(const struct tls_taken *taken)
{
    abort();
}

int ktls_probe(void)
{
    abort();
}

int move_relay_start(struct tls_taken *taken, void (*ended)(void *owner), void *owner,
                     struct move_relay **ret_relay, int *ret_fd)
{
    *ret_relay = (struct move_relay *)&world;
    *ret_fd = taken->fd;
    taken->fd = -1;
    return 0;
}

bool move_relay_ended(const struct move_relay *relay)
{
    abort();
}

void move_relay_free(struct move_relay *relay, struct move_relay_end *ret_end)
{
    CHECK(relay == (struct move_relay *)&world);
}

/* ---- the owner of it all ---- */

static int on_judge(void *owner, uint64_t host_id, const struct move_wish *wish,
                    struct error *err)
{
    CHECK(host_id == HOST_ID);
    world.judged++;
    if ((world.flags & FLAG_REFUSED) != 0) {
        return error_set(err, DROVER_ENOTFOUND, "no such VM waits here");
    }
    world.yes++;
    return 0;
}

static void on_arrived(void *owner, uint64_t host_id, const struct move_wish *wish,
                       const struct move_socket *socket)
{
    CHECK(world.yes == 1 && world.arrived == 0);
    world.arrived++;
    (void)close(socket->fd);
}

static void on_note(void *owner, const char *text)
{
    CHECK(text[0] != '\0');
}

static const struct moves_ops moves_ops = {
    .judge = on_judge, .arrived = on_arrived, .note = on_note};

static void on_dial_opened(void *owner, const struct move_socket *socket)
{
    world.opened++;
    (void)close(socket->fd);
}

static void on_dial_failed(void *owner, int error, const char *text)
{
    CHECK(error != 0 && text != NULL);
    world.failed++;
}

static const struct move_dial_ops dial_ops = {.opened = on_dial_opened,
                                              .failed = on_dial_failed};

static void on_channel_opened(void *owner, struct peer_channel *channel,
                              const struct peer_opened *opened)
{
    if (opened->kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_MOVE) {
        CHECK(opened->host_id == HOST_ID);
        moves_accept(world.moves, opened);
    } else {
        static const struct tls_stream_ops none = {0};
        tls_stream_set_ops(opened->stream, &none, NULL);
        tls_stream_close(opened->stream, 0, NULL);
    }
}

static void on_channel_failed(void *owner, struct peer_channel *channel, int error,
                              const char *text)
{
    world.channel_failed = true;
}

static const struct peer_channel_ops channel_ops = {.opened = on_channel_opened,
                                                    .failed = on_channel_failed};

/* ---- one run ---- */

static void begin(unsigned flags)
{
    static const struct peer_self self = {.cluster_id = "cluster",
                                          .host_id = 1,
                                          .boot_id = "b",
                                          .incarnation = "i",
                                          .address = "h:1"};
    static const struct move_wish wish = {.vm_id = 3, .epoch = 4};
    world.flags = flags;
    world.channel_failed = false;
    world.judged = world.yes = world.arrived = world.opened = world.failed = 0;
    const struct moves_config config = {
        .loop = &world.loop, .self = &self, .open_ms = 1, .ack_ms = 1, .relay_only = true,
        .ops = &moves_ops};
    CHECK(moves_create(&config, &world.moves) == 0);
    if ((flags & FLAG_DIALLED) != 0) {
        struct move_dial *dial = NULL;
        CHECK(moves_dial(world.moves, HOST_ID, "h:1", &wish, &dial_ops, NULL, &dial,
                         NULL) == 0);
        world.stream->ops->opened(world.stream->owner, world.stream);
    } else {
        struct peer_channel *channel = NULL;
        const struct peer_channel_config accepting = {
            .loop = &world.loop, .self = &self, .open_ms = 1, .ops = &channel_ops};
        CHECK(peer_channel_accept(&accepting, NULL, &channel, NULL) == 0);
        world.stream->ops->opened(world.stream->owner, world.stream);
    }
}

/* As the loop does after each read. */
static void turn(struct tls_stream *stream)
{
    if (!stream->closed && stream->unflushed && stream->ops->flushed != NULL) {
        stream->unflushed = false;
        stream->ops->flushed(stream->owner, stream);
    }
}

static void closed(void *owner)
{
    *(bool *)owner = true;
}

static void finish(void)
{
    struct tls_stream *stream = world.stream;
    bool moves_closed = false;
    if (stream->ops->closed != NULL) {
        stream->ops->closed(stream->owner, stream, stream->closed ? 0 : DROVER_ECLOSED,
                            "the end");
    }
    moves_close(world.moves, closed, &moves_closed);
    (void)uv_run(&world.loop, UV_RUN_DEFAULT);
    CHECK(moves_closed);
    moves_free(world.moves);
    free(stream);
    world.stream = NULL;
    if ((world.flags & FLAG_DIALLED) != 0) {
        CHECK(world.opened + world.failed == 1);
    }
    CHECK(world.arrived <= world.yes && world.judged <= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* First byte: flags; second: the size of the pieces. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool ready;
    if (!ready) {
        CHECK(uv_loop_init(&world.loop) == 0);
        world.ssl = SSL_CTX_new(TLS_method());
        CHECK(world.ssl != NULL);
        ready = true;
    }
    if (size < 2) {
        return 0;
    }
    begin(data[0] & 15u);
    size_t piece = data[1] == 0 ? size : data[1];
    struct tls_stream *stream = world.stream;
    for (size_t at = 2; at < size && !stream->closed; at += piece) {
        size_t part = piece < size - at ? piece : size - at;
        if (stream->paused && stream->unflushed) {
            turn(stream); /* nothing is read before that is sent */
            if (stream->closed) {
                break;
            }
        }
        stream->ops->received(stream->owner, stream, data + at, part);
        if (data[1] % 2 == 0 && !stream->closed) {
            turn(stream);
        }
    }
    turn(stream);
    finish();
    return 0;
}

#ifndef LIBFUZZER
#include "tests/fuzz/fuzz_replay.h"

/* ---- inputs from right words ---- */

static uint64_t state;

static uint64_t next(uint64_t below)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * UINT64_C(2685821657736338717) >> 33) % below;
}

static void append(struct buffer *out, const Drover__PeerMessage *message)
{
    CHECK(peer_message_encode(message, PEER_CHANNEL_HELLO_BYTES_MAX, out) == 0);
}

/* A whole conversation of the other side's. */
static void words(struct buffer *out, unsigned flags)
{
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    Drover__PeerHello hello = DROVER__PEER_HELLO__INIT;
    Drover__MoveOpen open = DROVER__MOVE_OPEN__INIT;
    Drover__MoveAnswer answer = DROVER__MOVE_ANSWER__INIT;
    hello.version = PEER_CHANNEL_VERSION;
    hello.cluster_id = (char *)"cluster";
    hello.host_id = HOST_ID;
    hello.channel = next(8) == 0 ? (Drover__PeerChannel)next(6)
                                 : DROVER__PEER_CHANNEL__PEER_CHANNEL_MOVE;
    hello.boot_id = hello.incarnation = (char *)"x";
    hello.address = (char *)"h:1";
    message.what_case = DROVER__PEER_MESSAGE__WHAT_HELLO;
    message.hello = &hello;
    append(out, &message);
    if ((flags & FLAG_DIALLED) != 0) {
        answer.error = next(3) == 0 ? (int)next(3) - 1 : 0;
        answer.message = (char *)"no";
        message.what_case = DROVER__PEER_MESSAGE__WHAT_MOVE_ANSWER;
        message.move_answer = &answer;
    } else {
        open.vm_id = next(5);
        open.epoch = next(5);
        open.stream = (uint32_t)next(5) * 4;
        message.what_case = DROVER__PEER_MESSAGE__WHAT_MOVE_OPEN;
        message.move_open = &open;
    }
    append(out, &message);
}

static void spoil(struct buffer *out)
{
    switch (next(5)) {
    case 0:
        break;
    case 1:
        out->size -= next(out->size);
        break;
    case 2:
        CHECK(buffer_append(out, "\x17\x03\x03", 3) == 0);
        break;
    default:
        for (uint64_t i = 1 + next(4); i > 0; i--) {
            out->data[next(out->size)] = (uint8_t)next(256);
        }
    }
}

int main(int argc, char **argv)
{
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : COUNT_DEFAULT;
    unsigned long seed = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    unsigned long arrived = 0, opened = 0;
    for (unsigned long i = 0; i < count; i++) {
        struct buffer input = {0};
        state = (seed << 32) + i + 1;
        for (unsigned k = 0; k < 8; k++) {
            (void)next(2); /* near seeds give near first numbers */
        }
        unsigned flags = next(4) == 0 ? (unsigned)next(16) : (unsigned)next(2);
        buffer_init(&input, INPUT_MAX);
        CHECK(buffer_append(&input, &(uint8_t[]){(uint8_t)flags}, 1) == 0);
        CHECK(buffer_append(&input, &(uint8_t[]){(uint8_t)next(256)}, 1) == 0);
        struct buffer said = {0};
        buffer_init(&said, INPUT_MAX);
        words(&said, flags);
        spoil(&said);
        CHECK(buffer_append(&input, said.data, said.size) == 0);
        (void)LLVMFuzzerTestOneInput(input.data, input.size);
        arrived += world.arrived;
        opened += world.opened;
        buffer_done(&said);
        buffer_done(&input);
    }
    unsigned kept = fuzz_replay("fuzz_move_opening");
    CHECK(uv_loop_close(&world.loop) == 0);
    SSL_CTX_free(world.ssl);
    printf("%lu openings: %lu arrived, %lu opened; %u of the corpus\n", count, arrived, opened, kept);
    /* Else it tests nothing. */
    return count < 1000 || (arrived > 0 && opened > 0) ? 0 : 1;
}

#endif
