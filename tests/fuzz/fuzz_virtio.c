/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the virtio devices as a guest reaches them: registers, configuration space,
 * rings, notifications, mixed with what the VM does to a device: stop, start, deadline,
 * save and load, reset. The first byte chooses the device; then orders follow, one byte
 * each and its arguments (see order_run()). What must hold: no crash, and that the device
 * can always be drained and reset.
 * fuzz-sources: tests/fuzz/fuzz_clock.c
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_clock.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_vm.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

#define ORDERS_MAX   200
#define ORDERS_WHOLE 224 /* from here on */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct target {
    struct fuzz_vm *fuzz;
    unsigned index;
    struct driver *driver;
    struct device *device;
};

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

/* All that the device offers, and its first queues. */
static void start_whole(struct target *target, struct input *input)
{
    uint64_t features = driver_features(target->driver);
    uint8_t shape = (uint8_t)take(input, 1);

    if ((shape & 1) != 0) {
        features &= ~DRIVER_F_EVENT_IDX;
    }
    (void)driver_start(target->driver, features, 1 + shape / 2 % DRIVER_QUEUES,
                       (uint16_t)(8u << shape / 16 % 5));
}

/* What a driver of each kind of device might send: readable parts, writable parts of a
 * size that fits, contents from the input. */
static void request_whole(struct target *target, struct input *input)
{
    unsigned queue = take(input, 1) % DRIVER_QUEUES;
    uint8_t kind = (uint8_t)take(input, 1);
    uint8_t shape = (uint8_t)take(input, 1);
    uint32_t size = shape % 4 == 3 ? take(input, 2) + 1 : (shape / 4 % 8 + 1) * 512u;
    uint8_t content[32] = {kind};
    struct driver_buffer buffers[3] = {{DRIVER_DATA_GPA, 16},
                                       {DRIVER_DATA_GPA + 0x1000, size},
                                       {DRIVER_DATA_GPA + 0x800, 1}};
    bool writes = kind % 2 == 1;

    if (target->driver->queues[queue].size < 3) {
        return;
    }
    content[8] = (uint8_t)take(input, 1);
    driver_memory_write(target->driver, buffers[0].gpa, content, 16);
    for (unsigned i = 0; i < sizeof(content); i++) {
        content[i] = (uint8_t)take(input, i < 12 ? 1 : 0);
    }
    if ((shape & 0x80) != 0) {
        buffers[1].gpa += shape & 0x40 ? 3 : 512; /* not at a page's start */
    }
    driver_memory_write(target->driver, buffers[1].gpa, content, sizeof(content));
    if (kind == 11 || kind == 13) {
        buffers[1].size = 16; /* a range */
    }
    if ((shape & 0x20) != 0) { /* one part, as net, console and rng have it */
        driver_add(target->driver, queue, buffers + 1, writes ? 1 : 0, writes ? 0 : 1);
    } else if (kind == 4) { /* a flush has no data */
        buffers[1] = buffers[2];
        driver_add(target->driver, queue, buffers, 1, 1);
    } else {
        driver_add(target->driver, queue, buffers, writes ? 2 : 1, writes ? 1 : 2);
    }
    driver_kick(target->driver, queue);
}

static void host_event(struct target *target, struct input *input)
{
    uint8_t data[64];
    unsigned size = take(input, 1) % sizeof(data);

    for (unsigned i = 0; i < size; i++) {
        data[i] = (uint8_t)take(input, 1);
    }
    fuzz_vm_host_event(target->fuzz, target->index, data, size);
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

/* What a move does with memory: reads and clears what is dirty, looks where anything is,
 * zeroes; and memory that still comes from a snapshot. */
static void memory_round(struct target *target, struct input *input)
{
    struct guest_ram *ram = target->fuzz->vm->ram;
    static uint64_t bitmap[4 * DRIVER_MEMORY_BYTES / GUEST_PAGE_SIZE / 64];
    uint8_t what = (uint8_t)take(input, 1);
    uint64_t start, end = 0;

    guest_ram_filling_set(ram, what == 1);
    if (what == 1) {
        return;
    }
    memset(bitmap, 0, sizeof(bitmap));
    guest_ram_fetch_dirty(ram, 0, bitmap);
    while (guest_ram_populated(ram, 0, end, &start, &end) > 0) {
        CHECK(start < end);
    }
    guest_ram_zero(ram, (uint64_t)what * GUEST_PAGE_SIZE, GUEST_PAGE_SIZE);
    if (what == 2) {
        CHECK(guest_ram_track_dirty(ram, false) == 0);
        CHECK(guest_ram_track_dirty(ram, true) == 0);
    }
}

/* Until what is under way is over, mostly at once. */
static void run(struct target *target)
{
    for (unsigned i = 0; i < 3; i++) {
        fake_vm_run_ms(target->fuzz->vm, 0);
    }
    if (!target->device->ops->io_drained(target->device)) {
        fake_vm_run_ms(target->fuzz->vm, 1);
    }
}

/* The upper orders: what leads further at once. */
static void order_run_whole(struct target *target, struct input *input, uint8_t order)
{
    if (order == 239) {
        memory_round(target, input);
        return;
    }
    if (order == 235) {
        access(target, input, target->driver->msix, 0x1000);
        return;
    }
    switch (order % 4) {
    case 0:
        start_whole(target, input);
        break;
    case 1:
        request_whole(target, input);
        break;
    case 2:
        host_event(target, input);
        break;
    default:
        if (order >= 240) { /* and it is later */
            fuzz_clock_skip_ms(take(input, 2));
        }
        run(target);
        break;
    }
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
    uint8_t order = (uint8_t)take(input, 1);

    if (order >= ORDERS_WHOLE) {
        order_run_whole(target, input, order);
        return;
    }
    switch (order % 14) {
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
    guest_ram_filling_set(target.fuzz->vm->ram, false);
    fake_vm_run_ms(target.fuzz->vm, 0);
    return 0;
}
