/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock: streams between host programs and the guest, from their first words to their
 * last ones, and how much may be on its way. */
#include "tests/unit/vsock_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vmm/device.h"
#include "vmm/host/unix_socket.h"

static void test_host_program_talks_to_the_guest(void **state)
{
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;

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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;

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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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
    struct vsock_fixture *f = *state;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        VSOCK_TEST(test_host_program_talks_to_the_guest),
        VSOCK_TEST(test_what_follows_the_greeting_is_for_the_guest),
        VSOCK_TEST(test_guest_reaches_a_host_program),
        VSOCK_TEST(test_ports_without_a_program_are_refused),
        VSOCK_TEST(test_guest_refuses_a_host_program),
        VSOCK_TEST(test_greetings_that_are_none_are_hung_up_on),
        VSOCK_TEST(test_half_closed_program_still_gets_the_answer),
        VSOCK_TEST(test_guest_is_given_no_more_than_its_credit),
        VSOCK_TEST(test_slow_program_holds_the_guest_back_and_loses_nothing),
        VSOCK_TEST(test_guest_that_ignores_its_credit_loses_the_connection),
        VSOCK_TEST(test_gone_program_resets_the_guest_after_its_last_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
