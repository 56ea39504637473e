/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the virtio devices as a guest reaches them: registers, configuration space,
 * rings, notifications, mixed with what the VM does to a device: stop, start, deadline,
 * save and load, reset. The first byte chooses the device; then orders follow, one byte
 * each and its arguments (see order_run()). What must hold: no crash, and that the device
 * can always be drained and reset.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_vm.h"
#include "vmm/bus.h"
#include "vmm/device.h"
#include "vmm/guest_ram.h"
#include "vmm/layout.h"

#define ORDERS_MAX 200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
};

struct target {
    struct fuzz_vm *fuzz;
    unsigned index;
    struct driver *driver;
    struct device *device;
};

static uint32_t take(struct input *input, unsigned size)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < size && input->size > 0; i++) {
        value |= (uint32_t)*input->data++ << (8 * i);
        input->size--;
    }
    return value;
}

/* Mostly inside of memory, so that something happens; now and then anywhere. */
static uint64_t take_gpa(struct input *input)
{
    uint32_t value = take(input, 3);

    return value < 0xf00000 ? value % DRIVER_MEMORY_BYTES : (uint64_t)value << 20;
}

static void start(struct target *target, struct input *input)
{
    uint64_t features = take(input, 4) | (uint64_t)take(input, 1) << 32;
    unsigned queues = take(input, 1) % (DRIVER_QUEUES + 1);
    uint16_t size = (uint16_t)(1u << take(input, 1) % 9);

    /* The features that are not offered are taken out, else nothing would ever start. */
    driver_write(target->driver, target->driver->common, 0, 4);
    features &= driver_read(target->driver, target->driver->common + 4, 4) | UINT64_C(1)
                                                                                 << 32;
    (void)driver_start(target->driver, features, queues, size);
}

static void descriptor(struct target *target, struct input *input)
{
    unsigned queue = take(input, 1) % DRIVER_QUEUES;
    uint16_t number = (uint16_t)(take(input, 1) % 256);
    uint64_t gpa = take_gpa(input);
    uint32_t size = take(input, 2);
    uint8_t flags = (uint8_t)take(input, 1);

    if (target->driver->queues[queue].size != 0) {
        driver_desc_write(target->driver, queue, number, gpa,
                          flags & 0x80 ? size << 16 : size, flags & 7,
                          (uint16_t)take(input, 1));
    }
}

/* A request of virtio-blk's shape: header, data, status. Other devices find it just as
 * well. */
static void request(struct target *target, struct input *input)
{
    unsigned queue = take(input, 1) % DRIVER_QUEUES;
    uint8_t header[16] = {0};
    struct driver_buffer buffers[3];
    uint8_t shape = (uint8_t)take(input, 1);

    if (target->driver->queues[queue].size < 3) {
        return;
    }
    header[0] = (uint8_t)take(input, 1);
    header[8] = (uint8_t)take(input, 1);
    header[9] = (uint8_t)take(input, 1);
    buffers[0] = (struct driver_buffer){take(input, 3) % 0x300000, 16};
    buffers[1] = (struct driver_buffer){take(input, 3) % 0x300000, take(input, 2) + 1};
    buffers[2] = (struct driver_buffer){take(input, 3) % 0x300000, 1};
    driver_memory_write(target->driver, buffers[0].gpa, header, sizeof(header));
    driver_add(target->driver, queue, buffers, shape % 4, 3 - shape % 4);
    driver_kick(target->driver, queue);
}

static void available(struct target *target, struct input *input)
{
    unsigned queue = take(input, 1) % DRIVER_QUEUES;
    uint16_t head = (uint16_t)take(input, 1);

    if (target->driver->queues[queue].size != 0) {
        driver_avail_add(target->driver, queue, head);
        driver_kick(target->driver, queue);
    }
}

static void memory(struct target *target, struct input *input)
{
    uint64_t gpa = DRIVER_RINGS_GPA + take(input, 3) % (0x10000 * DRIVER_QUEUES);
    uint32_t value = take(input, 4);

    driver_memory_write(target->driver, gpa, &value, sizeof(value));
}

static void access(struct target *target, struct input *input, uint64_t base,
                   uint32_t limit)
{
    uint8_t kind = (uint8_t)take(input, 1);
    unsigned size = 1u << (kind & 3);
    uint64_t address = base + take(input, 2) % limit;
    uint64_t value = take(input, 4) | (uint64_t)take(input, 1) << 32;

    if (base == LAYOUT_ECAM_START + ((uint64_t)target->driver->slot << 15)) {
        size = size > 4 ? 4 : size;
        address &= ~(uint64_t)(size - 1);
    }
    if (kind & 4) {
        driver_write(target->driver, address, value, size);
    } else {
        (void)driver_read(target->driver, address, size);
    }
}

static void save_and_load(struct target *target)
{
    struct device *device = target->device;
    struct buffer saved;
    struct error err = {0};
    int ret;

    fuzz_vm_quiet(target->fuzz, target->index);
    buffer_init(&saved, 0);
    CHECK(device->ops->save(device, &saved) == 0);
    ret = device->ops->load(device, device->ops->version, saved.data, saved.size, &err);
    if (ret < 0) {
        (void)fprintf(stderr, "load failed: %s\n", err.text);
    }
    CHECK(ret == 0); /* what we save we can load */
    buffer_done(&saved);
    device->ops->io_start(device);
}

static void order_run(struct target *target, struct input *input)
{
    struct device *device = target->device;

    switch (take(input, 1) % 14) {
    case 0:
        start(target, input);
        break;
    case 1:
        descriptor(target, input);
        break;
    case 2:
        available(target, input);
        break;
    case 3:
        memory(target, input);
        break;
    case 4:
        access(target, input, target->driver->common, 0x4000);
        break;
    case 5:
        access(target, input, LAYOUT_ECAM_START + ((uint64_t)target->driver->slot << 15),
               256);
        break;
    case 6:
        fake_vm_run_ms(target->fuzz->vm, 0);
        break;
    case 7:
        save_and_load(target);
        break;
    case 8:
        device->ops->io_stop(device);
        break;
    case 9:
        device->ops->io_start(device);
        break;
    case 10:
        target->fuzz->vm->io_allowed = !target->fuzz->vm->io_allowed;
        break;
    case 11:
        if (device->ops->arrived != NULL) {
            device->ops->arrived(device);
        }
        break;
    case 12:
        fuzz_vm_quiet(target->fuzz, target->index);
        device->ops->reset(device);
        device->ops->io_start(device);
        driver_init(target->driver, target->fuzz->vm, target->index + 1);
        break;
    default:
        request(target, input);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {.data = data, .size = size};
    struct target target = {.fuzz = fuzz_vm_fresh()};

    target.index = take(&input, 1) % target.fuzz->count;
    target.driver = &target.fuzz->drivers[target.index];
    target.device = target.fuzz->devices[target.index];
    for (unsigned i = 0; i < ORDERS_MAX && input.size > 0; i++) {
        order_run(&target, &input);
    }
    fake_vm_run_ms(target.fuzz->vm, 0);
    return 0;
}
