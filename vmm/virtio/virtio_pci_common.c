/* SPDX-License-Identifier: Apache-2.0 */
/* Registers by which a driver negotiates, and sets its queues up. */
#include "vmm/virtio/virtio_pci_common.h"

#include <string.h>

#include "vmm/virtio/virtio.h"

/*
 * The common configuration (4.1.4.3):
 *
 *    0 device_feature_select u32 |  4 device_feature u32
 *    8 driver_feature_select u32 | 12 driver_feature u32
 *   16 config_vector u16 | 18 num_queues u16 | 20 status u8 | 21 generation u8
 *   22 queue_select u16 | 24 queue_size u16 | 26 queue_vector u16 | 28 queue_enable u16
 *   30 queue_notify_off u16
 *   32 queue_desc u64 | 40 queue_driver u64 | 48 queue_device u64
 */
enum common {
    COMMON_DEVICE_FEATURE_SELECT = 0,
    COMMON_DEVICE_FEATURE = 4,
    COMMON_DRIVER_FEATURE_SELECT = 8,
    COMMON_DRIVER_FEATURE = 12,
    COMMON_CONFIG_VECTOR = 16,
    COMMON_NUM_QUEUES = 18,
    COMMON_STATUS = 20,
    COMMON_GENERATION = 21,
    COMMON_QUEUE_SELECT = 22,
    COMMON_QUEUE_SIZE = 24,
    COMMON_QUEUE_VECTOR = 26,
    COMMON_QUEUE_ENABLE = 28,
    COMMON_QUEUE_NOTIFY_OFF = 30,
    COMMON_QUEUE_DESC = 32,
    COMMON_QUEUE_DRIVER = 40,
    COMMON_QUEUE_DEVICE = 48,
};

static void put_u16(uint8_t *at, uint16_t value)
{
    memcpy(at, &value, sizeof(value));
}

static void put_u32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof(value));
}

static void put_u64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof(value));
}

static struct virtio_queue *selected_queue(struct virtio_device *virtio)
{
    return virtio->queue_select < virtio->queue_count
               ? &virtio->queues[virtio->queue_select]
               : NULL;
}

unsigned virtio_pci_vector_count(const struct virtio_device *virtio)
{
    return virtio->queue_count + 1; /* one for the configuration */
}

static uint32_t feature_half(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

void virtio_pci_common_encode(struct virtio_device *virtio,
                              uint8_t ret_common[VIRTIO_PCI_COMMON_SIZE])
{
    const struct virtio_queue *queue = selected_queue(virtio);

    memset(ret_common, 0, VIRTIO_PCI_COMMON_SIZE);
    put_u32(ret_common + COMMON_DEVICE_FEATURE_SELECT, virtio->device_feature_select);
    put_u32(ret_common + COMMON_DEVICE_FEATURE,
            feature_half(virtio->features, virtio->device_feature_select));
    put_u32(ret_common + COMMON_DRIVER_FEATURE_SELECT, virtio->driver_feature_select);
    put_u32(ret_common + COMMON_DRIVER_FEATURE,
            feature_half(virtio->driver_features, virtio->driver_feature_select));
    put_u16(ret_common + COMMON_CONFIG_VECTOR, virtio->config_vector);
    put_u16(ret_common + COMMON_NUM_QUEUES, (uint16_t)virtio->queue_count);
    ret_common[COMMON_STATUS] = virtio->status;
    ret_common[COMMON_GENERATION] = virtio->config_generation;
    put_u16(ret_common + COMMON_QUEUE_SELECT, virtio->queue_select);
    if (queue == NULL) {
        put_u16(ret_common + COMMON_QUEUE_VECTOR, VIRTIO_NO_VECTOR);
        return;
    }
    put_u16(ret_common + COMMON_QUEUE_SIZE, queue->ring.size);
    put_u16(ret_common + COMMON_QUEUE_VECTOR, queue->vector);
    put_u16(ret_common + COMMON_QUEUE_ENABLE, queue->ring.ready ? 1 : 0);
    put_u16(ret_common + COMMON_QUEUE_NOTIFY_OFF, (uint16_t)queue->index);
    put_u64(ret_common + COMMON_QUEUE_DESC, queue->ring.desc_gpa);
    put_u64(ret_common + COMMON_QUEUE_DRIVER, queue->ring.avail_gpa);
    put_u64(ret_common + COMMON_QUEUE_DEVICE, queue->ring.used_gpa);
}

/* Writes one half (or, from a guest that is not so careful, both) of a 64-bit register.
 */
static void write_address(uint64_t *address, unsigned offset, uint64_t value,
                          unsigned size)
{
    unsigned shift = 8 * (offset % 8);

    if (size == 8) {
        *address = value;
    } else if (size == 4) {
        *address = (*address & ~(UINT64_C(0xffffffff) << shift)) | (value << shift);
    }
}

static void queue_write(struct virtio_device *virtio, unsigned offset, uint64_t value,
                        unsigned size)
{
    struct virtio_queue *queue = selected_queue(virtio);

    if (queue == NULL) {
        return;
    }
    if (offset == COMMON_QUEUE_VECTOR) {
        queue->vector =
            value < virtio_pci_vector_count(virtio) ? (uint16_t)value : VIRTIO_NO_VECTOR;
        return;
    }
    if (queue->ring.ready) {
        return;
    }
    switch (offset & ~7u) {
    case COMMON_QUEUE_DESC:
        write_address(&queue->ring.desc_gpa, offset, value, size);
        return;
    case COMMON_QUEUE_DRIVER:
        write_address(&queue->ring.avail_gpa, offset, value, size);
        return;
    case COMMON_QUEUE_DEVICE:
        write_address(&queue->ring.used_gpa, offset, value, size);
        return;
    }
    if (offset == COMMON_QUEUE_SIZE) {
        queue->ring.size = (uint16_t)value;
    } else if (offset == COMMON_QUEUE_ENABLE && value == 1) {
        virtio_queue_enable(virtio, queue);
    }
}

static void driver_feature_write(struct virtio_device *virtio, uint32_t value)
{
    unsigned shift = 32 * virtio->driver_feature_select;

    if (virtio->driver_feature_select < 2 &&
        !(virtio->status & VIRTIO_STATUS_FEATURES_OK)) {
        virtio->driver_features &= ~(UINT64_C(0xffffffff) << shift);
        virtio->driver_features |= (uint64_t)value << shift;
    }
}

void virtio_pci_common_write(struct virtio_device *virtio, unsigned offset,
                             uint64_t value, unsigned size)
{
    switch (offset) {
    case COMMON_DEVICE_FEATURE_SELECT:
        virtio->device_feature_select = (uint32_t)value;
        break;
    case COMMON_DRIVER_FEATURE_SELECT:
        virtio->driver_feature_select = (uint32_t)value;
        break;
    case COMMON_DRIVER_FEATURE:
        driver_feature_write(virtio, (uint32_t)value);
        break;
    case COMMON_CONFIG_VECTOR:
        virtio->config_vector =
            value < virtio_pci_vector_count(virtio) ? (uint16_t)value : VIRTIO_NO_VECTOR;
        break;
    case COMMON_STATUS:
        virtio_status_write(virtio, (uint8_t)value);
        break;
    case COMMON_QUEUE_SELECT:
        virtio->queue_select = (uint16_t)value;
        break;
    default:
        if (offset > COMMON_QUEUE_SELECT && offset < VIRTIO_PCI_COMMON_SIZE) {
            queue_write(virtio, offset, value, size);
        }
    }
}
