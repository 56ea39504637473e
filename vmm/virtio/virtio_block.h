/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk: on a raw file or block device through io_uring on the VM's I/O loop, on
 * anything else through a storage daemon (vmm/storage/storage.h). A
 * write is acknowledged once the host has it; a flush is acknowledged once all that was
 * acknowledged before is on stable storage. A disk is locked against other VMMs of this
 * host: for itself when it may be written, shared when not.
 */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_BLOCK_H
#define DROVER_VMM_VIRTIO_VIRTIO_BLOCK_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/storage/storage.h"

struct device;
struct error;
struct vm;

struct virtio_block_config {
    const char *path; /* borrowed for the device's life */
    enum storage_format format;
    const struct storage_ops *storage; /* NULL: a raw disk, served in this process */
    void *storage_owner;
    unsigned storage_index;
    unsigned queues;         /* 0: one */
    uint64_t requests_per_s; /* 0: no limit, as the next */
    uint64_t bytes_per_s;
    bool read_only;
    bool direct; /* O_DIRECT; block devices and files on network file systems always have
                    it */
    bool unlocked; /* an incoming guest: another VMM still has the disk; see
                      virtio_block_lock() */
    int lock_fd; /* of the process: stays open until the last request is out of the host's
                    kernel, also if the process is killed; 0: there is none */
    const char *serial; /* what the guest sees as the disk's id, at most 20 characters;
                           NULL: "drover-N" */
};

/* Opens and locks the disk and adds the device to the VM. One line in `err` names the
 * file and says what to do. */
int virtio_block_create(struct vm *vm, const struct virtio_block_config *config,
                        struct error *err);

/* Of the disks of `devices` (vm_devices()), the first whose I/O stands: a line for
 * people;
 * "" if there is none. Any thread. */
void virtio_block_trouble(struct device *devices, char *ret_text, size_t size);

/*
 * The lock's way through a migration; main or migration thread, with the VM's I/O
 * drained. Source: unlock before the target is asked whether it is ready (another host
 * sees then all that was written here), and lock again if the handover fails. Target:
 * lock before it says that it is ready. Both do it for all disks of the list `devices`
 * (vm_devices()), or for none; other devices are skipped. Repeated calls are fine.
 * DROVER_EINUSE (after having tried for a moment), or -errno of a failed sync.
 */
int virtio_block_lock(struct device *devices, struct error *err);
int virtio_block_unlock(struct device *devices, struct error *err);

#endif
