/* SPDX-License-Identifier: Apache-2.0 */
/* One VMM's control socket, from droverd's side. */
#include "node-agent/vmm_client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "node-agent/vmm_folder.h"
#include "proto/frame.h"
#include "proto/move_link.h"
#include "proto/unix_files.h"

#define PENDING_MAX         64
#define RECONNECT_MS_FIRST  10
#define RECONNECT_MS_MAX    250
#define ORDER_TIMEOUT_MS    5000
#define SNAPSHOT_TIMEOUT_MS 120000
/* A refusal is told after a pause: who gives the order again at once gets no busy loop.
 */
#define REFUSAL_PAUSE_MS 50

/* One connection. Frees itself when closed; `client` is NULL from then on. */
struct link {
    uv_pipe_t pipe;
    uv_connect_t connect;
    struct vmm_client *client;
};

struct pending {
    uint64_t request_id;
    uint64_t deadline_ms;
    int error;     /* already failed: told at deadline_ms */
    char *text;    /* of a refusal, in the VMM's words; may be NULL */
    bool internal; /* the subscription: nobody waits for it */
    bool quit;
};

struct vmm_client {
    uv_loop_t *loop;
    uv_timer_t timer;
    struct link *link; /* NULL: not connected, retry_at_ms says when next */
    bool connected;
    char path[VMM_FOLDER_SOCKET_SIZE];
    uint64_t vm_id, epoch;
    uint64_t next_request_id;
    uint64_t retry_at_ms;
    unsigned retry_ms;
    unsigned pending_count;
    struct pending pending[PENDING_MAX]; /* oldest first: replies come in order */
    struct buffer in;
    const struct vmm_client_ops *ops;
    void *owner;
    void (*closed)(void *owner);
    void *closed_owner;
    bool noted;
};

struct sent {
    uv_write_t request;
    struct buffer data;
};

static void on_timer(uv_timer_t *timer);

static void arm(struct vmm_client *client)
{
    uint64_t now_ms = clock_now_ms();
    uint64_t at_ms = client->link == NULL ? client->retry_at_ms : UINT64_MAX;
    for (unsigned i = 0; i < client->pending_count; i++) {
        const struct pending *pending = &client->pending[i];
        uint64_t then_ms = pending->deadline_ms;
        at_ms = then_ms < at_ms ? then_ms : at_ms;
    }
    if (at_ms == UINT64_MAX) {
        (void)uv_timer_stop(&client->timer); /* never fails on a live timer */
        return;
    }
    uv_update_time(client->loop);
    int rv =
        uv_timer_start(&client->timer, on_timer, at_ms > now_ms ? at_ms - now_ms : 0, 0);
    CHECK(rv == 0);
}

static void link_closed(uv_handle_t *handle)
{
    free(handle->data);
}

/* Ends the connection, fails what waits for an answer, and plans the next try. */
static void drop(struct vmm_client *client)
{
    if (client->link != NULL) {
        client->link->client = NULL;
        uv_close((uv_handle_t *)&client->link->pipe, link_closed);
        client->link = NULL;
    }
    client->connected = false;
    buffer_consume(&client->in, client->in.size);
    for (unsigned i = 0; i < client->pending_count; i++) {
        if (client->pending[i].error == 0) {
            client->pending[i].error = DROVER_ECLOSED;
            client->pending[i].deadline_ms = 0;
        }
    }
    client->retry_at_ms = clock_now_ms() + client->retry_ms;
    client->retry_ms =
        client->retry_ms * 2 > RECONNECT_MS_MAX ? RECONNECT_MS_MAX : client->retry_ms * 2;
    arm(client);
}

static void note_once(struct vmm_client *client, const char *text)
{
    if (!client->noted) {
        client->noted = true;
        client->ops->note(client->owner, text);
    }
}

static struct pending pending_take(struct vmm_client *client, unsigned index)
{
    struct pending taken = client->pending[index];
    client->pending_count--;
    memmove(&client->pending[index], &client->pending[index + 1],
            (client->pending_count - index) * sizeof(client->pending[0]));
    return taken;
}

/* Tells of one order that failed; false when there is none left to tell of. The callback
 * may close the client. */
static bool fail_one(struct vmm_client *client)
{
    uint64_t now_ms = clock_now_ms();
    unsigned i = 0;
    while (i < client->pending_count && now_ms < client->pending[i].deadline_ms) {
        i++;
    }
    if (i == client->pending_count) {
        return false;
    }
    struct pending failed = pending_take(client, i);
    int error = failed.error == 0 ? DROVER_ETIMEDOUT2 : failed.error;
    /* A quit whose connection went: it ended, as it was told to. */
    if (!failed.internal && !(failed.quit && error == DROVER_ECLOSED)) {
        client->ops->order_failed(client->owner, error,
                                  failed.text != NULL ? failed.text : err_text(error));
    }
    free(failed.text);
    return true;
}

static void sent_done(uv_write_t *request, int status)
{
    struct sent *sent = request->data;
    (void)status; /* a broken connection shows at the reading side */
    buffer_done(&sent->data);
    free(sent);
}

/*
 * libuv sends descriptors only over pipes that also take them, and a VMM has none to
 * give. So this goes past it, which is right only while nothing else waits to be sent.
 */
static int transmit_handed(struct vmm_client *client, const struct buffer *frame,
                           const struct unix_files *files)
{
    uv_os_fd_t socket = -1;
    uv_stream_t *stream = (uv_stream_t *)&client->link->pipe;
    int rv = uv_fileno((uv_handle_t *)stream, &socket);
    if (rv == 0 && uv_stream_get_write_queue_size(stream) > 0) {
        rv = -EAGAIN;
    }
    ssize_t sent = rv != 0 ? rv
                           : unix_files_send(socket, frame->data, frame->size, files,
                                             MSG_DONTWAIT | MSG_NOSIGNAL);
    /* A unix socket takes so little at once, or not at all. */
    CHECK(sent < 0 || (size_t)sent == frame->size);
    return sent < 0 ? (int)sent : 0;
}

/* The connections of a move over plain TCP; without them the VMM says what it lacks. */
static void links_open(const Drover__ControlRequest *request, struct unix_files *files)
{
    if (request->order_case == DROVER__CONTROL_REQUEST__ORDER_MIGRATE &&
        files->count == 0) {
        (void)move_links_open(request->migrate->uri, true, request->migrate->streams,
                              files, NULL); /* the VMM says what it lacks */
    }
}

static int transmit(struct vmm_client *client, Drover__ControlRequest *request,
                    struct unix_files *files)
{
    links_open(request, files);
    request->descriptors = files->count;
    Drover__ControlMessage message = DROVER__CONTROL_MESSAGE__INIT;
    message.what_case = DROVER__CONTROL_MESSAGE__WHAT_REQUEST;
    message.request = request;
    size_t size = drover__control_message__get_packed_size(&message);
    uint8_t *packed = malloc(size);
    struct sent *sent = calloc(1, sizeof(*sent));
    int rv = packed == NULL || sent == NULL ? -ENOMEM : 0;
    if (rv == 0) {
        (void)drover__control_message__pack(&message, packed);
        rv = frame_encode(&sent->data, FRAME_KIND_CONTROL, packed, size,
                          LIMIT_CONTROL_FRAME_BYTES);
    }
    free(packed);
    if (rv == 0 && files->count > 0) {
        rv = transmit_handed(client, &sent->data, files);
        buffer_done(&sent->data);
        free(sent);
        return rv;
    }
    if (rv == 0) {
        sent->request.data = sent;
        uv_buf_t buf = uv_buf_init((char *)sent->data.data, (unsigned)sent->data.size);
        rv = uv_write(&sent->request, (uv_stream_t *)&client->link->pipe, &buf, 1,
                      sent_done);
    }
    if (rv != 0 && sent != NULL) {
        buffer_done(&sent->data);
        free(sent);
    }
    return rv;
}

static void send_request(struct vmm_client *client, const Drover__ControlRequest *request,
                         struct unix_files *files, bool internal)
{
    struct unix_files none = {0};
    files = files != NULL ? files : &none;
    Drover__ControlRequest copy = *request; /* its order is borrowed */
    copy.request_id = ++client->next_request_id;
    copy.vm_id = client->vm_id;
    copy.epoch = client->epoch;
    struct pending pending = {
        .request_id = copy.request_id,
        .deadline_ms = clock_now_ms() + ORDER_TIMEOUT_MS,
        .internal = internal,
        .quit = copy.order_case == DROVER__CONTROL_REQUEST__ORDER_QUIT,
    };
    if (copy.order_case == DROVER__CONTROL_REQUEST__ORDER_SNAPSHOT) {
        pending.deadline_ms = clock_now_ms() + SNAPSHOT_TIMEOUT_MS;
    }
    pending.error = !client->connected ? DROVER_ECLOSED : transmit(client, &copy, files);
    unix_files_done(files); /* the VMM has its own now */
    if (pending.error != 0) {
        pending.deadline_ms = clock_now_ms() + REFUSAL_PAUSE_MS;
    }
    if (pending.quit && !client->connected) {
        pending.error = -ENOTCONN; /* this one must be told: it was not heard */
    }
    if (client->pending_count == PENDING_MAX) {
        /* It has not answered 64 orders in 5 s: the oldest counts as failed, and drops
         * out unheard. */
        free(pending_take(client, 0).text);
    }
    client->pending[client->pending_count++] = pending;
    arm(client);
}

/* False: the connection is not worth keeping. */
static bool take_reply(struct vmm_client *client, const Drover__ControlReply *reply)
{
    if (client->pending_count == 0) {
        return false;
    }
    unsigned index = 0;
    while (index < client->pending_count &&
           client->pending[index].request_id != reply->request_id) {
        index++;
    }
    if (index == client->pending_count) {
        return reply->request_id <=
               client->next_request_id; /* came late: known to have failed */
    }
    struct pending *pending = &client->pending[index];
    if (reply->error == 0 || pending->internal) {
        free(pending_take(client, index).text);
        return true;
    }
    pending->error = reply->error;
    pending->deadline_ms = clock_now_ms() + REFUSAL_PAUSE_MS;
    free(pending->text);
    pending->text = reply->message[0] != '\0' ? strdup(reply->message) : NULL;
    return true;
}

static bool take_status(struct vmm_client *client, const Drover__VmStatus *status)
{
    if (status == NULL) {
        return true;
    }
    if (status->vm_id != client->vm_id || status->epoch != client->epoch) {
        return false;
    }
    client->ops->status(client->owner, status);
    return true;
}

/* One whole message. False: malformed. */
static bool take_message(struct vmm_client *client, const uint8_t *payload, size_t size)
{
    Drover__ControlMessage *message =
        drover__control_message__unpack(NULL, size, payload);
    if (message == NULL) {
        return false;
    }
    bool good = false;
    const struct link *link = client->link;
    if (message->what_case == DROVER__CONTROL_MESSAGE__WHAT_REPLY) {
        good = take_reply(client, message->reply);
        if (good && client->link == link && client->closed == NULL) {
            good = take_status(client, message->reply->status);
        }
    } else if (message->what_case == DROVER__CONTROL_MESSAGE__WHAT_EVENT) {
        good = take_status(client, message->event->status);
    }
    drover__control_message__free_unpacked(message, NULL);
    return good;
}

static void take_input(struct vmm_client *client)
{
    struct link *link = client->link;
    while (client->link == link && client->closed == NULL) {
        const uint8_t *payload = NULL;
        size_t size = 0;
        size_t frame_size = 0;
        int rv = frame_decode(&client->in, FRAME_KIND_CONTROL, LIMIT_CONTROL_FRAME_BYTES,
                              &payload, &size, &frame_size);
        if (rv == 0) {
            break;
        }
        if (rv < 0 || !take_message(client, payload, size)) {
            if (client->closed == NULL && client->link == link) {
                note_once(client,
                          "its control socket answers with a malformed message, or for "
                          "another VM: the connection is made anew");
                drop(client);
            }
            return;
        }
        if (client->link == link) {
            buffer_consume(&client->in, frame_size);
        }
    }
    if (client->closed == NULL) {
        arm(client);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct link *link = handle->data;
    (void)suggested;
    *buf = uv_buf_init(NULL, 0); /* without memory, uv reports UV_ENOBUFS to on_read */
    if (link->client != NULL && buffer_reserve(&link->client->in, 65536) == 0) {
        struct buffer *in = &link->client->in;
        *buf = uv_buf_init((char *)in->data + in->size, 65536);
    }
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct link *link = stream->data;
    (void)buf;
    if (link->client == NULL) {
        return;
    }
    if (got < 0) {
        drop(link->client);
    } else if (got > 0) {
        link->client->in.size += (size_t)got;
        take_input(link->client);
    }
}

static void on_connect(uv_connect_t *request, int status)
{
    struct link *link = request->data;
    struct vmm_client *client = link->client;
    if (client == NULL) {
        return; /* dropped meanwhile */
    }
    if (status == 0) {
        status = uv_read_start((uv_stream_t *)&link->pipe, on_alloc, on_read);
    }
    if (status != 0) {
        drop(client);
        return;
    }
    client->connected = true;
    client->retry_ms = RECONNECT_MS_FIRST;
    Drover__ControlRequest request_message = DROVER__CONTROL_REQUEST__INIT;
    Drover__ControlSubscribe subscribe = DROVER__CONTROL_SUBSCRIBE__INIT;
    request_message.order_case = DROVER__CONTROL_REQUEST__ORDER_SUBSCRIBE;
    request_message.subscribe = &subscribe;
    send_request(client, &request_message, NULL, true);
}

static void try_connect(struct vmm_client *client)
{
    struct link *link = calloc(1, sizeof(*link));
    if (link == NULL || uv_pipe_init(client->loop, &link->pipe, 0) != 0) {
        free(link);
        client->retry_at_ms = clock_now_ms() + RECONNECT_MS_MAX;
        arm(client);
        return;
    }
    link->client = client;
    link->pipe.data = link;
    link->connect.data = link;
    client->link = link;
    /* A socket that is not there yet is told to on_connect. */
    uv_pipe_connect(&link->connect, &link->pipe, client->path, on_connect);
    arm(client);
}

static void on_timer(uv_timer_t *timer)
{
    struct vmm_client *client = timer->data;
    /* One at a time: each may close the client. */
    while (client->closed == NULL && fail_one(client)) {
    }
    if (client->closed != NULL) {
        return;
    }
    if (client->link == NULL && clock_now_ms() >= client->retry_at_ms) {
        try_connect(client);
    } else {
        arm(client);
    }
}

int vmm_client_create(const struct vmm_client_config *config,
                      struct vmm_client **ret_client)
{
    if (strlen(config->path) >= VMM_FOLDER_SOCKET_SIZE) {
        return DROVER_ELIMIT;
    }
    struct vmm_client *client = calloc(1, sizeof(*client));
    if (client == NULL) {
        return -ENOMEM;
    }
    client->loop = config->loop;
    (void)snprintf(client->path, sizeof(client->path), "%s",
                   config->path); /* fits: seen above */
    client->vm_id = config->vm_id;
    client->epoch = config->epoch;
    client->ops = config->ops;
    client->owner = config->owner;
    client->retry_ms = RECONNECT_MS_FIRST;
    /* Header and payload of the largest frame, and what one read may bring beyond it. */
    buffer_init(&client->in, LIMIT_CONTROL_FRAME_BYTES + FRAME_HEADER_SIZE + 2 * 65536);
    int rv = uv_timer_init(client->loop, &client->timer);
    CHECK(rv == 0); /* libuv: always */
    client->timer.data = client;
    arm(client);
    *ret_client = client;
    return 0;
}

void vmm_client_order(struct vmm_client *client, const Drover__ControlRequest *request,
                      struct unix_files *files)
{
    CHECK(client->closed == NULL);
    CHECK(request->order_case != DROVER__CONTROL_REQUEST__ORDER__NOT_SET);
    send_request(client, request, files, false);
}

static void timer_closed(uv_handle_t *handle)
{
    struct vmm_client *client = handle->data;
    void (*closed)(void *owner) = client->closed;
    void *owner = client->closed_owner;
    buffer_done(&client->in);
    for (unsigned i = 0; i < client->pending_count; i++) {
        free(client->pending[i].text);
    }
    free(client);
    closed(owner);
}

void vmm_client_close(struct vmm_client *client, void (*closed)(void *owner), void *owner)
{
    CHECK(client->closed == NULL && closed != NULL);
    if (client->link != NULL) {
        client->link->client = NULL;
        uv_close((uv_handle_t *)&client->link->pipe, link_closed);
        client->link = NULL;
    }
    client->closed = closed;
    client->closed_owner = owner;
    uv_close((uv_handle_t *)&client->timer, timer_closed);
}
