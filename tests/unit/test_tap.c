/* SPDX-License-Identifier: Apache-2.0 */
/* Taps and bridges in a network namespace of the test's own. Skipped without the right to
 * make one, or without /dev/net/tun. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "node-agent/tap.h"
#include "vmm/virtio/net_tap.h"

static int control = -1;

static short flags_of(const char *name)
{
    struct ifreq request = {0};
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    return ioctl(control, SIOCGIFFLAGS, &request) == 0 ? request.ifr_flags : 0;
}

static bool on_bridge(const char *bridge, const char *name)
{
    int members[16] = {0};
    unsigned long arguments[] = {7 /* BRCTL_GET_PORT_LIST */, (unsigned long)members, 16,
                                 0};
    struct ifreq request = {0};
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
    request.ifr_data = (char *)arguments;
    assert_true(ioctl(control, SIOCDEVPRIVATE, &request) >= 0);
    for (unsigned i = 0; i < 16; i++) {
        if (members[i] != 0 && members[i] == (int)if_nametoindex(name)) {
            return true;
        }
    }
    return false;
}

static int setup(void **state)
{
    (void)state;
    assert_int_equal(ioctl(control, SIOCBRADDBR, "br0"), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return ioctl(control, SIOCBRDELBR, "br0");
}

static void test_tap_is_on_its_bridge_and_up(void **state)
{
    struct error err = {0};
    (void)state;
    assert_int_equal(tap_create("dr7e3n0", "br0", &err), 0);
    assert_true((flags_of("dr7e3n0") & IFF_UP) != 0);
    assert_true(on_bridge("br0", "dr7e3n0"));
    /* As the VMM takes it. */
    for (unsigned queues = 1; queues <= 4; queues += 3) {
        struct net_tap tap;
        net_tap_init(&tap);
        assert_int_equal(net_tap_open(&tap, "dr7e3n0", queues, &err), 0);
        assert_int_equal(tap_delete("dr7e3n0"), -EBUSY);
        assert_int_equal(tap_create("dr7e3n0", "br0", &err), -EBUSY);
        net_tap_close(&tap);
    }
    assert_int_equal(tap_delete("dr7e3n0"), 0);
    assert_int_equal(if_nametoindex("dr7e3n0"), 0);
    assert_int_equal(tap_delete("dr7e3n0"), 0);
}

static void test_left_over_tap_is_taken_over(void **state)
{
    struct error err = {0};
    (void)state;
    assert_int_equal(tap_create("dr7e3n0", "br0", &err), 0);
    assert_int_equal(tap_create("dr7e3n0", "br0", &err), 0);
    assert_true(on_bridge("br0", "dr7e3n0"));
    assert_int_equal(tap_delete("dr7e3n0"), 0);
}

static void test_missing_bridge_is_told_with_what_to_do(void **state)
{
    struct error err = {0};
    (void)state;
    assert_int_equal(tap_create("dr7e3n0", "br9", &err), DROVER_ENOTFOUND);
    assert_non_null(strstr(err.text, "ip link add br9 type bridge"));
    assert_int_equal(if_nametoindex("dr7e3n0"), 0);
    assert_true(tap_create("dr7e3n0", "lo", &err) < 0);
    assert_non_null(strstr(err.text, "lo is not a bridge"));
    assert_int_equal(if_nametoindex("dr7e3n0"), 0); /* nothing is left behind */
}

static void test_names_fit_and_tell_epochs_and_nics_apart(void **state)
{
    char names[4][TAP_NAME_SIZE];
    (void)state;
    tap_name(7, 3, 0, names[0]);
    assert_string_equal(names[0], "dr7e3n0");
    tap_name(UINT64_MAX, UINT64_MAX, 7, names[1]);
    tap_name(UINT64_MAX, UINT64_MAX, 6, names[2]);
    tap_name(UINT64_MAX, UINT64_MAX - 1, 6, names[3]);
    assert_true(strlen(names[1]) < TAP_NAME_SIZE);
    assert_string_not_equal(names[1], names[2]);
    assert_string_not_equal(names[2], names[3]);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_tap_is_on_its_bridge_and_up),
        CASE(test_left_over_tap_is_taken_over),
        CASE(test_missing_bridge_is_told_with_what_to_do),
        cmocka_unit_test(test_names_fit_and_tell_epochs_and_nics_apart),
    };
    if (access("/dev/net/tun", R_OK | W_OK) != 0 || unshare(CLONE_NEWNET) != 0) {
        (void)printf("skipped: needs root and /dev/net/tun\n");
        return 77;
    }
    control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (ioctl(control, SIOCBRADDBR, "br7") != 0) {
        (void)printf("skipped: this kernel makes no bridges: modprobe bridge\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
