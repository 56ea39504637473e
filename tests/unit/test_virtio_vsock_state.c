/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock: what becomes of its streams when the device stops, is reset or moves, and
 * which guests and how many connections it stands. */
#include "tests/unit/vsock_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "base/buffer.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtio_vsock.h"

static void test_stopped_device_moves_nothing_and_goes_on(void **state)
{
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
    int fd;

    vsock_add(f, f->vm, f->path);
    fd = client_open(f->path);
    assert_true(write(fd, "CONNECT 1234\n", 13) > 0);
    assert_closed(f, fd);
    (void)close(fd);
}

static void test_reset_ends_all_connections(void **state)
{
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;

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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        VSOCK_TEST(test_stopped_device_moves_nothing_and_goes_on),
        VSOCK_TEST(test_guest_without_a_driver_refuses_programs),
        VSOCK_TEST(test_reset_ends_all_connections),
        VSOCK_TEST(test_move_tells_the_guest_that_its_connections_are_gone),
        VSOCK_TEST(test_move_that_failed_keeps_the_connections),
        VSOCK_TEST(test_connections_are_bounded_and_come_back),
        VSOCK_TEST(test_packets_of_another_cid_go_nowhere),
        VSOCK_TEST(test_packet_that_lies_about_its_size_stops_the_device),
        VSOCK_TEST(test_guest_without_buffers_waits_with_its_packets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
