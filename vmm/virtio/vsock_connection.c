/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a vsock device's connections. */
#include "vmm/virtio/vsock_io.h"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "vmm/vm.h"

struct vsock_connection *vsock_connection_find(struct virtio_vsock *vsock,
                                               uint32_t guest_port, uint32_t host_port)
{
    for (unsigned i = 0; i < vsock->connection_limit; i++) {
        struct vsock_connection *connection = &vsock->connections[i];

        /* One that is not known to the guest yet has no ports. */
        if (connection->state > VSOCK_STATE_GREETING &&
            connection->guest_port == guest_port && connection->host_port == host_port) {
            return connection;
        }
    }
    return NULL;
}

/* A free place; else that of one which only waits for the guest's goodbye. */
static struct vsock_connection *place_find(struct virtio_vsock *vsock)
{
    struct vsock_connection *ending = NULL;

    for (unsigned i = 0; i < VIRTIO_VSOCK_CONNECTIONS_MAX; i++) {
        struct vsock_connection *connection = &vsock->connections[i];

        if (connection->state == VSOCK_STATE_FREE) {
            if (i >= vsock->connection_limit) {
                vsock->connection_limit = i + 1;
            }
            return connection;
        }
        if (connection->state == VSOCK_STATE_ENDING) {
            ending = connection;
        }
    }
    if (ending != NULL) {
        vsock_connection_free(vsock, ending);
    } else if (!vsock->limit_logged) {
        vsock->limit_logged = true;
        log_warn(vm_log(vsock->virtio.vm),
                 "vsock: more than %d connections at once: the others are refused",
                 VIRTIO_VSOCK_CONNECTIONS_MAX);
    }
    return ending;
}

struct vsock_connection *vsock_connection_open(struct virtio_vsock *vsock, int fd,
                                               enum vsock_state state)
{
    struct vsock_connection *connection = place_find(vsock);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data = {.ptr = connection}};

    CHECK(state != VSOCK_STATE_FREE && state != VSOCK_STATE_ENDING);
    if (connection == NULL || epoll_ctl(vsock->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        (void)close(fd);
        return NULL;
    }
    *connection = (struct vsock_connection){
        .state = state, .fd = fd, .readable = true, .writable = true};
    return connection;
}

void vsock_connection_hang_up(struct vsock_connection *connection)
{
    if (connection->fd >= 0) {
        (void)close(connection->fd); /* which also takes it out of the epoll set */
        connection->fd = -1;
    }
    connection->readable = connection->writable = false;
}

void vsock_connection_free(struct virtio_vsock *vsock,
                           struct vsock_connection *connection)
{
    if (connection->state == VSOCK_STATE_FREE) {
        return;
    }
    vsock_connection_hang_up(connection);
    if (connection->buffer_touched) {
        /* Fails only for ranges that are not mapped. */
        (void)madvise(vsock_connection_buffer(vsock, connection), VSOCK_BUFFER_BYTES,
                      MADV_DONTNEED);
    }
    connection->state = VSOCK_STATE_FREE;
    connection->pending = 0;
}

void vsock_connections_free(struct virtio_vsock *vsock)
{
    for (unsigned i = 0; i < vsock->connection_limit; i++) {
        vsock_connection_free(vsock, &vsock->connections[i]);
    }
}

uint8_t *vsock_connection_buffer(struct virtio_vsock *vsock,
                                 const struct vsock_connection *connection)
{
    return vsock->buffers +
           (size_t)(connection - vsock->connections) * VSOCK_BUFFER_BYTES;
}

uint32_t vsock_connection_credit(const struct vsock_connection *connection)
{
    uint32_t underway = connection->sent_bytes - connection->guest_forwarded_bytes;

    /* A guest that talks nonsense gets nothing. */
    return underway < connection->guest_buffer_bytes
               ? connection->guest_buffer_bytes - underway
               : 0;
}

static bool host_port_used(const struct virtio_vsock *vsock, uint32_t host_port)
{
    for (unsigned i = 0; i < vsock->connection_limit; i++) {
        if (vsock->connections[i].state > VSOCK_STATE_GREETING &&
            vsock->connections[i].host_port == host_port) {
            return true;
        }
    }
    return false;
}

uint32_t vsock_host_port_next(struct virtio_vsock *vsock)
{
    uint32_t host_port;

    do { /* fewer connections than ports */
        host_port = vsock->next_host_port++;
        if (vsock->next_host_port == UINT32_MAX) {
            vsock->next_host_port = VSOCK_HOST_PORT_MIN;
        }
    } while (host_port_used(vsock, host_port));
    return host_port;
}
