/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of virtio-vsock with a guest that talks its protocol, well or badly, and host
 * programs that come, talk and go: orders of one byte each and their arguments. What must
 * hold: no crash, what is saved can be loaded, a reset ends everything.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_state.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtio_vsock.h"
#include "vmm/virtio/vsock_packet.h"

#define CID        3
#define PROGRAMS   8
#define ORDERS_MAX 200
#define PORTS      4
#define DATA_MAX   8192u
/* Of the device: the ports of host programs that connect. */
#define HOST_PORTS  0x40000000u
#define BUFFERS_GPA 0x200000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
    struct vm *vm;
    struct device *device;
    struct driver driver;
    struct fuzz_state state;
    int listener_peer; /* connects to listen_fd through the kernel's abstract names */
    int programs[PROGRAMS];
    unsigned next_program;
};

static void program_keep(struct fuzz *fuzz, int fd)
{
    unsigned at = fuzz->next_program++ % PROGRAMS;

    if (fuzz->programs[at] >= 0) {
        (void)close(fuzz->programs[at]);
    }
    fuzz->programs[at] = fd;
}

/* Half of the ports have a program behind them. */
static int host_connect(void *owner, uint32_t port)
{
    struct fuzz *fuzz = owner;
    int fds[2];

    if (port % 2 != 0) {
        return -1;
    }
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    program_keep(fuzz, fds[1]);
    return fds[0];
}

static const struct virtio_vsock_ops ops = {.connect = host_connect};

static struct fuzz fuzz;

static void end(void)
{
    fake_vm_free(fuzz.vm);
    fuzz_state_done(&fuzz.state);
}

static struct fuzz *fuzz_make(void)
{
    struct virtio_vsock_config config = {.cid = CID, .ops = &ops, .owner = &fuzz};

    if (fuzz.vm != NULL) {
        return &fuzz;
    }
    for (unsigned i = 0; i < PROGRAMS; i++) {
        fuzz.programs[i] = -1;
    }
    fuzz.vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    CHECK(atexit(end) == 0);
    fuzz.vm->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    /* An abstract name that the kernel chooses. */
    config.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(config.listen_fd >= 0);
    sa_family_t family = AF_UNIX;
    CHECK(bind(config.listen_fd, (const struct sockaddr *)(const void *)&family,
               sizeof(family)) == 0);
    CHECK(listen(config.listen_fd, PROGRAMS) == 0);
    fuzz.listener_peer = dup(config.listen_fd);
    CHECK(virtio_vsock_create(fuzz.vm, &config, NULL) == 0);
    fuzz.device = vm_devices(fuzz.vm);
    fake_vm_run_ms(fuzz.vm, 1);
    fuzz_state_keep(&fuzz.state, fuzz.vm);
    return &fuzz;
}

static void program_connect(struct fuzz *fuzz, struct input *input)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    char greeting[64];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int length =
        snprintf(greeting, sizeof(greeting), "CONNECT %u\n", take(input, 1) % PORTS);
    uint8_t cut = (uint8_t)take(input, 1);

    CHECK(fd >= 0);
    CHECK(getsockname(fuzz->listener_peer, (struct sockaddr *)&address, &size) == 0);
    if (connect(fd, (const struct sockaddr *)&address, size) < 0) {
        (void)close(fd); /* too many wait */
        return;
    }
    if (cut < 16) {
        length = cut < length ? cut : length;
        greeting[0] ^= (char)cut;
    }
    (void)!write(fd, greeting, (size_t)length);
    program_keep(fuzz, fd);
}

static void program_act(struct fuzz *fuzz, struct input *input)
{
    static uint8_t data[DATA_MAX];
    int *fd = &fuzz->programs[take(input, 1) % PROGRAMS];
    uint8_t act = (uint8_t)take(input, 1);
    uint32_t size = take(input, 2) % DATA_MAX;

    if (*fd < 0) {
        return;
    }
    switch (act % 5) {
    case 0:
        (void)send(*fd, data, size, MSG_NOSIGNAL);
        break;
    case 1:
        (void)!read(*fd, data, size);
        break;
    case 2:
        (void)shutdown(*fd, SHUT_WR);
        break;
    case 3:
        (void)shutdown(*fd, SHUT_RD);
        break;
    default:
        (void)close(*fd);
        *fd = -1;
        break;
    }
}

/* The port of the last request that came from the host, which the guest answers. */
static uint32_t asked_port(struct fuzz *fuzz, uint32_t *ret_guest_port)
{
    uint32_t port = HOST_PORTS;

    for (unsigned i = 0; i < 16; i++) {
        struct vsock_packet packet;
        uint8_t header[VSOCK_HEADER_SIZE];

        driver_memory_read(&fuzz->driver, BUFFERS_GPA + 0x10000u * i, header,
                           sizeof(header));
        vsock_packet_decode(header, &packet);
        if (packet.operation == VSOCK_REQUEST && packet.source_port >= port) {
            port = packet.source_port;
            *ret_guest_port = packet.destination_port;
        }
    }
    return port;
}

static void guest_packet(struct fuzz *fuzz, struct input *input)
{
    struct vsock_packet packet = {
        .source_cid = CID, .destination_cid = VSOCK_CID_HOST, .type = VSOCK_TYPE_STREAM};
    uint8_t header[VSOCK_HEADER_SIZE];
    uint8_t shape = (uint8_t)take(input, 1);
    uint32_t size = take(input, 2) % (4 * DATA_MAX);
    struct driver_buffer buffers[3] = {{DRIVER_DATA_GPA, VSOCK_HEADER_SIZE},
                                       {DRIVER_DATA_GPA + 0x1000, size / 2 + 1},
                                       {DRIVER_DATA_GPA + 0x10000, size - size / 2 + 1}};

    packet.operation = (uint16_t)(take(input, 1) % 9);
    packet.flags = take(input, 1);
    packet.source_port = take(input, 1) % PORTS;
    packet.destination_port = take(input, 1);
    packet.destination_port = packet.destination_port & 0x80
                                  ? asked_port(fuzz, &packet.source_port)
                                  : packet.destination_port % PORTS;
    packet.buffer_bytes = take(input, 3);
    packet.forwarded_bytes = take(input, 3);
    packet.size = packet.operation == VSOCK_DATA ? size : 0;
    if (shape & 0x80) {
        packet.size = take(input, 4);
        packet.type = (uint16_t)take(input, 1);
        packet.source_cid ^= take(input, 1) % 2;
    }
    if (fuzz->driver.queues[1].size < 3) {
        return;
    }
    vsock_packet_encode(&packet, header);
    driver_memory_write(&fuzz->driver, DRIVER_DATA_GPA, header, sizeof(header));
    driver_add(&fuzz->driver, 1, buffers, shape & 0x40 ? 2 : 3, 0);
    driver_kick(&fuzz->driver, 1);
}

static void guest_buffers(struct fuzz *fuzz, struct input *input)
{
    unsigned queue = take(input, 1) % 8 == 0 ? 2 : 0;
    unsigned count = take(input, 1) % 16;
    uint32_t size = take(input, 2);

    for (unsigned i = 0; i < count && fuzz->driver.queues[queue].size > 0; i++) {
        struct driver_buffer buffer = {BUFFERS_GPA + 0x10000u * i, size};

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

static void order_run(struct fuzz *fuzz, struct input *input)
{
    switch (take(input, 1) % 11) {
    case 0:
    case 1:
        guest_packet(fuzz, input);
        break;
    case 2:
        guest_buffers(fuzz, input);
        break;
    case 3:
        program_connect(fuzz, input);
        break;
    case 4:
        program_act(fuzz, input);
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
        fuzz->vm->io_allowed = !fuzz->vm->io_allowed;
        break;
    case 9:
        (void)driver_start(&fuzz->driver, 0, 3, (uint16_t)(1u << take(input, 1) % 8));
        break;
    default:
        (void)driver_read(&fuzz->driver, fuzz->driver.config, 4);
        for (unsigned i = 0; i < 3; i++) { /* one thing leads to the next */
            fake_vm_run_ms(fuzz->vm, 0);
        }
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz *fuzz = fuzz_make();
    struct input input = {.data = data, .size = size};

    fuzz->vm->io_allowed = true;
    fuzz->next_program = 0;
    fuzz->device->ops->io_stop(fuzz->device);
    fuzz->device->ops->reset(fuzz->device);
    fuzz_state_restore(&fuzz->state);
    fuzz->device->ops->io_start(fuzz->device);
    for (unsigned i = 0; i < 16; i++) { /* what an earlier input left */
        static const uint8_t zeros[VSOCK_HEADER_SIZE];

        CHECK(guest_ram_write(fuzz->vm->ram, BUFFERS_GPA + 0x10000u * i, zeros,
                              sizeof(zeros)) == 0);
    }
    driver_init(&fuzz->driver, fuzz->vm, 1);
    CHECK(driver_start(&fuzz->driver, 0, 3, 64));
    for (unsigned i = 0; i < ORDERS_MAX && input.size > 0; i++) {
        order_run(fuzz, &input);
    }
    fake_vm_run_ms(fuzz->vm, 0);
    for (unsigned i = 0; i < PROGRAMS; i++) {
        if (fuzz->programs[i] >= 0) {
            (void)close(fuzz->programs[i]);
            fuzz->programs[i] = -1;
        }
    }
    return 0;
}
