/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's kernel moves a NIC's packets between its rings and its tap (/dev/vhost-net),
 * one worker for each pair of queues. A gate on the tap (net_guard.h) holds the worker to
 * the lease and to the guest's address. The device's lock guards all of it.
 */
#ifndef DROVER_VMM_VIRTIO_NET_VHOST_H
#define DROVER_VMM_VIRTIO_NET_VHOST_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct net_vhost;
struct virtio_net;

/* Opens what it needs; the tap is open, the VM's memory made. One line in `err`. */
int net_vhost_create(struct virtio_net *net, struct net_vhost **ret_vhost,
                     struct error *err);
/* NULL is fine. */
void net_vhost_free(struct net_vhost *vhost);
/* The same, in the middle of the guest's life: its frames go on without vhost. */
void net_vhost_give_up(struct net_vhost *vhost);
/* I/O loop: listens to the workers. */
int net_vhost_attach(struct net_vhost *vhost);
/* I/O loop, and I/O is allowed: the workers take the rings of the pairs in use. */
int net_vhost_start(struct net_vhost *vhost);
/* They are done with them: what they did stands in our rings. Any thread. */
void net_vhost_stop(struct net_vhost *vhost);
bool net_vhost_running(const struct net_vhost *vhost);
/* True for a queue whose packets are the workers' while they run. */
bool net_vhost_owns(const struct net_vhost *vhost, unsigned queue_index);
/* The guest has changed a vector (or all: UINT_MAX). */
void net_vhost_vector_changed(struct net_vhost *vhost, unsigned vector);
/* The address or the filter has changed. */
void net_vhost_filter_changed(struct net_vhost *vhost);
/* Until when frames may leave, CLOCK_BOOTTIME. No lock is needed. */
void net_vhost_deadline_set(struct net_vhost *vhost, uint64_t deadline_ns);
/* Notes the pages that the workers write, from now on or no more. */
int net_vhost_log(struct net_vhost *vhost, bool on);
/* Marks those of a range of memory dirty. */
void net_vhost_log_sync(struct net_vhost *vhost, uint64_t gpa, uint64_t size_bytes);

#endif
