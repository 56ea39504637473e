/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net on an existing tap, on the VM's I/O loop, with one or more pairs of queues.
 * A guest that does not take its packets leaves them in the tap, where they are dropped.
 * It sends from its own address only, unless `any_mac`. After a move the guest's
 * address is announced: RARP frames from here, and a request to the guest to announce
 * itself.
 */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_NET_H
#define DROVER_VMM_VIRTIO_VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct net_tap;
struct vm;

#define VIRTIO_NET_MAC_SIZE 6

enum virtio_net_vhost {
    VIRTIO_NET_VHOST_OFF,
    VIRTIO_NET_VHOST_AUTO, /* where the host has it, and it can do what else is asked */
    VIRTIO_NET_VHOST_ON,
};

struct virtio_net_config {
    const char *tap;
    bool has_mac; /* else one is made up; a guest that comes in brings its own */
    uint8_t mac[VIRTIO_NET_MAC_SIZE];
    unsigned queues;      /* pairs; 0: one */
    unsigned mtu;         /* that the guest is told; 0: none */
    bool any_mac;         /* frames from other addresses than its own are let through */
    uint64_t bytes_per_s; /* each way; 0: no limit */
    enum virtio_net_vhost vhost;
    struct net_tap *opened; /* instead of `tap`: taken over, on failure too */
};

/* Opens the tap and adds the device to the VM. One line in `err` says what to do. */
int virtio_net_create(struct vm *vm, const struct virtio_net_config *config,
                      struct error *err);
/* "52:54:00:12:34:56"; DROVER_EBADINPUT for anything else, for group addresses and for
 * zero. */
int virtio_net_mac_parse(const char *text, uint8_t ret_mac[VIRTIO_NET_MAC_SIZE]);

#endif
