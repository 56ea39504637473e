/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of virtio-net (virtio 1.2, 5.1.6) between a tap and the guest's queues. */
#include "vmm/virtio/net_io.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/host/event_loop.h"
#include "vmm/vm.h"

#define NUM_BUFFERS_OFFSET 10 /* in the header */

/* True if one more packet may pass; else the queues run again when it may. */
static bool limit_allows(struct virtio_net *net, struct rate_limit *limit)
{
    uint64_t now_ns = limit->units_per_s != 0 ? clock_now_ns() : 0;
    uint64_t wait_ns = rate_limit_wait_ns(limit, now_ns);

    if (wait_ns != 0) {
        (void)event_loop_timer_set(net->limit_timer, now_ns + wait_ns);
    }
    return wait_ns == 0;
}

/* ---- to the guest --------------------------------------------------------- */

void net_io_listen(struct net_port *port, bool listen)
{
    if (port->source == NULL || port->listening == listen) {
        return;
    }
    if (event_loop_modify(port->source, listen ? EPOLLIN : 0) == 0) {
        port->listening = listen;
    }
}

/* Whether a packet got into the guest's buffers. */
enum delivery { DELIVERY_DONE, DELIVERY_NO_ROOM, DELIVERY_BROKEN };

static void packet_drop(struct net_port *port, struct virtqueue *ring,
                        uint16_t taken_count)
{
    virtqueue_unpop(ring, taken_count);
    port->packet_size = 0;
}

/* The packet that waits goes into as many buffers as it needs; all of them become visible
 * at once. */
static enum delivery packet_deliver(struct net_port *port, struct virtqueue *ring)
{
    struct virtio_net *net = port->net;
    bool merge = virtio_feature(&net->virtio, NET_FEATURE_MRG_RXBUF);
    size_t done = 0;
    uint16_t count = 0;

    while (done < port->packet_size) {
        struct virtqueue_chain *chain = count == 0 ? &net->first_chain : &net->chain;
        size_t piece = port->packet_size - done;
        int ret;

        if (count >= NET_BUFFERS_MAX || (count > 0 && (!merge || count >= ring->size))) {
            packet_drop(port, ring, count); /* will never fit */
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
        ret = virtqueue_chain_write(ring, chain, 0, port->packet + done, piece);
        CHECK(ret == 0); /* inside the chain */
        virtqueue_fill(ring, count, chain->head, (uint32_t)piece);
        done += piece;
        count++;
    }
    (void)virtqueue_chain_write(ring, &net->first_chain, NUM_BUFFERS_OFFSET, &count,
                                sizeof(count)); /* fits: judged above */
    virtqueue_publish(ring, count);
    port->packet_size = 0;
    return DELIVERY_DONE;
}

/* Asks for a notification; true if buffers came meanwhile. */
static bool buffers_awaited(struct virtqueue *ring)
{
    virtqueue_notify_enable(ring);
    return virtqueue_pending(ring);
}

/* Reads one packet from the tap into port->packet, unless the guest's filter drops it;
 * false if there is none, or none may be read. */
static bool packet_read(struct net_port *port)
{
    struct virtio_net *net = port->net;
    ssize_t size = read(net->tap.fds[port->index], port->packet, sizeof(port->packet));

    port->packet_size = 0;
    if (size >= NET_HEADER_SIZE + NET_ETHERNET_SIZE &&
        net_filter_takes(&net->filter, port->packet + NET_HEADER_SIZE)) {
        port->packet_size = (size_t)size;
    }
    return size > 0;
}

/* Moves packets of one port into one ring; true if the port's next packets shall wake
 * us. */
static bool port_run(struct net_port *port, struct virtqueue *ring)
{
    struct virtio_device *virtio = &port->net->virtio;

    for (unsigned i = 0; i < NET_RUN_PACKETS; i++) {
        enum delivery delivery;

        if (!virtio_io_allowed(virtio)) {
            return false; /* whoever allows it again runs the queues */
        }
        if (port->packet_size == 0) {
            if (!virtqueue_pending(ring) && !buffers_awaited(ring)) {
                return false;
            }
            if (!limit_allows(port->net, &port->net->receive_limit)) {
                return false; /* the timer runs the queues */
            }
            if (!packet_read(port)) {
                return true;
            }
            rate_limit_take(&port->net->receive_limit, port->packet_size);
        }
        delivery = packet_deliver(port, ring);
        if (delivery == DELIVERY_BROKEN) {
            virtio_broken(virtio, ring->broken);
            return false;
        }
        if (delivery == DELIVERY_NO_ROOM) {
            uint16_t before = ring->next_avail;

            virtqueue_notify_enable(ring);
            if (!virtqueue_pending(ring) || packet_deliver(port, ring) != DELIVERY_DONE) {
                CHECK(ring->next_avail == before || ring->broken != NULL);
                return false;
            }
        }
    }
    return true;
}

static void port_receive(struct net_port *port, unsigned pair)
{
    struct virtio_device *virtio = &port->net->virtio;
    struct virtqueue *ring = &virtio->queues[NET_QUEUE_RECEIVE(pair)].ring;

    virtqueue_notify_disable(ring);
    net_io_listen(port, port_run(port, ring));
}

void net_io_port_receive(struct net_port *port)
{
    unsigned pair = port->index % port->net->active_pairs;

    port_receive(port, pair);
    virtio_queue_signal(&port->net->virtio, NET_QUEUE_RECEIVE(pair));
}

void net_io_receive(struct virtio_net *net, unsigned pair)
{
    if (pair >= net->active_pairs) {
        return;
    }
    for (unsigned i = pair; i < net->pair_count; i += net->active_pairs) {
        port_receive(&net->ports[i], pair);
    }
    virtio_queue_signal(&net->virtio, NET_QUEUE_RECEIVE(pair));
}

void net_io_stale_drop(struct virtio_net *net)
{
    for (unsigned port = 0; port < net->pair_count; port++) {
        for (unsigned i = 0; i < NET_STALE_PACKETS; i++) {
            if (!packet_read(&net->ports[port])) {
                break;
            }
        }
        net->ports[port].packet_size = 0;
    }
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
             net->tap.name, err_text(ret),
             ret == -EIO ? ": bring it up with 'ip link set NAME up'" : "");
}

/* Said once: a guest can do it as often as it likes. */
static void spoofed(struct virtio_net *net, const uint8_t *source)
{
    if (net->spoof_logged) {
        return;
    }
    net->spoof_logged = true;
    log_warn(vm_log(net->virtio.vm),
             "tap %s: the guest sends from %02x:%02x:%02x:%02x:%02x:%02x, which is not "
             "its address; such frames are dropped (any-mac lets them through)",
             net->tap.name, source[0], source[1], source[2], source[3], source[4],
             source[5]);
}

static void packet_send(struct virtio_net *net, unsigned pair)
{
    const struct virtqueue *ring = &net->virtio.queues[NET_QUEUE_TRANSMIT(pair)].ring;
    uint8_t head[NET_HEADER_SIZE + NET_ETHERNET_SIZE];
    struct iovec vectors[1 + VIRTQUEUE_SEGMENTS_MAX];
    uint64_t size = net->chain.readable_bytes;
    int count;

    if (size <= sizeof(head) || size > NET_PACKET_MAX) {
        return;
    }
    /* What is judged is what is sent: the guest may write to its copy meanwhile. */
    count = virtqueue_chain_read(ring, &net->chain, 0, head, sizeof(head));
    CHECK(count == 0); /* inside the chain */
    if (!net_filter_may_send(&net->filter, head + NET_HEADER_SIZE + NET_MAC_SIZE)) {
        spoofed(net, head + NET_HEADER_SIZE + NET_MAC_SIZE);
        return;
    }
    vectors[0] = (struct iovec){.iov_base = head, .iov_len = sizeof(head)};
    count = virtqueue_chain_vectors(ring, &net->chain, false, sizeof(head),
                                    size - sizeof(head), vectors + 1);
    CHECK(count > 0); /* the whole of it */
    if (writev(net->tap.fds[pair], vectors, 1 + count) < 0) {
        write_failed(net, -errno);
    }
}

void net_io_transmit(struct virtio_net *net, unsigned pair)
{
    struct virtio_device *virtio = &net->virtio;
    unsigned index = NET_QUEUE_TRANSMIT(pair);
    struct virtqueue *ring = &virtio->queues[index].ring;
    bool limited = false;

    virtqueue_notify_disable(ring);
    for (unsigned i = 0; i < NET_RUN_PACKETS && virtio_io_allowed(virtio); i++) {
        int ret;

        if (!limit_allows(net, &net->transmit_limit)) {
            limited = true;
            break;
        }
        ret = virtqueue_pop(ring, &net->chain);

        if (ret < 0) {
            virtio_broken(virtio, ring->broken);
            return;
        }
        if (ret == 0) {
            break;
        }
        packet_send(net, pair);
        rate_limit_take(&net->transmit_limit, net->chain.readable_bytes);
        virtqueue_push(ring, net->chain.head, 0);
    }
    virtio_queue_signal(virtio, index);
    if (limited) {
        return; /* the timer runs the queue, with notifications or without */
    }
    virtqueue_notify_enable(ring);
    if (virtio_running(virtio) && virtqueue_pending(ring)) {
        virtio_queue_kick(virtio, index);
    }
}

void net_io_frame_send(struct virtio_net *net, const uint8_t *frame, size_t size)
{
    uint8_t header[NET_HEADER_SIZE] = {0};
    struct iovec vectors[2] = {{.iov_base = header, .iov_len = sizeof(header)},
                               {.iov_base = (void *)(uintptr_t)frame, .iov_len = size}};

    if (writev(net->tap.fds[0], vectors, 2) < 0) {
        write_failed(net, -errno);
    }
}
