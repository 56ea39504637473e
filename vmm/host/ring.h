/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings of io_uring that can do no more than their disk needs: a ring is a way around the
 * filters of system calls, and by one that opens sockets a VMM would leave its jail.
 */
#ifndef DROVER_VMM_HOST_RING_H
#define DROVER_VMM_HOST_RING_H

#include <liburing.h>

/* Made, not usable yet: then files and eventfds are registered. -errno. */
int ring_open(struct io_uring *ring, unsigned entries);
/* From here on it reads, writes, syncs and allocates, and nothing else; nothing more can
 * be registered. -errno. */
int ring_seal(struct io_uring *ring);

#endif
