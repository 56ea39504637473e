/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TLS 1.3 connection on a uv loop (OpenSSL with memory BIOs over uv_tcp). Whatever the other side sends, it ends in
 * bytes that OpenSSL has authenticated, or in `closed` with a reason. Loop thread only.
 *
 * The stream owns itself: `closed` is called exactly once, from the loop, and the pointer is invalid after it.
 */
#ifndef DROVER_NODE_AGENT_TLS_STREAM_H
#define DROVER_NODE_AGENT_TLS_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include <openssl/ssl.h>

#include "node-agent/pki.h"
#include "node-agent/tls_secrets.h"

struct error;
struct tls_context;
struct tls_stream;

/* More than this waiting to be sent closes the connection: the other side does not read. */
#define TLS_STREAM_QUEUE_BYTES_MAX (32u * 1024u * 1024u)
/* A writer that can wait should, above this; `drained` tells when. */
#define TLS_STREAM_QUEUE_BYTES_HIGH (1024u * 1024u)

/* ---- contexts ----------------------------------------------------------------------------- */

struct tls_files {
    const char *ca_path, *certificate_path, *key_path;
};
/* As a member of the cluster: shows the host's certificate, accepts those of the cluster's CA. As a server it also lets in
 * clients without any: the layer above must ask tls_stream_peer_identity(). Validity in time is not checked: a host
 * whose clock is wrong must not drop out of its cluster; who is a member is in the cluster's state. */
int tls_context_create_member(const struct tls_files *files, struct tls_context **ret_context,
                              struct error *err);
/* For joining: shows no certificate, and believes a server only if its chain ends in the CA of this fingerprint. */
int tls_context_create_join(const uint8_t ca_sha256[PKI_SHA256_SIZE],
                            struct tls_context **ret_context, struct error *err);
void tls_context_free(struct tls_context *context);

/* What a connection over which a guest moves calls itself (ALPN). */
#define TLS_STREAM_ALPN_MOVE "drover-move"

/* ---- streams ------------------------------------------------------------------------------ */

struct tls_stream_ops {
    /* The handshake is over and the other side's certificate is good. May be NULL for none to be told. */
    void (*opened)(void *owner, struct tls_stream *stream);
    void (*received)(void *owner, struct tls_stream *stream, const uint8_t *data, size_t size);
    /* The queue fell below TLS_STREAM_QUEUE_BYTES_HIGH after it was above. May be NULL. */
    void (*drained)(void *owner, struct tls_stream *stream);
    /* All that was written is with the kernel. May be NULL. */
    void (*flushed)(void *owner, struct tls_stream *stream);
    /* 0: the other side closed it, or tls_stream_end() is through. */
    void (*closed)(void *owner, struct tls_stream *stream, int error, const char *text);
};

struct tls_stream_config {
    uv_loop_t *loop;
    struct tls_context *context; /* borrowed until closed */
    uint32_t open_ms;            /* closed with DROVER_ETIMEDOUT2 unless tls_stream_set_limits() is called by then */
    bool move;                   /* dials as TLS_STREAM_ALPN_MOVE, and can be taken by tls_stream_take() */
    const struct tls_stream_ops *ops;
    void *owner;
};

/* `address` is "HOST:PORT"; names are resolved off the loop. */
int tls_stream_connect(const struct tls_stream_config *config, const char *address,
                       struct tls_stream **ret_stream, struct error *err);
/* The next connection that waits at a listening handle. */
int tls_stream_accept(const struct tls_stream_config *config, uv_stream_t *listener,
                      struct tls_stream **ret_stream, struct error *err);

/* The stream has a new owner, from now on. */
void tls_stream_set_ops(struct tls_stream *stream, const struct tls_stream_ops *ops, void *owner);
/* Ends the opening's time limit. From now on it is closed when nothing is received for `idle_ms` (0: no limit), and
 * when what was sent is not acknowledged, or the other host does not answer TCP's keepalive, for `ack_ms`. */
void tls_stream_set_limits(struct tls_stream *stream, uint32_t idle_ms, uint32_t ack_ms);
/* Who the other side proved to be; DROVER_EPEER if it showed no certificate. */
int tls_stream_peer_identity(const struct tls_stream *stream, struct pki_identity *ret_identity);
/* Both sides agreed on TLS_STREAM_ALPN_MOVE. */
bool tls_stream_is_move(const struct tls_stream *stream);
/* "ADDRESS:PORT" of the other side, for logs. */
const char *tls_stream_peer_text(const struct tls_stream *stream);

/* Copies `data`. DROVER_ECLOSED once it is closing, DROVER_ELIMIT when the queue is full (the stream is closed then), -ENOMEM. */
int tls_stream_write(struct tls_stream *stream, const void *data, size_t size);
size_t tls_stream_queued(const struct tls_stream *stream);
void tls_stream_pause(struct tls_stream *stream);
void tls_stream_resume(struct tls_stream *stream);
/* Closes after all that was written is sent. */
void tls_stream_end(struct tls_stream *stream);

/* A connection without its stream: whoever has it goes on with it, and calls tls_taken_done(). */
struct tls_taken {
    int fd;
    SSL *ssl;      /* its state; has no socket of its own */
    bool server;
    uint64_t records_in, records_out; /* under the secrets */
    struct tls_secrets secrets;
};
/* Its socket, borrowed; -1: it has none. */
int tls_stream_fd(const struct tls_stream *stream);
/* Of an open stream for a move, between two messages. The stream ends with `closed` (0) as ever, but not the connection.
 * DROVER_EWRONGSTATE when something is still to be sent, or more was received than the owner was given; -errno. */
int tls_stream_take(struct tls_stream *stream, struct tls_taken *ret_taken);
/* Zeroed with fd -1, or done already, is fine. */
void tls_taken_done(struct tls_taken *taken);
/* Closes now; `closed` comes with `error` and `text` (NULL: err_text(error)). Nothing else is called any more. */
void tls_stream_close(struct tls_stream *stream, int error, const char *text);

#endif
