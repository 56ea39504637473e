/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by net_vhost.c and net_vhost_log.c only. */
#ifndef DROVER_VMM_VIRTIO_NET_VHOST_INTERNAL_H
#define DROVER_VMM_VIRTIO_NET_VHOST_INTERNAL_H

#include <linux/vhost.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/virtio/net_io.h"
#include "vmm/virtio/net_vhost.h"

struct event_source;
struct net_guard;

#define NET_VHOST_QUEUES_MAX (2 * NET_PAIRS_MAX)
#define NET_VHOST_FEATURES                                                               \
    (VIRTIO_FEATURE_VERSION_1 | VIRTIO_FEATURE_EVENT_IDX | VIRTIO_FEATURE_INDIRECT |     \
     NET_FEATURE_MRG_RXBUF)
#define NET_VHOST_FEATURE_LOG VIRTIO_FEATURE(VHOST_F_LOG_ALL)

/* A data queue: how its worker raises the guest's interrupt. */
struct vhost_queue {
    struct net_vhost *vhost;
    unsigned index;
    int call_fd;
    struct event_source *source; /* where KVM does not take it: we do */
    int route;                   /* of vm_irqfd_set(), or -1 */
    bool given;                  /* the worker knows where the ring stands */
};

struct net_vhost {
    struct virtio_net *net;
    int fds[NET_PAIRS_MAX];
    unsigned count;
    uint64_t features; /* that the kernel has */
    struct net_guard *guard;
    int error_fd; /* of all rings: a worker found one that makes no sense */
    struct event_source *error_source;
    bool owned; /* the workers are there */
    bool running;
    unsigned running_pairs;
    bool detached[NET_PAIRS_MAX]; /* queues of the tap */
    bool logging;
    _Atomic(uint64_t) *log; /* a bit for each page, by guest-physical address */
    uint64_t log_words;
    struct vhost_queue queues[NET_VHOST_QUEUES_MAX];
};

/* ioctl(); 0 or -errno. */
int net_vhost_call(int fd, unsigned long request, const void *argument);
/* What the workers are told: the driver's part, and whether they log. */
uint64_t net_vhost_features(const struct net_vhost *vhost);
/* Where a ring is, and whether writes to it are logged. */
int net_vhost_address_tell(struct net_vhost *vhost, unsigned index);

#endif
