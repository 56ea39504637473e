/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's virtio driver for tests: finds the registers by the PCI capabilities,
 * negotiates, makes queues, adds requests. All through the buses, as a vCPU would.
 */
#ifndef DROVER_TESTS_VIRTIO_DRIVER_H
#define DROVER_TESTS_VIRTIO_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/unit/fake_vm.h"

#define DRIVER_QUEUES       5
#define DRIVER_MEMORY_BYTES (8u * 1024u * 1024u)
/* Rings lie from here on, 64 KiB each; the rest is the test's. */
#define DRIVER_RINGS_GPA 0x400000u
#define DRIVER_DATA_GPA  0x100000u

#define DRIVER_F_INDIRECT  (UINT64_C(1) << 28)
#define DRIVER_F_EVENT_IDX (UINT64_C(1) << 29)
#define DRIVER_F_VERSION_1 (UINT64_C(1) << 32)

/* Registers of the common configuration. */
enum {
    DRIVER_STATUS = 20,
    DRIVER_GENERATION = 21,
    DRIVER_QUEUE_SELECT = 22,
    DRIVER_QUEUE_SIZE = 24,
    DRIVER_QUEUE_ENABLE = 28,
};

enum { DRIVER_DESC_NEXT = 1, DRIVER_DESC_WRITE = 2, DRIVER_DESC_INDIRECT = 4 };

struct driver_buffer {
    uint64_t gpa;
    uint32_t size;
};

struct driver_queue {
    uint16_t size;
    uint64_t desc, avail, used;
    uint16_t next_desc; /* the next free one; they are used round and round */
    uint16_t avail_index;
    uint16_t used_seen;
};

struct driver {
    struct vm *vm;
    unsigned slot;
    uint64_t common, notify, isr, config;
    uint64_t msix;   /* the table of vectors */
    unsigned window; /* capability's offset in configuration space */
    struct driver_queue queues[DRIVER_QUEUES];
};

/* Turns memory decoding on, and MSI-X with the vector's number as data. */
void driver_init(struct driver *driver, struct vm *vm, unsigned slot);
uint64_t driver_read(struct driver *driver, uint64_t address, unsigned size);
void driver_write(struct driver *driver, uint64_t address, uint64_t value, unsigned size);
uint8_t driver_status(struct driver *driver);
/* What the device offers. */
uint64_t driver_features(struct driver *driver);
/* Reset, features, queues of `queue_size`, DRIVER_OK. False if the device refuses the
 * features. */
bool driver_start(struct driver *driver, uint64_t features, unsigned queue_count,
                  uint16_t queue_size);
bool driver_negotiate(struct driver *driver, uint64_t features);
void driver_queue_start(struct driver *driver, unsigned index, uint16_t size);
/* Describes a request, makes it available, returns its head. Without a notification. */
uint16_t driver_add(struct driver *driver, unsigned index,
                    const struct driver_buffer *buffers, unsigned readable_count,
                    unsigned writable_count);
void driver_desc_write(struct driver *driver, unsigned index, uint16_t number,
                       uint64_t gpa, uint32_t size, uint16_t flags, uint16_t next);
void driver_avail_add(struct driver *driver, unsigned index, uint16_t head);
void driver_kick(struct driver *driver, unsigned index);
/* The next request that came back, or false. */
bool driver_used(struct driver *driver, unsigned index, uint16_t *ret_head,
                 uint32_t *ret_written);
/* Runs the I/O loop until a request comes back. */
bool driver_wait(struct driver *driver, unsigned index, uint16_t *ret_head,
                 uint32_t *ret_written);
void driver_memory_write(struct driver *driver, uint64_t gpa, const void *data,
                         size_t size);
void driver_memory_read(struct driver *driver, uint64_t gpa, void *data, size_t size);

#endif
