/* SPDX-License-Identifier: Apache-2.0 */
/* See vsock_fixture.h. */
#include "tests/unit/vsock_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "tests/unit/unit.h"
#include "vmm/device.h"
#include "vmm/host/unix_socket.h"
#include "vmm/jail/broker.h"
#include "vmm/virtio/virtio_vsock.h"
#include "vmm/virtio/vsock_host.h"

int vsock_fixture_setup(void **state)
{
    struct vsock_fixture *f = calloc(1, sizeof(*f));

    (void)snprintf(f->folder, sizeof(f->folder), "/tmp/vsock-test-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    (void)snprintf(f->path, sizeof(f->path), "%s/v", f->folder);
    f->vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    assert_int_equal(broker_create_local(&f->broker), 0);
    *state = f;
    return 0;
}

int vsock_fixture_teardown(void **state)
{
    struct vsock_fixture *f = *state;
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

void vsock_add(struct vsock_fixture *f, struct vm *vm, const char *path)
{
    struct virtio_vsock_config config = {.cid = CID};
    struct error err = {0};

    if (vsock_host_open(f->broker, path, &config, &err) < 0 ||
        virtio_vsock_create(vm, &config, &err) < 0) {
        fail_msg("%s", err.text);
    }
    fake_vm_run_ms(vm, 1);
}

void receive_buffers_add(struct vsock_fixture *f, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct driver_buffer buffer = {RECEIVE_GPA + f->driver.queues[RECEIVE].next_desc *
                                                         RECEIVE_SIZE,
                                       RECEIVE_SIZE};

        driver_add(&f->driver, RECEIVE, &buffer, 0, 1);
    }
    driver_kick(&f->driver, RECEIVE);
}

void start(struct vsock_fixture *f)
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

void packet_send(struct vsock_fixture *f, struct vsock_packet packet, const void *data,
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

void say(struct vsock_fixture *f, uint32_t host_port, unsigned operation, uint32_t flags,
         const char *data)
{
    packet_send(f,
                (struct vsock_packet){.source_port = GUEST_PORT,
                                      .destination_port = host_port,
                                      .operation = (uint16_t)operation,
                                      .flags = flags},
                data, (uint32_t)strlen(data));
}

struct vsock_packet packet_next(struct vsock_fixture *f)
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

bool no_packet(struct vsock_fixture *f)
{
    uint16_t head;
    uint32_t written;

    fake_vm_run_ms(f->vm, 5);
    return !driver_used(&f->driver, RECEIVE, &head, &written);
}

void assert_next(struct vsock_fixture *f, unsigned operation)
{
    assert_int_equal(packet_next(f).operation, operation);
}

int client_open(const char *path)
{
    int fd = -1;

    assert_int_equal(unix_socket_connect(path, &fd, NULL), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

void assert_reads(struct vsock_fixture *f, int fd, const char *text)
{
    char got[256] = {0};

    fake_vm_run_ms(f->vm, 3);
    assert_int_equal(read(fd, got, sizeof(got) - 1), strlen(text));
    assert_string_equal(got, text);
}

void assert_closed(struct vsock_fixture *f, int fd)
{
    char byte;
    ssize_t got;

    fake_vm_run_ms(f->vm, 3);
    got = read(fd, &byte, 1);
    assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
}

int connected(struct vsock_fixture *f, uint32_t *ret_host_port)
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
