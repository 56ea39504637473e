/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of a NIC whose packets the host's kernel moves (vhost-net). The kernel's side is
 * the fuzzer's own: it answers /dev/vhost-net's calls, refuses the one that the input
 * names, works on rings, reports broken ones, marks pages. The first bytes say what NIC
 * and kernel it is; then orders follow, one byte each and its arguments. What must hold:
 * no crash, that a worker is never given a ring outside of the guest's memory, nor one
 * before it has the memory's table, and that it has none once the VM is quiet.
 * fuzz-sources: tests/fuzz/fuzz_clock.c tests/fuzz/fuzz_vhost_kernel.c
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_clock.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_vhost_kernel.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/net_tap.h"
#include "vmm/virtio/virtio_net.h"

#define ORDERS_MAX 160

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the target ----------------------------------------------------------- */

struct target {
    struct vm *vm;
    struct device *device;
    struct driver driver;
    int links[FUZZ_KERNEL_PAIRS];
    unsigned pairs;
};

static int nic_add(struct target *target, struct input *input)
{
    uint8_t shape = (uint8_t)take(input, 1);
    struct net_tap tap;
    struct error err = {0};
    struct virtio_net_config config = {
        .tap = "fuzz",
        .has_mac = true,
        .mac = {0x52, 0x54, 0, 1, 2, 3},
        .mtu = (shape & 2) != 0 ? 1400 : 0,
        .any_mac = true, /* else a filter would be put on a real tap */
        .bytes_per_s = (shape & 0x38) == 0x38 ? 1 << 20 : 0,
        .vhost = (shape & 4) != 0 ? VIRTIO_NET_VHOST_AUTO : VIRTIO_NET_VHOST_ON,
        .opened = &tap,
    };

    target->pairs = 1 + (shape & 1);
    fuzz_kernel_offer((shape & 0x38) == 0x30   ? 0
                      : (shape & 0x38) == 0x28 ? ~(UINT64_C(1) << 15)
                                               : ~UINT64_C(0));
    fuzz_kernel_refuse(shape >> 6);
    net_tap_init(&tap);
    (void)snprintf(tap.name, sizeof(tap.name), "fuzz");
    tap.mtu = (shape & 0x18) == 0x18 ? 1000 : 1500;
    for (unsigned i = 0; i < target->pairs; i++) {
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) ==
              0);
        tap.fds[tap.count++] = pair[0];
        target->links[i] = pair[1];
    }
    if (virtio_net_create(target->vm, &config, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return -1;
    }
    target->device = vm_devices(target->vm);
    return 0;
}

/* ---- orders --------------------------------------------------------------- */

static void start(struct target *target, struct input *input)
{
    uint64_t left_out = take(input, 1) | (uint64_t)take(input, 1) << 15;
    uint8_t shape = (uint8_t)take(input, 1);
    uint64_t features = driver_features(&target->driver);

    (void)driver_start(&target->driver, features & ~left_out,
                       shape % (2 * target->pairs + 2), (uint16_t)(8u << shape / 16 % 5));
}

static void control_order(struct target *target, struct input *input)
{
    unsigned queue = 2 * target->pairs;
    uint8_t order[64] = {(uint8_t)take(input, 1), (uint8_t)take(input, 1)};
    uint32_t size = take(input, 1) % (sizeof(order) - 2);
    struct driver_buffer buffers[2] = {{DRIVER_DATA_GPA, size + 2},
                                       {DRIVER_DATA_GPA + 0x1000, 1}};

    for (uint32_t i = 2; i < size + 2; i++) {
        order[i] = (uint8_t)take(input, 1);
    }
    if (target->driver.queues[queue].size < 2) {
        return;
    }
    driver_memory_write(&target->driver, DRIVER_DATA_GPA, order, sizeof(order));
    (void)driver_add(&target->driver, queue, buffers, 1, 1);
    driver_kick(&target->driver, queue);
}

static void packet(struct target *target, struct input *input)
{
    unsigned queue = take(input, 1) % (2 * target->pairs);
    struct driver_buffer buffer = {DRIVER_DATA_GPA + 0x2000, 12 + take(input, 1) * 8};

    if (target->driver.queues[queue].size != 0) {
        (void)driver_add(&target->driver, queue, &buffer, queue % 2, 1 - queue % 2);
        driver_kick(&target->driver, queue);
    }
}

static void vector(struct target *target, struct input *input)
{
    unsigned place = take(input, 1);

    driver_write(&target->driver, target->driver.msix + 4 * (place % 24), take(input, 1),
                 4);
}

static void guest_order(struct target *target, struct input *input, unsigned order)
{
    uint64_t gpa;

    switch (order) {
    case 0:
        start(target, input);
        break;
    case 1:
    case 2:
        control_order(target, input);
        break;
    case 3:
        packet(target, input);
        break;
    case 4:
        vector(target, input);
        break;
    case 5:
        driver_write(&target->driver, target->driver.common + DRIVER_STATUS, 0, 1);
        break;
    case 6:
        gpa = take(input, 1);
        driver_write(&target->driver, target->driver.common + gpa % 64, take(input, 4),
                     4);
        break;
    default:
        gpa = DRIVER_RINGS_GPA + take(input, 3) % (0x10000u * DRIVER_QUEUES);
        driver_memory_write(&target->driver, gpa, &(uint32_t){take(input, 4)}, 4);
        break;
    }
}

static void quiet(struct target *target)
{
    target->device->ops->io_stop(target->device);
    fake_vm_run_ms(target->vm, 0);
    CHECK(target->device->ops->io_drained(target->device));
    CHECK(fuzz_kernel_idle());
}

static void save_and_load(struct target *target)
{
    const struct device_ops *ops = target->device->ops;
    struct buffer saved;

    quiet(target);
    buffer_init(&saved, 0);
    CHECK(ops->save(target->device, &saved) == 0);
    CHECK(ops->load(target->device, ops->version, saved.data, saved.size, NULL) == 0);
    buffer_done(&saved);
    if (ops->arrived != NULL) {
        ops->arrived(target->device);
    }
    ops->io_start(target->device);
}

static void vm_order(struct target *target, struct input *input, unsigned order)
{
    const struct device_ops *ops = target->device->ops;

    switch (order) {
    case 0:
        save_and_load(target);
        break;
    case 1:
        quiet(target);
        break;
    case 2:
        ops->io_start(target->device);
        break;
    case 3:
        (void)ops->dirty_log(target->device, take(input, 1) % 2 == 0);
        break;
    case 4:
        ops->dirty_sync(target->device, take(input, 3), 1 + take(input, 3));
        break;
    case 5:
        ops->lease_set(target->device, take(input, 2));
        break;
    case 6:
        quiet(target);
        ops->reset(target->device);
        ops->io_start(target->device);
        driver_init(&target->driver, target->vm, 1);
        break;
    default:
        target->vm->io_allowed = !target->vm->io_allowed;
        fuzz_clock_skip_ms(take(input, 1) * 8);
        break;
    }
}

static void kernel_order(struct input *input, unsigned order)
{
    unsigned index = take(input, 1) % (2 * FUZZ_KERNEL_PAIRS);

    switch (order) {
    case 0:
        fuzz_kernel_refuse(1 + take(input, 1) % 32);
        break;
    case 1:
        fuzz_kernel_broken(index);
        break;
    case 2:
        fuzz_kernel_base_set(index, (uint16_t)take(input, 2));
        break;
    default:
        fuzz_kernel_work(index);
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
        kernel_order(input, order % 8);
        break;
    default:
        vm_order(target, input, order % 8);
        break;
    }
    if ((order & 0x20) == 0) {
        fake_vm_run_ms(target->vm, 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct target target = {.vm = fake_vm_create(DRIVER_MEMORY_BYTES)};

    fuzz_kernel_reset(target.vm->ram);
    target.vm->log.fd = -1;
    CHECK(guest_ram_track_dirty(target.vm->ram, true) == 0);
    if (nic_add(&target, &input) == 0) {
        fake_vm_run_ms(target.vm, 0);
        driver_init(&target.driver, target.vm, 1);
        for (unsigned i = 0; i < ORDERS_MAX && input.size > 0; i++) {
            order_run(&target, &input);
        }
    }
    fake_vm_free(target.vm);
    for (unsigned i = 0; i < target.pairs; i++) {
        (void)close(target.links[i]);
    }
    return 0;
}
