/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gate in the kernel, on the tap's side from which the guest's frames come (an eBPF
 * program at the tap's ingress): whoever writes them, vhost's worker included, a frame
 * passes only before the deadline, and only with the guest's address as its source. It
 * is made by root before the jail; after that, orders to it are stores into a page.
 */
#ifndef DROVER_VMM_HOST_NET_GUARD_H
#define DROVER_VMM_HOST_NET_GUARD_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct net_guard;

/* Closed: nothing passes before net_guard_deadline_set(). Takes the place of one that an
 * earlier VMM left. One line in `err`. */
int net_guard_create(const char *tap, struct net_guard **ret_guard, struct error *err);
/* It stays on the tap, closed: a jailed VMM can't take it off. NULL is fine. */
void net_guard_free(struct net_guard *guard);
/* The same, but it stays open, for all sources: the VMM writes the frames by itself from
 * now on, and sees to lease and source as it does without a gate. NULL is fine. */
void net_guard_leave_open(struct net_guard *guard);
/* CLOCK_BOOTTIME; UINT64_MAX: none. Any thread. */
void net_guard_deadline_set(struct net_guard *guard, uint64_t deadline_ns);
/* The only source that passes; NULL: all do. Any thread. */
void net_guard_mac_set(struct net_guard *guard, const uint8_t *mac);
/* Frames that were dropped because of their source. */
uint64_t net_guard_spoofed(const struct net_guard *guard);
/* Takes it off a tap whose VMM is gone; without the right to, or with nothing there, does
 * nothing. */
void net_guard_clean(const char *tap);

#endif
