/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's watchdog API: Documentation/watchdog/watchdog-api.rst. */
#include "fencing/watchdog_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/watchdog.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"

struct watchdog_device {
    const struct watchdog_device_ops *ops;
    void *owner;
    int fd; /* -1: disarmed and closed */
    uint32_t timeout_ms;
    bool magic_close; /* may be disarmed by the magic character */
    char name[sizeof(((struct watchdog_info *)0)->identity) + 1];
};

static int real_open(void *owner, const char *path)
{
    return open(path, O_WRONLY | O_CLOEXEC);
}

static int real_ioctl(void *owner, int fd, unsigned long request, void *argument)
{
    return ioctl(fd, request, argument);
}

static long real_write(void *owner, int fd, const void *data, size_t size)
{
    return write(fd, data, size);
}

static int real_close(void *owner, int fd)
{
    return close(fd);
}

static const struct watchdog_device_ops real_ops = {real_open, real_ioctl, real_write,
                                                    real_close};

static int open_error(const char *path, int code, struct error *err)
{
    switch (code) {
    case ENOENT:
        return error_set(err, -code,
                         "no watchdog at %s: load the driver of this host's, or softdog "
                         "(modprobe softdog)",
                         path);
    case EBUSY:
        return error_set(err, -code,
                         "the watchdog %s is held by another program: stop it (sbd, "
                         "watchdog, wdmd; systemd: RuntimeWatchdogSec=0)",
                         path);
    case EACCES:
        return error_set(err, -code, "may not open the watchdog %s: run as root", path);
    default:
        return error_set(err, -code, "can't open the watchdog %s: %s", path,
                         strerror(code));
    }
}

static int set_timeout(struct watchdog_device *device, const char *path,
                       uint32_t wanted_ms, uint32_t max_ms, struct error *err)
{
    int seconds = (int)((wanted_ms + 999) / 1000);
    /* A device of fixed time-out refuses: what it has is read back, and judged alike. */
    (void)device->ops->ioctl(device->owner, device->fd, WDIOC_SETTIMEOUT, &seconds);
    seconds = 0;
    if (device->ops->ioctl(device->owner, device->fd, WDIOC_GETTIMEOUT, &seconds) < 0) {
        int code = errno;
        return error_set(err, -code, "the watchdog %s (%s) doesn't tell its time-out: %s",
                         path, device->name, strerror(code));
    }
    if (seconds <= 0 || (uint64_t)seconds * 1000 > max_ms) {
        return error_set(
            err, DROVER_EBADINPUT,
            "the watchdog %s (%s) has a time-out of %d s where 1 to %u s are "
            "needed: choose another device, or softdog",
            path, device->name, seconds, max_ms / 1000);
    }
    device->timeout_ms = (uint32_t)seconds * 1000;
    return 0;
}

int watchdog_device_open(const char *path, uint32_t wanted_ms, uint32_t max_ms,
                         const struct watchdog_device_ops *ops, void *owner,
                         struct watchdog_device **ret_device, struct error *err)
{
    CHECK(wanted_ms > 0 && wanted_ms <= max_ms);
    struct watchdog_device *device = calloc(1, sizeof(*device));
    if (device == NULL) {
        return error_set(err, -ENOMEM, "no memory");
    }
    device->ops = ops != NULL ? ops : &real_ops;
    device->owner = owner;
    device->fd = device->ops->open(owner, path);
    if (device->fd < 0) {
        int error = open_error(path, errno, err);
        free(device);
        return error;
    }
    struct watchdog_info info = {0};
    int error;
    if (device->ops->ioctl(owner, device->fd, WDIOC_GETSUPPORT, &info) < 0) {
        error = error_set(err, DROVER_EBADINPUT,
                          "%s is not a watchdog: give the path of one, as /dev/watchdog0",
                          path);
    } else {
        memcpy(device->name, info.identity, sizeof(info.identity)); /* NUL by calloc */
        device->magic_close = (info.options & WDIOF_MAGICCLOSE) != 0;
        error = set_timeout(device, path, wanted_ms, max_ms, err);
    }
    if (error != 0) {
        /* Best effort: it was armed by opening it, and the failure is told already. */
        (void)watchdog_device_disarm(device, NULL);
        watchdog_device_free(device);
        return error;
    }
    *ret_device = device;
    return 0;
}

void watchdog_device_free(struct watchdog_device *device)
{
    if (device == NULL) {
        return;
    }
    if (device->fd >= 0) {
        (void)device->ops->close(device->owner,
                                 device->fd); /* stays armed, as promised */
    }
    free(device);
}

int watchdog_device_feed(struct watchdog_device *device)
{
    CHECK(device->fd >= 0);
    int ignored = 0;
    if (device->ops->ioctl(device->owner, device->fd, WDIOC_KEEPALIVE, &ignored) < 0) {
        return -errno;
    }
    return 0;
}

int watchdog_device_disarm(struct watchdog_device *device, struct error *err)
{
    CHECK(device->fd >= 0);
    bool disarmed = false;
    int options = WDIOS_DISABLECARD;
    if (device->magic_close) {
        disarmed = device->ops->write(device->owner, device->fd, "V", 1) == 1;
    } else {
        disarmed = device->ops->ioctl(device->owner, device->fd, WDIOC_SETOPTIONS,
                                      &options) == 0;
    }
    if (!disarmed) {
        return error_set(
            err, -EPERM,
            "the watchdog (%s) can't be disarmed (nowayout): the host will be "
            "reset when it is not fed any more",
            device->name);
    }
    (void)device->ops->close(device->owner, device->fd); /* the fd is gone in any case */
    device->fd = -1;
    return 0;
}

uint32_t watchdog_device_timeout_ms(const struct watchdog_device *device)
{
    return device->timeout_ms;
}

const char *watchdog_device_name(const struct watchdog_device *device)
{
    return device->name;
}
