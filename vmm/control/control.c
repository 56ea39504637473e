/* SPDX-License-Identifier: Apache-2.0 */
/* Clients, frames, replies and events of the control socket. */
#include "vmm/control/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/log.h"
#include "proto/frame.h"
#include "proto/unix_files.h"
#include "vmm/control/control_orders.h"
#include "vmm/host/event_loop.h"
#include "vmm/host/unix_socket.h"
#include "vmm/jail/broker.h"
#include "vmm/move/migrate.h"
#include "vmm/state.h"

#define READ_SIZE 16384
#define EVENT_BACKLOG_MAX                                                                \
    65536 /* a client that does not read gets no more events than this */
#define MIGRATION_TICK_NS (500 * NS_PER_MS)
/* A vCPU or a device that waits for a page which may never come can't be stopped before:
 * so long who asked for that waits for its answer. */
#define MISSING_WAIT_NS (1500 * NS_PER_MS)

struct control_client {
    struct control *control;
    int fd; /* -1: free, unless `waits` */
    struct event_source *source;
    bool subscribed;
    bool waits;          /* for the VM to be quiet: no further request is looked at */
    bool event_due;      /* one was left out */
    uint64_t request_id; /* of the one that waits */
    uint64_t waits_since_ns;
    struct buffer in;
    struct buffer out;
    struct unix_files files; /* that came with orders that are not carried out yet */
};

struct control {
    struct vm *vm;
    struct migrate *migrate;
    int listen_fd;
    struct event_source *listen_source;
    struct event_source *tick;
    struct control_client clients[LIMIT_CONTROL_CLIENTS];
};

static void client_close(struct control_client *client)
{
    if (client->fd < 0) {
        return;
    }
    event_loop_remove(client->source);
    client->source = NULL;
    cleanup_fd(&client->fd);
    client->fd = -1;
    client->subscribed = false;
    buffer_done(&client->in);
    buffer_done(&client->out);
    unix_files_done(&client->files);
}

static int out_flush(struct control_client *client)
{
    while (client->out.size > 0) {
        ssize_t sent = send(client->fd, client->out.data, client->out.size,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno == EAGAIN ? 0 : -errno;
        }
        buffer_consume(&client->out, (size_t)sent);
    }
    return 0;
}

/* Sends what goes at once; the rest when the client reads. */
static void client_send(struct control_client *client)
{
    uint32_t events = client->waits ? 0 : EPOLLIN;
    int result = out_flush(client);
    if (result == 0) {
        result = event_loop_modify(client->source,
                                   client->out.size > 0 ? events | EPOLLOUT : events);
    }
    if (result < 0) {
        client_close(client);
    }
}

static int message_append(struct control_client *client,
                          const Drover__ControlMessage *message)
{
    CLEANUP(buffer_done) struct buffer packed = {0};
    int result = state_pack(&message->base, &packed);
    return result < 0 ? result
                      : frame_encode(&client->out, FRAME_KIND_CONTROL, packed.data,
                                     packed.size, LIMIT_CONTROL_FRAME_BYTES);
}

static void reply_send(struct control_client *client, uint64_t request_id, int error,
                       const char *text)
{
    struct control_status status = {0};
    control_status_fill(client->control->vm, client->control->migrate, &status);
    Drover__ControlReply reply = DROVER__CONTROL_REPLY__INIT;
    Drover__ControlMessage message = DROVER__CONTROL_MESSAGE__INIT;
    reply.request_id = request_id;
    reply.error = error;
    reply.message = (char *)text; /* protobuf-c does not write to it */
    reply.status = &status.status;
    message.what_case = DROVER__CONTROL_MESSAGE__WHAT_REPLY;
    message.reply = &reply;
    if (message_append(client, &message) < 0) {
        client_close(client);
        return;
    }
    client_send(client);
}

static void event_send(struct control_client *client)
{
    client->event_due = client->out.size > EVENT_BACKLOG_MAX;
    if (client->event_due) {
        return;
    }
    struct control_status status = {0};
    control_status_fill(client->control->vm, client->control->migrate, &status);
    Drover__ControlEvent event = DROVER__CONTROL_EVENT__INIT;
    Drover__ControlMessage message = DROVER__CONTROL_MESSAGE__INIT;
    event.status = &status.status;
    message.what_case = DROVER__CONTROL_MESSAGE__WHAT_EVENT;
    message.event = &event;
    if (message_append(client, &message) < 0) {
        client_close(client);
        return;
    }
    client_send(client);
}

/* Something goes on whose progress clients want to see. */
static bool work_runs(const struct control_status *status)
{
    if (status->snapshot.state == DROVER__VM_SNAPSHOT_STATE__VM_SNAPSHOT_RUNS) {
        return true;
    }
    switch (status->migration.state) {
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_CONNECTING:
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_PRECOPY:
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_HANDOVER:
    case DROVER__VM_MIGRATION_STATE__VM_MIGRATION_POSTCOPY:
        return true;
    default:
        return false;
    }
}

static void events_send(struct control *control)
{
    for (unsigned i = 0; i < LIMIT_CONTROL_CLIENTS; i++) {
        struct control_client *client = &control->clients[i];
        if (client->fd >= 0 && client->subscribed) {
            event_send(client);
        }
    }
    struct control_status status = {0};
    control_status_fill(control->vm, control->migrate, &status);
    uint64_t next = work_runs(&status) ? clock_now_ns() + MIGRATION_TICK_NS : 0;
    (void)event_loop_timer_set(control->tick,
                               next); /* without it, changes still are told */
}

void control_vm_changed(struct control *control)
{
    events_send(control);
}

static void client_look(struct control_client *client);

/* A VM that ends answers by its end. */
static void waits_look(struct control *control)
{
    uint64_t now_ns = clock_now_ns();
    if (!migrate_memory_missing(control->migrate) || vm_ended(control->vm)) {
        return;
    }
    for (unsigned i = 0; i < LIMIT_CONTROL_CLIENTS; i++) {
        struct control_client *client = &control->clients[i];
        if (client->fd >= 0 && client->waits &&
            now_ns >= client->waits_since_ns + MISSING_WAIT_NS &&
            vm_hold_forget(control->vm, client)) {
            client->waits = false;
            reply_send(client, client->request_id, DROVER_EINUSE,
                       "the VM waits for memory that is still on its way here: it stops "
                       "as soon as that has come");
            client_look(client);
        }
    }
}

/* While a move is under way, or a snapshot. */
static void ticked(void *owner)
{
    events_send(owner);
    waits_look(owner);
}

static void quiet_reached(struct vm *vm, void *owner)
{
    struct control_client *client = owner;
    (void)vm;
    client->waits = false;
    if (client->fd < 0) {
        return; /* closed meanwhile; the slot is free now */
    }
    reply_send(client, client->request_id, 0, "");
    client_look(client);
}

/* Those that the order says it brought. */
static int descriptors_take(struct control_client *client, uint32_t count,
                            struct unix_files *ret_files, struct error *err)
{
    if (count > client->files.count) {
        return error_set(err, DROVER_EBADINPUT,
                         "the order speaks of %u descriptors, and %u came with it", count,
                         client->files.count);
    }
    struct unix_files *queue = &client->files;
    memcpy(ret_files->fds, queue->fds, count * sizeof(int));
    ret_files->count = count;
    queue->count -= count;
    memmove(queue->fds, queue->fds + count, queue->count * sizeof(int));
    return 0;
}

static void request_handle(struct control_client *client,
                           const Drover__ControlRequest *request)
{
    struct control *control = client->control;
    struct error err = {0};
    bool waits = false;
    client->request_id = request->request_id;
    struct unix_files files = {0};
    int result = descriptors_take(client, request->descriptors, &files, &err);
    if (result == 0) {
        result = control_order(control->vm, control->migrate, request, &files,
                               quiet_reached, client, &waits, &err);
    }
    unix_files_done(&files);
    if (result == 0 && request->order_case == DROVER__CONTROL_REQUEST__ORDER_SUBSCRIBE) {
        client->subscribed = true;
    }
    if (waits) {
        client->waits = true;
        client->waits_since_ns = clock_now_ns();
        client_send(client);
        return;
    }
    reply_send(client, request->request_id, result, result == 0 ? "" : err.text);
}

static int frame_handle(struct control_client *client, const uint8_t *payload,
                        size_t size)
{
    Drover__ControlMessage *message =
        drover__control_message__unpack(NULL, size, payload);
    bool good = message != NULL &&
                message->what_case == DROVER__CONTROL_MESSAGE__WHAT_REQUEST &&
                message->request != NULL;
    if (good) {
        request_handle(client, message->request);
    }
    drover__control_message__free_unpacked(message, NULL);
    return good ? 0 : DROVER_EMALFORMED;
}

/* Handles the whole frames that are there. */
static void client_look(struct control_client *client)
{
    while (client->fd >= 0 && !client->waits) {
        const uint8_t *payload = NULL;
        size_t size = 0;
        size_t frame_size = 0;
        int result =
            frame_decode(&client->in, FRAME_KIND_CONTROL, LIMIT_CONTROL_FRAME_BYTES,
                         &payload, &size, &frame_size);
        if (result == 0) {
            if (client->in.size == 0) {
                unix_files_done(&client->files); /* no order wanted them */
            }
            return;
        }
        if (result > 0) {
            result = frame_handle(client, payload, size);
        }
        if (result < 0) {
            log_warn(vm_log(client->control->vm), "control client closed: %s vm=%s",
                     err_text(result), vm_config(client->control->vm)->name);
            client_close(client);
            return;
        }
        if (client->fd >= 0) {
            buffer_consume(&client->in, frame_size);
        }
    }
}

static int client_read(struct control_client *client)
{
    int result = buffer_reserve(&client->in, READ_SIZE);
    if (result < 0) {
        return result;
    }
    ssize_t got = unix_files_receive(client->fd, client->in.data + client->in.size,
                                     READ_SIZE, &client->files, MSG_DONTWAIT);
    if (got < 0) {
        return got == -EAGAIN || got == -EINTR ? 0 : (int)got;
    }
    if (got == 0) {
        return DROVER_ECLOSED;
    }
    client->in.size += (size_t)got;
    return 0;
}

static void client_ready(void *owner, uint32_t epoll_events)
{
    struct control_client *client = owner;
    if ((epoll_events & EPOLLOUT) != 0) {
        client_send(client);
        if (client->fd >= 0 && client->event_due && client->out.size == 0) {
            event_send(client);
        }
    }
    if (client->fd >= 0 && (epoll_events & EPOLLIN) != 0 && !client->waits) {
        if (client_read(client) < 0) {
            client_close(client);
            return;
        }
        client_look(client);
    } else if (client->fd >= 0 && (epoll_events & (EPOLLHUP | EPOLLERR)) != 0) {
        client_close(client);
    }
}

static struct control_client *client_free_find(struct control *control)
{
    for (unsigned i = 0; i < LIMIT_CONTROL_CLIENTS; i++) {
        if (control->clients[i].fd < 0 && !control->clients[i].waits) {
            return &control->clients[i];
        }
    }
    return NULL;
}

static void client_arrived(void *owner, uint32_t epoll_events)
{
    struct control *control = owner;
    (void)epoll_events;
    CLEANUP(cleanup_fd)
    int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return; /* it went away again */
    }
    struct control_client *client = client_free_find(control);
    if (client == NULL) {
        log_warn(vm_log(control->vm),
                 "more than %d control clients: one was refused vm=%s",
                 LIMIT_CONTROL_CLIENTS, vm_config(control->vm)->name);
        return;
    }
    *client = (struct control_client){.control = control, .fd = -1};
    buffer_init(&client->in, LIMIT_CONTROL_FRAME_BYTES + FRAME_HEADER_SIZE + READ_SIZE);
    buffer_init(&client->out, LIMIT_CONTROL_FRAME_BYTES + FRAME_HEADER_SIZE);
    if (event_loop_add(vm_main_loop(control->vm), fd, EPOLLIN, client_ready, client,
                       &client->source) == 0) {
        client->fd = take_fd(&fd);
    }
}

static void control_free_scope(struct control **control)
{
    control_free(*control);
}

int control_create(struct vm *vm, struct migrate *migrate, const char *path,
                   struct control **ret_control, struct error *err)
{
    CLEANUP(control_free_scope) struct control *control = calloc(1, sizeof(*control));
    if (control == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    control->vm = vm;
    control->migrate = migrate;
    control->listen_fd = -1;
    for (unsigned i = 0; i < LIMIT_CONTROL_CLIENTS; i++) {
        control->clients[i].fd = -1;
    }
    int result = unix_socket_listen(path, &control->listen_fd, err);
    if (result < 0) {
        return result;
    }
    /* The socket's file goes with the VM; without that it would only be stale. */
    unsigned id = 0;
    (void)broker_allow(vm_broker(vm), BROKER_REMOVE_AT_END, path, &id);
    result = event_loop_add(vm_main_loop(vm), control->listen_fd, EPOLLIN, client_arrived,
                            control, &control->listen_source);
    result = result < 0 ? result
                        : event_loop_timer_create(vm_main_loop(vm), ticked, control,
                                                  &control->tick);
    if (result < 0) {
        return error_set(err, result, "cannot serve %s: %s", path, err_text(result));
    }
    *ret_control = TAKE(control);
    return 0;
}

void control_free(struct control *control)
{
    if (control == NULL) {
        return;
    }
    for (unsigned i = 0; i < LIMIT_CONTROL_CLIENTS; i++) {
        client_close(&control->clients[i]);
    }
    event_loop_remove(control->listen_source);
    event_loop_remove(control->tick);
    cleanup_fd(&control->listen_fd);
    free(control);
}
