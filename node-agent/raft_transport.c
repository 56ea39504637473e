/* SPDX-License-Identifier: Apache-2.0 */
/* Raft's connections over TLS. */
#include "node-agent/raft_transport.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/tls_stream.h"

#define PIPE_QUEUE_BYTES_HIGH (1024u * 1024u)
#define READ_SIZE             (64u * 1024u)

/* Between a TLS stream and our end of a socket pair; gone when both are closed. */
struct pump {
    struct pump *next;
    struct raft_transport *transport;
    struct tls_stream *stream; /* NULL once closed */
    uv_pipe_t pipe;
    bool pipe_closing, pipe_closed, pipe_paused;
    uint8_t read_data[READ_SIZE];
};

/* A connection that libraft asked for. */
struct request {
    struct request *next;
    struct raft_transport *transport;
    struct peer_channel *channel;
    raft_node_connected connected;
    void *raft_side;
};

struct raft_transport {
    struct raft_transport_config config;
    struct pump *pumps;
    struct request *requests;
    void (*closed)(void *owner);
    void *closed_owner;
};

struct pipe_write {
    uv_write_t uv;
    struct pump *pump;
    uint8_t data[];
};

static void finish_close(struct raft_transport *transport)
{
    if (transport->closed != NULL && transport->pumps == NULL &&
        transport->requests == NULL) {
        void (*closed)(void *owner) = transport->closed;
        transport->closed = NULL;
        closed(transport->closed_owner);
    }
}

/* ---- the pump ---- */

static void pump_reap(struct pump *pump)
{
    if (pump->stream != NULL || !pump->pipe_closed) {
        return;
    }
    struct raft_transport *transport = pump->transport;
    for (struct pump **at = &transport->pumps; *at != NULL; at = &(*at)->next) {
        if (*at == pump) {
            *at = pump->next;
            break;
        }
    }
    free(pump);
    finish_close(transport);
}

static void on_pipe_closed(uv_handle_t *handle)
{
    struct pump *pump = handle->data;
    pump->pipe_closed = true;
    pump_reap(pump);
}

/* Either side's end is the other's too: libraft connects anew. */
static void pump_end(struct pump *pump)
{
    if (!pump->pipe_closing) {
        pump->pipe_closing = true;
        uv_close((uv_handle_t *)&pump->pipe, on_pipe_closed);
    }
    if (pump->stream != NULL) {
        tls_stream_close(pump->stream, DROVER_ECANCELLED, NULL);
    }
}

static void on_pipe_written(uv_write_t *uv, int status)
{
    struct pipe_write *write = uv->data;
    struct pump *pump = write->pump;
    free(write);
    if (pump->pipe_closing) {
        return;
    }
    if (status < 0) {
        pump_end(pump);
    } else if (pump->stream != NULL &&
               uv_stream_get_write_queue_size((uv_stream_t *)&pump->pipe) <
                   PIPE_QUEUE_BYTES_HIGH) {
        tls_stream_resume(pump->stream);
    }
}

static int pipe_queue(struct pump *pump, const uint8_t *data, size_t size)
{
    struct pipe_write *write = malloc(sizeof(*write) + size);
    if (write == NULL) {
        return -ENOMEM;
    }
    memcpy(write->data, data, size);
    write->pump = pump;
    write->uv.data = write;
    uv_buf_t buf = uv_buf_init((char *)write->data, (unsigned)size);
    int rv = uv_write(&write->uv, (uv_stream_t *)&pump->pipe, &buf, 1, on_pipe_written);
    if (rv != 0) {
        free(write);
        return rv;
    }
    if (uv_stream_get_write_queue_size((uv_stream_t *)&pump->pipe) >=
        PIPE_QUEUE_BYTES_HIGH) {
        tls_stream_pause(pump->stream);
    }
    return 0;
}

static void on_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                        size_t size)
{
    struct pump *pump = owner;
    if (pump->pipe_closing || size == 0) {
        return;
    }
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)data, (unsigned)size);
    int sent = uv_try_write((uv_stream_t *)&pump->pipe, &buf, 1);
    if (sent == UV_EAGAIN) {
        sent = 0;
    }
    if (sent < 0 || ((size_t)sent < size &&
                     pipe_queue(pump, data + sent, size - (size_t)sent) != 0)) {
        pump_end(pump);
    }
}

static void on_pipe_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct pump *pump = handle->data;
    *buf = uv_buf_init((char *)pump->read_data, READ_SIZE);
}

static void on_pipe_read(uv_stream_t *pipe, ssize_t size, const uv_buf_t *buf)
{
    struct pump *pump = pipe->data;
    if (size < 0) {
        pump_end(pump);
        return;
    }
    if (size == 0 || pump->stream == NULL) {
        return;
    }
    if (tls_stream_write(pump->stream, buf->base, (size_t)size) != 0) {
        pump_end(pump);
        return;
    }
    if (tls_stream_queued(pump->stream) >= TLS_STREAM_QUEUE_BYTES_HIGH) {
        pump->pipe_paused = true;
        (void)uv_read_stop(pipe); /* always 0 */
    }
}

static void on_drained(void *owner, struct tls_stream *stream)
{
    struct pump *pump = owner;
    if (pump->pipe_paused && !pump->pipe_closing) {
        pump->pipe_paused = false;
        if (uv_read_start((uv_stream_t *)&pump->pipe, on_pipe_alloc, on_pipe_read) != 0) {
            pump_end(pump);
        }
    }
}

static void on_stream_closed(void *owner, struct tls_stream *stream, int error,
                             const char *text)
{
    struct pump *pump = owner;
    pump->stream = NULL;
    pump_end(pump);
    pump_reap(pump);
}

static const struct tls_stream_ops pump_ops = {
    .received = on_received,
    .drained = on_drained,
    .closed = on_stream_closed,
};

/* ---- making one ---- */

static void on_raft_side_closed(uv_handle_t *handle)
{
    free(handle);
}

/* libraft's end, as it wants it: to be closed with uv_close() and freed with free(). */
static int raft_side_open(uv_loop_t *loop, int *fd, uv_stream_t **ret_stream)
{
    uv_pipe_t *pipe = malloc(sizeof(*pipe));
    if (pipe == NULL) {
        return -ENOMEM;
    }
    CHECK(uv_pipe_init(loop, pipe, 0) == 0);
    int rv = uv_pipe_open(pipe, *fd);
    if (rv != 0) {
        uv_close((uv_handle_t *)pipe, on_raft_side_closed);
        return rv;
    }
    (void)take_fd(fd);
    *ret_stream = (uv_stream_t *)pipe;
    return 0;
}

static int pump_start(struct pump *pump, int *fd)
{
    int rv = uv_pipe_open(&pump->pipe, *fd);
    if (rv != 0) {
        return rv;
    }
    (void)take_fd(fd);
    return uv_read_start((uv_stream_t *)&pump->pipe, on_pipe_alloc, on_pipe_read);
}

int raft_transport_accept(struct raft_transport *transport,
                          const struct peer_opened *opened, uv_stream_t **ret_stream)
{
    int fds[2] = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) {
        int code = -errno;
        tls_stream_close(opened->stream, code, NULL);
        return code;
    }
    CLEANUP(cleanup_fd) int ours = fds[0];
    CLEANUP(cleanup_fd) int theirs = fds[1];
    struct pump *pump = calloc(1, sizeof(*pump));
    uv_stream_t *raft_side = NULL;
    int rv = pump == NULL || transport->closed != NULL
                 ? -ENOMEM
                 : raft_side_open(transport->config.loop, &theirs, &raft_side);
    if (rv != 0) {
        free(pump);
        tls_stream_close(opened->stream, rv, NULL);
        return rv;
    }
    pump->transport = transport;
    pump->stream = opened->stream;
    pump->next = transport->pumps;
    transport->pumps = pump;
    CHECK(uv_pipe_init(transport->config.loop, &pump->pipe, 0) == 0);
    pump->pipe.data = pump;
    tls_stream_set_ops(opened->stream, &pump_ops, pump);
    tls_stream_set_limits(opened->stream, 0, transport->config.ack_ms);
    rv = pump_start(pump, &ours);
    if (rv != 0) {
        pump_end(pump);
        uv_close((uv_handle_t *)raft_side, on_raft_side_closed);
        return rv;
    }
    if (opened->rest_size > 0) {
        on_received(pump, opened->stream, opened->rest, opened->rest_size);
    }
    *ret_stream = raft_side;
    return 0;
}

/* ---- connecting ---- */

static void request_end(struct request *request, uv_stream_t *stream, int error)
{
    struct raft_transport *transport = request->transport;
    for (struct request **at = &transport->requests; *at != NULL; at = &(*at)->next) {
        if (*at == request) {
            *at = request->next;
            break;
        }
    }
    request->connected(request->raft_side, stream, error);
    free(request);
    finish_close(transport);
}

static void on_opened(void *owner, struct peer_channel *channel,
                      const struct peer_opened *opened)
{
    struct request *request = owner;
    uv_stream_t *stream = NULL;
    int rv = raft_transport_accept(request->transport, opened, &stream);
    request_end(request, stream, rv);
}

static void on_failed(void *owner, struct peer_channel *channel, int error,
                      const char *text)
{
    request_end(owner, NULL, error);
}

static const struct peer_channel_ops channel_ops = {.opened = on_opened,
                                                    .failed = on_failed};

static int transport_connect(void *owner, uint64_t host_id, const char *address,
                             raft_node_connected connected, void *raft_side,
                             void **ret_request)
{
    struct raft_transport *transport = owner;
    struct request *request =
        transport->closed != NULL ? NULL : calloc(1, sizeof(*request));
    if (request == NULL) {
        return -ENOMEM;
    }
    *request = (struct request){
        .transport = transport, .connected = connected, .raft_side = raft_side};
    struct peer_channel_config config = {.loop = transport->config.loop,
                                         .context = transport->config.context,
                                         .self = transport->config.self,
                                         .open_ms = transport->config.open_ms,
                                         .ops = &channel_ops,
                                         .owner = request};
    int rv = peer_channel_dial(&config, address, host_id,
                               DROVER__PEER_CHANNEL__PEER_CHANNEL_RAFT, &request->channel,
                               NULL);
    if (rv != 0) {
        free(request);
        return rv;
    }
    request->next = transport->requests;
    transport->requests = request;
    *ret_request = request;
    return 0;
}

static void transport_cancel(void *owner, void *request_pointer)
{
    struct request *request = request_pointer;
    peer_channel_cancel(request->channel);
}

const struct raft_node_transport *raft_transport_ops(void)
{
    static const struct raft_node_transport ops = {.connect = transport_connect,
                                                   .cancel = transport_cancel};
    return &ops;
}

int raft_transport_create(const struct raft_transport_config *config,
                          struct raft_transport **ret_transport, struct error *err)
{
    struct raft_transport *transport = calloc(1, sizeof(*transport));
    if (transport == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    transport->config = *config;
    *ret_transport = transport;
    return 0;
}

void raft_transport_close(struct raft_transport *transport, void (*closed)(void *owner),
                          void *owner)
{
    transport->closed = closed;
    transport->closed_owner = owner;
    for (struct request *request = transport->requests; request != NULL;
         request = request->next) {
        peer_channel_cancel(request->channel);
    }
    struct pump *next = NULL;
    for (struct pump *pump = transport->pumps; pump != NULL; pump = next) {
        next = pump->next;
        pump_end(pump);
    }
    finish_close(transport);
}

void raft_transport_free(struct raft_transport *transport)
{
    if (transport != NULL) {
        CHECK(transport->pumps == NULL && transport->requests == NULL);
        free(transport);
    }
}
