/* SPDX-License-Identifier: Apache-2.0 */
/* A tap of the host, opened for packets with a virtio-net header in front. */
#ifndef DROVER_VMM_VIRTIO_NET_TAP_H
#define DROVER_VMM_VIRTIO_NET_TAP_H

#include <stdbool.h>
#include <stdint.h>

struct error;

#define NET_HEADER_SIZE                                                                  \
    12 /* struct virtio_net_hdr with num_buffers, virtio 1.2, 5.1.6                      \
        */

enum net_offload {
    NET_OFFLOAD_CSUM = 1,
    NET_OFFLOAD_TSO4 = 2,
    NET_OFFLOAD_TSO6 = 4,
    NET_OFFLOAD_ECN = 8,
};

/* Opens the existing tap `name`, non-blocking. One line in `err` says what to do. */
int net_tap_open(const char *name, int *ret_fd, struct error *err);
/* Which unfinished packets the guest takes: an OR of enum net_offload. 0 or -errno. */
int net_tap_offload_set(int fd, unsigned offloads);

#endif
