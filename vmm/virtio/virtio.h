/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the virtio devices have in common: status, features, queues, stopping, saving. A
 * device embeds struct virtio_device first and fills struct virtio_ops. `lock` guards all
 * of it: vCPU threads take it for registers, the I/O loop for requests, the main thread
 * for the rest. Requests run on the I/O loop only.
 */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_H
#define DROVER_VMM_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm/device.h"
#include "vmm/virtio/virtio_pci.h"
#include "vmm/virtio/virtqueue.h"

struct event_source;
struct vm;

#define VIRTIO_QUEUES_MAX 63 /* each has an MSI-X vector, the configuration too */
#define VIRTIO_NO_VECTOR  0xffffu
#define VIRTIO_RETRY_MS   10
#define VIRTIO_BROKEN_LOGS                                                               \
    8 /* lines per device: a guest can break its rings as often as it likes */

enum virtio_type {
    VIRTIO_TYPE_NET = 1,
    VIRTIO_TYPE_BLOCK = 2,
    VIRTIO_TYPE_CONSOLE = 3,
    VIRTIO_TYPE_RNG = 4,
    VIRTIO_TYPE_BALLOON = 5,
    VIRTIO_TYPE_VSOCK = 19,
};

enum virtio_status {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

#define VIRTIO_FEATURE(bit)      (UINT64_C(1) << (bit))
#define VIRTIO_FEATURE_INDIRECT  VIRTIO_FEATURE(28)
#define VIRTIO_FEATURE_EVENT_IDX VIRTIO_FEATURE(29)
#define VIRTIO_FEATURE_VERSION_1 VIRTIO_FEATURE(32)

struct virtio_device;

/* All but attach are called with the lock held. */
struct virtio_ops {
    enum virtio_type type;
    uint32_t class_code;
    unsigned queue_count; /* unless the device says otherwise before virtio_init() */
    uint16_t queue_size;
    /* I/O loop: the guest may have put requests into the queue. Not called while stopped,
     * broken or not driven. */
    void (*queue_run)(struct virtio_device *virtio, unsigned queue_index);
    /* Fills `size` bytes; what is beyond the configuration is zero already. May be NULL:
     * all zeros. */
    void (*config_read)(struct virtio_device *virtio, unsigned offset, uint8_t *data,
                        unsigned size);
    /* The driver writes to the configuration, anywhere in it. May be NULL: it has no
     * effect. */
    void (*config_write)(struct virtio_device *virtio, unsigned offset,
                         const uint8_t *data, unsigned size);
    /* The driver is ready to go, or was when the state was saved. May be NULL. */
    void (*driver_ready)(struct virtio_device *virtio);
    /* True if no request is with the host's kernel. May be NULL: always. */
    bool (*idle)(struct virtio_device *virtio);
    /* Forgets everything that the guest has set; idle. May be NULL. */
    void (*reset)(struct virtio_device *virtio);
    /* An MSI-X vector, or all (UINT_MAX), goes elsewhere now, or is masked. May be NULL. */
    void (*vector_changed)(struct virtio_device *virtio, unsigned vector);
    /* On the I/O loop, once, before anything else of the above runs there: adds event
     * sources. May be NULL. */
    int (*attach)(struct virtio_device *virtio);
};

struct virtio_queue {
    struct virtqueue ring;
    struct virtio_device *virtio;
    unsigned index;
    uint16_t vector;
    int kick_fd; /* eventfd: the guest's notifications, and our own */
    struct event_source *source;
};

struct virtio_device {
    struct device device;
    const struct virtio_ops *ops;
    struct vm *vm;
    struct virtio_pci pci;
    pthread_mutex_t lock;
    atomic_bool stopped; /* io_stop is in force */
    uint64_t features;   /* offered */
    uint64_t driver_features;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint16_t config_vector;
    uint8_t status;
    uint8_t config_generation;
    uint8_t isr;
    bool resetting; /* the guest wrote status 0 while requests were out */
    unsigned broken_count;
    struct event_source *retry_timer;
    unsigned queue_count;
    struct virtio_queue *queues;
};

/* The first part of virtio_init(), for a device that needs `vm` and `lock` before. */
void virtio_prepare(struct virtio_device *virtio, struct vm *vm);
/*
 * Sets up a zeroed struct whose ops, device.ops and device.instance are filled in, puts
 * its function on the PCI bus and adds it to the VM, which from then on frees it. A
 * device whose number of queues is not its type's sets queue_count before. After an error
 * the caller frees it by virtio_done().
 */
int virtio_init(struct virtio_device *virtio, struct vm *vm, uint64_t features,
                struct error *err);
/* Releases what virtio_init made. The I/O loop does not run any more. Half-built is fine.
 */
void virtio_done(struct virtio_device *virtio);

/* Members of struct device_ops. */
void virtio_io_stop(struct device *device);
bool virtio_io_drained(struct device *device);
void virtio_io_start(struct device *device);
void virtio_machine_reset(struct device *device);

/* As the guest's reset leaves it, at once: no request may be out. With the lock held, or
 * where nothing runs. */
void virtio_reset(struct virtio_device *virtio);

/* ---- for devices, lock held ----------------------------------------------- */

static inline bool virtio_feature(const struct virtio_device *virtio, uint64_t feature)
{
    return (virtio->driver_features & feature) != 0;
}
/* True while requests may be taken from the rings. */
bool virtio_running(const struct virtio_device *virtio);
/* Right before each submission. When false because of a deadline, all queues are run
 * again a little later. I/O loop. */
bool virtio_io_allowed(struct virtio_device *virtio);
/* Asks the guest for an interrupt if it wants one for what was given back on this queue.
 */
void virtio_queue_signal(struct virtio_device *virtio, unsigned queue_index);
/* Makes the I/O loop run the queue soon. Any thread, lock or not. */
void virtio_queue_kick(struct virtio_device *virtio, unsigned queue_index);
/* The configuration space has changed: a new generation, and an interrupt. */
void virtio_config_changed(struct virtio_device *virtio);
/* The guest broke the rules: NEEDS_RESET, one line in the log, nothing more is done for
 * it until it resets the device. */
void virtio_broken(struct virtio_device *virtio, const char *how);
/* The last request came back: completes a reset that waits for it, tells a VM that waits
 * to be quiet. */
void virtio_became_idle(struct virtio_device *virtio);

/* ---- for virtio_pci.c, lock held ------------------------------------------ */

void virtio_status_write(struct virtio_device *virtio, uint8_t status);
void virtio_queue_enable(struct virtio_device *virtio, struct virtio_queue *queue);

#endif
