/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio-vsock device with real unix sockets; the test plays the guest's driver and the
 * host's programs. For tests; the names are short, as they are made of them.
 */
#ifndef DROVER_TESTS_UNIT_VSOCK_FIXTURE_H
#define DROVER_TESTS_UNIT_VSOCK_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/unit/virtio_driver.h"
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

struct broker;

struct vsock_fixture {
    struct vm *vm;
    struct broker *broker;
    struct driver driver;
    char folder[64];
    char path[96];
    uint8_t data[RECEIVE_SIZE]; /* of the last packet that came in */
};

int vsock_fixture_setup(void **state);
int vsock_fixture_teardown(void **state);
#define VSOCK_TEST(name)                                                                 \
    cmocka_unit_test_setup_teardown(name, vsock_fixture_setup, vsock_fixture_teardown)

void vsock_add(struct vsock_fixture *f, struct vm *vm, const char *path);
void receive_buffers_add(struct vsock_fixture *f, unsigned count);
/* The device, with a driver that has given it buffers. */
void start(struct vsock_fixture *f);

/* From the guest; what is 0 is filled in. */
void packet_send(struct vsock_fixture *f, struct vsock_packet packet, const void *data,
                 uint32_t size);
void say(struct vsock_fixture *f, uint32_t host_port, unsigned operation, uint32_t flags,
         const char *data);
/* The next packet to the guest; a new buffer takes its place. */
struct vsock_packet packet_next(struct vsock_fixture *f);
bool no_packet(struct vsock_fixture *f);
void assert_next(struct vsock_fixture *f, unsigned operation);

/* A host program. */
int client_open(const char *path);
void assert_reads(struct vsock_fixture *f, int fd, const char *text);
void assert_closed(struct vsock_fixture *f, int fd);
/* One that has a stream to the guest's port; the host's port of it. */
int connected(struct vsock_fixture *f, uint32_t *ret_host_port);

#endif
