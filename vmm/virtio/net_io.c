/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of virtio-net (virtio 1.2, 5.1.6) between a tap and the guest's queues. */
#include "vmm/virtio/net_io.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/event_loop.h"
#include "vmm/vm.h"

#define NUM_BUFFERS_OFFSET 10 /* in the header */

enum {
    CONTROL_CLASS_ANNOUNCE = 3,
    CONTROL_ANNOUNCE_ACK = 0,
    CONTROL_OK = 0,
    CONTROL_ERR = 1
};

/* ---- to the guest --------------------------------------------------------- */

void net_io_listen(struct virtio_net *net, bool listen)
{
    if (net->tap_source == NULL || net->tap_listening == listen) {
        return;
    }
    if (event_loop_modify(net->tap_source, listen ? EPOLLIN : 0) == 0) {
        net->tap_listening = listen;
    }
}

/* Whether a packet got into the guest's buffers. */
enum delivery { DELIVERY_DONE, DELIVERY_NO_ROOM, DELIVERY_BROKEN };

static void packet_drop(struct virtio_net *net, uint16_t taken_count)
{
    virtqueue_unpop(&net->virtio.queues[NET_QUEUE_RECEIVE].ring, taken_count);
    net->packet_size = 0;
}

/* The packet that waits goes into as many buffers as it needs; all of them become visible
 * at once. */
static enum delivery packet_deliver(struct virtio_net *net)
{
    struct virtqueue *ring = &net->virtio.queues[NET_QUEUE_RECEIVE].ring;
    bool merge = virtio_feature(&net->virtio, NET_FEATURE_MRG_RXBUF);
    size_t done = 0;
    uint16_t count = 0;

    while (done < net->packet_size) {
        struct virtqueue_chain *chain = count == 0 ? &net->first_chain : &net->chain;
        size_t piece = net->packet_size - done;
        int ret;

        if (count >= NET_BUFFERS_MAX || (count > 0 && (!merge || count >= ring->size))) {
            packet_drop(net, count); /* will never fit */
            return DELIVERY_DONE;
        }
        ret = virtqueue_pop(ring, chain);
        if (ret <= 0) {
            virtqueue_unpop(ring, count);
            return ret < 0 ? DELIVERY_BROKEN : DELIVERY_NO_ROOM;
        }
        if (count == 0 && chain->writable_bytes < NET_HEADER_SIZE) {
            ring->broken = "a receive buffer is too small for a header";
            return DELIVERY_BROKEN;
        }
        if (piece > chain->writable_bytes) {
            piece = (size_t)chain->writable_bytes;
        }
        ret = virtqueue_chain_write(ring, chain, 0, net->packet + done, piece);
        CHECK(ret == 0); /* inside the chain */
        virtqueue_fill(ring, count, chain->head, (uint32_t)piece);
        done += piece;
        count++;
    }
    (void)virtqueue_chain_write(ring, &net->first_chain, NUM_BUFFERS_OFFSET, &count,
                                sizeof(count)); /* fits: judged above */
    virtqueue_publish(ring, count);
    net->packet_size = 0;
    return DELIVERY_DONE;
}

/* Asks for a notification; true if buffers came meanwhile. */
static bool buffers_awaited(struct virtqueue *ring)
{
    virtqueue_notify_enable(ring);
    return virtqueue_pending(ring);
}

/* Reads one packet from the tap into net->packet; false if there is none, or none may be
 * read. */
static bool packet_read(struct virtio_net *net)
{
    ssize_t size = read(net->tap_fd, net->packet, sizeof(net->packet));

    net->packet_size = size >= NET_HEADER_SIZE ? (size_t)size : 0;
    return size > 0;
}

void net_io_receive(struct virtio_net *net)
{
    struct virtio_device *virtio = &net->virtio;
    struct virtqueue *ring = &virtio->queues[NET_QUEUE_RECEIVE].ring;
    bool listen = true;

    virtqueue_notify_disable(ring);
    for (unsigned i = 0; i < NET_RUN_PACKETS && listen; i++) {
        enum delivery delivery;

        if (!virtio_io_allowed(virtio)) {
            listen = false; /* whoever allows it again runs the queues */
            break;
        }
        if (net->packet_size == 0) {
            if (!virtqueue_pending(ring) && !buffers_awaited(ring)) {
                listen = false;
                break;
            }
            if (!packet_read(net)) {
                break;
            }
        }
        delivery = packet_deliver(net);
        if (delivery == DELIVERY_BROKEN) {
            virtio_broken(virtio, ring->broken);
            listen = false;
        } else if (delivery == DELIVERY_NO_ROOM) {
            uint16_t before = ring->next_avail;

            listen = false;
            virtqueue_notify_enable(ring);
            if (virtqueue_pending(ring) && packet_deliver(net) == DELIVERY_DONE) {
                listen = true;
            }
            CHECK(listen || ring->next_avail == before || ring->broken != NULL);
        }
    }
    net_io_listen(net, listen);
    virtio_queue_signal(virtio, NET_QUEUE_RECEIVE);
}

void net_io_stale_drop(struct virtio_net *net)
{
    for (unsigned i = 0; i < NET_STALE_PACKETS && packet_read(net); i++) {
        net->packet_size = 0;
    }
    net->packet_size = 0;
}

/* ---- from the guest ------------------------------------------------------- */

static void write_failed(struct virtio_net *net, int ret)
{
    /* A full queue or a malformed packet: dropped, as on a wire. */
    if (ret == -EAGAIN || ret == -EINVAL || ret == -ENOBUFS || net->write_error_logged) {
        return;
    }
    net->write_error_logged = true;
    log_warn(vm_log(net->virtio.vm), "tap %s: packets of the guest are dropped: %s%s",
             net->tap_name, err_text(ret),
             ret == -EIO ? ": bring it up with 'ip link set NAME up'" : "");
}

static void packet_send(struct virtio_net *net)
{
    const struct virtqueue *ring = &net->virtio.queues[NET_QUEUE_TRANSMIT].ring;
    struct iovec vectors[VIRTQUEUE_SEGMENTS_MAX];
    uint64_t size = net->chain.readable_bytes;
    int count;

    if (size <= NET_HEADER_SIZE || size > NET_PACKET_MAX) {
        return;
    }
    count = virtqueue_chain_vectors(ring, &net->chain, false, 0, size, vectors);
    CHECK(count > 0); /* the whole of it */
    if (writev(net->tap_fd, vectors, count) < 0) {
        write_failed(net, -errno);
    }
}

void net_io_transmit(struct virtio_net *net)
{
    struct virtio_device *virtio = &net->virtio;
    struct virtqueue *ring = &virtio->queues[NET_QUEUE_TRANSMIT].ring;

    virtqueue_notify_disable(ring);
    for (unsigned i = 0; i < NET_RUN_PACKETS && virtio_io_allowed(virtio); i++) {
        int ret = virtqueue_pop(ring, &net->chain);

        if (ret < 0) {
            virtio_broken(virtio, ring->broken);
            return;
        }
        if (ret == 0) {
            break;
        }
        packet_send(net);
        virtqueue_push(ring, net->chain.head, 0);
    }
    virtio_queue_signal(virtio, NET_QUEUE_TRANSMIT);
    virtqueue_notify_enable(ring);
    if (virtio_running(virtio) && virtqueue_pending(ring)) {
        virtio_queue_kick(virtio, NET_QUEUE_TRANSMIT);
    }
}

void net_io_frame_send(struct virtio_net *net, const uint8_t *frame, size_t size)
{
    uint8_t header[NET_HEADER_SIZE] = {0};
    struct iovec vectors[2] = {{.iov_base = header, .iov_len = sizeof(header)},
                               {.iov_base = (void *)(uintptr_t)frame, .iov_len = size}};

    if (writev(net->tap_fd, vectors, 2) < 0) {
        write_failed(net, -errno);
    }
}

/* ---- orders (5.1.6.5): 0 class u8 | 1 command u8 | ... and an answer of one byte ----
 */

static uint8_t order_run(struct virtio_net *net)
{
    const struct virtqueue *ring = &net->virtio.queues[NET_QUEUE_CONTROL].ring;
    uint8_t order[2];

    if (virtqueue_chain_read(ring, &net->chain, 0, order, sizeof(order)) == 0 &&
        order[0] == CONTROL_CLASS_ANNOUNCE && order[1] == CONTROL_ANNOUNCE_ACK) {
        net->status &= (uint16_t)~NET_STATUS_ANNOUNCE;
        return CONTROL_OK;
    }
    return CONTROL_ERR;
}

void net_io_control(struct virtio_net *net)
{
    struct virtio_device *virtio = &net->virtio;
    struct virtqueue *ring = &virtio->queues[NET_QUEUE_CONTROL].ring;

    for (unsigned i = 0; i < NET_RUN_PACKETS; i++) {
        uint8_t answer;
        int ret;

        virtqueue_notify_enable(ring);
        ret = virtqueue_pop(ring, &net->chain);
        if (ret < 0) {
            virtio_broken(virtio, ring->broken);
            return;
        }
        if (ret == 0) {
            break;
        }
        answer = order_run(net);
        ret = virtqueue_chain_write(ring, &net->chain, 0, &answer, sizeof(answer));
        virtqueue_push(ring, net->chain.head, ret == 0 ? sizeof(answer) : 0);
    }
    virtio_queue_signal(virtio, NET_QUEUE_CONTROL);
    if (virtqueue_pending(ring)) {
        virtio_queue_kick(virtio, NET_QUEUE_CONTROL);
    }
}
