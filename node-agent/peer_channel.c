/* SPDX-License-Identifier: Apache-2.0 */
/* The opening of a connection between agents. */
#include "node-agent/peer_channel.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/pki.h"
#include "node-agent/tls_stream.h"
#include "proto/frame.h"

/* Lives from dial or accept until `opened` or `failed`. */
struct peer_channel {
    const struct peer_self *self;
    const struct peer_channel_ops *ops;
    void *owner;
    struct tls_stream *stream;
    Drover__PeerChannel kind; /* dialled for; unspecified: accepted */
    uint64_t host_id;         /* who must answer; 0: any */
    struct buffer in;
};

/* ---- messages ---- */

int peer_message_encode(const Drover__PeerMessage *message, size_t limit_bytes,
                        struct buffer *out)
{
    size_t size = drover__peer_message__get_packed_size(message);
    if (size > limit_bytes) {
        return DROVER_ELIMIT;
    }
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return -ENOMEM;
    }
    CHECK(drover__peer_message__pack(message, packed) == size);
    return frame_encode(out, FRAME_KIND_PEER, packed, size, limit_bytes);
}

int peer_message_decode(struct buffer *in, size_t limit_bytes,
                        Drover__PeerMessage **ret_message)
{
    const uint8_t *payload = NULL;
    size_t size = 0, frame_size = 0;
    int rv = frame_decode(in, FRAME_KIND_PEER, limit_bytes, &payload, &size, &frame_size);
    if (rv != 1) {
        return rv;
    }
    Drover__PeerMessage *message = drover__peer_message__unpack(NULL, size, payload);
    if (message == NULL) {
        return DROVER_EMALFORMED; /* or no memory: protobuf-c does not say */
    }
    buffer_consume(in, frame_size);
    *ret_message = message;
    return 1;
}

/* ---- hello ---- */

static int send_hello(struct peer_channel *channel, struct tls_stream *stream,
                      Drover__PeerChannel kind)
{
    Drover__PeerHello hello = DROVER__PEER_HELLO__INIT;
    hello.version = PEER_CHANNEL_VERSION;
    hello.cluster_id = (char *)channel->self->cluster_id;
    hello.host_id = channel->self->host_id;
    hello.channel = kind;
    hello.boot_id = (char *)channel->self->boot_id;
    hello.incarnation = (char *)channel->self->incarnation;
    hello.address = (char *)channel->self->address;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_HELLO;
    message.hello = &hello;
    CLEANUP(buffer_done) struct buffer out = {0};
    int rv = peer_message_encode(&message, PEER_CHANNEL_HELLO_BYTES_MAX, &out);
    return rv != 0 ? rv : tls_stream_write(stream, out.data, out.size);
}

/* A member's hello must say what its certificate says. */
static int judge_member(const struct peer_channel *channel,
                        const struct tls_stream *stream, const Drover__PeerHello *hello,
                        struct error *err)
{
    struct pki_identity identity = {0};
    if (tls_stream_peer_identity(stream, &identity) != 0) {
        return error_set(err, DROVER_EPEER,
                         "it shows no certificate of a host of this cluster");
    }
    if (identity.host_id != hello->host_id ||
        strcmp(identity.cluster_id, hello->cluster_id) != 0) {
        return error_set(err, DROVER_EPEER,
                         "its hello says host %" PRIu64 ", its certificate host %" PRIu64,
                         hello->host_id, identity.host_id);
    }
    bool joining = channel->self->cluster_id[0] == '\0';
    if (!joining && strcmp(identity.cluster_id, channel->self->cluster_id) != 0) {
        return error_set(err, DROVER_EPEER, "it is of another cluster (%.39s)",
                         identity.cluster_id);
    }
    if (channel->host_id != 0 && identity.host_id != channel->host_id) {
        return error_set(err, DROVER_EPEER,
                         "host %" PRIu64 " answers there instead of host %" PRIu64,
                         identity.host_id, channel->host_id);
    }
    if (!joining && identity.host_id == channel->self->host_id) {
        return error_set(err, DROVER_EPEER, "it claims to be this very host");
    }
    return 0;
}

static int judge_hello(const struct peer_channel *channel,
                       const struct tls_stream *stream,
                       const Drover__PeerMessage *message, struct error *err)
{
    const Drover__PeerHello *hello = message->hello;
    if (message->what_case != DROVER__PEER_MESSAGE__WHAT_HELLO) {
        return error_set(err, DROVER_EMALFORMED, "its first message is no hello");
    }
    if (hello->version != PEER_CHANNEL_VERSION) {
        return error_set(
            err, DROVER_EVERSION,
            "it speaks version %u of the protocol, this host %u: upgrade the older one",
            hello->version, PEER_CHANNEL_VERSION);
    }
    bool dialled = channel->kind != DROVER__PEER_CHANNEL__PEER_CHANNEL_UNSPECIFIED;
    if (dialled ? hello->channel != channel->kind
                : hello->channel < DROVER__PEER_CHANNEL__PEER_CHANNEL_AGENT ||
                      hello->channel > DROVER__PEER_CHANNEL__PEER_CHANNEL_MOVE) {
        return error_set(err, DROVER_EMALFORMED, "it wants a channel of unknown kind %d",
                         (int)hello->channel);
    }
    if ((hello->channel == DROVER__PEER_CHANNEL__PEER_CHANNEL_MOVE) !=
        tls_stream_is_move(stream)) {
        return error_set(err, DROVER_EMALFORMED,
                         "it wants another kind of channel than its connection is for");
    }
    if (!dialled && hello->channel == DROVER__PEER_CHANNEL__PEER_CHANNEL_JOIN) {
        return 0; /* who has no certificate yet proves itself with a token */
    }
    return judge_member(channel, stream, hello, err);
}

static void ignore_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                            size_t size)
{
}

static void ignore_closed(void *owner, struct tls_stream *stream, int error,
                          const char *text)
{
}

/* What a stream has between two owners. */
static const struct tls_stream_ops no_ops = {.received = ignore_received,
                                             .closed = ignore_closed};

static void channel_free(struct peer_channel *channel)
{
    buffer_done(&channel->in);
    free(channel);
}

/* From the stream's own callbacks only: so `failed` is never called inside a call of the
 * owner's. */
static void channel_fail(struct peer_channel *channel, struct tls_stream *stream,
                         int error, const char *text)
{
    tls_stream_set_ops(stream, &no_ops, NULL);
    tls_stream_close(stream, error, text);
    channel->ops->failed(channel->owner, channel, error, text);
    channel_free(channel);
}

static void on_opened(void *owner, struct tls_stream *stream)
{
    struct peer_channel *channel = owner;
    if (channel->kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_UNSPECIFIED) {
        return; /* who dials speaks first */
    }
    int rv = send_hello(channel, stream, channel->kind);
    if (rv != 0) {
        channel_fail(channel, stream, rv, err_text(rv));
    }
}

static void on_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                        size_t size)
{
    struct peer_channel *channel = owner;
    Drover__PeerMessage *message = NULL;
    int rv = buffer_append(&channel->in, data, size);
    rv = rv != 0
             ? rv
             : peer_message_decode(&channel->in, PEER_CHANNEL_HELLO_BYTES_MAX, &message);
    if (rv == 0) {
        return;
    }
    struct error err = {0};
    if (rv == 1) {
        rv = judge_hello(channel, stream, message, &err);
    } else {
        (void)error_set(&err, rv, "its hello is malformed: %s", err_text(rv));
    }
    bool accepted = channel->kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_UNSPECIFIED;
    if (rv == 0 && accepted) {
        rv = send_hello(channel, stream, message->hello->channel);
    }
    if (rv != 0) {
        channel_fail(channel, stream, rv, err.text[0] != '\0' ? err.text : err_text(rv));
    } else {
        struct pki_identity identity = {0};
        bool known = tls_stream_peer_identity(stream, &identity) == 0;
        struct peer_opened opened = {.stream = stream,
                                     .kind = message->hello->channel,
                                     .host_id = known ? identity.host_id : 0,
                                     .incarnation = message->hello->incarnation,
                                     .address = message->hello->address,
                                     .rest = channel->in.data,
                                     .rest_size = channel->in.size};
        tls_stream_set_ops(stream, &no_ops, NULL);
        channel->ops->opened(channel->owner, channel, &opened);
        channel_free(channel);
    }
    if (message != NULL) {
        drover__peer_message__free_unpacked(message, NULL);
    }
}

static void on_closed(void *owner, struct tls_stream *stream, int error, const char *text)
{
    struct peer_channel *channel = owner;
    int code = error != 0 ? error : DROVER_ECLOSED;
    channel->ops->failed(channel->owner, channel, code,
                         error != 0 ? text : "it closed the connection before its hello");
    channel_free(channel);
}

static const struct tls_stream_ops stream_ops = {
    .opened = on_opened,
    .received = on_received,
    .closed = on_closed,
};

/* ---- opening ---- */

static struct peer_channel *channel_create(const struct peer_channel_config *config,
                                           uint64_t host_id, Drover__PeerChannel kind)
{
    struct peer_channel *channel = calloc(1, sizeof(*channel));
    if (channel != NULL) {
        *channel = (struct peer_channel){.self = config->self,
                                         .ops = config->ops,
                                         .owner = config->owner,
                                         .kind = kind,
                                         .host_id = host_id};
        /* A whole TLS record may follow the hello. */
        buffer_init(&channel->in, PEER_CHANNEL_HELLO_BYTES_MAX + 2u * 16384u);
    }
    return channel;
}

int peer_channel_dial(const struct peer_channel_config *config, const char *address,
                      uint64_t host_id, Drover__PeerChannel kind,
                      struct peer_channel **ret_channel, struct error *err)
{
    CHECK(kind != DROVER__PEER_CHANNEL__PEER_CHANNEL_UNSPECIFIED);
    struct peer_channel *channel = channel_create(config, host_id, kind);
    if (channel == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    struct tls_stream_config stream = {.loop = config->loop,
                                       .context = config->context,
                                       .open_ms = config->open_ms,
                                       .move =
                                           kind == DROVER__PEER_CHANNEL__PEER_CHANNEL_MOVE,
                                       .ops = &stream_ops,
                                       .owner = channel};
    int rv = tls_stream_connect(&stream, address, &channel->stream, err);
    if (rv != 0) {
        channel_free(channel);
        return rv;
    }
    *ret_channel = channel;
    return 0;
}

int peer_channel_accept(const struct peer_channel_config *config, uv_stream_t *listener,
                        struct peer_channel **ret_channel, struct error *err)
{
    struct peer_channel *channel =
        channel_create(config, 0, DROVER__PEER_CHANNEL__PEER_CHANNEL_UNSPECIFIED);
    if (channel == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    struct tls_stream_config stream = {.loop = config->loop,
                                       .context = config->context,
                                       .open_ms = config->open_ms,
                                       .ops = &stream_ops,
                                       .owner = channel};
    int rv = tls_stream_accept(&stream, listener, &channel->stream, err);
    if (rv != 0) {
        channel_free(channel);
        return rv;
    }
    *ret_channel = channel;
    return 0;
}

void peer_channel_cancel(struct peer_channel *channel)
{
    tls_stream_close(channel->stream, DROVER_ECANCELLED, NULL);
}
