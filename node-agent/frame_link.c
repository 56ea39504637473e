/* SPDX-License-Identifier: Apache-2.0 */
/* Frames over a unix socket, by libuv. */
#include "node-agent/frame_link.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "proto/frame.h"
#include "proto/unix_files.h"

#define READ_BYTES 65536

/* Frees itself once libuv has closed it. */
struct frame_link {
    uv_pipe_t pipe;
    uv_connect_t connect;
    struct buffer in;
    size_t limit_bytes;
    const struct frame_link_ops *ops;
    void *owner;
    bool closed; /* by its owner */
};

struct sent {
    uv_write_t request;
    struct buffer data;
};

/* ---- sending ---------------------------------------------------------------------- */

static void sent_free(struct sent *sent)
{
    buffer_done(&sent->data);
    free(sent);
}

static void on_sent(uv_write_t *request, int status)
{
    (void)status; /* a broken connection shows at the reading side */
    sent_free(request->data);
}

int frame_link_send(struct frame_link *link, const uint8_t *payload, size_t size)
{
    struct sent *sent = calloc(1, sizeof(*sent));
    if (sent == NULL) {
        return -ENOMEM;
    }
    sent->request.data = sent;
    int rv =
        frame_encode(&sent->data, FRAME_KIND_CONTROL, payload, size, link->limit_bytes);
    if (rv == 0) {
        uv_buf_t buf = uv_buf_init((char *)sent->data.data, (unsigned)sent->data.size);
        rv = uv_write(&sent->request, (uv_stream_t *)&link->pipe, &buf, 1, on_sent);
    }
    if (rv != 0) {
        sent_free(sent);
    }
    return rv;
}

/*
 * libuv sends descriptors only over pipes that also take them, and the other side has
 * none to give. So this goes past it, which is right only while nothing else waits to be
 * sent.
 */
int frame_link_send_files(struct frame_link *link, const uint8_t *payload, size_t size,
                          const struct unix_files *files)
{
    CLEANUP(buffer_done) struct buffer frame = {0};
    uv_os_fd_t socket = -1;
    int rv = frame_encode(&frame, FRAME_KIND_CONTROL, payload, size, link->limit_bytes);
    rv = rv != 0 ? rv : uv_fileno((uv_handle_t *)&link->pipe, &socket);
    if (rv == 0 && uv_stream_get_write_queue_size((uv_stream_t *)&link->pipe) > 0) {
        rv = -EAGAIN;
    }
    ssize_t sent = rv != 0 ? rv
                           : unix_files_send(socket, frame.data, frame.size, files,
                                             MSG_DONTWAIT | MSG_NOSIGNAL);
    /* A unix socket takes so little at once, or not at all. */
    CHECK(sent < 0 || (size_t)sent == frame.size);
    return sent < 0 ? (int)sent : 0;
}

/* ---- what comes in ---------------------------------------------------------------- */

/* All whole frames; the owner may close the link with each. */
static void frames_take(struct frame_link *link)
{
    while (!link->closed) {
        const uint8_t *payload = NULL;
        size_t size = 0;
        size_t frame_size = 0;
        int rv = frame_decode(&link->in, FRAME_KIND_CONTROL, link->limit_bytes, &payload,
                              &size, &frame_size);
        if (rv == 0) {
            return;
        }
        bool good = rv > 0 && link->ops->take(link->owner, payload, size);
        if (!good && !link->closed) {
            link->ops->ended(link->owner, FRAME_LINK_MALFORMED);
            return;
        }
        buffer_consume(&link->in, frame_size);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct frame_link *link = handle->data;
    (void)suggested;
    *buf = uv_buf_init(NULL, 0); /* without memory, uv reports UV_ENOBUFS to on_read */
    if (!link->closed && buffer_reserve(&link->in, READ_BYTES) == 0) {
        *buf = uv_buf_init((char *)link->in.data + link->in.size, READ_BYTES);
    }
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct frame_link *link = stream->data;
    (void)buf;
    if (link->closed) {
        return;
    }
    if (got < 0) {
        link->ops->ended(link->owner, FRAME_LINK_CLOSED);
    } else if (got > 0) {
        link->in.size += (size_t)got;
        frames_take(link);
    }
}

/* ---- its life --------------------------------------------------------------------- */

static void on_connect(uv_connect_t *request, int status)
{
    struct frame_link *link = request->data;
    if (link->closed) {
        return;
    }
    if (status == 0) {
        status = uv_read_start((uv_stream_t *)&link->pipe, on_alloc, on_read);
    }
    if (status == 0) {
        link->ops->connected(link->owner);
    } else {
        link->ops->ended(link->owner, FRAME_LINK_UNREACHED);
    }
}

int frame_link_open(const struct frame_link_config *config, struct frame_link **ret_link)
{
    struct frame_link *link = calloc(1, sizeof(*link));
    if (link == NULL || uv_pipe_init(config->loop, &link->pipe, 0) != 0) {
        free(link);
        return -ENOMEM;
    }
    link->limit_bytes = config->limit_bytes;
    link->ops = config->ops;
    link->owner = config->owner;
    link->pipe.data = link;
    link->connect.data = link;
    /* The largest frame, and what one read may bring beyond it. */
    buffer_init(&link->in, config->limit_bytes + FRAME_HEADER_SIZE + 2 * READ_BYTES);
    /* A socket that is not there yet is told to on_connect. */
    uv_pipe_connect(&link->connect, &link->pipe, config->path, on_connect);
    *ret_link = link;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct frame_link *link = handle->data;
    buffer_done(&link->in);
    free(link);
}

void frame_link_close(struct frame_link *link)
{
    if (link != NULL && !link->closed) {
        link->closed = true;
        uv_close((uv_handle_t *)&link->pipe, on_closed);
    }
}
