/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock with real unix sockets; the test plays the guest's driver and the host's
 * programs. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/device.h"
#include "vmm/host/unix_socket.h"
#include "vmm/jail/broker.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtio_vsock.h"
#include "vmm/virtio/vsock_host.h"
#include "vmm/virtio/vsock_packet.h"

#define CID          7
#define GUEST_PORT   1234u
#define HOST_PORT    5000u
#define RECEIVE_GPA  DRIVER_DATA_GPA
#define RECEIVE_SIZE 4096u
#define BUFFERS      32u
#define TRANSMIT_GPA (DRIVER_DATA_GPA + 0x100000u)
#define EVENT_GPA    (DRIVER_DATA_GPA + 0x180000u)
#define GUEST_BUFFER 65536u
#define BUFFER_BYTES (128u * 1024u) /* of the device for a connection */

enum { RECEIVE = 0, TRANSMIT = 1, EVENT = 2 };

struct fixture {
    struct vm *vm;
    struct broker *broker;
    struct driver driver;
    char folder[64];
    char path[96];
    uint8_t data[RECEIVE_SIZE]; /* of the last packet that came in */
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    (void)snprintf(f->folder, sizeof(f->folder), "/tmp/vsock-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    (void)snprintf(f->path, sizeof(f->path), "%s/v", f->folder);
    f->vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    assert_int_equal(broker_create_local(&f->broker), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char other[128];

    fake_vm_free(f->vm);
    broker_free(f->broker);
    assert_int_equal(access(f->path, F_OK), -1); /* removed with the broker */
    (void)snprintf(other, sizeof(other), "%s_%u", f->path, HOST_PORT);
    (void)unlink(other);
    assert_int_equal(rmdir(f->folder), 0);
    free(f);
    return 0;
}

static void vsock_add(struct fixture *f, struct vm *vm, const char *path)
{
    struct virtio_vsock_config config = {.cid = CID};
    struct error err = {0};

    if (vsock_host_open(f->broker, path, &config, &err) < 0 ||
        virtio_vsock_create(vm, &config, &err) < 0) {
        fail_msg("%s", err.text);
    }
    fake_vm_run_ms(vm, 1);
}

static void receive_buffers_add(struct fixture *f, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct driver_buffer buffer = {RECEIVE_GPA + f->driver.queues[RECEIVE].next_desc *
                                                         RECEIVE_SIZE,
                                       RECEIVE_SIZE};

        driver_add(&f->driver, RECEIVE, &buffer, 0, 1);
    }
    driver_kick(&f->driver, RECEIVE);
}

static void start(struct fixture *f)
{
    struct driver_buffer event = {EVENT_GPA, 4};

    vsock_add(f, f->vm, f->path);
    driver_init(&f->driver, f->vm, 1);
    assert_true(driver_start(&f->driver, 0, 3, 64));
    receive_buffers_add(f, BUFFERS);
    driver_add(&f->driver, EVENT, &event, 0, 1);
    driver_kick(&f->driver, EVENT);
    fake_vm_run_ms(f->vm, 2);
}

static void packet_send(struct fixture *f, struct vsock_packet packet, const void *data,
                        uint32_t size)
{
    struct driver_buffer buffers[2] = {{TRANSMIT_GPA, VSOCK_HEADER_SIZE},
                                       {TRANSMIT_GPA + 64, size}};
    uint8_t header[VSOCK_HEADER_SIZE];
    uint16_t head;
    uint32_t written;

    packet.source_cid = packet.source_cid != 0 ? packet.source_cid : CID;
    packet.destination_cid = VSOCK_CID_HOST;
    packet.type = VSOCK_TYPE_STREAM;
    packet.size = packet.size != 0 ? packet.size : size;
    packet.buffer_bytes = packet.buffer_bytes != 0 ? packet.buffer_bytes : GUEST_BUFFER;
    vsock_packet_encode(&packet, header);
    driver_memory_write(&f->driver, TRANSMIT_GPA, header, sizeof(header));
    if (size > 0) {
        driver_memory_write(&f->driver, TRANSMIT_GPA + 64, data, size);
    }
    driver_add(&f->driver, TRANSMIT, buffers, size > 0 ? 2 : 1, 0);
    driver_kick(&f->driver, TRANSMIT);
    assert_true(driver_wait(&f->driver, TRANSMIT, &head, &written));
}

static void say(struct fixture *f, uint32_t host_port, unsigned operation, uint32_t flags,
                const char *data)
{
    packet_send(f,
                (struct vsock_packet){.source_port = GUEST_PORT,
                                      .destination_port = host_port,
                                      .operation = (uint16_t)operation,
                                      .flags = flags},
                data, (uint32_t)strlen(data));
}

/* The next packet to the guest; a new buffer takes its place. */
static struct vsock_packet packet_next(struct fixture *f)
{
    struct vsock_packet packet = {0};
    uint8_t header[VSOCK_HEADER_SIZE];
    uint16_t head;
    uint32_t written;

    if (!driver_wait(&f->driver, RECEIVE, &head, &written)) {
        fail_msg("no packet came");
    }
    driver_memory_read(&f->driver, RECEIVE_GPA + head * RECEIVE_SIZE, header,
                       sizeof(header));
    vsock_packet_decode(header, &packet);
    assert_int_equal(packet.source_cid, VSOCK_CID_HOST);
    assert_int_equal(packet.destination_cid, CID);
    assert_int_equal(written, VSOCK_HEADER_SIZE + packet.size);
    driver_memory_read(&f->driver, RECEIVE_GPA + head * RECEIVE_SIZE + VSOCK_HEADER_SIZE,
                       f->data, packet.size);
    receive_buffers_add(f, 1);
    return packet;
}

static bool no_packet(struct fixture *f)
{
    uint16_t head;
    uint32_t written;

    fake_vm_run_ms(f->vm, 5);
    return !driver_used(&f->driver, RECEIVE, &head, &written);
}

static void assert_next(struct fixture *f, unsigned operation)
{
    assert_int_equal(packet_next(f).operation, operation);
}

static int client_open(const char *path)
{
    int fd = -1;

    assert_int_equal(unix_socket_connect(path, &fd, NULL), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static void assert_reads(struct fixture *f, int fd, const char *text)
{
    char got[256] = {0};

    fake_vm_run_ms(f->vm, 3);
    assert_int_equal(read(fd, got, sizeof(got) - 1), strlen(text));
    assert_string_equal(got, text);
}

static void assert_closed(struct fixture *f, int fd)
{
    char byte;
    ssize_t got;

    fake_vm_run_ms(f->vm, 3);
    got = read(fd, &byte, 1);
    assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
}

/* A host program that has a stream to the guest's port; the host's port of it. */
static int connected(struct fixture *f, uint32_t *ret_host_port)
{
    int fd = client_open(f->path);
    struct vsock_packet packet;
    char answer[64];

    assert_int_equal(write(fd, "CONNECT 1234\n", 13), 13);
    packet = packet_next(f);
    assert_int_equal(packet.operation, VSOCK_REQUEST);
    assert_int_equal(packet.destination_port, GUEST_PORT);
    say(f, packet.source_port, VSOCK_RESPONSE, 0, "");
    (void)snprintf(answer, sizeof(answer), "OK %u\n", packet.source_port);
    assert_reads(f, fd, answer);
    *ret_host_port = packet.source_port;
    return fd;
}

static void test_host_program_talks_to_the_guest(void **state)
{
    struct fixture *f = *state;
    uint32_t port;
    int fd;

    start(f);
    assert_int_equal(driver_read(&f->driver, f->driver.config, 4), CID);
    fd = connected(f, &port);
    assert_int_equal(write(fd, "question", 8), 8);
    assert_int_equal(packet_next(f).size, 8);
    assert_memory_equal(f->data, "question", 8);
    say(f, port, VSOCK_DATA, 0, "answer");
    assert_reads(f, fd, "answer");
    (void)close(fd);
    assert_int_equal(packet_next(f).flags, VSOCK_SHUTDOWN_BOTH);
    say(f, port, VSOCK_RESET, 0, "");
    assert_true(no_packet(f));
}

static void test_what_follows_the_greeting_is_for_the_guest(void **state)
{
    struct fixture *f = *state;
    struct vsock_packet packet;
    int fd;

    start(f);
    fd = client_open(f->path);
    assert_int_equal(write(fd, "CONN", 4), 4);
    fake_vm_run_ms(f->vm, 3);
    assert_int_equal(write(fd, "ECT 1234\nearly", 14), 14);
    packet = packet_next(f);
    assert_true(no_packet(f)); /* not before the guest agrees */
    say(f, packet.source_port, VSOCK_RESPONSE, 0, "");
    assert_int_equal(packet_next(f).size, 5);
    assert_memory_equal(f->data, "early", 5);
    (void)close(fd);
}

static void test_guest_reaches_a_host_program(void **state)
{
    struct fixture *f = *state;
    char path[128];
    int listener = -1, fd;

    start(f);
    (void)snprintf(path, sizeof(path), "%s_%u", f->path, HOST_PORT);
    assert_int_equal(unix_socket_listen(path, &listener, NULL), 0);
    say(f, HOST_PORT, VSOCK_REQUEST, 0, "");
    assert_next(f, VSOCK_RESPONSE);
    fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(fd >= 0);
    say(f, HOST_PORT, VSOCK_DATA, 0, "from the guest");
    assert_reads(f, fd, "from the guest");
    assert_int_equal(write(fd, "from the host", 13), 13);
    assert_int_equal(packet_next(f).size, 13);
    /* The guest ends it: both ways, and gets its confirmation. */
    say(f, HOST_PORT, VSOCK_SHUTDOWN, VSOCK_SHUTDOWN_BOTH, "");
    assert_next(f, VSOCK_RESET);
    assert_closed(f, fd);
    (void)close(fd);
    (void)close(listener);
}

static void test_ports_without_a_program_are_refused(void **state)
{
    struct fixture *f = *state;

    start(f);
    say(f, HOST_PORT + 1, VSOCK_REQUEST, 0, "");
    assert_next(f, VSOCK_RESET);
    say(f, HOST_PORT + 1, VSOCK_DATA, 0, "nobody");
    assert_next(f, VSOCK_RESET);
    say(f, HOST_PORT + 1, VSOCK_RESET, 0, ""); /* never answered */
    assert_true(no_packet(f));
}

static void test_guest_refuses_a_host_program(void **state)
{
    struct fixture *f = *state;
    struct vsock_packet packet;
    int fd;

    start(f);
    fd = client_open(f->path);
    assert_int_equal(write(fd, "CONNECT 1234\n", 13), 13);
    packet = packet_next(f);
    say(f, packet.source_port, VSOCK_RESET, 0, "");
    assert_closed(f, fd);
    (void)close(fd);
}

static void test_greetings_that_are_none_are_hung_up_on(void **state)
{
    static const char *const greetings[] = {
        "HELLO\n",
        "CONNECT\n",
        "CONNECT x\n",
        "CONNECT 4294967296\n",
        "CONNECT -1\n",
        "CONNECT 1 2\n",
        "CONNECT 00000000000000000000000000000000001\n"};
    struct fixture *f = *state;

    start(f);
    for (unsigned i = 0; i < sizeof(greetings) / sizeof(greetings[0]); i++) {
        int fd = client_open(f->path);

        assert_true(write(fd, greetings[i], strlen(greetings[i])) > 0);
        assert_closed(f, fd);
        (void)close(fd);
    }
    assert_true(no_packet(f));
}

static void test_half_closed_program_still_gets_the_answer(void **state)
{
    struct fixture *f = *state;
    struct vsock_packet packet;
    uint32_t port;
    int fd;

    start(f);
    fd = connected(f, &port);
    assert_int_equal(write(fd, "request", 7), 7);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    assert_int_equal(packet_next(f).size, 7);
    packet = packet_next(f);
    assert_int_equal(packet.operation, VSOCK_SHUTDOWN);
    assert_int_equal(packet.flags, VSOCK_SHUTDOWN_SEND);
    say(f, port, VSOCK_DATA, 0, "response");
    assert_reads(f, fd, "response");
    say(f, port, VSOCK_SHUTDOWN, VSOCK_SHUTDOWN_BOTH, "");
    assert_next(f, VSOCK_RESET);
    assert_closed(f, fd);
    (void)close(fd);
}

static void test_guest_is_given_no_more_than_its_credit(void **state)
{
    struct fixture *f = *state;
    static char big[3 * GUEST_BUFFER];
    struct vsock_packet packet;
    uint32_t port, got = 0;
    int fd, size = sizeof(big);

    start(f);
    fd = connected(f, &port);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    assert_true(write(fd, big, sizeof(big)) > (ssize_t)GUEST_BUFFER);
    for (;;) {
        packet = packet_next(f);
        if (packet.operation != VSOCK_DATA) {
            break;
        }
        got += packet.size;
    }
    assert_int_equal(packet.operation, VSOCK_CREDIT_REQUEST);
    assert_int_equal(got, GUEST_BUFFER);
    assert_true(no_packet(f)); /* asked once */
    packet_send(f,
                (struct vsock_packet){.source_port = GUEST_PORT,
                                      .destination_port = port,
                                      .operation = VSOCK_CREDIT_UPDATE,
                                      .forwarded_bytes = 1000},
                NULL, 0);
    assert_int_equal(packet_next(f).size, 1000);
    (void)close(fd);
}

static void test_slow_program_holds_the_guest_back_and_loses_nothing(void **state)
{
    struct fixture *f = *state;
    static char piece[16384], got[4 * BUFFER_BYTES];
    struct vsock_packet packet;
    uint32_t port, sent = 0;
    size_t read_bytes = 0;
    int fd, size = 4096;

    start(f);
    fd = connected(f, &port);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
    /* As much as the guest was ever told that it may. */
    packet.forwarded_bytes = 0;
    for (unsigned idle = 0; idle < 2;) {
        uint16_t head;
        uint32_t written;

        if (sent - packet.forwarded_bytes + sizeof(piece) <= BUFFER_BYTES) {
            for (size_t i = 0; i < sizeof(piece); i++) {
                piece[i] = (char)((sent + i) % 251);
            }
            packet_send(f,
                        (struct vsock_packet){.source_port = GUEST_PORT,
                                              .destination_port = port,
                                              .operation = VSOCK_DATA},
                        piece, sizeof(piece));
            sent += sizeof(piece);
            continue;
        }
        fake_vm_run_ms(f->vm, 5);
        if (driver_used(&f->driver, RECEIVE, &head, &written)) {
            uint8_t header[VSOCK_HEADER_SIZE];

            driver_memory_read(&f->driver, RECEIVE_GPA + head * RECEIVE_SIZE, header,
                               sizeof(header));
            vsock_packet_decode(header, &packet);
            receive_buffers_add(f, 1);
        } else {
            idle++;
        }
    }
    assert_in_range(sent, BUFFER_BYTES, sizeof(got) - 1);
    while (read_bytes < sent) {
        ssize_t part = read(fd, got + read_bytes, sizeof(got) - read_bytes);

        if (part < 0) {
            assert_int_equal(errno, EAGAIN);
            fake_vm_run_ms(f->vm, 2);
            continue;
        }
        assert_true(part > 0);
        read_bytes += (size_t)part;
    }
    for (size_t i = 0; i < sent; i++) {
        assert_int_equal((unsigned char)got[i], (unsigned char)(i % 251));
    }
    (void)close(fd);
}

static void test_guest_that_ignores_its_credit_loses_the_connection(void **state)
{
    struct fixture *f = *state;
    static char piece[65536];
    uint32_t port;
    unsigned sent = 0;
    int fd;

    start(f);
    fd = connected(f, &port);
    for (;;) {
        uint16_t head;
        uint32_t written;

        packet_send(f,
                    (struct vsock_packet){.source_port = GUEST_PORT,
                                          .destination_port = port,
                                          .operation = VSOCK_DATA},
                    piece, sizeof(piece));
        assert_true(++sent < 100);
        fake_vm_run_ms(f->vm, 1);
        if (driver_used(&f->driver, RECEIVE, &head, &written)) {
            uint8_t header[VSOCK_HEADER_SIZE];
            struct vsock_packet packet;

            driver_memory_read(&f->driver, RECEIVE_GPA + head * RECEIVE_SIZE, header,
                               sizeof(header));
            vsock_packet_decode(header, &packet);
            receive_buffers_add(f, 1);
            if (packet.operation == VSOCK_RESET) {
                break;
            }
        }
    }
    (void)close(fd);
}

static void test_gone_program_resets_the_guest_after_its_last_words(void **state)
{
    struct fixture *f = *state;
    uint32_t port;
    int fd;

    start(f);
    fd = connected(f, &port);
    assert_int_equal(write(fd, "last words", 10), 10);
    (void)close(fd);
    say(f, port, VSOCK_DATA, 0, "to nobody");
    assert_int_equal(packet_next(f).size, 10);
    assert_int_equal(packet_next(f).flags, VSOCK_SHUTDOWN_BOTH);
    say(f, port, VSOCK_SHUTDOWN, VSOCK_SHUTDOWN_BOTH, "");
    assert_next(f, VSOCK_RESET);
}

static void test_stopped_device_moves_nothing_and_goes_on(void **state)
{
    struct fixture *f = *state;
    struct device *device;
    uint32_t port;
    int fd;

    start(f);
    fd = connected(f, &port);
    device = vm_devices(f->vm);
    device->ops->io_stop(device);
    assert_true(device->ops->io_drained(device));
    assert_int_equal(write(fd, "later", 5), 5);
    assert_true(no_packet(f));
    device->ops->io_start(device);
    assert_int_equal(packet_next(f).size, 5);
    f->vm->io_allowed = false; /* the deadline, and nobody has said stop */
    assert_int_equal(write(fd, "later", 5), 5);
    assert_true(no_packet(f));
    f->vm->io_allowed = true;
    assert_int_equal(packet_next(f).size, 5);
    (void)close(fd);
}

static void test_guest_without_a_driver_refuses_programs(void **state)
{
    struct fixture *f = *state;
    int fd;

    vsock_add(f, f->vm, f->path);
    fd = client_open(f->path);
    assert_true(write(fd, "CONNECT 1234\n", 13) > 0);
    assert_closed(f, fd);
    (void)close(fd);
}

static void test_reset_ends_all_connections(void **state)
{
    struct fixture *f = *state;
    uint32_t port;
    int fd;

    start(f);
    fd = connected(f, &port);
    driver_write(&f->driver, f->driver.common + DRIVER_STATUS, 0, 1);
    assert_int_equal(driver_status(&f->driver), 0);
    assert_closed(f, fd);
    (void)close(fd);
}

static void test_move_tells_the_guest_that_its_connections_are_gone(void **state)
{
    struct fixture *f = *state;
    struct vm *target = fake_vm_create(DRIVER_MEMORY_BYTES);
    struct device *device;
    struct buffer saved;
    char path[128];
    uint32_t port, written, event = 9;
    uint16_t head;
    int fd;

    start(f);
    fd = connected(f, &port);
    device = vm_devices(f->vm);
    device->ops->io_stop(device);
    buffer_init(&saved, 0);
    assert_int_equal(device->ops->save(device, &saved), 0);
    (void)snprintf(path, sizeof(path), "%s_target", f->path);
    vsock_add(f, target, path);
    memcpy(guest_ram_region(target->ram, 0)->host, guest_ram_region(f->vm->ram, 0)->host,
           DRIVER_MEMORY_BYTES);
    device = vm_devices(target);
    assert_int_equal(
        device->ops->load(device, device->ops->version, saved.data, saved.size, NULL), 0);
    buffer_done(&saved);
    fake_vm_free(f->vm);
    f->vm = f->driver.vm = target;
    assert_closed(f, fd);
    device->ops->io_start(device);
    assert_true(driver_wait(&f->driver, EVENT, &head, &written));
    assert_int_equal(written, 4);
    driver_memory_read(&f->driver, EVENT_GPA, &event, 4);
    assert_int_equal(event, 0);
    say(f, port, VSOCK_DATA, 0, "old");
    assert_next(f, VSOCK_RESET);
    (void)close(fd);
    (void)snprintf(f->path, sizeof(f->path), "%s/v_target", f->folder);
    fd = connected(f, &port); /* listeners stay */
    (void)close(fd);
    (void)snprintf(f->path, sizeof(f->path), "%s/v", f->folder);
}

static void test_move_that_failed_keeps_the_connections(void **state)
{
    struct fixture *f = *state;
    struct device *device;
    struct buffer saved;
    uint32_t port;
    int fd;

    start(f);
    fd = connected(f, &port);
    device = vm_devices(f->vm);
    device->ops->io_stop(device);
    buffer_init(&saved, 0);
    assert_int_equal(device->ops->save(device, &saved), 0);
    buffer_done(&saved);
    device->ops->io_start(device);
    say(f, port, VSOCK_DATA, 0, "still here");
    assert_reads(f, fd, "still here");
    (void)close(fd);
}

static void test_connections_are_bounded_and_come_back(void **state)
{
    struct fixture *f = *state;
    int fds[VIRTIO_VSOCK_CONNECTIONS_MAX + 1];
    uint32_t port;

    start(f);
    for (unsigned i = 0; i <= VIRTIO_VSOCK_CONNECTIONS_MAX; i++) {
        fds[i] = client_open(f->path);
        fake_vm_run_ms(f->vm, 0);
    }
    assert_closed(f, fds[VIRTIO_VSOCK_CONNECTIONS_MAX]);
    assert_int_equal(fake_vm_logged(f->vm, "more than 256 connections"), 1);
    for (unsigned i = 0; i <= VIRTIO_VSOCK_CONNECTIONS_MAX; i++) {
        (void)close(fds[i]);
    }
    fake_vm_run_ms(f->vm, 2);
    fds[0] = connected(f, &port);
    (void)close(fds[0]);
}

static void test_packets_of_another_cid_go_nowhere(void **state)
{
    struct fixture *f = *state;

    start(f);
    packet_send(f,
                (struct vsock_packet){.source_cid = CID + 1,
                                      .source_port = GUEST_PORT,
                                      .destination_port = HOST_PORT,
                                      .operation = VSOCK_REQUEST},
                NULL, 0);
    assert_true(no_packet(f));
}

static void test_packet_that_lies_about_its_size_stops_the_device(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffer = {TRANSMIT_GPA, VSOCK_HEADER_SIZE};
    struct vsock_packet packet = {.operation = VSOCK_DATA, .size = 100000};
    uint8_t header[VSOCK_HEADER_SIZE];

    start(f);
    vsock_packet_encode(&packet, header);
    driver_memory_write(&f->driver, TRANSMIT_GPA, header, sizeof(header));
    driver_add(&f->driver, TRANSMIT, &buffer, 1, 0);
    driver_kick(&f->driver, TRANSMIT);
    fake_vm_run_ms(f->vm, 2);
    assert_int_equal(driver_status(&f->driver) & 64, 64);
    assert_int_equal(fake_vm_logged(f->vm, "longer than its buffer"), 1);
}

static void test_guest_without_buffers_waits_with_its_packets(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffer = {TRANSMIT_GPA, VSOCK_HEADER_SIZE};
    struct vsock_packet packet = {.source_cid = CID,
                                  .destination_cid = VSOCK_CID_HOST,
                                  .type = VSOCK_TYPE_STREAM,
                                  .operation = VSOCK_REQUEST};
    uint8_t header[VSOCK_HEADER_SIZE];
    unsigned resets = 0;
    uint16_t head;
    uint32_t written;

    vsock_add(f, f->vm, f->path);
    driver_init(&f->driver, f->vm, 1);
    assert_true(driver_start(&f->driver, 0, 3, 128));
    vsock_packet_encode(&packet, header);
    driver_memory_write(&f->driver, TRANSMIT_GPA, header, sizeof(header));
    for (unsigned i = 0; i < 100; i++) {
        driver_add(&f->driver, TRANSMIT, &buffer, 1, 0);
    }
    driver_kick(&f->driver, TRANSMIT);
    fake_vm_run_ms(f->vm, 5);
    for (unsigned i = 0; i < 100; i++) {
        receive_buffers_add(f, 1);
    }
    fake_vm_run_ms(f->vm, 20);
    while (driver_used(&f->driver, RECEIVE, &head, &written)) {
        resets++;
    }
    assert_int_equal(resets, 100);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_host_program_talks_to_the_guest),
        TEST(test_what_follows_the_greeting_is_for_the_guest),
        TEST(test_guest_reaches_a_host_program),
        TEST(test_ports_without_a_program_are_refused),
        TEST(test_guest_refuses_a_host_program),
        TEST(test_greetings_that_are_none_are_hung_up_on),
        TEST(test_half_closed_program_still_gets_the_answer),
        TEST(test_guest_is_given_no_more_than_its_credit),
        TEST(test_slow_program_holds_the_guest_back_and_loses_nothing),
        TEST(test_guest_that_ignores_its_credit_loses_the_connection),
        TEST(test_gone_program_resets_the_guest_after_its_last_words),
        TEST(test_stopped_device_moves_nothing_and_goes_on),
        TEST(test_guest_without_a_driver_refuses_programs),
        TEST(test_reset_ends_all_connections),
        TEST(test_move_tells_the_guest_that_its_connections_are_gone),
        TEST(test_move_that_failed_keeps_the_connections),
        TEST(test_connections_are_bounded_and_come_back),
        TEST(test_packets_of_another_cid_go_nowhere),
        TEST(test_packet_that_lies_about_its_size_stops_the_device),
        TEST(test_guest_without_buffers_waits_with_its_packets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
