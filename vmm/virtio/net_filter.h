/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which frames a NIC takes in (receive mode and address tables that the guest sets,
 * virtio 1.2, 5.1.6.5.1 and .2) and which it may send: from its own address only, unless
 * `any_mac`. Pure; the owner's lock guards it.
 */
#ifndef DROVER_VMM_VIRTIO_NET_FILTER_H
#define DROVER_VMM_VIRTIO_NET_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_MAC_SIZE      6
#define NET_ETHERNET_SIZE 14 /* destination, source, type */
#define NET_TABLE_MAX     64 /* addresses; with more, all of that kind come in */

/* The receive mode, by the numbers of the guest's commands. */
enum net_receive {
    NET_RECEIVE_PROMISCUOUS = 1 << 0,
    NET_RECEIVE_ALL_MULTICAST = 1 << 1,
    NET_RECEIVE_ALL_UNICAST = 1 << 2,
    NET_RECEIVE_NO_MULTICAST = 1 << 3,
    NET_RECEIVE_NO_UNICAST = 1 << 4,
    NET_RECEIVE_NO_BROADCAST = 1 << 5,
    NET_RECEIVE_KNOWN = (1 << 6) - 1,
};

struct net_table {
    unsigned count;
    bool overflow; /* the guest gave more than NET_TABLE_MAX */
    uint8_t addresses[NET_TABLE_MAX][NET_MAC_SIZE];
};

struct net_filter {
    uint8_t own[NET_MAC_SIZE]; /* assigned to the NIC */
    uint8_t mac[NET_MAC_SIZE]; /* in use: the guest may set another if `any_mac` */
    bool any_mac;
    unsigned mode; /* an OR of enum net_receive */
    struct net_table unicast, multicast;
};

/* As after power-on: the own address, all frames come in until the guest says otherwise.
 */
void net_filter_reset(struct net_filter *filter);
/* True if a frame with this destination (the first bytes of it) is for the guest. */
bool net_filter_takes(const struct net_filter *filter,
                      const uint8_t destination[NET_MAC_SIZE]);
/* True if the guest may send a frame with this source. */
bool net_filter_may_send(const struct net_filter *filter,
                         const uint8_t source[NET_MAC_SIZE]);
/* The guest wants another address: false if it may not have it. */
bool net_filter_mac_set(struct net_filter *filter, const uint8_t mac[NET_MAC_SIZE]);

#endif
