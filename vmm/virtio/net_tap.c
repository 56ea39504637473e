/* SPDX-License-Identifier: Apache-2.0 */
/* Taps: Documentation/networking/tuntap.rst of Linux. */
#include "vmm/virtio/net_tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/host/net_guard.h"
#include "vmm/virtio/net_filter.h"

static int attach_failed(const char *name, unsigned count, int ret, struct error *err)
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
        if (count > 1) {
            return error_set(err, ret,
                             "%s is not a tap with several queues: make it with 'ip "
                             "tuntap add %s mode tap multi_queue', or give queues=1",
                             name, name);
        }
        return error_set(err, ret,
                         "%s is not a tap: make one with 'ip tuntap add NAME mode tap'",
                         name);
    case E2BIG:
        return error_set(err, ret, "tap %s has fewer than %u queues left: give queues=N",
                         name, count);
    default:
        return error_set(err, ret, "can't open tap %s: %s", name, err_text(ret));
    }
}

/* Several processes could open a tap with several queues, and share its packets. */
static int lock_take(const char *name, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP(cleanup_fd) int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int length = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1,
                          "drover-tap-%s", name);

    if (fd < 0) {
        return -errno;
    }
    /* An abstract name: of this network namespace, as the tap's is. */
    if (bind(fd, (const struct sockaddr *)&address,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)) <
        0) {
        return errno == EADDRINUSE ? -EBUSY : -errno;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

static int queue_open(const char *name, short flags, int *ret_fd, struct error *err)
{
    struct ifreq request = {.ifr_flags = flags};
    int header_size = NET_HEADER_SIZE;
    CLEANUP(cleanup_fd) int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        int ret = -errno;

        return error_set(
            err, ret,
            "can't open /dev/net/tun: %s: load the module 'tun', or run as root",
            err_text(ret));
    }
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        return attach_failed(name, 1, -errno, err);
    }
    if (ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0 || ioctl(fd, TUNSETOFFLOAD, 0) < 0) {
        return error_set(err, -errno,
                         "tap %s can't carry virtio-net headers: %s: use a newer kernel",
                         name, err_text(-errno));
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

static unsigned interface_mtu(const char *name)
{
    struct ifreq request = {0};
    CLEANUP(cleanup_fd) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    return fd >= 0 && ioctl(fd, SIOCGIFMTU, &request) == 0 ? (unsigned)request.ifr_mtu
                                                           : 0;
}

static int queues_open(struct net_tap *tap, const char *name, unsigned count,
                       struct error *err)
{
    const short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    int ret = -EINVAL;

    if (count == 1) {
        ret = queue_open(name, flags, &tap->fds[0], err);
        tap->count = ret == 0 ? 1 : 0;
        if (ret != -EINVAL) {
            return ret;
        }
    }
    ret = lock_take(name, &tap->lock_fd);
    if (ret < 0) {
        return attach_failed(name, count, ret, err);
    }
    while (tap->count < count) {
        ret = queue_open(name, flags | IFF_MULTI_QUEUE, &tap->fds[tap->count], err);
        if (ret < 0) {
            return ret == -EINVAL || ret == -E2BIG ? attach_failed(name, count, ret, err)
                                                   : ret;
        }
        tap->count++;
    }
    return 0;
}

void net_tap_init(struct net_tap *tap)
{
    *tap = (struct net_tap){.lock_fd = -1};
}

int net_tap_open(struct net_tap *tap, const char *name, unsigned count, struct error *err)
{
    size_t length = strlen(name);
    int ret;

    CHECK(count >= 1 && count <= NET_PAIRS_MAX && tap->count == 0);
    if (length == 0 || length >= sizeof(tap->name)) {
        return error_set(err, DROVER_EBADINPUT,
                         "'%s' is no name of a tap: 1 to %zu characters", name,
                         sizeof(tap->name) - 1);
    }
    /* The kernel would make one that nobody has connected to anything. */
    if (if_nametoindex(name) == 0) {
        return error_set(
            err, -ENODEV,
            "tap %s does not exist: make it with 'ip tuntap add %s mode tap'", name,
            name);
    }
    ret = queues_open(tap, name, count, err);
    if (ret < 0) {
        net_tap_close(tap);
        return ret;
    }
    memcpy(tap->name, name, length + 1);
    tap->mtu = interface_mtu(name);
    /* What an earlier VMM may have left on a tap that outlives it. */
    net_guard_clean(name);
    (void)net_tap_filter_set(tap, NULL); /* as any new tap */
    return 0;
}

void net_tap_close(struct net_tap *tap)
{
    for (unsigned i = 0; i < tap->count; i++) {
        (void)close(tap->fds[i]);
    }
    if (tap->lock_fd >= 0) {
        (void)close(tap->lock_fd);
    }
    net_tap_init(tap);
}

int net_tap_offload_set(const struct net_tap *tap, unsigned offloads)
{
    unsigned flags = 0;

    /* Without checksums there is nothing to leave unfinished. */
    if (offloads & NET_OFFLOAD_CSUM) {
        flags |= TUN_F_CSUM;
        flags |= offloads & NET_OFFLOAD_TSO4 ? TUN_F_TSO4 : 0;
        flags |= offloads & NET_OFFLOAD_TSO6 ? TUN_F_TSO6 : 0;
        flags |= offloads & NET_OFFLOAD_ECN && flags != TUN_F_CSUM ? TUN_F_TSO_ECN : 0;
    }
    /* Of the interface, whichever queue it is said to. */
    return ioctl(tap->fds[0], TUNSETOFFLOAD, flags) < 0 ? -errno : 0;
}

int net_tap_filter_set(const struct net_tap *tap, const struct net_filter *filter)
{
    static const uint8_t broadcast[NET_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct {
        uint16_t flags, count; /* as in struct tun_filter */
        uint8_t addresses[2 + 2 * NET_TABLE_MAX][NET_MAC_SIZE];
    } list = {0};

    if (filter != NULL && !filter->unicast.overflow &&
        !(filter->mode & (NET_RECEIVE_PROMISCUOUS | NET_RECEIVE_ALL_UNICAST))) {
        list.flags =
            filter->multicast.overflow || (filter->mode & NET_RECEIVE_ALL_MULTICAST) != 0
                ? TUN_FLT_ALLMULTI
                : 0;
        memcpy(list.addresses[list.count++], broadcast, NET_MAC_SIZE);
        memcpy(list.addresses[list.count++], filter->mac, NET_MAC_SIZE);
        memcpy(list.addresses[list.count], filter->unicast.addresses,
               (size_t)filter->unicast.count * NET_MAC_SIZE);
        list.count = (uint16_t)(list.count + filter->unicast.count);
        memcpy(list.addresses[list.count], filter->multicast.addresses,
               (size_t)filter->multicast.count * NET_MAC_SIZE);
        list.count = (uint16_t)(list.count + filter->multicast.count);
    }
    return ioctl(tap->fds[0], TUNSETTXFILTER, &list) < 0 ? -errno : 0;
}

int net_tap_queue_set(const struct net_tap *tap, unsigned queue_index, bool attached)
{
    struct ifreq request = {.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

    CHECK(queue_index < tap->count);
    return ioctl(tap->fds[queue_index], TUNSETQUEUE, &request) < 0 ? -errno : 0;
}
