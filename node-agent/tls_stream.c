/* SPDX-License-Identifier: Apache-2.0 */
/* A TLS 1.3 connection on a uv loop. */
#include "node-agent/tls_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/config.h"
#include "node-agent/tls_context.h"
#include "node-agent/tls_stream_private.h"

#define PLAIN_SIZE (16u * 1024u) /* one TLS record */
#define END_MS     5000u         /* for a peer that does not read the last words */

struct write_request {
    uv_write_t uv;
    struct tls_stream *stream;
    uint8_t data[];
};

void tls_stream_handle_gone(struct tls_stream *stream)
{
    CHECK(stream->open_handles > 0);
    if (--stream->open_handles > 0) {
        return;
    }
    stream->ops->closed(stream->owner, stream, stream->error, stream->text);
    SSL_free(stream->ssl);
    tls_secrets_wipe(&stream->secrets);
    free(stream->read_data);
    free(stream);
}

static void on_handle_closed(uv_handle_t *handle)
{
    tls_stream_handle_gone(handle->data);
}

void tls_stream_close(struct tls_stream *stream, int error, const char *text)
{
    if (stream->state == STATE_CLOSING) {
        return;
    }
    if (stream->state == STATE_RESOLVING) {
        (void)uv_cancel(
            (uv_req_t *)&stream->resolve); /* its callback comes in any case */
    }
    stream->state = STATE_CLOSING;
    stream->error = error;
    (void)snprintf(stream->text, sizeof(stream->text), "%s",
                   text != NULL ? text : (error == 0 ? "closed" : err_text(error)));
    uv_close((uv_handle_t *)&stream->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&stream->timer, on_handle_closed);
}

static void close_openssl(struct tls_stream *stream, const char *what)
{
    char text[CLOSE_REASON_MAX];
    unsigned long number = ERR_peek_last_error();
    const char *reason = number != 0 ? ERR_reason_error_string(number) : NULL;
    long verified = SSL_get_verify_result(stream->ssl);
    if (verified != X509_V_OK && stream->state == STATE_HANDSHAKE &&
        !stream->context->pinned) {
        reason = X509_verify_cert_error_string(verified);
    }
    ERR_clear_error();
    (void)snprintf(text, sizeof(text), "%s: %s", what,
                   reason != NULL ? reason : "protocol error");
    tls_stream_close(stream, DROVER_EPEER, text);
}

void tls_stream_on_timeout(uv_timer_t *timer)
{
    struct tls_stream *stream = timer->data;
    if (stream->idle_ms != 0 && stream->paused) {
        return; /* it is us who do not read */
    }
    tls_stream_close(stream, DROVER_ETIMEDOUT2,
                     stream->idle_ms != 0 ? "nothing heard for too long"
                                          : "no answer in time");
}

/* ---- out ---- */

static void on_written(uv_write_t *request, int status)
{
    struct write_request *write = request->data;
    struct tls_stream *stream = write->stream;
    free(write);
    if (stream->state == STATE_CLOSING) {
        return;
    }
    if (status < 0) {
        tls_stream_close(stream, status, NULL);
        return;
    }
    if (stream->above_high && tls_stream_queued(stream) < TLS_STREAM_QUEUE_BYTES_HIGH) {
        stream->above_high = false;
        if (stream->ops->drained != NULL && stream->state == STATE_OPEN) {
            stream->ops->drained(stream->owner, stream);
        }
    }
    if (stream->state == STATE_OPEN && stream->ops->flushed != NULL &&
        tls_stream_queued(stream) == 0) {
        stream->ops->flushed(stream->owner, stream);
    }
}

/* What OpenSSL wants on the wire goes to the kernel. */
static int flush(struct tls_stream *stream)
{
    size_t size = BIO_ctrl_pending(stream->out);
    if (size == 0) {
        return 0;
    }
    if (size + tls_stream_queued(stream) > TLS_STREAM_QUEUE_BYTES_MAX) {
        return DROVER_ELIMIT;
    }
    struct write_request *write = malloc(sizeof(*write) + size);
    if (write == NULL) {
        return -ENOMEM;
    }
    int taken = BIO_read(stream->out, write->data, (int)size);
    CHECK(taken == (int)size);
    write->stream = stream;
    write->uv.data = write;
    uv_buf_t buf = uv_buf_init((char *)write->data, (unsigned)size);
    int rv = uv_write(&write->uv, (uv_stream_t *)&stream->tcp, &buf, 1, on_written);
    if (rv != 0) {
        free(write);
        return rv;
    }
    stream->above_high =
        stream->above_high || tls_stream_queued(stream) >= TLS_STREAM_QUEUE_BYTES_HIGH;
    return 0;
}

static void flush_or_close(struct tls_stream *stream)
{
    int rv = stream->state == STATE_CLOSING ? 0 : flush(stream);
    if (rv != 0) {
        tls_stream_close(stream, rv, NULL);
    }
}

size_t tls_stream_queued(const struct tls_stream *stream)
{
    return stream->state == STATE_CLOSING
               ? 0
               : uv_stream_get_write_queue_size((const uv_stream_t *)&stream->tcp);
}

int tls_stream_write(struct tls_stream *stream, const void *data, size_t size)
{
    if (stream->state != STATE_OPEN) {
        return DROVER_ECLOSED;
    }
    const uint8_t *at = data;
    while (size > 0) {
        int part = size > PLAIN_SIZE ? (int)PLAIN_SIZE : (int)size;
        ERR_clear_error();
        if (SSL_write(stream->ssl, at, part) != part) {
            close_openssl(stream, "TLS can't send");
            return DROVER_ECLOSED;
        }
        stream->records_out++;
        at += part;
        size -= (size_t)part;
    }
    int rv = flush(stream);
    if (rv != 0) {
        tls_stream_close(stream, rv,
                         rv == DROVER_ELIMIT ? "the other side does not read" : NULL);
    }
    return rv;
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    struct tls_stream *stream = request->data;
    tls_stream_close(stream, 0, NULL); /* the other side may have closed first */
}

void tls_stream_end(struct tls_stream *stream)
{
    if (stream->state != STATE_OPEN) {
        tls_stream_close(stream, DROVER_ECANCELLED, NULL);
        return;
    }
    (void)SSL_shutdown(stream->ssl); /* only says goodbye */
    ERR_clear_error();
    flush_or_close(stream);
    if (stream->state == STATE_CLOSING) {
        return;
    }
    stream->state = STATE_ENDING;
    CHECK(uv_timer_start(&stream->timer, tls_stream_on_timeout, END_MS, 0) == 0);
    stream->shutdown.data = stream;
    int rv = uv_shutdown(&stream->shutdown, (uv_stream_t *)&stream->tcp, on_shutdown);
    if (rv != 0) {
        tls_stream_close(stream, rv, NULL);
    }
}

/* ---- in ---- */

static void handshake_step(struct tls_stream *stream)
{
    ERR_clear_error();
    int rv = SSL_do_handshake(stream->ssl);
    if (rv != 1) {
        int why = SSL_get_error(stream->ssl, rv);
        if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
            (void)flush(stream); /* the alert, if it still goes out */
            close_openssl(stream, stream->server ? "TLS handshake from a client failed"
                                                 : "TLS handshake failed");
            return;
        }
        flush_or_close(stream);
        return;
    }
    struct error err = {0};
    if (tls_context_judge(stream->context, stream->ssl, &err) != 0) {
        tls_stream_close(stream, err.code, err.text);
        return;
    }
    flush_or_close(stream);
    if (stream->state == STATE_CLOSING) {
        return;
    }
    stream->state = STATE_OPEN;
    if (stream->ops->opened != NULL) {
        stream->ops->opened(stream->owner, stream);
    }
}

/* Each plain record to the owner, who may close or end the stream meanwhile. */
static void deliver(struct tls_stream *stream)
{
    uint8_t plain[PLAIN_SIZE];
    while (stream->state == STATE_OPEN) {
        ERR_clear_error();
        int size = SSL_read(stream->ssl, plain, sizeof(plain));
        if (size > 0) {
            stream->records_in++; /* PLAIN_SIZE: never a part of one */
            stream->ops->received(stream->owner, stream, plain, (size_t)size);
            continue;
        }
        switch (SSL_get_error(stream->ssl, size)) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE:
            flush_or_close(stream);
            return;
        case SSL_ERROR_ZERO_RETURN:
            tls_stream_close(stream, 0, NULL);
            return;
        default:
            close_openssl(stream, "TLS failed");
            return;
        }
    }
}

/*
 * Who dials for a move reads record by record: what comes after the answer is for whoever
 * takes the connection.
 */
static size_t record_rest(const struct tls_stream *stream)
{
    size_t payload_size = (size_t)stream->header[3] << 8 | stream->header[4];
    return stream->record_size < sizeof(stream->header)
               ? sizeof(stream->header) - stream->record_size
               : sizeof(stream->header) + payload_size - stream->record_size;
}

static void record_note(struct tls_stream *stream, const uint8_t *data, size_t size)
{
    CHECK(size <= record_rest(stream));
    if (stream->record_size < sizeof(stream->header)) {
        memcpy(stream->header + stream->record_size, data, size);
    }
    stream->record_size += size;
    if (stream->record_size >= sizeof(stream->header) && record_rest(stream) == 0) {
        stream->record_size = 0;
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct tls_stream *stream = handle->data;
    size_t size = TLS_STREAM_READ_SIZE;
    if (stream->move && !stream->server) {
        size = record_rest(stream);
    }
    *buf = uv_buf_init((char *)stream->read_data, (unsigned)size);
}

static void on_read(uv_stream_t *tcp, ssize_t size, const uv_buf_t *buf)
{
    struct tls_stream *stream = tcp->data;
    if (size < 0) {
        if (stream->state != STATE_ENDING) {
            tls_stream_close(stream, size == UV_EOF ? 0 : (int)size, NULL);
        }
        return;
    }
    if (size == 0 || stream->state == STATE_ENDING) {
        return;
    }
    if (stream->idle_ms != 0) {
        (void)uv_timer_again(&stream->timer); /* it repeats: can't fail */
    }
    if (stream->move && !stream->server) {
        record_note(stream, (const uint8_t *)buf->base, (size_t)size);
    }
    if (BIO_write(stream->in, buf->base, (int)size) != (int)size) {
        tls_stream_close(stream, -ENOMEM, NULL);
        return;
    }
    if (stream->state == STATE_HANDSHAKE) {
        handshake_step(stream);
    }
    deliver(stream);
}

void tls_stream_pause(struct tls_stream *stream)
{
    if (!stream->paused && stream->state == STATE_OPEN) {
        stream->paused = true;
        (void)uv_read_stop((uv_stream_t *)&stream->tcp); /* always 0 */
    }
}

void tls_stream_resume(struct tls_stream *stream)
{
    if (stream->paused && stream->state == STATE_OPEN) {
        stream->paused = false;
        int rv = uv_read_start((uv_stream_t *)&stream->tcp, on_alloc, on_read);
        if (rv != 0) {
            tls_stream_close(stream, rv, NULL);
        }
    }
}

void tls_stream_start_handshake(struct tls_stream *stream)
{
    stream->state = STATE_HANDSHAKE;
    (void)uv_tcp_nodelay(&stream->tcp, 1); /* slower without, not wrong */
    int rv = uv_read_start((uv_stream_t *)&stream->tcp, on_alloc, on_read);
    if (rv != 0) {
        tls_stream_close(stream, rv, NULL);
        return;
    }
    if (!stream->server) {
        handshake_step(stream);
    }
}

/* ---- moves ---- */

void tls_stream_on_secret(const SSL *ssl, const char *line)
{
    struct tls_stream *stream = SSL_get_app_data(ssl);
    if (stream != NULL && tls_stream_is_move(stream)) {
        tls_secrets_take_line(&stream->secrets, line);
    }
}

bool tls_stream_is_move(const struct tls_stream *stream)
{
    const unsigned char *name = NULL;
    unsigned size = 0;
    SSL_get0_alpn_selected(stream->ssl, &name, &size);
    return size == strlen(TLS_STREAM_ALPN_MOVE) &&
           memcmp(name, TLS_STREAM_ALPN_MOVE, size) == 0;
}

int tls_stream_fd(const struct tls_stream *stream)
{
    uv_os_fd_t fd = -1;
    return uv_fileno((const uv_handle_t *)&stream->tcp, &fd) == 0 ? fd : -1;
}

int tls_stream_take(struct tls_stream *stream, struct tls_taken *ret_taken)
{
    int socket = -1;
    if (stream->state != STATE_OPEN || !tls_stream_is_move(stream) ||
        tls_stream_queued(stream) != 0 || BIO_ctrl_pending(stream->out) != 0 ||
        BIO_ctrl_pending(stream->in) != 0 || SSL_has_pending(stream->ssl) != 0 ||
        stream->record_size != 0) {
        return DROVER_EWRONGSTATE;
    }
    int rv = uv_fileno((uv_handle_t *)&stream->tcp, &socket);
    if (rv != 0) {
        return rv;
    }
    int fd = fcntl(socket, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) {
        return -errno;
    }
    *ret_taken = (struct tls_taken){.fd = fd,
                                    .ssl = TAKE(stream->ssl),
                                    .server = stream->server,
                                    .records_in = stream->records_in,
                                    .records_out = stream->records_out,
                                    .secrets = stream->secrets};
    SSL_set_app_data(ret_taken->ssl, NULL);
    tls_stream_close(stream, 0, NULL); /* its own descriptor: the connection lives on */
    return 0;
}

void tls_taken_done(struct tls_taken *taken)
{
    if (taken->fd >= 0) {
        (void)close(taken->fd); /* nobody is left to tell */
    }
    SSL_free(taken->ssl);
    tls_secrets_wipe(&taken->secrets);
    *taken = (struct tls_taken){.fd = -1};
}

/* ---- the owner's side ---- */

void tls_stream_set_ops(struct tls_stream *stream, const struct tls_stream_ops *ops,
                        void *owner)
{
    stream->ops = ops;
    stream->owner = owner;
}

void tls_stream_set_limits(struct tls_stream *stream, uint32_t idle_ms, uint32_t ack_ms)
{
    if (stream->state == STATE_CLOSING) {
        return;
    }
    stream->idle_ms = idle_ms;
    CHECK(uv_timer_stop(&stream->timer) == 0);
    if (idle_ms != 0) {
        CHECK(uv_timer_start(&stream->timer, tls_stream_on_timeout, idle_ms, idle_ms) ==
              0);
    }
    int fd = -1;
    unsigned value = ack_ms;
    if (uv_fileno((uv_handle_t *)&stream->tcp, &fd) == 0) {
        /* Without them a lost host is only noticed later. */
        (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, sizeof(value));
        (void)uv_tcp_keepalive(&stream->tcp, 1, (ack_ms + 999) / 1000);
    }
}

int tls_stream_peer_identity(const struct tls_stream *stream,
                             struct pki_identity *ret_identity)
{
    X509 *certificate = SSL_get0_peer_certificate(stream->ssl);
    bool believed =
        stream->context->pinned || SSL_get_verify_result(stream->ssl) == X509_V_OK;
    if (certificate == NULL || !believed || stream->state < STATE_OPEN) {
        return DROVER_EPEER;
    }
    return pki_identity_x509(certificate, ret_identity);
}

const char *tls_stream_peer_text(const struct tls_stream *stream)
{
    return stream->peer;
}
