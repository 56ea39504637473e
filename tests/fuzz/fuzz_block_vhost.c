/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of a disk behind a storage daemon, from both sides: a guest that drives
 * virtio-blk, and a back end of the fuzzer's own that says what the input wants, answers
 * requests late, wrongly or never, scribbles in the ring, hangs up, and is started again;
 * mixed with what the VM does: stop, start, a lease that ends, moves, saves, resets. The
 * first bytes say what disk it is; then orders follow, one byte each and its arguments.
 * What must hold: no crash, each error has its line, and once the back end is gone the
 * disk can be drained.
 * fuzz-sources: tests/fuzz/fuzz_clock.c tests/fuzz/fuzz_backend.c
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_backend.h"
#include "tests/fuzz/fuzz_clock.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/block_io.h"
#include "vmm/virtio/block_vhost.h"
#include "vmm/virtio/virtio_block.h"

#define ORDERS_MAX   120
#define SEGMENTS_MAX 200
#define HEADER_GPA   DRIVER_DATA_GPA
#define STATUS_GPA   (DRIVER_DATA_GPA + 0x8000u)
#define PAYLOAD_GPA  0x200000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct target {
    struct vm *vm;
    struct device *device;
    struct virtio_block *block;
    struct driver driver;
    struct fuzz_backend *backend;
    unsigned headers;
};

/* ---- waiting -------------------------------------------------------------- */

static bool settled(void *owner)
{
    struct target *target = owner;
    struct block_vhost *vhost = target->block->vhost;
    bool is;

    CHECK(pthread_mutex_lock(&target->block->virtio.lock) == 0);
    is = !vhost->busy && vhost->next_fd < 0 && !vhost->dead && !vhost->open_failed &&
         !vhost->down_asked;
    CHECK(pthread_mutex_unlock(&target->block->virtio.lock) == 0);
    return is;
}

/* The I/O loop runs, until the worker has nothing to do any more. */
static void settle(struct target *target)
{
    fake_vm_run_ms(target->vm, 0);
    fake_vm_run_ms(target->vm, 0);
    if (!settled(target)) {
        CHECK(fake_vm_run(target->vm, settled, target));
    }
    fuzz_backend_look(target->backend);
}

static bool drained(struct target *target)
{
    settle(target);
    return target->device->ops->io_drained(target->device);
}

/* A back end that does not answer holds the VM up; one that is gone does not. */
static void quiet(struct target *target)
{
    target->device->ops->io_stop(target->device);
    fuzz_backend_serve(target->backend, VHOST_RING_SIZE, BLOCK_STATUS_OK);
    if (!drained(target)) {
        fuzz_backend_hang_up(target->backend);
        CHECK(drained(target) || drained(target) || drained(target));
    }
}

/* ---- the guest ------------------------------------------------------------ */

static void start(struct target *target, struct input *input)
{
    uint8_t shape = (uint8_t)take(input, 1);
    uint64_t features = driver_features(&target->driver);

    features &= (shape & 1) != 0 ? ~BLOCK_FEATURE_FLUSH : ~UINT64_C(0);
    features &= (shape & 2) != 0 ? ~DRIVER_F_EVENT_IDX : ~UINT64_C(0);
    (void)driver_start(&target->driver, features, target->block->virtio.queue_count,
                       (uint16_t)(16u << (shape >> 2) % 5));
}

/* One request: mostly what a driver would ask for. */
static void request_add(struct target *target, struct input *input)
{
    static const uint8_t types[] = {0, 1, 4, 13, 11, 8, 0, 1};
    static struct driver_buffer buffers[SEGMENTS_MAX + 2];
    unsigned queue = take(input, 1) % target->block->virtio.queue_count;
    uint8_t kind = (uint8_t)take(input, 1);
    uint8_t shape = (uint8_t)take(input, 1);
    uint32_t type = (kind & 0x80) != 0 ? kind : types[kind % 8];
    bool writes = type == 0 || type == 8;
    unsigned limit = target->driver.queues[queue].size;
    unsigned segments = type == 4 ? 0 : 1 + (shape & 7) * (shape & 7) * 4;
    uint32_t size = (shape & 0x80) != 0 ? (shape & 0x60u) << 14 : 512;
    uint64_t header_gpa = HEADER_GPA + 64u * (target->headers++ % 256);
    uint8_t header[32] = {0};

    if (limit < 3) {
        return;
    }
    segments = segments > limit - 2 ? limit - 2 : segments;
    segments = segments > SEGMENTS_MAX ? SEGMENTS_MAX : segments;
    memcpy(header, &type, 4);
    header[8] = (uint8_t)take(input, 1);
    header[10] = (shape & 0x18) == 0x18 ? 0xff : 0; /* beyond the disk's end */
    if (type == 11 || type == 13) {                 /* a range, behind the header */
        memcpy(header + 16, header + 8, 8);
        header[24] = (uint8_t)take(input, 1);
        header[25] = (uint8_t)take(input, 1);
        header[28] = kind >> 5 & 1;
        segments = 1;
    }
    driver_memory_write(&target->driver, header_gpa, header, sizeof(header));
    buffers[0] = (struct driver_buffer){header_gpa, 16};
    for (unsigned i = 0; i < segments; i++) {
        buffers[1 + i] = (struct driver_buffer){PAYLOAD_GPA + 512u * i, size};
    }
    if (type == 11 || type == 13) {
        buffers[1] = (struct driver_buffer){header_gpa + 16, 16};
    }
    buffers[1 + segments] = (struct driver_buffer){STATUS_GPA + target->headers % 256, 1};
    (void)driver_add(&target->driver, queue, buffers, writes ? 1 : 1 + segments,
                     writes ? 1 + segments : 1);
    if ((shape & 0x08) == 0) {
        driver_kick(&target->driver, queue);
    }
}

/* Many at once: more than the ring to the back end has room for. */
static void requests_add(struct target *target, struct input *input)
{
    struct input again = *input;
    unsigned count = 1 + take(input, 1);

    again = *input;
    for (unsigned i = 0; i < count; i++) {
        *input = again;
        request_add(target, input);
    }
}

static void scribble(struct target *target, struct input *input)
{
    uint64_t gpa = DRIVER_RINGS_GPA + take(input, 3) % 0x20000;
    uint32_t value = take(input, 4);

    driver_memory_write(&target->driver, gpa, &value, sizeof(value));
    driver_kick(&target->driver, 0);
}

static void guest_order(struct target *target, struct input *input, unsigned order)
{
    switch (order) {
    case 0:
    case 1:
        request_add(target, input);
        break;
    case 2:
        requests_add(target, input);
        break;
    case 3:
        start(target, input);
        break;
    case 4:
        scribble(target, input);
        break;
    case 5:
        driver_write(&target->driver, target->driver.common + DRIVER_STATUS, 0, 1);
        break;
    case 6:
        (void)driver_read(&target->driver, target->driver.config + take(input, 1), 4);
        break;
    default:
        driver_kick(&target->driver, take(input, 1) % target->block->virtio.queue_count);
        break;
    }
}

/* ---- the VM --------------------------------------------------------------- */

static void save_and_load(struct target *target, struct input *input)
{
    const struct device_ops *ops = target->device->ops;
    struct buffer saved;
    struct error err = {0};
    unsigned changes = take(input, 1) % 4;

    quiet(target);
    if (target->block->disk.size_bytes == 0) {
        return; /* its guest has not arrived: nobody would save it */
    }
    buffer_init(&saved, 0);
    CHECK(ops->save(target->device, &saved) == 0);
    CHECK(ops->load(target->device, ops->version, saved.data, saved.size, &err) == 0);
    for (unsigned i = 0; i < changes; i++) {
        saved.data[take(input, 2) % saved.size] = (uint8_t)take(input, 1);
        if (ops->load(target->device, ops->version, saved.data, saved.size, &err) < 0) {
            CHECK(err.text[0] != '\0');
        }
    }
    buffer_done(&saved);
    ops->io_start(target->device);
}

/* The image is given up, and mostly had back. */
static void move(struct target *target, struct input *input)
{
    struct error err = {0};
    bool comes_back = take(input, 1) % 4 != 0;

    quiet(target);
    if (virtio_block_unlock(vm_devices(target->vm), &err) < 0) {
        CHECK(err.text[0] != '\0');
    }
    settle(target);
    err.text[0] = '\0';
    if (comes_back && virtio_block_lock(vm_devices(target->vm), &err) < 0) {
        CHECK(err.text[0] != '\0');
    }
    settle(target);
    target->device->ops->io_start(target->device);
}

static void lease(struct target *target, struct input *input)
{
    uint32_t ms = take(input, 2);

    target->vm->config.ha = ms != 0;
    target->vm->lease_deadline_ns = clock_now_ns() + ms % 2048 * NS_PER_MS;
}

static void machine_reset(struct target *target)
{
    quiet(target);
    target->device->ops->reset(target->device);
    target->device->ops->io_start(target->device);
    driver_init(&target->driver, target->vm, 1);
}

static void vm_order(struct target *target, struct input *input, unsigned order)
{
    const struct device_ops *ops = target->device->ops;
    char text[ERROR_TEXT_SIZE];

    switch (order) {
    case 0:
        save_and_load(target, input);
        break;
    case 1:
        move(target, input);
        break;
    case 2:
        lease(target, input);
        break;
    case 3:
        target->vm->io_allowed = !target->vm->io_allowed;
        break;
    case 4:
        ops->io_stop(target->device);
        (void)ops->io_drained(target->device);
        break;
    case 5:
        ops->io_start(target->device);
        break;
    case 6:
        machine_reset(target);
        break;
    default:
        virtio_block_trouble(vm_devices(target->vm), text, sizeof(text));
        fuzz_clock_skip_ms(take(input, 2));
        break;
    }
}

/* ---- the back end --------------------------------------------------------- */

static void backend_order(struct target *target, struct input *input, unsigned order)
{
    struct fuzz_backend *backend = target->backend;
    uint32_t offset;
    uint8_t conduct[FUZZ_BACKEND_CONDUCT];

    switch (order) {
    case 0:
    case 1:
        fuzz_backend_serve(backend, 1 + take(input, 1) % VHOST_RING_SIZE,
                           (uint8_t)(order == 0 ? 0 : take(input, 1)));
        break;
    case 2:
        fuzz_backend_hang_up(backend);
        break;
    case 3:
        for (unsigned i = 0; i < sizeof(conduct); i++) {
            conduct[i] = (uint8_t)take(input, 1);
        }
        fuzz_backend_conduct_set(backend, conduct);
        break;
    case 4:
        offset = take(input, 2);
        fuzz_backend_scribble(backend, offset, (uint8_t)take(input, 1));
        break;
    case 5:
        fuzz_backend_say(backend, (uint8_t)take(input, 1));
        break;
    default:
        fuzz_backend_call(backend);
        break;
    }
}

static void order_run(struct target *target, struct input *input)
{
    uint8_t order = (uint8_t)take(input, 1);

    switch (order >> 6) {
    case 0:
    case 1:
        guest_order(target, input, order % 8);
        break;
    case 2:
        backend_order(target, input, order % 8);
        break;
    default:
        vm_order(target, input, order % 8);
        break;
    }
    if ((order & 0x20) == 0) {
        settle(target);
    }
}

/* ---- one input ------------------------------------------------------------ */

static int disk_add(struct target *target, struct input *input)
{
    uint8_t shape = (uint8_t)take(input, 1);
    uint8_t conduct[FUZZ_BACKEND_CONDUCT];
    struct error err = {0};
    struct virtio_block_config config = {
        .path = "image",
        .format = (shape & 1) != 0 ? STORAGE_FORMAT_QCOW2 : STORAGE_FORMAT_LUKS,
        .storage = &fuzz_backend_ops,
        .storage_owner = target->backend,
        .queues = 1 + (shape >> 1 & 1),
        .read_only = (shape & 0x1c) == 0x1c,
        .unlocked = (shape & 0x60) == 0x60,
        .bytes_per_s = (shape & 0x80) != 0 ? 1 << 20 : 0,
        .serial = (shape & 0x80) != 0 ? "serial" : NULL,
    };

    for (unsigned i = 0; i < sizeof(conduct); i++) {
        conduct[i] = (uint8_t)take(input, 1);
    }
    fuzz_backend_conduct_set(target->backend, conduct);
    if (virtio_block_create(target->vm, &config, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return -1;
    }
    target->device = vm_devices(target->vm);
    target->block = (struct virtio_block *)target->device;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct target target = {.vm = fake_vm_create(DRIVER_MEMORY_BYTES),
                            .backend = fuzz_backend_create()};

    target.vm->log.fd = -1;
    CHECK(guest_ram_track_dirty(target.vm->ram, true) == 0);
    if (disk_add(&target, &input) == 0) {
        settle(&target);
        driver_init(&target.driver, target.vm, 1);
        for (unsigned i = 0; i < ORDERS_MAX && input.size > 0; i++) {
            order_run(&target, &input);
        }
        target.vm->config.ha = false;
        quiet(&target);
    }
    fake_vm_free(target.vm);
    fuzz_backend_free(target.backend);
    return 0;
}
