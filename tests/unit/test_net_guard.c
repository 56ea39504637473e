/* SPDX-License-Identifier: Apache-2.0 */
/* The gate on a real tap: what is written to the tap, as vhost's worker would, and what
 * comes out. Skipped where no namespace or no eBPF program can be made. */
#include "tests/unit/net_fixture.h"

#include "base/clock.h"
#include "vmm/host/net_guard.h"
#include "vmm/virtio/net_tap.h"

struct gate {
    struct net_tap tap;
    struct net_guard *guard;
    int behind;
};

/* Sees what has passed the ingress: a socket for one protocol stands behind it, one for
 * all before it. */
static int behind_open(void)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETHERTYPE_TEST),
                                  .sll_ifindex = (int)if_nametoindex("tap0")};
    int fd =
        socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETHERTYPE_TEST));

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static int gate_setup(void **state)
{
    struct gate *g = calloc(1, sizeof(*g));
    struct error err = {0};

    *state = g;
    net_tap_init(&g->tap);
    if (!have_namespace) {
        return 0;
    }
    assert_int_equal(net_tap_open(&g->tap, "tap0", 1, NULL), 0);
    g->behind = behind_open();
    if (net_guard_create("tap0", &g->guard, &err) < 0) {
        print_message("%s\n", err.text);
    }
    return 0;
}

static int gate_teardown(void **state)
{
    struct gate *g = *state;

    net_guard_free(g->guard);
    net_guard_clean("tap0");
    net_tap_close(&g->tap);
    if (have_namespace) {
        (void)close(g->behind);
    }
    free(g);
    return 0;
}

/* Whether a frame with this source passes. */
static bool passes(struct gate *g, const uint8_t source[6])
{
    uint8_t frame[HEADER + 60] = {0};
    uint8_t seen[256];

    memset(frame + HEADER, 0xff, 6);
    memcpy(frame + HEADER + 6, source, 6);
    frame[HEADER + 12] = ETHERTYPE_TEST >> 8;
    frame[HEADER + 13] = ETHERTYPE_TEST & 0xff;
    assert_int_equal(write(g->tap.fds[0], frame, sizeof(frame)), sizeof(frame));
    return recv(g->behind, seen, sizeof(seen), 0) > 0;
}

#define NEEDS_GATE(g)                                                                    \
    if ((g)->guard == NULL) {                                                            \
        skip();                                                                          \
    }

static void test_gate_is_closed_until_it_is_opened(void **state)
{
    struct gate *g = *state;

    NEEDS_GATE(g);
    assert_false(passes(g, guest_mac));
    net_guard_deadline_set(g->guard, UINT64_MAX);
    assert_true(passes(g, guest_mac));
}

static void test_nothing_passes_after_the_deadline_whoever_writes(void **state)
{
    struct gate *g = *state;
    uint64_t deadline_ns = clock_now_ns() + 300 * NS_PER_MS;

    NEEDS_GATE(g);
    net_guard_deadline_set(g->guard, deadline_ns);
    assert_true(passes(g, guest_mac));
    while (clock_now_ns() < deadline_ns) {
        (void)usleep(10000);
    }
    assert_false(passes(g, guest_mac));
    net_guard_deadline_set(g->guard, clock_now_ns() + NS_PER_S);
    assert_true(passes(g, guest_mac));
    net_guard_deadline_set(g->guard, 0);
    assert_false(passes(g, guest_mac));
}

static void test_only_the_guests_address_passes(void **state)
{
    static const uint8_t other[6] = {0x52, 0x54, 0, 1, 2, 4};
    struct gate *g = *state;

    NEEDS_GATE(g);
    net_guard_deadline_set(g->guard, UINT64_MAX);
    net_guard_mac_set(g->guard, guest_mac);
    assert_true(passes(g, guest_mac));
    assert_false(passes(g, other));
    assert_int_equal(net_guard_spoofed(g->guard), 1);
    net_guard_mac_set(g->guard, NULL);
    assert_true(passes(g, other));
}

static void test_gate_that_was_left_is_replaced_and_removed(void **state)
{
    struct gate *g = *state;
    struct net_guard *second = NULL;

    NEEDS_GATE(g);
    assert_int_equal(net_guard_create("tap0", &second, NULL), 0);
    net_guard_deadline_set(second, UINT64_MAX);
    assert_true(passes(g, guest_mac));
    net_guard_free(second);
    assert_false(passes(g, guest_mac)); /* it stays, closed */
    net_guard_clean("tap0");
    assert_true(passes(g, guest_mac));
}

/* Of a NIC that goes on without vhost: its frames are written by the VMM itself then. */
static void test_gate_that_is_left_open_keeps_nothing_back(void **state)
{
    static const uint8_t other[6] = {0x52, 0x54, 0, 1, 2, 4};
    struct gate *g = *state;

    NEEDS_GATE(g);
    net_guard_mac_set(g->guard, guest_mac);
    net_guard_deadline_set(g->guard, clock_now_ns() + NS_PER_S);
    net_guard_leave_open(g->guard);
    g->guard = NULL;
    assert_true(passes(g, guest_mac));
    assert_true(passes(g, other));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, gate_setup, gate_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_gate_is_closed_until_it_is_opened),
        TEST(test_nothing_passes_after_the_deadline_whoever_writes),
        TEST(test_only_the_guests_address_passes),
        TEST(test_gate_that_was_left_is_replaced_and_removed),
        TEST(test_gate_that_is_left_open_keeps_nothing_back),
    };

    return cmocka_run_group_tests(tests, group_setup, NULL);
}
