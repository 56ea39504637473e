/* SPDX-License-Identifier: Apache-2.0 */
/* One VMM's control socket, from droverd's side. */
#include "node-agent/vmm_client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "node-agent/frame_link.h"
#include "node-agent/vmm_folder.h"
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
    struct frame_link *link; /* NULL: not connected, retry_at_ms says when next */
    bool connected;
    char path[VMM_FOLDER_SOCKET_SIZE];
    uint64_t vm_id, epoch;
    uint64_t next_request_id;
    uint64_t retry_at_ms;
    unsigned retry_ms;
    unsigned pending_count;
    struct pending pending[PENDING_MAX]; /* oldest first: replies come in order */
    const struct vmm_client_ops *ops;
    void *owner;
    void (*closed)(void *owner);
    void *closed_owner;
    bool noted;
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

/* Ends the connection, fails what waits for an answer, and plans the next try. */
static void drop(struct vmm_client *client)
{
    frame_link_close(client->link);
    client->link = NULL;
    client->connected = false;
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
    CLEANUP(cleanup_free) uint8_t *packed = malloc(size);
    if (packed == NULL) {
        return -ENOMEM;
    }
    (void)drover__control_message__pack(&message, packed);
    return files->count > 0 ? frame_link_send_files(client->link, packed, size, files)
                            : frame_link_send(client->link, packed, size);
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

static bool link_take(void *owner, const uint8_t *payload, size_t size)
{
    struct vmm_client *client = owner;
    Drover__ControlMessage *message =
        drover__control_message__unpack(NULL, size, payload);
    if (message == NULL) {
        return false;
    }
    bool good = false;
    const struct frame_link *link = client->link;
    if (message->what_case == DROVER__CONTROL_MESSAGE__WHAT_REPLY) {
        good = take_reply(client, message->reply);
        if (good && client->link == link && client->closed == NULL) {
            good = take_status(client, message->reply->status);
        }
    } else if (message->what_case == DROVER__CONTROL_MESSAGE__WHAT_EVENT) {
        good = take_status(client, message->event->status);
    }
    drover__control_message__free_unpacked(message, NULL);
    if (client->closed == NULL) {
        arm(client);
    }
    return good;
}

static void link_connected(void *owner)
{
    struct vmm_client *client = owner;
    client->connected = true;
    client->retry_ms = RECONNECT_MS_FIRST;
    Drover__ControlRequest request_message = DROVER__CONTROL_REQUEST__INIT;
    Drover__ControlSubscribe subscribe = DROVER__CONTROL_SUBSCRIBE__INIT;
    request_message.order_case = DROVER__CONTROL_REQUEST__ORDER_SUBSCRIBE;
    request_message.subscribe = &subscribe;
    send_request(client, &request_message, NULL, true);
}

static void link_ended(void *owner, enum frame_link_end end)
{
    struct vmm_client *client = owner;
    if (end == FRAME_LINK_MALFORMED) {
        note_once(client, "its control socket answers with a malformed message, or for "
                          "another VM: the connection is made anew");
    }
    drop(client);
}

static void try_connect(struct vmm_client *client)
{
    static const struct frame_link_ops ops = {
        .connected = link_connected, .take = link_take, .ended = link_ended};
    const struct frame_link_config config = {.loop = client->loop,
                                             .path = client->path,
                                             .limit_bytes = LIMIT_CONTROL_FRAME_BYTES,
                                             .ops = &ops,
                                             .owner = client};
    if (frame_link_open(&config, &client->link) < 0) {
        client->retry_at_ms = clock_now_ms() + RECONNECT_MS_MAX;
    }
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
    for (unsigned i = 0; i < client->pending_count; i++) {
        free(client->pending[i].text);
    }
    free(client);
    closed(owner);
}

void vmm_client_close(struct vmm_client *client, void (*closed)(void *owner), void *owner)
{
    CHECK(client->closed == NULL && closed != NULL);
    frame_link_close(client->link);
    client->link = NULL;
    client->closed = closed;
    client->closed_owner = owner;
    uv_close((uv_handle_t *)&client->timer, timer_closed);
}
