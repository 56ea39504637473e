/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of a vsock device (virtio 1.2, 5.10.6): those from the guest. To it:
 * vsock_receive.c. */
#include "vmm/virtio/vsock_io.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"

/* ---- what the guest is told by and by ------------------------------------- */

static void reset_add(struct virtio_vsock *vsock, const struct vsock_packet *packet)
{
    unsigned at = (vsock->reset_first + vsock->reset_count) % VSOCK_RESETS_MAX;

    CHECK(vsock->reset_count < VSOCK_RESETS_MAX); /* no packet is taken without room */
    vsock->resets[at] = (struct vsock_reset){.guest_port = packet->source_port,
                                             .host_port = packet->destination_port};
    vsock->reset_count++;
}

/* Ends it here, and the guest is told so. */
static void connection_reset(struct vsock_connection *connection)
{
    vsock_connection_hang_up(connection);
    connection->state = VSOCK_STATE_ENDING;
    connection->pending = VSOCK_PENDING_RESET;
}

static void forwarded_note(struct vsock_connection *connection)
{
    connection->forwarded_bytes = connection->received_bytes - connection->buffer_used;
    if (connection->forwarded_bytes - connection->told_forwarded_bytes >=
        VSOCK_BUFFER_BYTES / 4) {
        connection->pending |= VSOCK_PENDING_CREDIT_UPDATE;
    }
}

/* The program takes no more: what the guest sends is lost, what it gets is not. */
static void program_gone(struct vsock_connection *connection)
{
    connection->hung_up = true;
    connection->buffer_used = 0;
    connection->readable = true; /* up to the end */
    forwarded_note(connection);
}

/* All is written that the guest had to say: the program is told. */
static void write_end(struct vsock_connection *connection)
{
    if (!connection->write_ending || connection->buffer_used > 0 || connection->fd < 0) {
        return;
    }
    (void)shutdown(connection->fd, SHUT_WR); /* gone: then it knows */
    if (connection->guest_shutdown == VSOCK_SHUTDOWN_BOTH) {
        connection_reset(connection);
    }
}

/* ---- from the guest ------------------------------------------------------- */

static void guest_connects(struct virtio_vsock *vsock, const struct vsock_packet *packet)
{
    struct vsock_connection *connection = NULL;
    int fd = vsock->config.ops->connect(vsock->config.owner, packet->destination_port);

    if (fd >= 0 && fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) == 0) {
        connection = vsock_connection_open(vsock, fd, VSOCK_STATE_OPEN);
    } else if (fd >= 0) {
        (void)close(fd);
    }
    if (connection == NULL) {
        reset_add(vsock, packet);
        return;
    }
    connection->guest_port = packet->source_port;
    connection->host_port = packet->destination_port;
    connection->guest_buffer_bytes = packet->buffer_bytes;
    connection->guest_forwarded_bytes = packet->forwarded_bytes;
    connection->pending = VSOCK_PENDING_RESPONSE;
}

static void data_take(struct virtio_vsock *vsock, struct vsock_connection *connection,
                      const struct vsock_packet *packet)
{
    const struct virtqueue *ring = &vsock->virtio.queues[VSOCK_QUEUE_TRANSMIT].ring;
    struct iovec vectors[VIRTQUEUE_SEGMENTS_MAX];
    int count;

    if (connection->state != VSOCK_STATE_OPEN ||
        (connection->guest_shutdown & VSOCK_SHUTDOWN_SEND) != 0 ||
        packet->size > VSOCK_BUFFER_BYTES - connection->buffer_used) {
        connection_reset(connection); /* more than it was given credit for, or too late */
        return;
    }
    connection->received_bytes += packet->size;
    if (!connection->hung_up) {
        count = virtqueue_chain_vectors(ring, &vsock->chain, false, VSOCK_HEADER_SIZE,
                                        packet->size, vectors);
        CHECK(count >= 0); /* judged by packet_take() */
        if (!vsock_write(vsock, connection, vectors, count)) {
            program_gone(connection);
        }
    }
    forwarded_note(connection);
}

static void shutdown_take(struct vsock_connection *connection,
                          const struct vsock_packet *packet)
{
    connection->guest_shutdown |= packet->flags & VSOCK_SHUTDOWN_BOTH;
    if (connection->state != VSOCK_STATE_OPEN) {
        connection_reset(connection);
        return;
    }
    if (connection->guest_shutdown & VSOCK_SHUTDOWN_RECEIVE) {
        connection->read_ended = true;
    }
    if (connection->guest_shutdown & VSOCK_SHUTDOWN_SEND) {
        connection->write_ending = true;
        write_end(connection);
    }
}

static void response_take(struct vsock_connection *connection)
{
    if (connection->state != VSOCK_STATE_ASKING ||
        (connection->pending & VSOCK_PENDING_REQUEST) != 0 ||
        !vsock_greeting_answer(connection)) {
        connection_reset(connection);
        return;
    }
    connection->state = VSOCK_STATE_OPEN;
}

static void connection_take(struct virtio_vsock *vsock,
                            struct vsock_connection *connection,
                            const struct vsock_packet *packet)
{
    connection->guest_buffer_bytes = packet->buffer_bytes;
    connection->guest_forwarded_bytes = packet->forwarded_bytes;
    if (vsock_connection_credit(connection) > 0) {
        connection->credit_requested = false;
    }
    switch (packet->operation) {
    case VSOCK_RESPONSE:
        response_take(connection);
        break;
    case VSOCK_RESET:
        vsock_connection_free(vsock, connection);
        break;
    case VSOCK_SHUTDOWN:
        shutdown_take(connection, packet);
        break;
    case VSOCK_DATA:
        data_take(vsock, connection, packet);
        break;
    case VSOCK_CREDIT_UPDATE:
        break;
    case VSOCK_CREDIT_REQUEST:
        connection->pending |= VSOCK_PENDING_CREDIT_UPDATE;
        break;
    default:
        connection_reset(connection);
        break;
    }
}

static void packet_take(struct virtio_vsock *vsock, const struct vsock_packet *packet)
{
    struct vsock_connection *connection;

    /* To or from somebody else: there is no way for it. */
    if (packet->destination_cid != VSOCK_CID_HOST ||
        packet->source_cid != vsock->config.cid) {
        return;
    }
    connection =
        packet->type == VSOCK_TYPE_STREAM
            ? vsock_connection_find(vsock, packet->source_port, packet->destination_port)
            : NULL;
    if (connection != NULL) {
        connection_take(vsock, connection, packet);
    } else if (packet->type == VSOCK_TYPE_STREAM && packet->operation == VSOCK_REQUEST) {
        guest_connects(vsock, packet);
    } else if (packet->operation != VSOCK_RESET) {
        reset_add(vsock, packet);
    }
}

/* True if the queue may have more. */
static bool transmit_some(struct virtio_vsock *vsock)
{
    struct virtio_device *virtio = &vsock->virtio;
    struct virtqueue *ring = &virtio->queues[VSOCK_QUEUE_TRANSMIT].ring;

    for (unsigned i = 0; i < VSOCK_RUN_PACKETS; i++) {
        uint8_t header[VSOCK_HEADER_SIZE];
        struct vsock_packet packet;
        int ret;

        if (vsock->reset_count == VSOCK_RESETS_MAX || !virtio_io_allowed(virtio)) {
            return false; /* goes on when the guest has taken them */
        }
        ret = virtqueue_pop(ring, &vsock->chain);
        if (ret < 0) {
            virtio_broken(virtio, ring->broken);
            return false;
        }
        if (ret == 0) {
            return false;
        }
        if (virtqueue_chain_read(ring, &vsock->chain, 0, header, sizeof(header)) < 0) {
            virtio_broken(virtio, "a packet is shorter than its header");
            return false;
        }
        vsock_packet_decode(header, &packet);
        if (packet.size > vsock->chain.readable_bytes - VSOCK_HEADER_SIZE) {
            virtio_broken(virtio, "a packet is longer than its buffer");
            return false;
        }
        packet_take(vsock, &packet);
        virtqueue_push(ring, vsock->chain.head, 0);
    }
    return true;
}

static bool transmit(struct virtio_vsock *vsock)
{
    struct virtqueue *ring = &vsock->virtio.queues[VSOCK_QUEUE_TRANSMIT].ring;
    bool more;

    virtqueue_notify_disable(ring);
    more = transmit_some(vsock);
    virtqueue_notify_enable(ring); /* vsock_run() looks at the ring once more */
    return more;
}

/* ---- all of it ------------------------------------------------------------ */

static void connection_look(struct virtio_vsock *vsock,
                            struct vsock_connection *connection)
{
    if (connection->state == VSOCK_STATE_ASKING && connection->hung_up) {
        if (connection->pending & VSOCK_PENDING_REQUEST) {
            vsock_connection_free(vsock, connection); /* the guest never knew */
        } else {
            connection_reset(connection);
        }
        return;
    }
    if (connection->state != VSOCK_STATE_OPEN) {
        return;
    }
    if (connection->buffer_used > 0 && connection->writable) {
        if (!vsock_write(vsock, connection, NULL, 0)) {
            program_gone(connection);
        }
        forwarded_note(connection);
        write_end(connection);
    } else if (connection->hung_up && connection->buffer_used > 0) {
        program_gone(connection);
        write_end(connection);
    }
    if (connection->state == VSOCK_STATE_OPEN && connection->hung_up &&
        connection->read_ended) {
        connection_reset(connection); /* nobody is left on either side of it */
    }
}

static void event_put(struct virtio_vsock *vsock)
{
    static const uint32_t transport_reset;
    struct virtqueue *ring = &vsock->virtio.queues[VSOCK_QUEUE_EVENT].ring;
    int ret;

    if (!vsock->reset_event || !virtio_io_allowed(&vsock->virtio)) {
        return;
    }
    virtqueue_notify_enable(ring);
    ret = virtqueue_pop(ring, &vsock->chain);
    if (ret < 0) {
        virtio_broken(&vsock->virtio, ring->broken);
    } else if (ret > 0) {
        ret = virtqueue_chain_write(ring, &vsock->chain, 0, &transport_reset,
                                    sizeof(transport_reset));
        virtqueue_push(ring, vsock->chain.head, ret == 0 ? sizeof(transport_reset) : 0);
        vsock->reset_event = ret < 0;
    }
}

void vsock_run(struct virtio_vsock *vsock)
{
    struct virtio_device *virtio = &vsock->virtio;
    bool more;

    vsock_sockets_look(vsock);
    event_put(vsock);
    if (virtio_io_allowed(virtio)) {
        vsock_accept(vsock);
    }
    for (unsigned i = 0; i < vsock->connection_limit && virtio_io_allowed(virtio); i++) {
        connection_look(vsock, &vsock->connections[i]);
    }
    more = transmit(vsock);
    more = vsock_receive(vsock) || more || vsock->acceptable;
    for (unsigned i = 0; i < VSOCK_QUEUE_COUNT; i++) {
        virtio_queue_signal(virtio, i);
    }
    /* A queue that waited for room of the other one has it now, perhaps. */
    if (virtio_running(virtio) &&
        (more || (vsock->reset_count < VSOCK_RESETS_MAX &&
                  virtqueue_pending(&virtio->queues[VSOCK_QUEUE_TRANSMIT].ring)))) {
        virtio_queue_kick(virtio, VSOCK_QUEUE_TRANSMIT);
    }
}
