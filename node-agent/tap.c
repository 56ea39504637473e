/* SPDX-License-Identifier: Apache-2.0 */
/* Tap devices of VMs' NICs, by the ioctls of /dev/net/tun and of bridges. */
#include "node-agent/tap.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

static_assert(TAP_NAME_SIZE == IFNAMSIZ, "the kernel's size of interface names");

void tap_name(uint64_t vm_id, uint64_t epoch, unsigned nic_index,
              char ret_name[TAP_NAME_SIZE])
{
    char text[64];
    int length = snprintf(text, sizeof(text), "dr%" PRIu64 "e%" PRIu64 "n%u", vm_id,
                          epoch, nic_index);
    if (length < TAP_NAME_SIZE) {
        memcpy(ret_name, text, (size_t)length + 1);
        return;
    }
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (const char *at = text; *at != '\0'; at++) {
        hash = (hash ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
    }
    (void)snprintf(ret_name, TAP_NAME_SIZE, "dr%012" PRIx64,
                   hash & UINT64_C(0xffffffffffff));
}

static void request_init(struct ifreq *request, const char *name)
{
    memset(request, 0, sizeof(*request));
    (void)snprintf(request->ifr_name, sizeof(request->ifr_name), "%s", name);
}

static int tap_open_as(const char *name, short flags)
{
    CLEANUP(cleanup_fd) int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    struct ifreq request;
    request_init(&request, name);
    request.ifr_flags = flags;
    if (ioctl(fd, TUNSETIFF, &request) != 0) {
        return -errno;
    }
    return take_fd(&fd);
}

/* The VMM's sign that it has a tap with several queues open, which the kernel would let
 * others open too (vmm/virtio/net_tap.c). */
static bool in_use(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP(cleanup_fd) int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int length = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1,
                          "drover-tap-%s", name);
    return fd >= 0 &&
           bind(fd, (const struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                            (size_t)length)) < 0 &&
           errno == EADDRINUSE;
}

/*
 * Opens the tap of that name, which makes it if there is none: with several queues, so
 * that the VMM may open as many as its guest has. -EBUSY while a process has it open.
 */
static int tap_open(const char *name)
{
    const short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (in_use(name)) {
        return -EBUSY;
    }
    int fd = tap_open_as(name, flags | IFF_MULTI_QUEUE);
    /* One that an older droverd has left. */
    return fd == -EINVAL ? tap_open_as(name, flags) : fd;
}

/* The host itself must not take part in the guest's network through the tap. */
static void without_ipv6(const char *name)
{
    char path[96];
    (void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
    CLEANUP(cleanup_fd) int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "1", 1) < 0) {
        return; /* only tidiness: a host without IPv6 has no such file */
    }
}

static int attach(int control, const char *name, const char *bridge, struct error *err)
{
    struct ifreq request;
    request_init(&request, bridge);
    if (ioctl(control, SIOCGIFMTU, &request) == 0) {
        /* Else a tap's 1500 would lower the MTU of the whole bridge. */
        int mtu = request.ifr_mtu;
        request_init(&request, name);
        request.ifr_mtu = mtu;
        (void)ioctl(control, SIOCSIFMTU, &request); /* the default does too */
    }
    without_ipv6(name);
    request_init(&request, bridge);
    request.ifr_ifindex = (int)if_nametoindex(name);
    if (ioctl(control, SIOCBRADDIF, &request) != 0 && errno != EBUSY) {
        if (errno == EOPNOTSUPP || errno == ENODEV) {
            return error_set(err, -errno,
                             "%s is not a bridge on this host: name a bridge in the NIC",
                             bridge);
        }
        return error_set(err, -errno, "can't attach tap %s to bridge %s: %s", name,
                         bridge, strerror(errno));
    }
    request_init(&request, name);
    if (ioctl(control, SIOCGIFFLAGS, &request) != 0) {
        return error_set(err, -errno, "tap %s has vanished: %s", name, strerror(errno));
    }
    request.ifr_flags |= IFF_UP;
    if (ioctl(control, SIOCSIFFLAGS, &request) != 0) {
        return error_set(err, -errno, "can't set tap %s up: %s", name, strerror(errno));
    }
    return 0;
}

int tap_create(const char *name, const char *bridge, struct error *err)
{
    if (strlen(bridge) >= IFNAMSIZ || if_nametoindex(bridge) == 0) {
        return error_set(
            err, DROVER_ENOTFOUND,
            "bridge %s is not there on this host: make it (ip link add %s type bridge; "
            "ip link set %s up), or name another in the NIC",
            bridge, bridge, bridge);
    }
    CLEANUP(cleanup_fd) int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control < 0) {
        return error_set(err, -errno, "can't open a socket: %s", strerror(errno));
    }
    CLEANUP(cleanup_fd) int fd = tap_open(name);
    if (fd < 0) {
        int rv = fd;
        const char *what = rv == -EBUSY    ? "another process has it open"
                           : rv == -ENOENT ? "/dev/net/tun is missing: modprobe tun"
                                           : strerror(-rv);
        return error_set(err, rv, "can't make tap %s: %s", name, what);
    }
    int rv = attach(control, name, bridge, err);
    if (rv == 0 && ioctl(fd, TUNSETPERSIST, 1) != 0) {
        rv = error_set(err, -errno, "can't keep tap %s: %s", name, strerror(errno));
    }
    if (rv != 0) {
        (void)ioctl(fd, TUNSETPERSIST,
                    0); /* if it was a left-over one: gone with its descriptor */
    }
    return rv;
}

int tap_delete(const char *name)
{
    if (if_nametoindex(name) == 0) {
        return 0;
    }
    CLEANUP(cleanup_fd) int fd = tap_open(name);
    if (fd < 0) {
        return fd;
    }
    return ioctl(fd, TUNSETPERSIST, 0) == 0 ? 0 : -errno;
}
