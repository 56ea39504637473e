/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's watchdog: /dev/watchdog of the kernel, be it hardware or softdog. From open
 * to a successful disarm the host is reset when it isn't fed for its time-out; closing
 * without disarm, or dying, leaves it armed. One thread.
 */
#ifndef DROVER_FENCING_WATCHDOG_DEVICE_H
#define DROVER_FENCING_WATCHDOG_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct watchdog_device;

/* The system calls; NULL in place of the struct: the real ones. All return as the system
 * call does, with errno. */
struct watchdog_device_ops {
    int (*open)(void *owner, const char *path);
    int (*ioctl)(void *owner, int fd, unsigned long request, void *argument);
    long (*write)(void *owner, int fd, const void *data, size_t size);
    int (*close)(void *owner, int fd);
};

/*
 * Opens (and thereby arms) `path`, sets the time-out to `wanted_ms`, and reads back what
 * the device made of it. A device whose time-out can't be had within `max_ms` is disarmed
 * again and refused. On failure, `err` says what to do: -ENOENT no such device, -EBUSY
 * held by somebody else, DROVER_EBADINPUT no watchdog or a time-out that is too long.
 */
int watchdog_device_open(const char *path, uint32_t wanted_ms, uint32_t max_ms,
                         const struct watchdog_device_ops *ops, void *owner,
                         struct watchdog_device **ret_device, struct error *err);
/* Frees without disarming: the host is reset one time-out later unless somebody opens and
 * feeds it. Accepts NULL. */
void watchdog_device_free(struct watchdog_device *device);

/* 0 or -errno. */
int watchdog_device_feed(struct watchdog_device *device);
/* Disarms and closes; the object must still be freed. -EPERM: the device can't be
 * disarmed (nowayout): it goes on counting. */
int watchdog_device_disarm(struct watchdog_device *device, struct error *err);

/* The armed time-out. */
uint32_t watchdog_device_timeout_ms(const struct watchdog_device *device);
/* "Software Watchdog", "i6300ESB timer", ... as the kernel calls it. */
const char *watchdog_device_name(const struct watchdog_device *device);

#endif
