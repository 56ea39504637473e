/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every device of the machine offers to the VM beside its registers: stopping its
 * I/O, draining it, saving and loading its state. Devices are listed by the VM in the
 * order of their creation; the VM calls all of these from its main thread, but save and
 * load from the thread that called vm_save() or vm_load(): nothing else of the device
 * runs then.
 */
#ifndef DROVER_VMM_DEVICE_H
#define DROVER_VMM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct device;

struct device_ops {
    const char *name; /* the section's name in the saved state: "serial", "virtio-blk" */
    uint32_t version; /* of the section */
    /*
     * No new I/O from now on (queue notifications are remembered, not served). Returns at
     * once. May be called when already stopped. NULL: the device does no I/O.
     * This, and io_drained, io_start, arrived and lease_set, must not wait for a lock that
     * is held while guest memory is touched: of a post-copy's a page may never come.
     */
    void (*io_stop)(struct device *device);
    /* True when nothing that was submitted before io_stop is in flight. NULL: always
     * true. */
    bool (*io_drained)(struct device *device);
    /* Goes on, and looks at all queues again. */
    void (*io_start)(struct device *device);
    /* Appends the section's payload. vCPUs and I/O are stopped and drained. */
    int (*save)(struct device *device, struct buffer *out);
    /* Before the first entry into the guest. Hostile input: malformed state gives
     * DROVER_EMALFORMED and a line in `err`. */
    int (*load)(struct device *device, uint32_t version, const uint8_t *payload,
                size_t size, struct error *err);
    /* After a migration, on the host where the guest runs now (net: announce addresses).
     * May be NULL. */
    void (*arrived)(struct device *device);
    /* How long the VM may run, from now on: CLOCK_BOOTTIME, of a VM with a lease. Main
     * thread. May be NULL: asking vm_io_allowed() is enough. */
    void (*lease_set)(struct device *device, uint64_t deadline_ns);
    /*
     * For a device that has the host's kernel write into memory behind our back: notes
     * such pages from now on, or no more; then tells of a range by
     * guest_ram_mark_dirty(). Any thread, while I/O runs. May be NULL, both or none.
     */
    int (*dirty_log)(struct device *device, bool on);
    void (*dirty_sync)(struct device *device, uint64_t gpa, uint64_t size_bytes);
    /* Machine reset: back to power-on state. Called with vCPUs out of the guest and I/O
     * drained. */
    void (*reset)(struct device *device);
    void (*free)(struct device *device);
};

/* Embedded as the first member of each device. */
struct device {
    const struct device_ops *ops;
    uint32_t instance;
    struct device *next; /* private to the VM's list */
};

#endif
