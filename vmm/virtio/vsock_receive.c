/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of a vsock device (virtio 1.2, 5.10.6): those to the guest, by its receive
 * queue. */
#include <errno.h>
#include <sys/uio.h>

#include "base/check.h"
#include "vmm/virtio/vsock_io.h"

static bool data_waits(const struct vsock_connection *connection)
{
    return connection->state == VSOCK_STATE_OPEN && connection->readable &&
           !connection->read_ended;
}

static bool has_output(struct vsock_connection *connection)
{
    if (connection->pending != 0) {
        return true;
    }
    if (!data_waits(connection)) {
        return false;
    }
    if (vsock_connection_credit(connection) == 0) {
        if (!connection->credit_requested) {
            connection->credit_requested = true;
            connection->pending |= VSOCK_PENDING_CREDIT_REQUEST;
        }
        return connection->pending != 0;
    }
    return true;
}

/* A place for a packet; false: there is none. */
static bool chain_take(struct virtio_vsock *vsock)
{
    struct virtqueue *ring = &vsock->virtio.queues[VSOCK_QUEUE_RECEIVE].ring;
    int ret;

    ret = virtqueue_pop(ring, &vsock->chain);
    if (ret == 0) {
        virtqueue_notify_enable(ring);
        ret = virtqueue_pop(ring, &vsock->chain); /* they may have come meanwhile */
    }
    if (ret > 0 && vsock->chain.writable_bytes < VSOCK_HEADER_SIZE) {
        ring->broken = "a receive buffer is too small for a header";
        ret = -1;
    }
    if (ret < 0) {
        virtio_broken(&vsock->virtio, ring->broken);
    }
    return ret > 0;
}

static void packet_put(struct virtio_vsock *vsock, struct vsock_packet *packet)
{
    struct virtqueue *ring = &vsock->virtio.queues[VSOCK_QUEUE_RECEIVE].ring;
    uint8_t header[VSOCK_HEADER_SIZE];
    int ret;

    packet->source_cid = VSOCK_CID_HOST;
    packet->destination_cid = vsock->config.cid;
    packet->type = VSOCK_TYPE_STREAM;
    vsock_packet_encode(packet, header);
    ret = virtqueue_chain_write(ring, &vsock->chain, 0, header, sizeof(header));
    CHECK(ret == 0); /* judged by chain_take() */
    virtqueue_chain_mark_dirty(ring, &vsock->chain, VSOCK_HEADER_SIZE, packet->size);
    virtqueue_push(ring, vsock->chain.head, VSOCK_HEADER_SIZE + packet->size);
}

static void connection_put(struct virtio_vsock *vsock,
                           struct vsock_connection *connection, unsigned operation,
                           uint32_t size)
{
    struct vsock_packet packet = {
        .source_port = connection->host_port,
        .destination_port = connection->guest_port,
        .size = size,
        .operation = (uint16_t)operation,
        .flags = operation == VSOCK_SHUTDOWN ? connection->shutdown : 0,
        .buffer_bytes = VSOCK_BUFFER_BYTES,
        .forwarded_bytes = connection->forwarded_bytes,
    };

    connection->told_forwarded_bytes = connection->forwarded_bytes;
    connection->sent_bytes += size;
    packet_put(vsock, &packet);
}

/* The program has said all. If it is gone, so is the connection once the guest agrees. */
static void read_end(struct vsock_connection *connection)
{
    connection->read_ended = true;
    connection->shutdown = VSOCK_SHUTDOWN_SEND;
    connection->pending |= VSOCK_PENDING_SHUTDOWN;
    if (connection->hung_up) {
        connection->shutdown = VSOCK_SHUTDOWN_BOTH;
        vsock_connection_hang_up(connection);
        connection->state = VSOCK_STATE_ENDING;
    }
}

/* The program's data goes straight into the guest's buffer. If it has none, or has said
 * all, the buffer is free again; the next look finds what is to be told then. */
static void data_put(struct virtio_vsock *vsock, struct vsock_connection *connection)
{
    struct virtqueue *ring = &vsock->virtio.queues[VSOCK_QUEUE_RECEIVE].ring;
    struct iovec vectors[VIRTQUEUE_SEGMENTS_MAX];
    uint64_t room = vsock->chain.writable_bytes - VSOCK_HEADER_SIZE;
    uint32_t size = vsock_connection_credit(connection);
    ssize_t got = -1;
    int count;

    size = size < VSOCK_PACKET_MAX ? size : VSOCK_PACKET_MAX;
    size = room < size ? (uint32_t)room : size;
    count = virtqueue_chain_vectors(ring, &vsock->chain, true, VSOCK_HEADER_SIZE, size,
                                    vectors);
    CHECK(count >= 0);
    errno = EAGAIN; /* a buffer without room for data: nothing goes there */
    if (size > 0) {
        got = readv(connection->fd, vectors, count);
    }
    if (got > 0) {
        connection_put(vsock, connection, VSOCK_DATA, (uint32_t)got);
        return;
    }
    virtqueue_unpop(ring, 1);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        connection->readable = errno == EINTR;
        return;
    }
    connection->hung_up |= got < 0;
    read_end(connection);
}

static void pending_put(struct virtio_vsock *vsock, struct vsock_connection *connection)
{
    static const struct {
        enum vsock_pending pending;
        enum vsock_operation operation;
    } order[] = {
        {VSOCK_PENDING_RESET, VSOCK_RESET},
        {VSOCK_PENDING_REQUEST, VSOCK_REQUEST},
        {VSOCK_PENDING_RESPONSE, VSOCK_RESPONSE},
        {VSOCK_PENDING_CREDIT_UPDATE, VSOCK_CREDIT_UPDATE},
        {VSOCK_PENDING_CREDIT_REQUEST, VSOCK_CREDIT_REQUEST},
        {VSOCK_PENDING_SHUTDOWN, VSOCK_SHUTDOWN},
    };
    unsigned i = 0;

    while (!(connection->pending & order[i].pending)) {
        i++;
    }
    connection->pending &= ~(unsigned)order[i].pending;
    connection_put(vsock, connection, order[i].operation, 0);
    if (order[i].operation == VSOCK_RESET) {
        vsock_connection_free(vsock, connection);
    }
}

static void stray_reset_put(struct virtio_vsock *vsock)
{
    const struct vsock_reset *reset = &vsock->resets[vsock->reset_first];
    struct vsock_packet packet = {.source_port = reset->host_port,
                                  .destination_port = reset->guest_port,
                                  .operation = VSOCK_RESET};

    vsock->reset_first = (vsock->reset_first + 1) % VSOCK_RESETS_MAX;
    vsock->reset_count--;
    packet_put(vsock, &packet);
}

/* The next connection that has something for the guest, all in turn. */
static struct vsock_connection *output_find(struct virtio_vsock *vsock)
{
    for (unsigned i = 0; i < vsock->connection_limit; i++) {
        unsigned at = (vsock->next_connection + i) % vsock->connection_limit;

        if (vsock->connections[at].state > VSOCK_STATE_GREETING &&
            has_output(&vsock->connections[at])) {
            vsock->next_connection = at + 1;
            return &vsock->connections[at];
        }
    }
    return NULL;
}

bool vsock_receive(struct virtio_vsock *vsock)
{
    for (unsigned i = 0; i < VSOCK_RUN_PACKETS; i++) {
        struct vsock_connection *connection = NULL;

        if (!virtio_io_allowed(&vsock->virtio)) {
            return false;
        }
        if (vsock->reset_count == 0) {
            connection = output_find(vsock);
            if (connection == NULL) {
                return false;
            }
        }
        if (!chain_take(vsock)) {
            return false;
        }
        if (connection == NULL) {
            stray_reset_put(vsock);
        } else if (connection->pending != 0) {
            pending_put(vsock, connection);
        } else {
            data_put(vsock, connection);
        }
    }
    return true;
}
