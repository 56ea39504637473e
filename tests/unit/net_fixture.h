/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the tests of virtio-net: a device on a real tap in a network namespace of the
 * test's own; packets are sent and seen through a packet socket on the tap.
 */
#ifndef DROVER_TESTS_NET_FIXTURE_H
#define DROVER_TESTS_NET_FIXTURE_H

#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
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
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtio_net.h"

#define F_MRG_RXBUF      (UINT64_C(1) << 15)
#define F_CTRL_VQ        (UINT64_C(1) << 17)
#define F_GUEST_ANNOUNCE (UINT64_C(1) << 21)
#define DATA_GPA         DRIVER_DATA_GPA
#define HEADER           12u
#define ETHERTYPE_TEST   0x88b5

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct fixture {
    struct vm *vm;
    struct driver driver;
    int socket; /* sees what the guest sends, sends what it receives */
};

static bool have_namespace;

static inline void tap_make(const char *name, short flags)
{
    struct ifreq request = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags)};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0 && control >= 0);
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
    assert_int_equal(ioctl(fd, TUNSETPERSIST, 1), 0);
    (void)close(fd);
    request.ifr_flags = IFF_UP;
    assert_int_equal(ioctl(control, SIOCSIFFLAGS, &request), 0);
    (void)close(control);
}

static inline int socket_open(const char *name)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(name)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static inline int group_setup(void **state)
{
    int fd;

    have_namespace =
        unshare(CLONE_NEWNET) == 0 && access("/dev/net/tun", R_OK | W_OK) == 0;
    if (!have_namespace) {
        return 0;
    }
    /* No packets of the host's own on the taps. */
    fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, "1", 1);
        (void)close(fd);
    }
    tap_make("tap0", 0);
    tap_make("tap1", 0);
    tap_make("tap2", IFF_MULTI_QUEUE);
    tap_make("tap3", IFF_MULTI_QUEUE);
    return 0;
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->socket = -1;
    f->vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    fake_vm_free(f->vm);
    if (f->socket >= 0) {
        (void)close(f->socket);
    }
    free(f);
    return 0;
}

static inline void frame_make(uint8_t *frame, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        frame[i] = (uint8_t)(i * 13 + seed);
    }
    memset(frame, 0xff, 6);
    memcpy(frame + 6, guest_mac, 6);
    frame[12] = ETHERTYPE_TEST >> 8;
    frame[13] = ETHERTYPE_TEST & 0xff;
}

/* The next packet of the test's type that the guest has sent, or -1. */
static inline ssize_t frame_seen(struct fixture *f, uint8_t *frame, size_t size,
                                 unsigned ethertype)
{
    for (;;) {
        ssize_t got = recv(f->socket, frame, size, 0);

        if (got < 0) {
            return -1;
        }
        if (got >= 14 && (unsigned)(frame[12] << 8 | frame[13]) == ethertype) {
            return got;
        }
    }
}

static inline void receive_buffers_add(struct fixture *f, unsigned count, uint32_t size)
{
    for (unsigned i = 0; i < count; i++) {
        struct driver_buffer buffer = {DATA_GPA + 4096u * i, size};

        driver_add(&f->driver, 0, &buffer, 0, 1);
    }
    driver_kick(&f->driver, 0);
}

#endif
