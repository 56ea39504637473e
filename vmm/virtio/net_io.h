/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by virtio_net.c (the device) and net_io.c (its packets) only. The device's lock
 * guards all of it. */
#ifndef DROVER_VMM_VIRTIO_NET_IO_H
#define DROVER_VMM_VIRTIO_NET_IO_H

#include "vmm/virtio/net_tap.h"
#include "vmm/virtio/virtio.h"
#include "vmm/virtio/virtio_net.h"

#define NET_QUEUE_SIZE 256
#define NET_PACKET_MAX                                                                   \
    (NET_HEADER_SIZE + 14 + 4 + 65535) /* Ethernet, VLAN tag, largest IP packet */
#define NET_BUFFERS_MAX   64           /* of the guest, for one packet */
#define NET_RUN_PACKETS   64           /* then other devices get their turn */
#define NET_STALE_PACKETS 4096

#define NET_FEATURE_CSUM           VIRTIO_FEATURE(0)
#define NET_FEATURE_GUEST_CSUM     VIRTIO_FEATURE(1)
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
#define NET_FEATURE_GUEST_ANNOUNCE VIRTIO_FEATURE(21)

enum { NET_QUEUE_RECEIVE = 0, NET_QUEUE_TRANSMIT = 1, NET_QUEUE_CONTROL = 2 };

enum { NET_STATUS_LINK_UP = 1, NET_STATUS_ANNOUNCE = 2 };

struct virtio_net {
    struct virtio_device virtio;
    char *tap_name;
    int tap_fd;
    struct event_source *tap_source; /* I/O loop, as the next */
    bool tap_listening;
    struct event_source *announce_timer;
    unsigned announce_left;
    unsigned announce_delay_ms;
    uint8_t mac[VIRTIO_NET_MAC_SIZE];
    uint16_t status;
    bool write_error_logged;
    size_t packet_size; /* of the one that waits for the guest's buffers; 0: none */
    uint8_t packet[NET_PACKET_MAX];
    struct virtqueue_chain chain;
    struct virtqueue_chain first_chain;
};

/* I/O loop: moves packets of one direction. */
void net_io_receive(struct virtio_net *net);
void net_io_transmit(struct virtio_net *net);
void net_io_control(struct virtio_net *net);
/* Whether the tap's packets wake the I/O loop. */
void net_io_listen(struct virtio_net *net, bool listen);
/* Writes a frame of the host's own to the tap, with an empty header. */
void net_io_frame_send(struct virtio_net *net, const uint8_t *frame, size_t size);
/* Drops what has come in for a guest that was not here yet. */
void net_io_stale_drop(struct virtio_net *net);

#endif
