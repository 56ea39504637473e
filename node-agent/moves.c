/* SPDX-License-Identifier: Apache-2.0 */
/* Encrypted connections for moves: the opening words. Who encrypts then: move_sockets.c. */
#include "node-agent/moves.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/move_sockets.h"
#include "node-agent/tls_stream.h"

#define ANSWER_TEXT_MAX 256

/*
 * A connection until it is handed over, or refused.
 *
 *   dialled    channel -> stream: MoveOpen sent -> answer -> handed over
 *   accepted              stream: MoveOpen came -> answer flushed -> handed over, or ended
 */
struct move_dial {
    struct moves *moves;
    struct move_dial *next;
    struct peer_channel *channel; /* dialled, before its hello */
    struct tls_stream *stream;
    struct buffer in;
    uint64_t host_id;
    struct move_wish wish;
    bool dialled;
    bool answered;  /* accepted: said yes */
    bool by_kernel; /* shall be encrypted so, if the kernel does not refuse after all */
    const struct move_dial_ops *ops; /* NULL: cancelled, or accepted */
    void *owner;
};

struct moves {
    struct moves_config config;
    struct move_sockets *sockets;
    struct move_dial *dials;
    void (*closed)(void *owner); /* set once closing */
    void *closed_owner;
    bool sockets_closed;
};

static void ignore_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                            size_t size)
{
}

static void ignore_closed(void *owner, struct tls_stream *stream, int error,
                          const char *text)
{
}

/* What a stream has after its last owner. */
static const struct tls_stream_ops no_ops = {.received = ignore_received,
                                             .closed = ignore_closed};

static void finish_close(struct moves *moves)
{
    if (moves->closed != NULL && moves->sockets_closed && moves->dials == NULL) {
        void (*closed)(void *owner) = moves->closed;
        moves->closed = NULL;
        closed(moves->closed_owner);
    }
}

static void dial_free(struct move_dial *dial)
{
    struct moves *moves = dial->moves;
    struct move_dial **at = &moves->dials;
    while (*at != dial) {
        at = &(*at)->next;
    }
    *at = dial->next;
    buffer_done(&dial->in);
    free(dial);
    finish_close(moves);
}

static struct move_dial *dial_create(struct moves *moves, uint64_t host_id)
{
    struct move_dial *dial = calloc(1, sizeof(*dial));
    if (dial != NULL) {
        dial->moves = moves;
        dial->host_id = host_id;
        dial->next = moves->dials;
        moves->dials = dial;
        /* A whole TLS record may follow the message. */
        buffer_init(&dial->in, PEER_CHANNEL_HELLO_BYTES_MAX + 2u * 16384u);
    }
    return dial;
}

static void note(const struct moves *moves, const struct move_wish *wish,
                 const char *text)
{
    char line[ERROR_TEXT_SIZE];
    (void)snprintf(line, sizeof(line), "%.240s vm=%" PRIu64 " epoch=%" PRIu64 " stream=%u",
                   text, wish->vm_id, wish->epoch, wish->stream);
    moves->config.ops->note(moves->config.owner, line);
}

/* The owner hears of a failure, and the dial is gone. Its stream must be dealt with. */
static void fail(struct move_dial *dial, int error, const char *text)
{
    const struct move_dial_ops *ops = dial->ops;
    void *owner = dial->owner;
    if (ops == NULL && dial->moves->closed == NULL && !dial->dialled) {
        char line[ERROR_TEXT_SIZE];
        (void)snprintf(line, sizeof(line), "a connection of host %" PRIu64
                       " for a move was refused: %.200s", dial->host_id, text);
        note(dial->moves, &dial->wish, line);
    }
    dial_free(dial);
    if (ops != NULL) {
        ops->failed(owner, error, text);
    }
}

static void fail_stream(struct move_dial *dial, int error, const char *text)
{
    tls_stream_set_ops(dial->stream, &no_ops, NULL);
    tls_stream_close(dial->stream, error, NULL);
    fail(dial, error, text);
}

/* Out of the stream, into a socket for the VMM. */
static int hand_over(struct move_dial *dial, struct move_socket *ret_socket)
{
    tls_stream_set_ops(dial->stream, &no_ops, NULL);
    return move_sockets_make(dial->moves->sockets, dial->stream, &dial->wish,
                             dial->by_kernel, ret_socket);
}

/* ---- both sides' words ---- */

static int say(struct tls_stream *stream, const Drover__PeerMessage *message)
{
    CLEANUP(buffer_done) struct buffer out = {0};
    int rv = peer_message_encode(message, PEER_CHANNEL_HELLO_BYTES_MAX, &out);
    return rv != 0 ? rv : tls_stream_write(stream, out.data, out.size);
}

static int say_open(struct move_dial *dial)
{
    Drover__MoveOpen open = DROVER__MOVE_OPEN__INIT;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    open.vm_id = dial->wish.vm_id;
    open.epoch = dial->wish.epoch;
    open.stream = dial->wish.stream;
    dial->by_kernel = move_sockets_prepare(dial->moves->sockets, dial->stream);
    open.encryption = dial->by_kernel ? DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL
                                      : DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_MOVE_OPEN;
    message.move_open = &open;
    return say(dial->stream, &message);
}

static int say_answer(struct move_dial *dial, int error, const char *text)
{
    Drover__MoveAnswer answer = DROVER__MOVE_ANSWER__INIT;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    answer.error = error;
    answer.message = (char *)(uintptr_t)text; /* only packed from */
    message.what_case = DROVER__PEER_MESSAGE__WHAT_MOVE_ANSWER;
    message.move_answer = &answer;
    return say(dial->stream, &message);
}

/* ---- source ---- */

static void take_answer(struct move_dial *dial, const Drover__PeerMessage *message)
{
    const Drover__MoveAnswer *answer = message->move_answer;
    if (message->what_case != DROVER__PEER_MESSAGE__WHAT_MOVE_ANSWER ||
        answer->error > 0) {
        fail_stream(dial, DROVER_EMALFORMED, "the target's agent answers with nonsense");
        return;
    }
    if (answer->error != 0) {
        char text[ANSWER_TEXT_MAX];
        (void)snprintf(text, sizeof(text), "the target refuses: %.200s", answer->message);
        fail_stream(dial, answer->error, text);
        return;
    }
    if (dial->in.size > 0) {
        fail_stream(dial, DROVER_EMALFORMED, "the target's agent says too much");
        return;
    }
    struct move_socket socket = {.fd = -1};
    int rv = hand_over(dial, &socket);
    if (rv != 0) {
        char text[ANSWER_TEXT_MAX];
        (void)snprintf(text, sizeof(text), "the connection can't be encrypted: %s",
                       err_text(rv));
        fail(dial, rv, text);
        return;
    }
    const struct move_dial_ops *ops = dial->ops;
    void *owner = dial->owner;
    dial_free(dial);
    if (ops == NULL) {
        (void)close(socket.fd); /* cancelled */
    } else {
        ops->opened(owner, &socket);
    }
}

/* ---- target ---- */

static void take_open(struct move_dial *dial, const Drover__PeerMessage *message)
{
    struct moves *moves = dial->moves;
    struct error err = {0};
    const Drover__MoveOpen *open = message->move_open;
    tls_stream_pause(dial->stream); /* the next byte is the VMM's */
    int rv = 0;
    if (dial->in.size > 0) {
        rv = error_set(&err, DROVER_EMALFORMED, "more came than was asked for");
    } else if (message->what_case != DROVER__PEER_MESSAGE__WHAT_MOVE_OPEN) {
        rv = error_set(&err, DROVER_EMALFORMED, "the first message names no move");
    } else {
        dial->wish = (struct move_wish){.vm_id = open->vm_id,
                                        .epoch = open->epoch,
                                        .stream = open->stream,
                                        .encryption = open->encryption};
        dial->by_kernel = move_sockets_prepare(dial->moves->sockets, dial->stream);
        rv = moves->config.ops->judge(moves->config.owner, dial->host_id, &dial->wish,
                                      &err);
    }
    dial->answered = rv == 0;
    if (say_answer(dial, rv, err.text) != 0) {
        fail_stream(dial, DROVER_ECLOSED, "it could not be answered");
        return;
    }
    if (rv != 0) {
        tls_stream_set_ops(dial->stream, &no_ops, NULL);
        tls_stream_end(dial->stream);
        fail(dial, rv, err.text);
    }
}

static void on_flushed(void *owner, struct tls_stream *stream)
{
    struct move_dial *dial = owner;
    struct moves *moves = dial->moves;
    struct move_socket socket = {.fd = -1};
    (void)stream;
    if (dial->dialled || !dial->answered) {
        return;
    }
    int rv = hand_over(dial, &socket);
    if (rv != 0) {
        fail(dial, rv, err_text(rv));
        return;
    }
    uint64_t host_id = dial->host_id;
    struct move_wish wish = dial->wish;
    dial_free(dial);
    moves->config.ops->arrived(moves->config.owner, host_id, &wish, &socket);
}

/* ---- both sides ---- */

static void on_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                        size_t size)
{
    struct move_dial *dial = owner;
    Drover__PeerMessage *message = NULL;
    (void)stream;
    int rv = dial->answered ? DROVER_EMALFORMED : buffer_append(&dial->in, data, size);
    rv = rv != 0 ? rv
                 : peer_message_decode(&dial->in, PEER_CHANNEL_HELLO_BYTES_MAX, &message);
    if (rv < 0) {
        fail_stream(dial, rv, "its words are malformed, or came too early");
        return;
    }
    if (rv == 0) {
        return;
    }
    if (dial->dialled) {
        take_answer(dial, message);
    } else {
        take_open(dial, message);
    }
    drover__peer_message__free_unpacked(message, NULL);
}

static void on_closed(void *owner, struct tls_stream *stream, int error, const char *text)
{
    (void)stream;
    fail(owner, error != 0 ? error : DROVER_ECLOSED,
         error != 0 ? text : "the connection was closed before it was a move's");
}

static const struct tls_stream_ops stream_ops = {
    .received = on_received,
    .flushed = on_flushed,
    .closed = on_closed,
};

void moves_accept(struct moves *moves, const struct peer_opened *opened)
{
    unsigned count = 0;
    for (const struct move_dial *dial = moves->dials; dial != NULL; dial = dial->next) {
        count += !dial->dialled;
    }
    struct move_dial *dial = moves->closed != NULL || count >= MOVES_ACCEPTING_MAX
                                 ? NULL
                                 : dial_create(moves, opened->host_id);
    if (dial == NULL) {
        tls_stream_set_ops(opened->stream, &no_ops, NULL);
        tls_stream_close(opened->stream, DROVER_ELIMIT, NULL);
        return;
    }
    dial->stream = opened->stream;
    tls_stream_set_ops(dial->stream, &stream_ops, dial);
    if (opened->rest_size > 0) {
        on_received(dial, dial->stream, opened->rest, opened->rest_size);
    }
}

static void on_channel_opened(void *owner, struct peer_channel *channel,
                              const struct peer_opened *opened)
{
    struct move_dial *dial = owner;
    (void)channel;
    dial->channel = NULL;
    dial->stream = opened->stream;
    tls_stream_set_ops(dial->stream, &stream_ops, dial);
    int rv = opened->rest_size > 0 ? DROVER_EMALFORMED
             : dial->ops == NULL   ? DROVER_ECANCELLED
                                   : say_open(dial);
    if (rv != 0) {
        fail_stream(dial, rv, err_text(rv));
    }
}

static void on_channel_failed(void *owner, struct peer_channel *channel, int error,
                              const char *text)
{
    (void)channel;
    fail(owner, error, text);
}

static const struct peer_channel_ops channel_ops = {.opened = on_channel_opened,
                                                    .failed = on_channel_failed};

int moves_dial(struct moves *moves, uint64_t host_id, const char *address,
               const struct move_wish *wish, const struct move_dial_ops *ops, void *owner,
               struct move_dial **ret_dial, struct error *err)
{
    CHECK(moves->closed == NULL);
    struct move_dial *dial = dial_create(moves, host_id);
    if (dial == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    dial->dialled = true;
    dial->wish = *wish;
    dial->ops = ops;
    dial->owner = owner;
    const struct peer_channel_config config = {
        .loop = moves->config.loop,
        .context = moves->config.context,
        .self = moves->config.self,
        .open_ms = moves->config.open_ms,
        .ops = &channel_ops,
        .owner = dial,
    };
    int rv = peer_channel_dial(&config, address, host_id,
                               DROVER__PEER_CHANNEL__PEER_CHANNEL_MOVE, &dial->channel,
                               err);
    if (rv != 0) {
        dial_free(dial);
        return rv;
    }
    *ret_dial = dial;
    return 0;
}

void moves_dial_cancel(struct move_dial *dial)
{
    dial->ops = NULL;
    if (dial->channel != NULL) {
        peer_channel_cancel(dial->channel);
    } else if (dial->stream != NULL) {
        tls_stream_close(dial->stream, DROVER_ECANCELLED, NULL);
    }
}

/* ---- all of them ---- */
bool moves_probed(const struct moves *moves, bool *ret_by_kernel)
{
    return move_sockets_probed(moves->sockets, ret_by_kernel);
}

static void on_note(void *owner, const struct move_wish *wish, const char *text)
{
    note(owner, wish, text);
}

int moves_create(const struct moves_config *config, struct moves **ret_moves)
{
    struct moves *moves = calloc(1, sizeof(*moves));
    if (moves == NULL) {
        return -ENOMEM;
    }
    moves->config = *config;
    const struct move_sockets_config sockets = {.loop = config->loop,
                                                .ack_ms = config->ack_ms,
                                                .relay_only = config->relay_only,
                                                .note = on_note,
                                                .owner = moves};
    int rv = move_sockets_create(&sockets, &moves->sockets);
    if (rv != 0) {
        free(moves);
        return rv;
    }
    *ret_moves = moves;
    return 0;
}

static void on_sockets_closed(void *owner)
{
    struct moves *moves = owner;
    moves->sockets_closed = true;
    finish_close(moves);
}

void moves_close(struct moves *moves, void (*closed)(void *owner), void *owner)
{
    CHECK(moves->closed == NULL);
    moves->closed = closed;
    moves->closed_owner = owner;
    for (struct move_dial *dial = moves->dials; dial != NULL; dial = dial->next) {
        moves_dial_cancel(dial);
    }
    move_sockets_close(moves->sockets, on_sockets_closed, moves);
}

void moves_free(struct moves *moves)
{
    if (moves == NULL) {
        return;
    }
    CHECK(moves->dials == NULL && moves->sockets_closed);
    move_sockets_free(moves->sockets);
    free(moves);
}
