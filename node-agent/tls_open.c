/* SPDX-License-Identifier: Apache-2.0 */
/* How a TLS stream comes to be: dialled by a name or an address, or accepted. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "node-agent/config.h"
#include "node-agent/tls_context.h"
#include "node-agent/tls_stream_private.h"

/* The ciphers that kernels know come first, the cheapest of them before the others. */
static int dial_as_move(SSL *ssl)
{
    static const unsigned char protocols[] = "\x0b" TLS_STREAM_ALPN_MOVE;
    _Static_assert(sizeof(TLS_STREAM_ALPN_MOVE) - 1 == 0x0b, "the length before it");
    return SSL_set_alpn_protos(ssl, protocols, sizeof(protocols) - 1) == 0 &&
                   SSL_set_ciphersuites(ssl,
                                        "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                        "TLS_CHACHA20_POLY1305_SHA256") == 1
               ? 0
               : -ENOMEM;
}

static int create(const struct tls_stream_config *config, bool server,
                  struct tls_stream **ret_stream)
{
    struct tls_stream *stream = calloc(1, sizeof(*stream));
    uint8_t *read_data = malloc(TLS_STREAM_READ_SIZE);
    SSL *ssl = SSL_new(config->context->ssl);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    if (stream == NULL || read_data == NULL || ssl == NULL || in == NULL || out == NULL) {
        free(stream);
        free(read_data);
        SSL_free(ssl);
        BIO_free(in);
        BIO_free(out);
        return -ENOMEM;
    }
    if (config->move && dial_as_move(ssl) != 0) {
        free(stream);
        free(read_data);
        SSL_free(ssl);
        BIO_free(in);
        BIO_free(out);
        return -ENOMEM;
    }
    SSL_set_bio(ssl, in, out);
    SSL_set_app_data(ssl, stream);
    if (server) {
        SSL_set_accept_state(ssl);
    } else {
        SSL_set_connect_state(ssl);
    }
    *stream = (struct tls_stream){.context = config->context,
                                  .ops = config->ops,
                                  .owner = config->owner,
                                  .ssl = ssl,
                                  .in = in,
                                  .out = out,
                                  .read_data = read_data,
                                  .server = server,
                                  .move = config->move,
                                  .open_handles = 2};
    /* Neither fails before it has a socket. */
    CHECK(uv_tcp_init(config->loop, &stream->tcp) == 0);
    CHECK(uv_timer_init(config->loop, &stream->timer) == 0);
    stream->tcp.data = stream;
    stream->timer.data = stream;
    uv_update_time(config->loop); /* what was done since the loop's turn began must not count */
    CHECK(uv_timer_start(&stream->timer, tls_stream_on_timeout, config->open_ms, 0) == 0);
    *ret_stream = stream;
    return 0;
}

static void on_connected(uv_connect_t *request, int status)
{
    struct tls_stream *stream = request->data;
    if (stream->state == STATE_CLOSING) {
        return;
    }
    if (status < 0) {
        tls_stream_close(stream, status, NULL);
        return;
    }
    tls_stream_start_handshake(stream);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct tls_stream *stream = request->data;
    if (stream->state == STATE_RESOLVING) {
        if (status < 0) {
            char text[CLOSE_REASON_MAX];
            (void)snprintf(text, sizeof(text), "the address %s can't be resolved: %s",
                           stream->peer, uv_strerror(status));
            tls_stream_close(stream, DROVER_ENOTFOUND, text);
        } else {
            stream->state = STATE_CONNECTING;
            stream->connect.data = stream;
            int rv = uv_tcp_connect(&stream->connect, &stream->tcp, found->ai_addr,
                                    on_connected);
            if (rv != 0) {
                tls_stream_close(stream, rv, NULL);
            }
        }
    }
    uv_freeaddrinfo(found);
    tls_stream_handle_gone(stream);
}

int tls_stream_connect(const struct tls_stream_config *config, const char *address,
                       struct tls_stream **ret_stream, struct error *err)
{
    char host[LIMIT_ADDRESS_SIZE], port_text[16];
    unsigned port = 0;
    int rv = config_split_address(address, CONFIG_PEER_PORT_DEFAULT, host, &port, err);
    if (rv != 0) {
        return rv;
    }
    struct tls_stream *stream = NULL;
    rv = create(config, false, &stream);
    if (rv != 0) {
        return error_set(err, rv, "out of memory");
    }
    (void)snprintf(port_text, sizeof(port_text), "%u", port);
    (void)snprintf(stream->peer, sizeof(stream->peer), "%s", address);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    stream->resolve.data = stream;
    stream->state = STATE_RESOLVING;
    rv = uv_getaddrinfo(config->loop, &stream->resolve, on_resolved, host, port_text,
                        &hints);
    if (rv == 0) {
        stream->open_handles++;
    } else {
        stream->state = STATE_CONNECTING; /* there is no request to cancel */
        tls_stream_close(stream, rv, NULL);
    }
    *ret_stream = stream;
    return 0;
}

static void note_peer(struct tls_stream *stream)
{
    struct sockaddr_storage address = {0};
    int size = sizeof(address);
    char ip[64] = "?";
    unsigned port = 0;
    if (uv_tcp_getpeername(&stream->tcp, (struct sockaddr *)&address, &size) == 0) {
        if (address.ss_family == AF_INET6) {
            const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;
            (void)uv_ip6_name(in6, ip, sizeof(ip)); /* fits */
            port = ntohs(in6->sin6_port);
        } else {
            const struct sockaddr_in *in4 = (const struct sockaddr_in *)&address;
            (void)uv_ip4_name(in4, ip, sizeof(ip)); /* fits */
            port = ntohs(in4->sin_port);
        }
    }
    (void)config_join_address(ip, port, stream->peer, sizeof(stream->peer)); /* fits */
}

int tls_stream_accept(const struct tls_stream_config *config, uv_stream_t *listener,
                      struct tls_stream **ret_stream, struct error *err)
{
    struct tls_stream *stream = NULL;
    int rv = create(config, true, &stream);
    if (rv != 0) {
        return error_set(err, rv, "out of memory");
    }
    rv = uv_accept(listener, (uv_stream_t *)&stream->tcp);
    if (rv != 0) {
        stream->state = STATE_CONNECTING;
        tls_stream_close(stream, rv, NULL);
    } else {
        note_peer(stream);
        tls_stream_start_handshake(stream);
    }
    *ret_stream = stream;
    return 0;
}
