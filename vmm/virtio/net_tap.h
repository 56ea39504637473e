/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tap of the host, opened for packets with a virtio-net header in front: one descriptor
 * for each queue. Opening needs the host's files and rights, so a jailed VMM gets a
 * struct that was filled before.
 */
#ifndef DROVER_VMM_VIRTIO_NET_TAP_H
#define DROVER_VMM_VIRTIO_NET_TAP_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct net_filter;

#define NET_HEADER_SIZE   12 /* with num_buffers, virtio 1.2, 5.1.6 */
#define NET_TAP_NAME_SIZE 16 /* IFNAMSIZ */
#define NET_PAIRS_MAX     16 /* pairs of queues, so queues of a tap */

enum net_offload {
    NET_OFFLOAD_CSUM = 1,
    NET_OFFLOAD_TSO4 = 2,
    NET_OFFLOAD_TSO6 = 4,
    NET_OFFLOAD_ECN = 8,
};

struct net_tap {
    char name[NET_TAP_NAME_SIZE];
    unsigned count; /* of fds, all of them attached */
    int fds[NET_PAIRS_MAX];
    int lock_fd; /* keeps other VMMs off a tap that several may open; -1: none needed */
    unsigned mtu;
};

/* As closed. */
void net_tap_init(struct net_tap *tap);
/*
 * Opens `count` queues of the existing tap `name`, non-blocking. One line in `err` says
 * what to do. `tap` is initialized, and stays closed on failure.
 */
int net_tap_open(struct net_tap *tap, const char *name, unsigned count,
                 struct error *err);
void net_tap_close(struct net_tap *tap);
/* Which unfinished packets the guest takes: an OR of enum net_offload. 0 or -errno. */
int net_tap_offload_set(const struct net_tap *tap, unsigned offloads);
/*
 * Has the kernel drop what the filter does not take, before anybody is woken; it may let
 * some of it through. NULL: all comes in. 0 or -errno.
 */
int net_tap_filter_set(const struct net_tap *tap, const struct net_filter *filter);
/* A detached queue gets no packets, and can send none. 0 or -errno. */
int net_tap_queue_set(const struct net_tap *tap, unsigned queue_index, bool attached);

#endif
