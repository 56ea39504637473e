/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a TLS stream, for tls_stream.c and tls_open.c only. */
#ifndef DROVER_NODE_AGENT_TLS_STREAM_PRIVATE_H
#define DROVER_NODE_AGENT_TLS_STREAM_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include <openssl/ssl.h>

#include "base/err.h"
#include "base/limits.h"
#include "node-agent/tls_stream.h"

#define TLS_STREAM_READ_SIZE        (64u * 1024u)
#define CLOSE_REASON_MAX ERROR_TEXT_SIZE

/*
 *   RESOLVING -> CONNECTING -> HANDSHAKE -> OPEN -> ENDING -> CLOSING
 *       (any of them) ---------------------------------------^
 */
enum tls_stream_state {
    STATE_RESOLVING,
    STATE_CONNECTING,
    STATE_HANDSHAKE,
    STATE_OPEN,
    STATE_ENDING,
    STATE_CLOSING,
};

/* Owned by the loop from connect or accept until `closed`. */
struct tls_stream {
    struct tls_context *context;
    const struct tls_stream_ops *ops;
    void *owner;
    enum tls_stream_state state;
    SSL *ssl;
    BIO *in, *out; /* owned by ssl */
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    uv_shutdown_t shutdown;
    unsigned open_handles; /* tcp, timer, and a resolve under way: freed at 0 */
    bool paused, above_high, server;
    uint32_t idle_ms;
    int error;
    char text[CLOSE_REASON_MAX];
    char peer[LIMIT_ADDRESS_SIZE];
    uint8_t *read_data;
    /* Of a stream for a move: */
    bool move;
    struct tls_secrets secrets;
    uint64_t records_in, records_out; /* of the owner's data: others are not sent */
    uint8_t header[5];                /* dialled: of the record that is being read */
    size_t record_size;               /* of it, what is here */
};

/* One of the stream's handles or requests is through; the last one ends the stream. */
void tls_stream_handle_gone(struct tls_stream *stream);
/* The connection stands: reads, and as a client speaks. */
void tls_stream_start_handshake(struct tls_stream *stream);
void tls_stream_on_timeout(uv_timer_t *timer);
/* SSL_CTX_set_keylog_callback(): keeps what tls_stream_take() hands out. */
void tls_stream_on_secret(const SSL *ssl, const char *line);

#endif
