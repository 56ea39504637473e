/* SPDX-License-Identifier: Apache-2.0 */
/* How fast a host's network is: by its cards, whatever else is joined to them. The folder is laid out like /sys/class/net. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "node-agent/link_speed.h"

static char devices[] = "/tmp/drover-link-XXXXXX";

static void put(const char *name, const char *entry, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", devices, name);
    (void)mkdir(path, 0700); /* may be there */
    (void)snprintf(path, sizeof(path), "%s/%s/%s", devices, name, entry);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fprintf(file, "%s\n", text) > 0);
    assert_int_equal(fclose(file), 0);
}

static void card(const char *name, const char *speed)
{
    put(name, "device", "");
    put(name, "speed", speed);
}

static void tap(const char *name)
{
    put(name, "tun_flags", "0x1002");
    put(name, "speed", "10"); /* Linux says so of each */
}

static void assert_mbits(const char *name, uint64_t mbits)
{
    assert_int_equal(link_speed_mbits(devices, name), mbits);
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(devices, sizeof(devices), "/tmp/drover-link-XXXXXX");
    return mkdtemp(devices) == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[64];
    (void)snprintf(command, sizeof(command), "rm -r %s", devices);
    return system(command);
}

static void a_card_is_believed(void **state)
{
    (void)state;
    card("eth0", "25000");
    assert_mbits("eth0", 25000);
}

static void a_card_that_does_not_know_is_unknown(void **state)
{
    (void)state;
    card("eth0", "-1");
    put("eth1", "device", ""); /* down: its speed can't be read */
    assert_mbits("eth0", 0);
    assert_mbits("eth1", 0);
    assert_mbits("eth7", 0);
}

/* So it was: an agent that was started anew beside its guests let moves have a MB/s. */
static void taps_of_a_bridge_say_nothing(void **state)
{
    (void)state;
    card("eth0", "-1");
    tap("dr1e1n0");
    put("drover0", "lower_eth0", "");
    put("drover0", "lower_dr1e1n0", "");
    put("drover0", "speed", "10"); /* its fastest port's */
    assert_mbits("drover0", 0);
    assert_mbits("dr1e1n0", 0);
}

static void a_bridge_is_as_fast_as_its_card(void **state)
{
    (void)state;
    card("eth0", "1000");
    tap("dr1e1n0");
    put("veth7", "speed", "10000");
    put("drover0", "lower_eth0", "");
    put("drover0", "lower_dr1e1n0", "");
    put("drover0", "lower_veth7", "");
    put("drover0", "speed", "10000");
    assert_mbits("drover0", 1000);
}

static void a_bond_adds_up_and_others_pass_on(void **state)
{
    (void)state;
    card("eth0", "10000");
    card("eth1", "10000");
    put("bond0", "bonding", "");
    put("bond0", "lower_eth0", "");
    put("bond0", "lower_eth1", "");
    put("bond0", "speed", "20000");
    put("bond0.7", "lower_bond0", "");
    put("bond0.7", "speed", "20000");
    put("drover0", "lower_bond0.7", "");
    put("drover0", "speed", "20000");
    assert_mbits("drover0", 20000);
}

static void a_ring_ends(void **state)
{
    (void)state;
    put("a", "lower_b", "");
    put("b", "lower_a", "");
    assert_mbits("a", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_card_is_believed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_card_that_does_not_know_is_unknown, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(taps_of_a_bridge_say_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_bridge_is_as_fast_as_its_card, setup, teardown),
        cmocka_unit_test_setup_teardown(a_bond_adds_up_and_others_pass_on, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_ring_ends, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
