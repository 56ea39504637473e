/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end's side of the vhost-user protocol, as far as a block device behind one
 * ring needs it. Blocking, with a deadline: for a thread that may wait, never for the I/O
 * loop. What the back end answers is hostile input.
 */
#ifndef DROVER_VMM_VIRTIO_VHOST_USER_H
#define DROVER_VMM_VIRTIO_VHOST_USER_H

#include <stdint.h>

struct error;

#define VHOST_USER_MEMORY_MAX 8
#define VHOST_USER_WAIT_MS    5000 /* for all of a handshake */

/* Memory that the back end may reach, under the address that rings and descriptors use.
 */
struct vhost_user_memory {
    uint64_t address;
    uint64_t size_bytes;
    uint64_t offset; /* in the file */
    int fd;
};

struct vhost_user_setup {
    const struct vhost_user_memory *memory;
    unsigned memory_count;
    uint16_t ring_size;
    uint64_t desc, avail, used; /* addresses of the ring's parts */
    int kick_fd, call_fd;
};

/* What the disk behind is like. */
struct vhost_user_disk {
    uint64_t capacity_sectors;
    uint32_t block_size;
    uint32_t discard_sectors_max; /* 0: no discard */
    uint32_t zeroes_sectors_max;  /* 0: no write-zeroes */
    bool read_only;
};

/* Sets up memory and ring; from then on the back end serves it. `fd` is borrowed.
 * DROVER_ETIMEDOUT2, DROVER_ECLOSED, DROVER_EMALFORMED. */
int vhost_user_start(int fd, const struct vhost_user_setup *setup,
                     struct vhost_user_disk *ret_disk, struct error *err);

#endif
