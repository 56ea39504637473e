/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's console over WebSocket. */
#include "node-agent/api_console.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/buffer.h"
#include "base/err.h"
#include "node-agent/api_core.h"

#define TO_CLIENT_MAX 262144 /* the guest's output that a slow client has not taken */
#define TO_GUEST_MAX  65536  /* what the guest has not read */
#define READ_BYTES    16384
#define CHUNK_BYTES   4096

/* One console. Frees itself when its pipe is closed and lws has let go of it. */
struct console {
    struct lws *wsi; /* NULL: the client is gone */
    uv_pipe_t pipe;
    uv_connect_t connect;
    bool pipe_closed, reading, ended;
    struct buffer to_client;
};

/* lws' own memory, zeroed by it. */
struct session {
    struct console *console;
};

static_assert(sizeof(struct session) <= API_CONSOLE_SESSION_SIZE, "as promised to lws");

struct sent {
    uv_write_t request;
    struct console *console;
    size_t size;
    uint8_t data[];
};

static const struct api_console_ops *ops_of(struct lws *wsi)
{
    const struct api_console_ops *const *first = lws_context_user(lws_get_context(wsi));
    return *first;
}

/* ---- the guest's side
 * ------------------------------------------------------------------------- */

static void free_if_over(struct console *console)
{
    if (console->wsi == NULL && console->pipe_closed) {
        buffer_done(&console->to_client);
        free(console);
    }
}

static void pipe_closed(uv_handle_t *handle)
{
    struct console *console = handle->data;
    console->pipe_closed = true;
    free_if_over(console);
}

/* Nothing more comes of the guest: what is queued is still sent, then the client is told.
 */
static void end(struct console *console)
{
    if (!console->ended) {
        console->ended = true;
        uv_close((uv_handle_t *)&console->pipe, pipe_closed);
        if (console->wsi != NULL) {
            (void)lws_callback_on_writable(console->wsi);
        }
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct console *console = handle->data;
    (void)suggested;
    *buf = uv_buf_init(NULL, 0); /* without memory, uv reports UV_ENOBUFS to on_read */
    if (buffer_reserve(&console->to_client, READ_BYTES) == 0) {
        *buf = uv_buf_init((char *)console->to_client.data + console->to_client.size,
                           READ_BYTES);
    }
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct console *console = stream->data;
    (void)buf;
    if (got < 0) {
        end(console);
        return;
    }
    console->to_client.size += (size_t)got;
    if (console->to_client.size >= TO_CLIENT_MAX) {
        (void)uv_read_stop(stream); /* goes on when the client has taken some */
        console->reading = false;
    }
    if (console->wsi != NULL && console->to_client.size > 0) {
        (void)lws_callback_on_writable(console->wsi);
    }
}

static void read_on(struct console *console)
{
    if (!console->reading && !console->ended &&
        console->to_client.size < TO_CLIENT_MAX / 2) {
        console->reading = true;
        if (uv_read_start((uv_stream_t *)&console->pipe, on_alloc, on_read) != 0) {
            end(console);
        }
    }
}

static void on_connect(uv_connect_t *request, int status)
{
    struct console *console = request->data;
    if (console->ended) {
        return;
    }
    if (status != 0) {
        end(console);
    } else {
        read_on(console);
    }
}

static void on_sent(uv_write_t *request, int status)
{
    struct sent *sent = request->data;
    struct console *console = sent->console;
    (void)status; /* a broken connection shows at the reading side */
    free(sent);
    bool room = !console->ended && uv_stream_get_write_queue_size(
                                       (uv_stream_t *)&console->pipe) < TO_GUEST_MAX / 2;
    if (room && console->wsi != NULL) {
        (void)lws_rx_flow_control(console->wsi, 1);
    }
}

static int send_to_guest(struct console *console, const void *data, size_t size)
{
    struct sent *sent = malloc(sizeof(*sent) + size);
    if (sent == NULL) {
        return -ENOMEM;
    }
    sent->console = console;
    sent->request.data = sent;
    sent->size = size;
    memcpy(sent->data, data, size);
    uv_buf_t buf = uv_buf_init((char *)sent->data, (unsigned)size);
    int rv = uv_write(&sent->request, (uv_stream_t *)&console->pipe, &buf, 1, on_sent);
    if (rv != 0) {
        free(sent);
        return rv;
    }
    if (uv_stream_get_write_queue_size((uv_stream_t *)&console->pipe) >= TO_GUEST_MAX) {
        (void)lws_rx_flow_control(console->wsi, 0);
    }
    return 0;
}

/* ---- the client's side
 * ------------------------------------------------------------------------ */

static int find(struct lws *wsi, char *ret_socket_path, size_t size, struct error *err)
{
    char path[API_PATH_SIZE];
    const struct api_console_ops *ops = ops_of(wsi);
    if (lws_hdr_copy(wsi, path, sizeof(path), WSI_TOKEN_GET_URI) <= 0) {
        return error_set(err, DROVER_ENOTFOUND, "no such path: docs/api.md lists all");
    }
    return ops->find(ops->owner, path, ret_socket_path, size, err);
}

/* Before the upgrade: an error is a plain HTTP answer. Nonzero refuses. */
static int judge(struct lws *wsi)
{
    char socket_path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    struct error err = {0};
    unsigned status = 500;
    int rv = find(wsi, socket_path, sizeof(socket_path), &err);
    if (rv == 0) {
        return 0;
    }
    char *body = api_error_text(rv, err.text, &status);
    (void)lws_return_http_status(wsi, status, body);
    free(body);
    return -1;
}

static int open_console(struct session *session, struct lws *wsi)
{
    char socket_path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    struct error err = {0};
    if (find(wsi, socket_path, sizeof(socket_path), &err) != 0) {
        return -1;
    }
    struct console *console = calloc(1, sizeof(*console));
    if (console == NULL || uv_pipe_init(ops_of(wsi)->loop, &console->pipe, 0) != 0) {
        free(console);
        return -1;
    }
    console->wsi = wsi;
    console->pipe.data = console;
    console->connect.data = console;
    session->console = console;
    uv_pipe_connect(&console->connect, &console->pipe, socket_path, on_connect);
    return 0;
}

/* Nonzero: lws closes the connection. */
static int on_writable(struct console *console)
{
    uint8_t chunk[LWS_PRE + CHUNK_BYTES];
    size_t size =
        console->to_client.size < CHUNK_BYTES ? console->to_client.size : CHUNK_BYTES;
    if (size == 0) {
        return console->ended ? -1 : 0;
    }
    memcpy(chunk + LWS_PRE, console->to_client.data, size);
    if (lws_write(console->wsi, chunk + LWS_PRE, size, LWS_WRITE_BINARY) < (int)size) {
        return -1;
    }
    buffer_consume(&console->to_client, size);
    read_on(console);
    if (console->to_client.size > 0 || console->ended) {
        (void)lws_callback_on_writable(console->wsi);
    }
    return 0;
}

static void client_gone(struct session *session)
{
    struct console *console = session->console;
    session->console = NULL;
    if (console != NULL) {
        console->wsi = NULL;
        end(console);
        free_if_over(console);
    }
}

int api_console_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user,
                         void *in, size_t size)
{
    struct session *session = user;
    switch (reason) {
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return judge(wsi);
    case LWS_CALLBACK_ESTABLISHED:
        return open_console(session, wsi);
    case LWS_CALLBACK_RECEIVE:
        if (session->console == NULL || session->console->ended || size == 0) {
            return 0;
        }
        return send_to_guest(session->console, in, size) != 0 ? -1 : 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return session->console == NULL ? -1 : on_writable(session->console);
    case LWS_CALLBACK_CLOSED:
        client_gone(session);
        return 0;
    default:
        return 0;
    }
}
