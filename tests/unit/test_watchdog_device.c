/* SPDX-License-Identifier: Apache-2.0 */
/* The watchdog's ops on a fake device: what is armed, fed and disarmed, and what is
 * refused. */
#include <errno.h>
#include <linux/watchdog.h>
#include <string.h>

#include "base/err.h"
#include "fencing/watchdog_device.h"
#include "tests/unit/unit.h"

struct fake {
    int open_error, support_error, keepalive_error;
    int timeout_s, min_s;
    bool nowayout;
    unsigned fed;
    bool armed, open;
};

static int fake_open(void *owner, const char *path)
{
    struct fake *fake = owner;
    if (fake->open_error != 0) {
        errno = fake->open_error;
        return -1;
    }
    fake->armed = true;
    fake->open = true;
    return 5;
}

static int refuse(int code)
{
    errno = code;
    return -1;
}

static int fake_ioctl(void *owner, int fd, unsigned long request, void *argument)
{
    struct fake *fake = owner;
    assert_int_equal(fd, 5);
    if (request == WDIOC_GETSUPPORT) {
        struct watchdog_info *info = argument;
        memset(info->identity, 'x', sizeof(info->identity)); /* no final NUL */
        info->options = WDIOF_MAGICCLOSE | WDIOF_SETTIMEOUT;
        return fake->support_error != 0 ? refuse(fake->support_error) : 0;
    }
    if (request == WDIOC_SETTIMEOUT) {
        int wanted = *(int *)argument;
        fake->timeout_s = wanted < fake->min_s ? fake->min_s : wanted;
        return 0;
    }
    if (request == WDIOC_GETTIMEOUT) {
        *(int *)argument = fake->timeout_s;
        return 0;
    }
    if (request == WDIOC_SETOPTIONS) {
        return refuse(ENOTTY);
    }
    assert_int_equal(request, WDIOC_KEEPALIVE);
    if (fake->keepalive_error != 0) {
        return refuse(fake->keepalive_error);
    }
    fake->fed++;
    return 0;
}

static long fake_write(void *owner, int fd, const void *data, size_t size)
{
    struct fake *fake = owner;
    assert_int_equal(size, 1);
    assert_memory_equal(data, "V", 1);
    if (fake->nowayout) {
        return refuse(EPERM);
    }
    fake->armed = false;
    return 1;
}

static int fake_close(void *owner, int fd)
{
    struct fake *fake = owner;
    fake->open = false;
    return 0;
}

static const struct watchdog_device_ops ops = {fake_open, fake_ioctl, fake_write,
                                               fake_close};

static void test_opens_feeds_and_disarms(void **state)
{
    struct fake fake = {0};
    struct watchdog_device *device = NULL;
    assert_int_equal(
        watchdog_device_open("/dev/w", 2000, 20000, &ops, &fake, &device, NULL), 0);
    assert_int_equal(watchdog_device_timeout_ms(device), 2000);
    assert_int_equal(strlen(watchdog_device_name(device)), 32);
    assert_int_equal(watchdog_device_feed(device), 0);
    assert_int_equal(fake.fed, 1);
    fake.keepalive_error = EIO;
    assert_int_equal(watchdog_device_feed(device), -EIO);
    assert_int_equal(watchdog_device_disarm(device, NULL), 0);
    assert_false(fake.armed || fake.open);
    watchdog_device_free(device);
}

static void test_freed_without_disarm_stays_armed(void **state)
{
    struct fake fake = {0};
    struct watchdog_device *device = NULL;
    assert_int_equal(
        watchdog_device_open("/dev/w", 2000, 20000, &ops, &fake, &device, NULL), 0);
    watchdog_device_free(device);
    assert_true(fake.armed);
    assert_false(fake.open);
    watchdog_device_free(NULL);
}

static void test_the_devices_own_timeout_counts(void **state)
{
    struct fake fake = {.min_s = 10};
    struct watchdog_device *device = NULL;
    assert_int_equal(
        watchdog_device_open("/dev/w", 2000, 20000, &ops, &fake, &device, NULL), 0);
    assert_int_equal(watchdog_device_timeout_ms(device), 10000);
    watchdog_device_free(device);
}

static void test_too_long_a_timeout_is_refused_and_disarmed(void **state)
{
    struct fake fake = {.min_s = 60};
    struct watchdog_device *device = NULL;
    struct error err = {0};
    assert_int_equal(
        watchdog_device_open("/dev/w", 2000, 20000, &ops, &fake, &device, &err),
        DROVER_EBADINPUT);
    assert_null(device);
    assert_non_null(strstr(err.text, "60 s"));
    assert_false(fake.armed || fake.open);
}

static void test_what_is_no_watchdog_is_refused(void **state)
{
    struct fake fake = {.support_error = ENOTTY};
    struct watchdog_device *device = NULL;
    struct error err = {0};
    assert_int_equal(
        watchdog_device_open("/dev/null", 2000, 20000, &ops, &fake, &device, &err),
        DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "not a watchdog"));
    assert_false(fake.open);
}

static void test_open_failures_say_what_to_do(void **state)
{
    const struct {
        int code;
        const char *text;
    } rows[] = {
        {ENOENT, "modprobe softdog"}, {EBUSY, "stop it"}, {EACCES, "root"}, {EIO, "input/output"}};
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fake fake = {.open_error = rows[i].code};
        struct watchdog_device *device = NULL;
        struct error err = {0};
        assert_int_equal(
            watchdog_device_open("/dev/w", 2000, 20000, &ops, &fake, &device, &err),
            -rows[i].code);
        assert_non_null(strcasestr(err.text, rows[i].text));
    }
}

static void test_nowayout_is_told(void **state)
{
    struct fake fake = {.nowayout = true};
    struct watchdog_device *device = NULL;
    struct error err = {0};
    assert_int_equal(
        watchdog_device_open("/dev/w", 2000, 20000, &ops, &fake, &device, NULL), 0);
    assert_int_equal(watchdog_device_disarm(device, &err), -EPERM);
    assert_non_null(strstr(err.text, "nowayout"));
    assert_int_equal(watchdog_device_feed(device), 0); /* still ours to feed */
    watchdog_device_free(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opens_feeds_and_disarms),
        cmocka_unit_test(test_freed_without_disarm_stays_armed),
        cmocka_unit_test(test_the_devices_own_timeout_counts),
        cmocka_unit_test(test_too_long_a_timeout_is_refused_and_disarmed),
        cmocka_unit_test(test_what_is_no_watchdog_is_refused),
        cmocka_unit_test(test_open_failures_say_what_to_do),
        cmocka_unit_test(test_nowayout_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
