/* SPDX-License-Identifier: Apache-2.0 */
/* Taps: Documentation/networking/tuntap.rst of Linux. */
#include "vmm/virtio/net_tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/err.h"

static int attach_failed(const char *name, int ret, struct error *err)
{
    switch (-ret) {
    case EBUSY:
        return error_set(err, DROVER_EINUSE,
                         "tap %s is in use by another process: give each VM its own",
                         name);
    case EPERM:
        return error_set(
            err, ret,
            "no permission to open tap %s: run as root, or make the tap with "
            "'ip tuntap add %s mode tap user USER'",
            name, name);
    case EINVAL:
        return error_set(
            err, ret,
            "%s is not a tap, or has several queues: make it with 'ip tuntap add NAME "
            "mode tap'",
            name);
    default:
        return error_set(err, ret, "can't open tap %s: %s", name, err_text(ret));
    }
}

int net_tap_open(const char *name, int *ret_fd, struct error *err)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int header_size = NET_HEADER_SIZE;
    size_t length = strlen(name);

    if (length == 0 || length >= sizeof(request.ifr_name)) {
        return error_set(err, DROVER_EBADINPUT,
                         "'%s' is no name of a tap: 1 to %zu characters", name,
                         sizeof(request.ifr_name) - 1);
    }
    /* The kernel would make one that nobody has connected to anything. */
    if (if_nametoindex(name) == 0) {
        return error_set(
            err, -ENODEV,
            "tap %s does not exist: make it with 'ip tuntap add %s mode tap'", name,
            name);
    }
    CLEANUP(cleanup_fd) int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return error_set(
            err, -errno,
            "can't open /dev/net/tun: %s: load the module 'tun', or run as root",
            err_text(-errno));
    }
    memcpy(request.ifr_name, name, length);
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        return attach_failed(name, -errno, err);
    }
    if (ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0 || ioctl(fd, TUNSETOFFLOAD, 0) < 0) {
        return error_set(err, -errno,
                         "tap %s can't carry virtio-net headers: %s: use a newer kernel",
                         name, err_text(-errno));
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

int net_tap_offload_set(int fd, unsigned offloads)
{
    unsigned flags = 0;

    /* Without checksums there is nothing to leave unfinished. */
    if (offloads & NET_OFFLOAD_CSUM) {
        flags |= TUN_F_CSUM;
        flags |= offloads & NET_OFFLOAD_TSO4 ? TUN_F_TSO4 : 0;
        flags |= offloads & NET_OFFLOAD_TSO6 ? TUN_F_TSO6 : 0;
        flags |= offloads & NET_OFFLOAD_ECN && flags != TUN_F_CSUM ? TUN_F_TSO_ECN : 0;
    }
    return ioctl(fd, TUNSETOFFLOAD, flags) < 0 ? -errno : 0;
}
