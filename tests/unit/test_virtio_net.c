/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net on a real tap in a network namespace of the test's own; packets are sent and
 * seen through a packet socket on the tap. Where no namespace can be made (no root),
 * these tests are skipped.
 */
#include "tests/unit/net_fixture.h"
#include "vmm/virtio/virtio.h"

static void net_add(struct fixture *f, uint64_t features, uint16_t queue_size)
{
    struct virtio_net_config config = {.tap = "tap0", .has_mac = true};
    struct error err = {0};

    if (!have_namespace) {
        skip();
    }
    memcpy(config.mac, guest_mac, 6);
    if (virtio_net_create(f->vm, &config, &err) < 0) {
        fail_msg("%s", err.text);
    }
    f->socket = socket_open("tap0");
    driver_init(&f->driver, f->vm, 1);
    assert_true(
        driver_start(&f->driver, features, features & F_CTRL_VQ ? 3 : 2, queue_size));
    fake_vm_run_ms(f->vm, 2);
}

static void test_frame_of_the_guest_leaves_by_the_tap(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffers[2] = {{DATA_GPA, HEADER}, {DATA_GPA + 100, 200}};
    uint8_t frame[200], seen[2048], header[HEADER] = {0};
    uint16_t head;
    uint32_t written;

    net_add(f, 0, 64);
    frame_make(frame, sizeof(frame), 1);
    driver_memory_write(&f->driver, DATA_GPA, header, HEADER);
    driver_memory_write(&f->driver, DATA_GPA + 100, frame, sizeof(frame));
    driver_add(&f->driver, 1, buffers, 2, 0);
    driver_kick(&f->driver, 1);
    assert_true(driver_wait(&f->driver, 1, &head, &written));
    assert_int_equal(frame_seen(f, seen, sizeof(seen), ETHERTYPE_TEST), sizeof(frame));
    assert_memory_equal(seen, frame, sizeof(frame));
}

static void test_frame_from_the_tap_reaches_the_guest(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[300], found[300];
    uint16_t head, buffers;
    uint32_t written;

    net_add(f, 0, 64);
    receive_buffers_add(f, 4, 2048);
    fake_vm_run_ms(f->vm, 2);
    frame_make(frame, sizeof(frame), 2);
    assert_int_equal(send(f->socket, frame, sizeof(frame), 0), sizeof(frame));
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(written, HEADER + sizeof(frame));
    driver_memory_read(&f->driver, DATA_GPA + HEADER, found, sizeof(found));
    assert_memory_equal(found, frame, sizeof(frame));
    driver_memory_read(&f->driver, DATA_GPA + 10, &buffers, 2);
    assert_int_equal(buffers, 1);
}

static void test_large_frame_is_spread_over_merged_buffers(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[1400], found[1400];
    uint16_t head, buffers;
    uint32_t written, at = 0;

    net_add(f, F_MRG_RXBUF, 64);
    receive_buffers_add(f, 8, 512);
    fake_vm_run_ms(f->vm, 2);
    frame_make(frame, sizeof(frame), 3);
    assert_int_equal(send(f->socket, frame, sizeof(frame), 0), sizeof(frame));
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    driver_memory_read(&f->driver, DATA_GPA + 10, &buffers, 2);
    assert_int_equal(buffers, 3);
    assert_int_equal(written, 512);
    driver_memory_read(&f->driver, DATA_GPA + HEADER, found, 500);
    for (at = 500; at < sizeof(frame); at += written) {
        assert_true(driver_used(&f->driver, 0, &head, &written)); /* all at once */
        driver_memory_read(&f->driver, DATA_GPA + 4096u * head, found + at, written);
    }
    assert_memory_equal(found, frame, sizeof(frame));
}

static void test_frame_waits_for_buffers(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[1400];
    uint16_t head;
    uint32_t written;

    net_add(f, F_MRG_RXBUF, 64);
    receive_buffers_add(f, 1, 512); /* not enough */
    fake_vm_run_ms(f->vm, 2);
    frame_make(frame, sizeof(frame), 3);
    assert_int_equal(send(f->socket, frame, sizeof(frame), 0), sizeof(frame));
    fake_vm_run_ms(f->vm, 10);
    assert_false(driver_used(&f->driver, 0, &head, &written));
    receive_buffers_add(f, 4, 512);
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(head, 0);
}

static uint64_t cpu_ns(void)
{
    struct timespec now;

    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void test_guest_without_buffers_does_not_keep_the_thread_busy(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[300];
    uint64_t before;

    net_add(f, 0, 64);
    frame_make(frame, sizeof(frame), 4);
    for (unsigned i = 0; i < 50; i++) {
        (void)send(f->socket, frame, sizeof(frame), 0);
    }
    before = cpu_ns();
    fake_vm_run_ms(f->vm, 200);
    assert_true(cpu_ns() - before <
                100 * UINT64_C(1000000)); /* the wait's own ticks cost something */
}

static void test_frame_that_fits_no_buffer_is_dropped(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[1400];
    uint16_t head;
    uint32_t written;

    net_add(f, 0, 64); /* not merged */
    receive_buffers_add(f, 2, 512);
    fake_vm_run_ms(f->vm, 2);
    frame_make(frame, sizeof(frame), 5);
    assert_int_equal(send(f->socket, frame, sizeof(frame), 0), sizeof(frame));
    assert_int_equal(send(f->socket, frame, 100, 0), 100);
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(head, 0);
    assert_int_equal(written, HEADER + 100);
}

static void test_stopped_guest_sends_nothing(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffers[2] = {{DATA_GPA, HEADER}, {DATA_GPA + 100, 200}};
    struct device *device;
    uint8_t frame[200], seen[2048], header[HEADER] = {0};
    uint16_t head;
    uint32_t written;

    net_add(f, 0, 64);
    frame_make(frame, sizeof(frame), 1);
    driver_memory_write(&f->driver, DATA_GPA, header, HEADER);
    driver_memory_write(&f->driver, DATA_GPA + 100, frame, sizeof(frame));
    f->vm->io_allowed = false; /* the deadline, before io_stop */
    driver_add(&f->driver, 1, buffers, 2, 0);
    driver_kick(&f->driver, 1);
    fake_vm_run_ms(f->vm, 30);
    assert_int_equal(frame_seen(f, seen, sizeof(seen), ETHERTYPE_TEST), -1);
    device = vm_devices(f->vm);
    device->ops->io_stop(device);
    f->vm->io_allowed = true;
    fake_vm_run_ms(f->vm, 30);
    assert_int_equal(frame_seen(f, seen, sizeof(seen), ETHERTYPE_TEST), -1);
    device->ops->io_start(device);
    assert_true(driver_wait(&f->driver, 1, &head, &written));
    assert_int_equal(frame_seen(f, seen, sizeof(seen), ETHERTYPE_TEST), sizeof(frame));
}

static void test_arrival_is_announced(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer order[2] = {{DATA_GPA, 2}, {DATA_GPA + 16, 1}};
    uint8_t seen[2048], ack[2] = {3, 0}, answer = 9;
    struct device *device;
    unsigned frames = 0;
    uint16_t head;
    uint32_t written;

    net_add(f, F_CTRL_VQ | F_GUEST_ANNOUNCE, 64);
    device = vm_devices(f->vm);
    assert_int_equal(driver_read(&f->driver, f->driver.config + 6, 2), 1);
    device->ops->arrived(device);
    fake_vm_run_ms(f->vm, 1); /* the I/O loop does it */
    /* The guest is asked to announce itself, and says that it has. */
    assert_int_equal(driver_read(&f->driver, f->driver.config + 6, 2), 3);
    assert_int_equal(f->vm->msi[0].data, 0);
    driver_memory_write(&f->driver, DATA_GPA, ack, 2);
    driver_memory_write(&f->driver, DATA_GPA + 16, &answer, 1);
    driver_add(&f->driver, 2, order, 1, 1);
    driver_kick(&f->driver, 2);
    assert_true(driver_wait(&f->driver, 2, &head, &written));
    driver_memory_read(&f->driver, DATA_GPA + 16, &answer, 1);
    assert_int_equal(answer, 0);
    assert_int_equal(driver_read(&f->driver, f->driver.config + 6, 2), 1);
    /* And the host sends frames with the guest's address. */
    fake_vm_run_ms(f->vm, 1000);
    while (frame_seen(f, seen, sizeof(seen), 0x8035) == 60) {
        assert_memory_equal(seen + 6, guest_mac, 6);
        frames++;
    }
    assert_int_equal(frames, 5);
}

/* As while the I/O loop waits for a page of the guest's, with the device's lock. */
static void test_leases_and_an_arrival_do_not_wait_for_the_device(void **state)
{
    struct fixture *f = *state;
    struct virtio_device *virtio;
    struct device *device;

    net_add(f, F_CTRL_VQ | F_GUEST_ANNOUNCE, 64);
    device = vm_devices(f->vm);
    virtio = (struct virtio_device *)device;
    assert_int_equal(pthread_mutex_lock(&virtio->lock), 0);
    device->ops->lease_set(device, 1);
    device->ops->arrived(device);
    device->ops->io_stop(device);
    assert_false(device->ops->io_drained(device));
    device->ops->io_start(device);
    assert_int_equal(pthread_mutex_unlock(&virtio->lock), 0);
}

static void test_unknown_order_is_answered_with_an_error(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer order[2] = {{DATA_GPA, 2}, {DATA_GPA + 16, 1}};
    uint8_t unknown[2] = {77, 1}, answer = 9;
    uint16_t head;
    uint32_t written;

    net_add(f, F_CTRL_VQ, 64);
    driver_memory_write(&f->driver, DATA_GPA, unknown, 2);
    driver_add(&f->driver, 2, order, 1, 1);
    driver_kick(&f->driver, 2);
    assert_true(driver_wait(&f->driver, 2, &head, &written));
    driver_memory_read(&f->driver, DATA_GPA + 16, &answer, 1);
    assert_int_equal(answer, 1);
}

static void test_device_moves_to_another_tap(void **state)
{
    struct fixture *f = *state;
    struct virtio_net_config config = {.tap = "tap1"};
    struct vm *target = fake_vm_create(DRIVER_MEMORY_BYTES);
    struct buffer saved;
    struct device *device;
    uint8_t frame[300];
    uint16_t head;
    uint32_t written;

    net_add(f, F_MRG_RXBUF, 64);
    receive_buffers_add(f, 4, 2048);
    fake_vm_run_ms(f->vm, 2);
    device = vm_devices(f->vm);
    device->ops->io_stop(device);
    buffer_init(&saved, 0);
    assert_int_equal(device->ops->save(device, &saved), 0);
    assert_int_equal(virtio_net_create(target, &config, NULL), 0);
    memcpy(guest_ram_region(target->ram, 0)->host, guest_ram_region(f->vm->ram, 0)->host,
           DRIVER_MEMORY_BYTES);
    (void)close(f->socket);
    f->socket = socket_open("tap1");
    frame_make(frame, sizeof(frame), 6);
    assert_int_equal(send(f->socket, frame, 100, 0),
                     100); /* stale: before the guest is here */
    device = vm_devices(target);
    assert_int_equal(device->ops->load(device, 1, saved.data, saved.size, NULL), 0);
    buffer_done(&saved);
    fake_vm_free(f->vm);
    f->vm = f->driver.vm = target;
    device->ops->io_start(device);
    assert_int_equal(driver_read(&f->driver, f->driver.config, 4), 0x01005452);
    fake_vm_run_ms(f->vm, 5);
    assert_int_equal(send(f->socket, frame, sizeof(frame), 0), sizeof(frame));
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(written, HEADER + sizeof(frame));
}

static void assert_refused(struct fixture *f, const char *tap, int code, const char *text)
{
    struct virtio_net_config config = {.tap = tap};
    struct error err = {0};

    assert_int_equal(virtio_net_create(f->vm, &config, &err), code);
    assert_non_null(strstr(err.text, text));
    assert_null(strchr(err.text, '\n'));
    assert_null(vm_devices(f->vm));
}

static void test_wrong_taps_are_refused_in_one_line(void **state)
{
    struct fixture *f = *state;
    struct virtio_net_config config = {.tap = "tap1"};
    struct vm *other;

    if (!have_namespace) {
        skip();
    }
    assert_refused(f, "missing0", -ENODEV, "does not exist");
    assert_int_equal(if_nametoindex("missing0"), 0);
    assert_refused(f, "lo", -EINVAL, "is not a tap");
    assert_refused(f, "", DROVER_EBADINPUT, "no name of a tap");
    assert_refused(f, "a-name-that-is-too-long", DROVER_EBADINPUT, "no name of a tap");
    other = fake_vm_create(DRIVER_MEMORY_BYTES);
    assert_int_equal(virtio_net_create(other, &config, NULL), 0);
    assert_refused(f, "tap1", DROVER_EINUSE, "in use by another process");
    fake_vm_free(other);
}

static void test_mac_addresses_are_judged(void **state)
{
    static const char *const bad[] = {"",
                                      "52:54:00:12:34",
                                      "52:54:00:12:34:5",
                                      "52:54:00:12:34:567",
                                      "52:54:00:12:34:56:78",
                                      "52-54-00-12-34-56",
                                      "5g:54:00:12:34:56",
                                      "53:54:00:12:34:56",
                                      "00:00:00:00:00:00"};
    uint8_t mac[6];

    assert_int_equal(virtio_net_mac_parse("52:54:00:AB:cd:09", mac), 0);
    assert_memory_equal(mac, "\x52\x54\x00\xab\xcd\x09", 6);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(virtio_net_mac_parse(bad[i], mac), DROVER_EBADINPUT);
    }
}

int main(void)
{
#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        NET_TEST(test_frame_of_the_guest_leaves_by_the_tap),
        NET_TEST(test_frame_from_the_tap_reaches_the_guest),
        NET_TEST(test_large_frame_is_spread_over_merged_buffers),
        NET_TEST(test_frame_waits_for_buffers),
        NET_TEST(test_guest_without_buffers_does_not_keep_the_thread_busy),
        NET_TEST(test_frame_that_fits_no_buffer_is_dropped),
        NET_TEST(test_stopped_guest_sends_nothing),
        NET_TEST(test_arrival_is_announced),
        NET_TEST(test_leases_and_an_arrival_do_not_wait_for_the_device),
        NET_TEST(test_unknown_order_is_answered_with_an_error),
        NET_TEST(test_device_moves_to_another_tap),
        NET_TEST(test_wrong_taps_are_refused_in_one_line),
        NET_TEST(test_mac_addresses_are_judged),
    };

    return cmocka_run_group_tests(tests, group_setup, NULL);
}
