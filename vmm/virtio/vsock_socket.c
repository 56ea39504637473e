/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a vsock device: unix sockets, edge-triggered in an epoll set. */
#include "vmm/virtio/vsock_io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

#define LOOKS_MAX (VIRTIO_VSOCK_CONNECTIONS_MAX / VSOCK_EVENTS + 2)

static void event_note(struct virtio_vsock *vsock, const struct epoll_event *event)
{
    struct vsock_connection *connection = event->data.ptr;

    if (connection == NULL) {
        vsock->acceptable = true;
        return;
    }
    if (connection->state == VSOCK_STATE_FREE || connection->fd < 0) {
        return;
    }
    connection->readable |= (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) != 0;
    connection->writable |= (event->events & EPOLLOUT) != 0;
    connection->hung_up |= (event->events & (EPOLLHUP | EPOLLERR)) != 0;
}

void vsock_sockets_look(struct virtio_vsock *vsock)
{
    struct epoll_event events[VSOCK_EVENTS];

    /* Nothing is freed in here, so no event is of a connection that was another. */
    for (unsigned look = 0; look < LOOKS_MAX; look++) {
        int count = epoll_wait(vsock->epoll_fd, events, VSOCK_EVENTS, 0);

        for (int i = 0; i < count; i++) {
            event_note(vsock, &events[i]);
        }
        if (count < VSOCK_EVENTS) {
            break;
        }
    }
}

/* "CONNECT PORT\n", `size` bytes with the end of the line: false if it is none. */
static bool greeting_parse(char *line, size_t size, uint32_t *ret_port)
{
    static const char command[] = "CONNECT ";
    const size_t start = sizeof(command) - 1;
    char *end = NULL;
    unsigned long port;

    line[size - 1] = '\0';
    if (size <= start + 1 || memcmp(line, command, start) != 0 || line[start] < '0' ||
        line[start] > '9') {
        return false;
    }
    port = strtoul(line + start, &end, 10);
    if (*end == '\r' && end[1] == '\0') {
        end++;
    }
    if (*end != '\0' || port > UINT32_MAX) {
        return false;
    }
    *ret_port = (uint32_t)port;
    return true;
}

/* What follows the line is for the guest: it stays in the socket. */
static void greeting_read(struct virtio_vsock *vsock, struct vsock_connection *connection)
{
    char line[VSOCK_GREETING_SIZE];
    ssize_t size = recv(connection->fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);
    const char *end = size > 0 ? memchr(line, '\n', (size_t)size) : NULL;

    if (end == NULL) {
        bool wait = (size < 0 && (errno == EAGAIN || errno == EINTR)) ||
                    (size > 0 && size < VSOCK_GREETING_SIZE && !connection->hung_up);

        connection->readable = false;
        if (!wait) {
            vsock_connection_free(vsock, connection);
        }
        return;
    }
    size = recv(connection->fd, line, (size_t)(end - line) + 1, MSG_DONTWAIT);
    if (size <= 0 || !greeting_parse(line, (size_t)size, &connection->guest_port)) {
        vsock_connection_free(vsock, connection);
        return;
    }
    connection->host_port = vsock_host_port_next(vsock);
    connection->state = VSOCK_STATE_ASKING;
    connection->pending = VSOCK_PENDING_REQUEST;
}

void vsock_accept(struct virtio_vsock *vsock)
{
    for (unsigned i = 0; i < VSOCK_RUN_ACCEPTS && vsock->acceptable; i++) {
        int fd =
            accept4(vsock->config.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            /* Refused when there are too many: whoever connects finds it closed. */
            (void)vsock_connection_open(vsock, fd, VSOCK_STATE_GREETING);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            vsock->acceptable = false;
        }
    }
    for (unsigned i = 0; i < vsock->connection_limit; i++) {
        struct vsock_connection *connection = &vsock->connections[i];

        if (connection->state == VSOCK_STATE_GREETING && connection->readable) {
            greeting_read(vsock, connection);
        }
    }
}

bool vsock_greeting_answer(struct vsock_connection *connection)
{
    char line[VSOCK_GREETING_SIZE];
    int size = snprintf(line, sizeof(line), "OK %u\n", connection->host_port);

    CHECK(size > 0 && size < (int)sizeof(line));
    /* The first bytes into an empty socket: all of them or none. */
    return send(connection->fd, line, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT) == size;
}

/* Returns what was taken, 0 if nothing can be now, -errno when the program is gone. */
static ssize_t send_some(struct vsock_connection *connection, const struct iovec *vectors,
                         int count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)vectors,
                             .msg_iovlen = (size_t)count};
    ssize_t sent;

    if (!connection->writable || count == 0) {
        return 0;
    }
    sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
        return sent;
    }
    if (errno == EAGAIN || errno == EINTR) {
        connection->writable = errno == EINTR;
        return 0;
    }
    return -errno;
}

/* The buffer's bytes, in one or two pieces. */
static int buffer_vectors(const struct vsock_connection *connection, uint8_t *buffer,
                          struct iovec ret_vectors[2])
{
    uint32_t first = VSOCK_BUFFER_BYTES - connection->buffer_start;

    if (first >= connection->buffer_used) {
        ret_vectors[0] = (struct iovec){.iov_base = buffer + connection->buffer_start,
                                        .iov_len = connection->buffer_used};
        return 1;
    }
    ret_vectors[0] =
        (struct iovec){.iov_base = buffer + connection->buffer_start, .iov_len = first};
    ret_vectors[1] =
        (struct iovec){.iov_base = buffer, .iov_len = connection->buffer_used - first};
    return 2;
}

static void buffer_append(struct vsock_connection *connection, uint8_t *buffer,
                          const uint8_t *data, size_t size)
{
    CHECK(size <= VSOCK_BUFFER_BYTES - connection->buffer_used);
    connection->buffer_touched |= size > 0;
    while (size > 0) {
        uint32_t at =
            (connection->buffer_start + connection->buffer_used) % VSOCK_BUFFER_BYTES;
        size_t piece = size < VSOCK_BUFFER_BYTES - at ? size : VSOCK_BUFFER_BYTES - at;

        memcpy(buffer + at, data, piece);
        data += piece;
        size -= piece;
        connection->buffer_used += (uint32_t)piece;
    }
}

static bool buffer_flush(struct vsock_connection *connection, uint8_t *buffer)
{
    while (connection->buffer_used > 0) {
        struct iovec vectors[2];
        ssize_t sent =
            send_some(connection, vectors, buffer_vectors(connection, buffer, vectors));

        if (sent <= 0) {
            return sent == 0;
        }
        connection->buffer_start =
            (connection->buffer_start + (uint32_t)sent) % VSOCK_BUFFER_BYTES;
        connection->buffer_used -= (uint32_t)sent;
    }
    return true;
}

bool vsock_write(struct virtio_vsock *vsock, struct vsock_connection *connection,
                 const struct iovec *vectors, int count)
{
    uint8_t *buffer = vsock_connection_buffer(vsock, connection);
    ssize_t sent = 0;

    if (!buffer_flush(connection, buffer)) {
        return false;
    }
    if (connection->buffer_used == 0 && count > 0) {
        sent = send_some(connection, vectors, count);
        if (sent < 0) {
            return false;
        }
    }
    for (int i = 0; i < count; i++) {
        size_t done =
            (size_t)sent < vectors[i].iov_len ? (size_t)sent : vectors[i].iov_len;

        buffer_append(connection, buffer, (const uint8_t *)vectors[i].iov_base + done,
                      vectors[i].iov_len - done);
        sent -= (ssize_t)done;
    }
    return true;
}
