/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by virtio_net.c (the device), net_io.c (its packets), net_control.c (the guest's
 * orders) and net_state.c only. The device's lock guards all of it. */
#ifndef DROVER_VMM_VIRTIO_NET_IO_H
#define DROVER_VMM_VIRTIO_NET_IO_H

#include "vmm/virtio/net_filter.h"
#include "vmm/virtio/net_tap.h"
#include "vmm/virtio/rate_limit.h"
#include "vmm/virtio/virtio.h"
#include "vmm/virtio/virtio_net.h"

struct buffer;
struct net_vhost;

#define NET_QUEUE_SIZE 256
#define NET_PACKET_MAX                                                                   \
    (NET_HEADER_SIZE + 14 + 4 + 65535) /* Ethernet, VLAN tag, largest IP packet */
#define NET_BUFFERS_MAX   64           /* of the guest, for one packet */
#define NET_RUN_PACKETS   64           /* then other devices get their turn */
#define NET_STALE_PACKETS 4096

#define NET_FEATURE_CSUM           VIRTIO_FEATURE(0)
#define NET_FEATURE_GUEST_CSUM     VIRTIO_FEATURE(1)
#define NET_FEATURE_MTU            VIRTIO_FEATURE(3)
#define NET_FEATURE_MAC            VIRTIO_FEATURE(5)
#define NET_FEATURE_GUEST_TSO4     VIRTIO_FEATURE(7)
#define NET_FEATURE_GUEST_TSO6     VIRTIO_FEATURE(8)
#define NET_FEATURE_GUEST_ECN      VIRTIO_FEATURE(9)
#define NET_FEATURE_HOST_TSO4      VIRTIO_FEATURE(11)
#define NET_FEATURE_HOST_TSO6      VIRTIO_FEATURE(12)
#define NET_FEATURE_HOST_ECN       VIRTIO_FEATURE(13)
#define NET_FEATURE_MRG_RXBUF      VIRTIO_FEATURE(15)
#define NET_FEATURE_STATUS         VIRTIO_FEATURE(16)
#define NET_FEATURE_CTRL_VQ        VIRTIO_FEATURE(17)
#define NET_FEATURE_CTRL_RX        VIRTIO_FEATURE(18)
#define NET_FEATURE_CTRL_RX_EXTRA  VIRTIO_FEATURE(20)
#define NET_FEATURE_GUEST_ANNOUNCE VIRTIO_FEATURE(21)
#define NET_FEATURE_MQ             VIRTIO_FEATURE(22)
#define NET_FEATURE_CTRL_MAC       VIRTIO_FEATURE(23)

/* Queues: receive 0, transmit 0, receive 1, transmit 1, ... control. */
#define NET_QUEUE_RECEIVE(pair)  (2 * (pair))
#define NET_QUEUE_TRANSMIT(pair) (2 * (pair) + 1)

enum { NET_STATUS_LINK_UP = 1, NET_STATUS_ANNOUNCE = 2 };

/* One queue of the tap. Those beyond the pairs that the guest uses bring their packets to
 * the others: port n to pair n modulo their number. */
struct net_port {
    struct virtio_net *net;
    unsigned index;
    struct event_source *source; /* I/O loop, as the next */
    bool listening;
    size_t packet_size; /* of the one that waits for the guest's buffers; 0: none */
    uint8_t packet[NET_PACKET_MAX];
};

struct virtio_net {
    struct virtio_device virtio;
    struct net_tap tap;
    struct net_filter filter;
    bool has_own_mac;      /* by the configuration: no saved state changes it */
    unsigned pair_count;   /* tap.count */
    unsigned active_pairs; /* that the guest uses, 1 to pair_count */
    uint16_t mtu;          /* 0: the guest is told none */
    uint16_t status;
    struct event_source *announce_timer; /* I/O loop */
    unsigned announce_left;
    unsigned announce_delay_ms;
    struct rate_limit receive_limit, transmit_limit;
    struct event_source *limit_timer; /* I/O loop */
    bool write_error_logged;
    bool spoof_logged;
    struct virtqueue_chain chain;
    struct virtqueue_chain first_chain;
    struct net_port *ports;  /* pair_count of them */
    struct net_vhost *vhost; /* NULL: packets go through here */
    /* That `vhost` stays: for the main thread, which must not wait for the device's lock
     * (a page of the guest's may be missing). Taken after it, and shortly. */
    pthread_mutex_t vhost_lock;
};

/* The control queue's index; its place depends on what the driver has negotiated. */
static inline unsigned net_control_queue(const struct virtio_net *net)
{
    return virtio_feature(&net->virtio, NET_FEATURE_MQ) ? 2 * net->pair_count : 2;
}

/* The number of pairs that the guest uses: I/O loop. */
void net_pairs_set(struct virtio_net *net, unsigned pairs);
/* The address or what comes in has changed. */
void net_filter_changed(struct virtio_net *net);
/* I/O loop: moves packets of one pair in one direction. */
void net_io_receive(struct virtio_net *net, unsigned pair);
void net_io_transmit(struct virtio_net *net, unsigned pair);
/* The tap has packets for this port. */
void net_io_port_receive(struct net_port *port);
/* Whether the port's packets wake the I/O loop. */
void net_io_listen(struct net_port *port, bool listen);
/* Writes a frame of the host's own to the tap, with an empty header. */
void net_io_frame_send(struct virtio_net *net, const uint8_t *frame, size_t size);
/* Drops what has come in for a guest that was not here yet. */
void net_io_stale_drop(struct virtio_net *net);
/* I/O loop: runs the guest's orders. */
void net_control_run(struct virtio_net *net);

/* I/O loop, by announce_timer: the next announcement (net_announce.c). */
void net_announce(void *owner);
/* Members of struct device_ops (net_announce.c, net_state.c). */
void net_arrived(struct device *device);
int net_state_save(struct device *device, struct buffer *out);
int net_state_load(struct device *device, uint32_t version, const uint8_t *payload,
                   size_t size, struct error *err);

#endif
