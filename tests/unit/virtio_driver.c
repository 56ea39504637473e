/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's virtio driver for tests. */
#include "tests/unit/virtio_driver.h"

#include <string.h>

#include "base/check.h"
#include "vmm/bus/bus.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

#define MSI_ADDRESS 0xfee00000u

uint64_t driver_read(struct driver *driver, uint64_t address, unsigned size)
{
    uint64_t value = 0;

    bus_read(vm_memory_bus(driver->vm), address, (uint8_t *)&value, size);
    return value;
}

void driver_write(struct driver *driver, uint64_t address, uint64_t value, unsigned size)
{
    bus_write(vm_memory_bus(driver->vm), address, (const uint8_t *)&value, size);
}

static uint64_t ecam(const struct driver *driver, unsigned offset)
{
    return LAYOUT_ECAM_START + ((uint64_t)driver->slot << 15) + offset;
}

static uint64_t bar_base(struct driver *driver, unsigned bar)
{
    return driver_read(driver, ecam(driver, 0x10 + 4 * bar), 4) & ~UINT64_C(0xf);
}

static void msix_start(struct driver *driver, unsigned capability)
{
    unsigned count = (driver_read(driver, ecam(driver, capability + 2), 2) & 0x7ff) + 1;
    uint64_t table =
        bar_base(driver, driver_read(driver, ecam(driver, capability + 4), 1) & 7);

    driver->msix = table;
    for (unsigned i = 0; i < count; i++) {
        driver_write(driver, table + 16 * i, MSI_ADDRESS, 4);
        driver_write(driver, table + 16 * i + 8, i, 4);
        driver_write(driver, table + 16 * i + 12, 0, 4);
    }
    driver_write(driver, ecam(driver, capability + 2), 0x8000, 2);
}

static void capability_note(struct driver *driver, unsigned at)
{
    uint64_t where = bar_base(driver, driver_read(driver, ecam(driver, at + 4), 1)) +
                     driver_read(driver, ecam(driver, at + 8), 4);

    switch (driver_read(driver, ecam(driver, at + 3), 1)) {
    case 1:
        driver->common = where;
        break;
    case 2:
        CHECK(driver_read(driver, ecam(driver, at + 16), 4) == 4);
        driver->notify = where;
        break;
    case 3:
        driver->isr = where;
        break;
    case 4:
        driver->config = where;
        break;
    default:
        driver->window = at;
        break;
    }
}

void driver_init(struct driver *driver, struct vm *vm, unsigned slot)
{
    *driver = (struct driver){.vm = vm, .slot = slot};
    driver_write(driver, ecam(driver, 4), 6, 2);
    CHECK(driver_read(driver, ecam(driver, 0), 2) == 0x1af4);
    for (unsigned at = (unsigned)driver_read(driver, ecam(driver, 0x34), 1); at != 0;
         at = (unsigned)driver_read(driver, ecam(driver, at + 1), 1)) {
        if (driver_read(driver, ecam(driver, at), 1) == 0x11) {
            msix_start(driver, at);
        } else {
            capability_note(driver, at);
        }
    }
    CHECK(driver->common != 0 && driver->notify != 0 && driver->isr != 0 &&
          driver->config != 0);
}

uint8_t driver_status(struct driver *driver)
{
    return (uint8_t)driver_read(driver, driver->common + DRIVER_STATUS, 1);
}

uint64_t driver_features(struct driver *driver)
{
    uint64_t features = 0;

    for (unsigned half = 0; half < 2; half++) {
        driver_write(driver, driver->common, half, 4);
        features |= driver_read(driver, driver->common + 4, 4) << (32 * half);
    }
    return features;
}

bool driver_negotiate(struct driver *driver, uint64_t features)
{
    driver_write(driver, driver->common + DRIVER_STATUS, 0, 1);
    driver_write(driver, driver->common + DRIVER_STATUS, 3, 1);
    for (unsigned half = 0; half < 2; half++) {
        driver_write(driver, driver->common + 8, half, 4);
        driver_write(driver, driver->common + 12, (uint32_t)(features >> (32 * half)), 4);
    }
    driver_write(driver, driver->common + DRIVER_STATUS, 3 | 8, 1);
    return (driver_status(driver) & 8) != 0;
}

void driver_queue_start(struct driver *driver, unsigned index, uint16_t size)
{
    struct driver_queue *queue = &driver->queues[index];
    uint64_t base = DRIVER_RINGS_GPA + 0x10000u * (uint64_t)index;
    static const uint8_t zeros[0x10000];

    *queue = (struct driver_queue){
        .size = size, .desc = base, .avail = base + 0x4000, .used = base + 0x8000};
    driver_memory_write(driver, base, zeros, sizeof(zeros));
    driver_write(driver, driver->common + DRIVER_QUEUE_SELECT, index, 2);
    driver_write(driver, driver->common + DRIVER_QUEUE_SIZE, size, 2);
    driver_write(driver, driver->common + 26, index + 1, 2);
    driver_write(driver, driver->common + 32, (uint32_t)queue->desc, 4);
    driver_write(driver, driver->common + 36, 0, 4);
    driver_write(driver, driver->common + 40, (uint32_t)queue->avail, 4);
    driver_write(driver, driver->common + 44, 0, 4);
    driver_write(driver, driver->common + 48, (uint32_t)queue->used, 4);
    driver_write(driver, driver->common + 52, 0, 4);
    driver_write(driver, driver->common + DRIVER_QUEUE_ENABLE, 1, 2);
}

bool driver_start(struct driver *driver, uint64_t features, unsigned queue_count,
                  uint16_t queue_size)
{
    if (!driver_negotiate(driver, features | DRIVER_F_VERSION_1)) {
        return false;
    }
    driver_write(driver, driver->common + 16, 0, 2);
    for (unsigned i = 0; i < queue_count; i++) {
        driver_queue_start(driver, i, queue_size);
    }
    driver_write(driver, driver->common + DRIVER_STATUS, 3 | 8 | 4, 1);
    return true;
}

void driver_desc_write(struct driver *driver, unsigned index, uint16_t number,
                       uint64_t gpa, uint32_t size, uint16_t flags, uint16_t next)
{
    uint8_t desc[16];

    memcpy(desc, &gpa, 8);
    memcpy(desc + 8, &size, 4);
    memcpy(desc + 12, &flags, 2);
    memcpy(desc + 14, &next, 2);
    driver_memory_write(driver, driver->queues[index].desc + 16u * number, desc,
                        sizeof(desc));
}

void driver_avail_add(struct driver *driver, unsigned index, uint16_t head)
{
    struct driver_queue *queue = &driver->queues[index];

    driver_memory_write(
        driver, queue->avail + 4 + 2u * (queue->avail_index % queue->size), &head, 2);
    queue->avail_index++;
    driver_memory_write(driver, queue->avail + 2, &queue->avail_index, 2);
}

uint16_t driver_add(struct driver *driver, unsigned index,
                    const struct driver_buffer *buffers, unsigned readable_count,
                    unsigned writable_count)
{
    struct driver_queue *queue = &driver->queues[index];
    unsigned count = readable_count + writable_count;
    uint16_t head = queue->next_desc;

    for (unsigned i = 0; i < count; i++) {
        uint16_t number = queue->next_desc;
        uint16_t flags = (uint16_t)((i + 1 < count ? DRIVER_DESC_NEXT : 0) |
                                    (i >= readable_count ? DRIVER_DESC_WRITE : 0));

        queue->next_desc = (uint16_t)((number + 1) % queue->size);
        driver_desc_write(driver, index, number, buffers[i].gpa, buffers[i].size, flags,
                          queue->next_desc);
    }
    driver_avail_add(driver, index, head);
    return head;
}

void driver_kick(struct driver *driver, unsigned index)
{
    driver_write(driver, driver->notify + 4u * index, index, 2);
}

bool driver_used(struct driver *driver, unsigned index, uint16_t *ret_head,
                 uint32_t *ret_written)
{
    struct driver_queue *queue = &driver->queues[index];
    uint32_t element[2];
    uint16_t used_index;

    driver_memory_read(driver, queue->used + 2, &used_index, 2);
    if (used_index == queue->used_seen) {
        return false;
    }
    driver_memory_read(driver, queue->used + 4 + 8u * (queue->used_seen % queue->size),
                       element, sizeof(element));
    queue->used_seen++;
    *ret_head = (uint16_t)element[0];
    *ret_written = element[1];
    return true;
}

struct wait {
    struct driver *driver;
    unsigned index;
    uint16_t *head;
    uint32_t *written;
};

static bool came_back(void *owner)
{
    struct wait *wait = owner;

    return driver_used(wait->driver, wait->index, wait->head, wait->written);
}

bool driver_wait(struct driver *driver, unsigned index, uint16_t *ret_head,
                 uint32_t *ret_written)
{
    struct wait wait = {
        .driver = driver, .index = index, .head = ret_head, .written = ret_written};

    return fake_vm_run(driver->vm, came_back, &wait);
}

void driver_memory_write(struct driver *driver, uint64_t gpa, const void *data,
                         size_t size)
{
    CHECK(guest_ram_write(vm_ram(driver->vm), gpa, data, size) == 0);
}

void driver_memory_read(struct driver *driver, uint64_t gpa, void *data, size_t size)
{
    CHECK(guest_ram_read(vm_ram(driver->vm), gpa, data, size) == 0);
}
