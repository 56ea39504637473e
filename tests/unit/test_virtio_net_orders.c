/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net: several pairs of queues, the guest's orders, which frames pass, limits. On
 * real taps: skipped where no namespace can be made (no root). */
#include "tests/unit/net_fixture.h"

#include "base/clock.h"
#include "vmm/virtio/net_filter.h"

#define F_MTU      (UINT64_C(1) << 3)
#define F_CTRL_RX  (UINT64_C(1) << 18)
#define F_MQ       (UINT64_C(1) << 22)
#define F_CTRL_MAC (UINT64_C(1) << 23)

#define PAIRS         2
#define ANSWER_GPA    (DATA_GPA + 0x8000u)
#define RECEIVE_GPA   (DATA_GPA + 0x10000u)
#define ORDERS        (F_CTRL_VQ | F_CTRL_RX | F_CTRL_MAC)
#define BUFFERS       16
#define CONTROL_QUEUE (2 * PAIRS)

static void net_add(struct fixture *f, struct virtio_net_config config, uint64_t features)
{
    struct error err = {0};
    unsigned queues = features & F_MQ ? CONTROL_QUEUE + 1 : 3;

    if (!have_namespace) {
        skip();
    }
    config.has_mac = true;
    memcpy(config.mac, guest_mac, 6);
    if (virtio_net_create(f->vm, &config, &err) < 0) {
        fail_msg("%s", err.text);
    }
    f->socket = socket_open(config.tap);
    driver_init(&f->driver, f->vm, 1);
    assert_true(driver_start(&f->driver, features, queues, 64));
    fake_vm_run_ms(f->vm, 2);
}

/* Runs an order on control queue `queue`; its answer. */
static uint8_t order(struct fixture *f, unsigned queue, const void *data, uint32_t size)
{
    struct driver_buffer buffers[2] = {{DATA_GPA, size}, {ANSWER_GPA, 1}};
    uint8_t answer = 9;
    uint16_t head;
    uint32_t written;

    driver_memory_write(&f->driver, DATA_GPA, data, size);
    driver_add(&f->driver, queue, buffers, 1, 1);
    driver_kick(&f->driver, queue);
    assert_true(driver_wait(&f->driver, queue, &head, &written));
    assert_int_equal(written, 1);
    driver_memory_read(&f->driver, ANSWER_GPA, &answer, 1);
    return answer;
}

static void buffers_add(struct fixture *f, unsigned pair)
{
    for (unsigned i = 0; i < BUFFERS; i++) {
        struct driver_buffer buffer = {RECEIVE_GPA + 0x10000u * pair + 2048u * i, 2048};

        driver_add(&f->driver, 2 * pair, &buffer, 0, 1);
    }
    driver_kick(&f->driver, 2 * pair);
    fake_vm_run_ms(f->vm, 2);
}

static unsigned used_count(struct fixture *f, unsigned queue)
{
    uint16_t head;
    uint32_t written;
    unsigned count = 0;

    while (driver_used(&f->driver, queue, &head, &written)) {
        count++;
    }
    return count;
}

static void frame_send(struct fixture *f, unsigned queue, const uint8_t source[6],
                       uint8_t mark)
{
    struct driver_buffer buffer = {DATA_GPA, HEADER + 60};
    uint8_t frame[HEADER + 60] = {0};
    uint16_t head;
    uint32_t written;

    frame_make(frame + HEADER, 60, mark);
    memcpy(frame + HEADER + 6, source, 6);
    driver_memory_write(&f->driver, DATA_GPA, frame, sizeof(frame));
    driver_add(&f->driver, queue, &buffer, 1, 0);
    driver_kick(&f->driver, queue);
    assert_true(driver_wait(&f->driver, queue, &head, &written));
}

static bool frame_left(struct fixture *f)
{
    uint8_t seen[2048];

    return frame_seen(f, seen, sizeof(seen), ETHERTYPE_TEST) == 60;
}

/* A UDP packet of its own flow. */
static void flow_packet_send(struct fixture *f, uint16_t port)
{
    uint8_t frame[64] = {
        [12] = 0x08, [14] = 0x45, [17] = 50, [22] = 64, [23] = 17, [26] = 10,
        [29] = 1,    [30] = 10,   [33] = 2,  [36] = 0,  [37] = 9,  [39] = 30};

    memset(frame, 0xff, 6);
    memcpy(frame + 6, guest_mac, 5);
    frame[34] = (uint8_t)(port >> 8);
    frame[35] = (uint8_t)port;
    assert_int_equal(send(f->socket, frame, sizeof(frame), 0), sizeof(frame));
}

static void test_guest_takes_two_pairs_and_both_carry_packets(void **state)
{
    static const uint8_t pairs_set[4] = {4, 0, PAIRS, 0};
    struct fixture *f = *state;
    unsigned first, second;

    net_add(f, (struct virtio_net_config){.tap = "tap2", .queues = PAIRS},
            ORDERS | F_MQ | F_MRG_RXBUF);
    assert_int_equal(driver_read(&f->driver, f->driver.config + 8, 2), PAIRS);
    assert_int_equal(driver_read(&f->driver, f->driver.common + 18, 2), 5);
    buffers_add(f, 0);
    buffers_add(f, 1);
    assert_int_equal(order(f, CONTROL_QUEUE, pairs_set, 4), 0);
    for (uint16_t port = 1; port <= BUFFERS; port++) {
        flow_packet_send(f, port * 77);
    }
    fake_vm_run_ms(f->vm, 10);
    first = used_count(f, 0);
    second = used_count(f, 2);
    assert_int_equal(first + second, BUFFERS);
    assert_true(first > 0 && second > 0);
    frame_send(f, 1, guest_mac, 1);
    assert_true(frame_left(f));
    frame_send(f, 3, guest_mac, 2);
    assert_true(frame_left(f));
}

static void test_guest_with_one_pair_gets_what_all_queues_of_the_tap_bring(void **state)
{
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap2", .queues = PAIRS}, ORDERS);
    buffers_add(f, 0);
    for (uint16_t port = 1; port <= BUFFERS; port++) {
        flow_packet_send(f, port * 77);
    }
    fake_vm_run_ms(f->vm, 10);
    assert_int_equal(used_count(f, 0), BUFFERS);
}

static void test_wrong_numbers_of_pairs_are_refused(void **state)
{
    static const uint8_t none[4] = {4, 0, 0, 0}, three[4] = {4, 0, 3, 0};
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap2", .queues = PAIRS}, ORDERS | F_MQ);
    assert_int_equal(order(f, CONTROL_QUEUE, none, 4), 1);
    assert_int_equal(order(f, CONTROL_QUEUE, three, 4), 1);
    assert_int_equal(order(f, CONTROL_QUEUE, three, 3), 1); /* cut */
}

static void test_frames_of_other_addresses_do_not_leave(void **state)
{
    static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9};
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap0"}, ORDERS);
    frame_send(f, 1, other, 1);
    frame_send(f, 1, other, 2);
    assert_false(frame_left(f));
    assert_int_equal(fake_vm_logged(f->vm, "52:54:00:09:09:09"), 1);
    frame_send(f, 1, guest_mac, 3);
    assert_true(frame_left(f));
}

static void test_any_mac_lets_frames_of_other_addresses_leave(void **state)
{
    static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9};
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap0", .any_mac = true}, ORDERS);
    frame_send(f, 1, other, 1);
    assert_true(frame_left(f));
}

static void test_guest_may_set_no_address_but_its_own(void **state)
{
    uint8_t set[8] = {1, 1, 0x52, 0x54, 0, 9, 9, 9};
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap0"}, ORDERS);
    assert_int_equal(order(f, 2, set, 8), 1);
    assert_int_equal(driver_read(&f->driver, f->driver.config, 4), 0x01005452);
    memcpy(set + 2, guest_mac, 6);
    assert_int_equal(order(f, 2, set, 8), 0);
}

static void test_guest_with_any_mac_may_set_an_address(void **state)
{
    uint8_t set[8] = {1, 1, 0x52, 0x54, 0, 9, 9, 9};
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap0", .any_mac = true}, ORDERS);
    assert_int_equal(order(f, 2, set, 8), 0);
    assert_int_equal(driver_read(&f->driver, f->driver.config, 4), 0x09005452);
    set[2] |= 1; /* a group */
    assert_int_equal(order(f, 2, set, 8), 1);
    driver_write(&f->driver, f->driver.common + DRIVER_STATUS, 0, 1);
    assert_int_equal(driver_read(&f->driver, f->driver.config, 4), 0x01005452);
}

static void frame_to(struct fixture *f, const uint8_t destination[6])
{
    uint8_t frame[60];

    frame_make(frame, sizeof(frame), 1);
    memcpy(frame, destination, 6);
    assert_int_equal(send(f->socket, frame, sizeof(frame), 0), sizeof(frame));
    fake_vm_run_ms(f->vm, 3);
}

static void test_receive_mode_and_tables_choose_the_frames(void **state)
{
    static const uint8_t group[6] = {1, 0, 0x5e, 0, 0, 7}, other[6] = {2, 0, 0, 0, 0, 7};
    static const uint8_t promiscuous_off[3] = {0, 0, 0}, all_groups[3] = {0, 1, 1},
                         unknown[3] = {0, 6, 1};
    static const uint8_t table[16] = {1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 7};
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap0"}, ORDERS);
    buffers_add(f, 0);
    frame_to(f, other); /* until the guest says otherwise, all come in */
    assert_int_equal(used_count(f, 0), 1);
    assert_int_equal(order(f, 2, promiscuous_off, 3), 0);
    frame_to(f, other);
    frame_to(f, group);
    assert_int_equal(used_count(f, 0), 0);
    frame_to(f, guest_mac);
    assert_int_equal(used_count(f, 0), 1);
    assert_int_equal(order(f, 2, table, 16), 0);
    frame_to(f, group);
    assert_int_equal(used_count(f, 0), 1);
    assert_int_equal(order(f, 2, table, 12), 1); /* shorter than it says: as before */
    frame_to(f, group);
    assert_int_equal(used_count(f, 0), 1);
    assert_int_equal(order(f, 2, all_groups, 3), 0);
    assert_int_equal(order(f, 2, unknown, 3), 1);
}

static void test_table_with_too_many_addresses_takes_all_of_the_kind(void **state)
{
    static const uint8_t promiscuous_off[3] = {0, 0, 0}, group[6] = {1, 0, 0x5e, 0, 0, 7};
    uint8_t table[2 + 4 + 4 + 65 * 6] = {1, 0, 0, 0, 0, 0, 65};
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap0"}, ORDERS);
    buffers_add(f, 0);
    assert_int_equal(order(f, 2, promiscuous_off, 3), 0);
    assert_int_equal(order(f, 2, table, sizeof(table)), 0);
    frame_to(f, group);
    assert_int_equal(used_count(f, 0), 1);
}

static void test_guest_is_told_the_mtu(void **state)
{
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap0", .mtu = 1400}, ORDERS | F_MTU);
    assert_int_equal(driver_read(&f->driver, f->driver.config + 10, 2), 1400);
}

static void test_limit_holds_packets_back_but_loses_none(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffer = {DATA_GPA, HEADER + 1000};
    uint8_t frame[HEADER + 1000] = {0}, seen[2048];
    unsigned left = 0;

    net_add(f, (struct virtio_net_config){.tap = "tap0", .bytes_per_s = 100000}, ORDERS);
    frame_make(frame + HEADER, 1000, 1);
    memcpy(frame + HEADER + 6, guest_mac, 6);
    driver_memory_write(&f->driver, DATA_GPA, frame, sizeof(frame));
    for (unsigned i = 0; i < 30; i++) {
        driver_add(&f->driver, 1, &buffer, 1, 0);
    }
    driver_kick(&f->driver, 1);
    fake_vm_run_ms(f->vm, 50); /* 10 KB at once, 5 KB in the time */
    left = used_count(f, 1);
    assert_in_range(left, 10, 20);
    fake_vm_run_ms(f->vm, 300);
    assert_int_equal(left + used_count(f, 1), 30);
    left = 0;
    while (frame_seen(f, seen, sizeof(seen), ETHERTYPE_TEST) == 1000) {
        left++;
    }
    assert_int_equal(left, 30);
}

static struct vm *moved(struct fixture *f, struct virtio_net_config config,
                        struct error *err, int *ret_result)
{
    struct device *device = vm_devices(f->vm);
    struct vm *target = fake_vm_create(DRIVER_MEMORY_BYTES);
    struct buffer saved;

    device->ops->io_stop(device);
    buffer_init(&saved, 0);
    assert_int_equal(device->ops->save(device, &saved), 0);
    assert_int_equal(virtio_net_create(target, &config, err), 0);
    memcpy(guest_ram_region(target->ram, 0)->host, guest_ram_region(f->vm->ram, 0)->host,
           DRIVER_MEMORY_BYTES);
    device = vm_devices(target);
    *ret_result =
        device->ops->load(device, device->ops->version, saved.data, saved.size, err);
    buffer_done(&saved);
    return target;
}

static void test_pairs_filter_and_mtu_move_along(void **state)
{
    static const uint8_t pairs_set[4] = {4, 0, PAIRS, 0}, promiscuous_off[3] = {0, 0, 0};
    static const uint8_t other[6] = {2, 0, 0, 0, 0, 7};
    struct fixture *f = *state;
    struct vm *target;
    struct device *device;
    struct error err = {0};
    int result;

    net_add(f, (struct virtio_net_config){.tap = "tap2", .queues = PAIRS, .mtu = 1400},
            ORDERS | F_MQ | F_MTU);
    assert_int_equal(order(f, CONTROL_QUEUE, pairs_set, 4), 0);
    assert_int_equal(order(f, CONTROL_QUEUE, promiscuous_off, 3), 0);
    target = moved(f, (struct virtio_net_config){.tap = "tap3", .queues = PAIRS}, &err,
                   &result);
    assert_int_equal(result, 0);
    fake_vm_free(f->vm);
    f->vm = f->driver.vm = target;
    (void)close(f->socket);
    f->socket = socket_open("tap3");
    device = vm_devices(target);
    device->ops->io_start(device);
    assert_int_equal(driver_read(&f->driver, f->driver.config + 10, 2), 1400);
    buffers_add(f, 0);
    buffers_add(f, 1);
    frame_to(f, other);
    assert_int_equal(used_count(f, 0) + used_count(f, 2), 0);
    for (uint16_t port = 1; port <= BUFFERS; port++) {
        uint8_t frame[60];

        frame_make(frame, sizeof(frame), port);
        assert_int_equal(send(f->socket, frame, sizeof(frame), 0), sizeof(frame));
    }
    fake_vm_run_ms(f->vm, 10);
    assert_int_equal(used_count(f, 0) + used_count(f, 2), BUFFERS); /* broadcasts */
    frame_send(f, 3, guest_mac, 2);
    assert_true(frame_left(f));
}

static void assert_not_moved(struct fixture *f, struct virtio_net_config config,
                             const char *text)
{
    struct error err = {0};
    int result = 0;

    fake_vm_free(moved(f, config, &err, &result));
    assert_true(result < 0);
    assert_non_null(strstr(err.text, text));
}

static void test_target_that_does_not_fit_says_what_to_do(void **state)
{
    struct fixture *f = *state;

    net_add(f, (struct virtio_net_config){.tap = "tap2", .queues = PAIRS, .mtu = 1400},
            ORDERS | F_MQ | F_MTU);
    assert_not_moved(f, (struct virtio_net_config){.tap = "tap3"}, "queues=");
    assert_not_moved(f,
                     (struct virtio_net_config){.tap = "tap3",
                                                .queues = PAIRS,
                                                .has_mac = true,
                                                .mac = {0x52, 0x54, 0, 7, 7, 7}},
                     "52:54:00:01:02:03");
}

static void test_options_that_the_tap_cannot_do_are_refused(void **state)
{
    struct virtio_net_config config = {.tap = "tap0", .queues = 2};
    struct fixture *f = *state;
    struct error err = {0};

    if (!have_namespace) {
        skip();
    }
    assert_int_equal(virtio_net_create(f->vm, &config, &err), -EINVAL);
    assert_non_null(strstr(err.text, "multi_queue"));
    config = (struct virtio_net_config){.tap = "tap0", .mtu = 9000};
    assert_int_equal(virtio_net_create(f->vm, &config, &err), DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "mtu 9000"));
    assert_null(vm_devices(f->vm));
}

static void test_second_vm_does_not_get_a_tap_with_queues(void **state)
{
    struct virtio_net_config config = {.tap = "tap2"};
    struct fixture *f = *state;
    struct error err = {0};

    net_add(f, config, ORDERS);
    assert_int_equal(virtio_net_create(f->vm, &config, &err), DROVER_EINUSE);
    assert_non_null(strstr(err.text, "in use"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_guest_takes_two_pairs_and_both_carry_packets),
        TEST(test_guest_with_one_pair_gets_what_all_queues_of_the_tap_bring),
        TEST(test_wrong_numbers_of_pairs_are_refused),
        TEST(test_frames_of_other_addresses_do_not_leave),
        TEST(test_any_mac_lets_frames_of_other_addresses_leave),
        TEST(test_guest_may_set_no_address_but_its_own),
        TEST(test_guest_with_any_mac_may_set_an_address),
        TEST(test_receive_mode_and_tables_choose_the_frames),
        TEST(test_table_with_too_many_addresses_takes_all_of_the_kind),
        TEST(test_guest_is_told_the_mtu),
        TEST(test_limit_holds_packets_back_but_loses_none),
        TEST(test_pairs_filter_and_mtu_move_along),
        TEST(test_target_that_does_not_fit_says_what_to_do),
        TEST(test_options_that_the_tap_cannot_do_are_refused),
        TEST(test_second_vm_does_not_get_a_tap_with_queues),
    };

    return cmocka_run_group_tests(tests, group_setup, NULL);
}
