/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of virtio-net with two pairs of queues on a real tap: the guest's orders, its
 * frames, and frames for it. Without the rights to make a tap it does nothing. What must
 * hold: no crash, what is saved can be loaded, no frame leaves with another address than
 * the guest's.
 * fuzz-sources: tests/fuzz/fuzz_clock.c
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_clock.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_state.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/device.h"
#include "vmm/virtio/virtio_net.h"

#define ORDERS_MAX 200
#define QUEUES     5
#define FRAME_MAX  2048u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct fuzz {
    struct vm *vm;
    struct device *device;
    struct driver driver;
    struct fuzz_state state;
    int socket;
};

static bool tap_make(void)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE,
                            .ifr_name = "fuzz1"};
    int fd, control;

    if (unshare(CLONE_NEWNET) < 0) {
        return false;
    }
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || control < 0 || ioctl(fd, TUNSETIFF, &request) < 0 ||
        ioctl(fd, TUNSETPERSIST, 1) < 0) {
        return false;
    }
    (void)close(fd);
    request.ifr_flags = IFF_UP;
    CHECK(ioctl(control, SIOCSIFFLAGS, &request) == 0);
    (void)close(control);
    return true;
}

static struct fuzz fuzz;

static void end(void)
{
    fake_vm_free(fuzz.vm);
    fuzz_state_done(&fuzz.state);
}

static struct fuzz *fuzz_make(void)
{
    struct virtio_net_config config = {.tap = "fuzz1",
                                       .has_mac = true,
                                       .queues = 2,
                                       .mtu = 1400,
                                       .bytes_per_s = 1u << 20};
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL)};

    if (fuzz.vm != NULL || !tap_make()) {
        return fuzz.vm != NULL ? &fuzz : NULL;
    }
    memcpy(config.mac, own_mac, sizeof(own_mac));
    fuzz.vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    CHECK(atexit(end) == 0);
    fuzz.vm->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(virtio_net_create(fuzz.vm, &config, NULL) == 0);
    fuzz.device = vm_devices(fuzz.vm);
    fuzz.socket =
        socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));
    address.sll_ifindex = (int)if_nametoindex("fuzz1");
    CHECK(fuzz.socket >= 0 &&
          bind(fuzz.socket, (struct sockaddr *)&address, sizeof(address)) == 0);
    fake_vm_run_ms(fuzz.vm, 1);
    fuzz_state_keep(&fuzz.state, fuzz.vm);
    return &fuzz;
}

/* What came out of the tap. */
static void frames_judge(struct fuzz *fuzz)
{
    struct sockaddr_ll from;
    socklen_t size = sizeof(from);
    uint8_t frame[FRAME_MAX];
    ssize_t got;

    while ((got = recvfrom(fuzz->socket, frame, sizeof(frame), 0,
                           (struct sockaddr *)&from, &size)) >= 0) {
        /* What the guest sent comes in by the tap; what the host sends goes out by it. */
        if (from.sll_pkttype != PACKET_OUTGOING && got >= 14) {
            CHECK(memcmp(frame + 6, own_mac, sizeof(own_mac)) == 0);
        }
        size = sizeof(from);
    }
}

static void control_order(struct fuzz *fuzz, struct input *input)
{
    unsigned queue = take(input, 1) % 4 == 0 ? 2 : 4;
    uint8_t order[512] = {0};
    uint32_t size = take(input, 1) * 2;
    struct driver_buffer buffers[2] = {{DRIVER_DATA_GPA, size + 2},
                                       {DRIVER_DATA_GPA + 0x1000, 1}};

    order[0] = (uint8_t)(take(input, 1) % 6);
    order[1] = (uint8_t)(take(input, 1) % 8);
    for (uint32_t i = 2; i < size + 2 && input->size > 0; i++) {
        order[i] = (uint8_t)take(input, 1);
    }
    if (fuzz->driver.queues[queue].size < 2) {
        return;
    }
    driver_memory_write(&fuzz->driver, DRIVER_DATA_GPA, order, size + 2);
    driver_add(&fuzz->driver, queue, buffers, 1, 1);
    driver_kick(&fuzz->driver, queue);
}

static void guest_frame(struct fuzz *fuzz, struct input *input)
{
    unsigned queue = take(input, 1) % 2 == 0 ? 1 : 3;
    uint8_t frame[12 + 64] = {0};
    uint8_t shape = (uint8_t)take(input, 1);
    struct driver_buffer buffers[2] = {{DRIVER_DATA_GPA + 0x2000, sizeof(frame)},
                                       {DRIVER_DATA_GPA + 0x3000, take(input, 2)}};

    memset(frame + 12, 0xff, 6);
    memcpy(frame + 18, own_mac, 6);
    for (unsigned i = 0; i < shape % 16 && input->size > 0; i++) {
        frame[take(input, 1) % sizeof(frame)] = (uint8_t)take(input, 1);
    }
    if (fuzz->driver.queues[queue].size < 2) {
        return;
    }
    driver_memory_write(&fuzz->driver, buffers[0].gpa, frame, sizeof(frame));
    driver_add(&fuzz->driver, queue, buffers, shape & 0x10 ? 2 : 1, 0);
    driver_kick(&fuzz->driver, queue);
}

static void host_frame(struct fuzz *fuzz, struct input *input)
{
    uint8_t frame[1400] = {0};
    uint32_t size = 14 + take(input, 2) % (sizeof(frame) - 14);

    for (unsigned i = 0; i < 12; i++) {
        frame[i] = (uint8_t)take(input, 1);
    }
    frame[12] = 0x88;
    (void)send(fuzz->socket, frame, size, 0);
}

static void guest_buffers(struct fuzz *fuzz, struct input *input)
{
    unsigned queue = take(input, 1) % 2 == 0 ? 0 : 2;
    unsigned count = take(input, 1) % 16;
    uint32_t size = take(input, 2) % 4096;

    for (unsigned i = 0; i < count && fuzz->driver.queues[queue].size > 0; i++) {
        struct driver_buffer buffer = {0x200000u + 0x10000u * i, size};

        driver_add(&fuzz->driver, queue, &buffer, 0, 1);
    }
    driver_kick(&fuzz->driver, queue);
}

/* What was saved can be loaded; changed as the input says, it is refused with a line, or
 * does no harm. */
static void save_and_load(struct fuzz *fuzz, struct input *input)
{
    struct device *device = fuzz->device;
    struct buffer saved;
    struct error err = {0};
    unsigned changes = take(input, 1) % 4;

    device->ops->io_stop(device);
    CHECK(device->ops->io_drained(device));
    buffer_init(&saved, 0);
    CHECK(device->ops->save(device, &saved) == 0);
    CHECK(device->ops->load(device, device->ops->version, saved.data, saved.size, NULL) ==
          0);
    for (unsigned i = 0; i < changes; i++) {
        saved.data[take(input, 2) % saved.size] = (uint8_t)take(input, 1);
        if (device->ops->load(device, device->ops->version, saved.data, saved.size,
                              &err) < 0) {
            CHECK(err.text[0] != '\0');
        }
    }
    buffer_done(&saved);
    device->ops->io_start(device);
}

static void start(struct fuzz *fuzz, struct input *input)
{
    uint64_t features = take(input, 4) | (uint64_t)take(input, 1) << 32;

    driver_write(&fuzz->driver, fuzz->driver.common, 0, 4);
    features &= driver_read(&fuzz->driver, fuzz->driver.common + 4, 4);
    (void)driver_start(&fuzz->driver, features, QUEUES, 64);
}

static void order_run(struct fuzz *fuzz, struct input *input)
{
    uint8_t order = (uint8_t)take(input, 1);

    switch (order % 10) {
    case 0:
    case 1:
        control_order(fuzz, input);
        break;
    case 2:
        guest_frame(fuzz, input);
        break;
    case 3:
        host_frame(fuzz, input);
        break;
    case 4:
        guest_buffers(fuzz, input);
        break;
    case 5:
        save_and_load(fuzz, input);
        break;
    case 6:
        fuzz->device->ops->io_stop(fuzz->device);
        break;
    case 7:
        fuzz->device->ops->io_start(fuzz->device);
        break;
    case 8:
        start(fuzz, input);
        break;
    default:
        fuzz_clock_skip_ms(order & 0xf0);  /* for the limits */
        for (unsigned i = 0; i < 3; i++) { /* one thing leads to the next */
            fake_vm_run_ms(fuzz->vm, 0);
        }
        break;
    }
}

/* The words for an address. */
static void mac_parse(const struct input *input)
{
    uint8_t mac[6];
    char text[24] = {0};

    memcpy(text, input->data, input->size < sizeof(text) - 1 ? input->size : 23);
    if (virtio_net_mac_parse(text, mac) == 0) {
        CHECK((mac[0] & 1) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint64_t features = ~(UINT64_C(1) << 3); /* all but the MTU */
    struct fuzz *fuzz = fuzz_make();
    struct input input = {.data = data, .size = size};

    if (fuzz == NULL) {
        return 0;
    }
    mac_parse(&input);
    fuzz->device->ops->io_stop(fuzz->device);
    fuzz->device->ops->reset(fuzz->device);
    fuzz_state_restore(&fuzz->state);
    fuzz->device->ops->io_start(fuzz->device);
    driver_init(&fuzz->driver, fuzz->vm, 1);
    driver_write(&fuzz->driver, fuzz->driver.common, 0, 4);
    CHECK(driver_start(&fuzz->driver,
                       features & driver_read(&fuzz->driver, fuzz->driver.common + 4, 4),
                       QUEUES, 64));
    for (unsigned i = 0; i < ORDERS_MAX && input.size > 0; i++) {
        order_run(fuzz, &input);
    }
    fake_vm_run_ms(fuzz->vm, 0);
    frames_judge(fuzz);
    return 0;
}
