/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon, driven by registers and rings on real memory: what is given back is gone
 * from the memfd. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtio.h"
#include "vmm/virtio/virtio_balloon.h"

#define MIB           (UINT64_C(1) << 20)
#define MEMORY_BYTES  (64 * MIB)
#define FEATURES      (UINT64_C(1) << 1 | UINT64_C(1) << 2 | UINT64_C(1) << 5)
#define NUMBERS_GPA   DRIVER_DATA_GPA
#define FILL_GPA      (16 * MIB)
#define FILL_BYTES    (16 * MIB)
#define STATUS_BROKEN 64
#define CONFIG_TARGET 0
#define CONFIG_ACTUAL 4

enum { INFLATE, DEFLATE, STATS, REPORT, REPORT_4 };

struct fixture {
    struct vm *vm;
    struct driver driver;
    struct device *device;
};

static void begin(struct fixture *f)
{
    struct error err = {0};
    f->vm = fake_vm_create(MEMORY_BYTES);
    assert_int_equal(virtio_balloon_create(f->vm, &err), 0);
    f->device = vm_devices(f->vm);
    driver_init(&f->driver, f->vm, 1);
    assert_true(driver_start(&f->driver, FEATURES, 5, 64));
    fake_vm_run_ms(f->vm, 1);
}

static int setup(void **state)
{
    static struct fixture fixture;
    memset(&fixture, 0, sizeof(fixture));
    begin(&fixture);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    fake_vm_free(f->vm);
    return 0;
}

static uint64_t there_bytes(struct fixture *f)
{
    uint64_t sum = 0;
    uint64_t start = 0;
    for (uint64_t end = 0;; sum += end - start) {
        int rv = guest_ram_populated(f->vm->ram, 0, end, &start, &end);
        assert_true(rv >= 0);
        if (rv == 0) {
            return sum;
        }
    }
}

static void fill(struct fixture *f)
{
    char page[GUEST_PAGE_SIZE];
    memset(page, 'x', sizeof(page));
    driver_memory_write(&f->driver, NUMBERS_GPA, page, sizeof(page));
    for (uint64_t gpa = FILL_GPA; gpa < FILL_GPA + FILL_BYTES; gpa += sizeof(page)) {
        assert_int_equal(guest_ram_write(f->vm->ram, gpa, page, sizeof(page)), 0);
    }
}

/* One request of `count` pages' numbers, and its end. */
static void pages_send(struct fixture *f, unsigned queue, const uint32_t *numbers,
                       uint32_t count)
{
    const struct driver_buffer buffer = {NUMBERS_GPA, 4 * count};
    uint16_t head;
    uint32_t written;
    driver_memory_write(&f->driver, NUMBERS_GPA, numbers, buffer.size);
    driver_add(&f->driver, queue, &buffer, 1, 0);
    driver_kick(&f->driver, queue);
    if (!(driver_status(&f->driver) & STATUS_BROKEN)) {
        (void)driver_wait(&f->driver, queue, &head, &written);
    }
}

static uint64_t config_get(struct fixture *f, unsigned offset)
{
    return driver_read(&f->driver, f->driver.config + offset, 4);
}

static void test_pages_in_the_balloon_leave_the_host(void **state)
{
    struct fixture *f = *state;
    uint32_t numbers[600];
    fill(f);
    uint64_t before = there_bytes(f);
    /* Up, down, and one by one. */
    for (uint32_t i = 0; i < 200; i++) {
        numbers[i] = FILL_GPA / 4096 + i;
        numbers[200 + i] = FILL_GPA / 4096 + 999 - i;
        numbers[400 + i] = FILL_GPA / 4096 + 1000 + 2 * i;
    }
    pages_send(f, INFLATE, numbers, 600);
    assert_int_equal(before - there_bytes(f), 600 * 4096);
    char seen = 'y';
    assert_int_equal(guest_ram_read(f->vm->ram, FILL_GPA + 999 * 4096, &seen, 1), 0);
    assert_int_equal(seen, 0);
    assert_int_equal(guest_ram_read(f->vm->ram, FILL_GPA + 1001 * 4096, &seen, 1), 0);
    assert_int_equal(seen, 'x');
    pages_send(f, DEFLATE, numbers, 600);
    assert_false(driver_status(&f->driver) & STATUS_BROKEN);
}

static void test_free_pages_that_are_reported_leave_the_host(void **state)
{
    struct fixture *f = *state;
    fill(f);
    uint64_t before = there_bytes(f);
    /* By the number that drivers use, and by the one of the specification. */
    for (unsigned i = 0; i < 2; i++) {
        const struct driver_buffer buffers[2] = {
            {FILL_GPA + i * 8 * MIB, 2 * MIB},
            {FILL_GPA + i * 8 * MIB + 4 * MIB, 4 * MIB}};
        uint16_t head;
        uint32_t written;
        driver_add(&f->driver, REPORT + i, buffers, 0, 2);
        driver_kick(&f->driver, REPORT + i);
        assert_true(driver_wait(&f->driver, REPORT + i, &head, &written));
        assert_int_equal(written, 0);
    }
    assert_int_equal(before - there_bytes(f), 12 * MIB);
    struct virtio_balloon_status status;
    assert_true(virtio_balloon_status(f->vm, &status));
    assert_int_equal(status.reported_bytes, 12 * MIB);
}

static void test_an_order_reaches_the_guest_and_its_answer_is_seen(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct virtio_balloon_status status;
    unsigned generation =
        (unsigned)driver_read(&f->driver, f->driver.common + DRIVER_GENERATION, 1);
    unsigned interrupts = f->vm->msi_count;
    assert_int_equal(virtio_balloon_order(f->vm, 48 * MIB, &err), 0);
    fake_vm_run_ms(f->vm, 1); /* the I/O loop tells the guest */
    assert_int_equal(f->vm->msi_count, interrupts + 1);
    assert_int_not_equal(driver_read(&f->driver, f->driver.common + DRIVER_GENERATION, 1),
                         generation);
    assert_int_equal(config_get(f, CONFIG_TARGET), 16 * MIB / 4096);
    driver_write(&f->driver, f->driver.config + CONFIG_ACTUAL, 4 * MIB / 4096, 4);
    assert_true(virtio_balloon_status(f->vm, &status));
    assert_true(status.has_driver);
    assert_int_equal(status.target_bytes, 48 * MIB);
    assert_int_equal(status.actual_bytes, 60 * MIB);
    /* A guest's word is not trusted. */
    driver_write(&f->driver, f->driver.config + CONFIG_ACTUAL, 0xffffffff, 4);
    assert_true(virtio_balloon_status(f->vm, &status));
    assert_int_equal(status.actual_bytes, 0);
}

/* As while the I/O loop waits for a page of the guest's, with the device's lock. */
static void test_nobody_who_asks_or_orders_waits_for_the_device(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct virtio_balloon_status status;
    struct virtio_device *virtio = (struct virtio_device *)f->device;
    assert_int_equal(pthread_mutex_lock(&virtio->lock), 0);
    assert_int_equal(virtio_balloon_order(f->vm, 48 * MIB, &err), 0);
    assert_true(virtio_balloon_status(f->vm, &status));
    assert_true(status.has_driver);
    assert_int_equal(status.target_bytes, 48 * MIB);
    f->device->ops->io_stop(f->device);
    assert_false(f->device->ops->io_drained(f->device));
    f->device->ops->io_start(f->device);
    assert_int_equal(pthread_mutex_unlock(&virtio->lock), 0);
}

static void test_orders_that_make_no_sense_are_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    assert_int_equal(virtio_balloon_order(f->vm, 65 * MIB, &err), DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "started with 64M"));
    assert_int_equal(virtio_balloon_order(f->vm, 15 * MIB, &err), DROVER_EBADINPUT);
    assert_int_equal(config_get(f, CONFIG_TARGET), 0);
}

static void stats_send(struct fixture *f, uint64_t free_bytes)
{
    const struct driver_buffer buffer = {NUMBERS_GPA, 30};
    uint8_t entries[30] = {0};
    entries[0] = VIRTIO_BALLOON_FREE_BYTES;
    memcpy(entries + 2, &free_bytes, 8);
    entries[10] = VIRTIO_BALLOON_MAJOR_FAULTS;
    entries[12] = 77;
    entries[20] = 0x39; /* one that nobody knows */
    entries[21] = 0x05;
    driver_memory_write(&f->driver, NUMBERS_GPA, entries, sizeof(entries));
    driver_add(&f->driver, STATS, &buffer, 1, 0);
    driver_kick(&f->driver, STATS);
    fake_vm_run_ms(f->vm, 2);
}

static void test_figures_come_and_are_asked_for_again(void **state)
{
    struct fixture *f = *state;
    struct virtio_balloon_status status;
    uint16_t head;
    uint32_t written;
    assert_true(virtio_balloon_status(f->vm, &status));
    assert_int_equal(status.stats_known, 0);
    fake_vm_run_ms(f->vm, 2);
    stats_send(f, 5 * MIB);
    assert_true(virtio_balloon_status(f->vm, &status));
    assert_int_equal(status.stats_known,
                     1 << VIRTIO_BALLOON_FREE_BYTES | 1 << VIRTIO_BALLOON_MAJOR_FAULTS);
    assert_int_equal(status.stats[VIRTIO_BALLOON_FREE_BYTES], 5 * MIB);
    assert_int_equal(status.stats[VIRTIO_BALLOON_MAJOR_FAULTS], 77);
    assert_true(status.stats_age_ms < 1000);
    assert_false(driver_used(&f->driver, STATS, &head, &written)); /* it is kept */
    fake_vm_run_ms(f->vm, 1100);
    assert_true(virtio_balloon_status(f->vm, &status)); /* too old: asks */
    assert_true(driver_wait(&f->driver, STATS, &head, &written));
    stats_send(f, 6 * MIB);
    assert_true(virtio_balloon_status(f->vm, &status));
    assert_int_equal(status.stats[VIRTIO_BALLOON_FREE_BYTES], 6 * MIB);
}

static void test_the_balloon_moves_with_the_guest(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct virtio_balloon_status status;
    stats_send(f, 5 * MIB);
    assert_int_equal(virtio_balloon_order(f->vm, 48 * MIB, &err), 0);
    driver_write(&f->driver, f->driver.config + CONFIG_ACTUAL, 16 * MIB / 4096, 4);
    f->device->ops->io_stop(f->device);
    assert_true(f->device->ops->io_drained(f->device));
    struct buffer saved;
    buffer_init(&saved, 0);
    assert_int_equal(f->device->ops->save(f->device, &saved), 0);

    /* Another host, the same memory. */
    uint8_t *rings = guest_ram_pointer(f->vm->ram, DRIVER_RINGS_GPA, 5 << 16);
    struct vm *source = f->vm;
    struct vm *target = fake_vm_create(MEMORY_BYTES);
    assert_int_equal(
        guest_ram_write(target->ram, DRIVER_RINGS_GPA, rings, (size_t)5 << 16), 0);
    assert_int_equal(virtio_balloon_create(target, &err), 0);
    struct device *device = vm_devices(target);
    int rv = device->ops->load(device, 1, saved.data, saved.size, &err);
    if (rv != 0) {
        fail_msg("%s", err.text);
    }
    buffer_done(&saved);
    assert_true(virtio_balloon_status(target, &status));
    assert_true(status.has_driver);
    assert_int_equal(status.target_bytes, 48 * MIB);
    assert_int_equal(status.actual_bytes, 48 * MIB);
    assert_int_equal(status.stats_known, 0);
    fake_vm_free(source);
    f->vm = target;
}

static void test_after_a_reset_the_order_stands_and_the_balloon_is_empty(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct virtio_balloon_status status;
    assert_int_equal(virtio_balloon_order(f->vm, 48 * MIB, &err), 0);
    driver_write(&f->driver, f->driver.config + CONFIG_ACTUAL, 100, 4);
    f->device->ops->io_stop(f->device);
    f->device->ops->reset(f->device);
    f->device->ops->io_start(f->device);
    assert_true(virtio_balloon_status(f->vm, &status));
    assert_false(status.has_driver);
    assert_int_equal(status.actual_bytes, MEMORY_BYTES);
    assert_int_equal(status.target_bytes, 48 * MIB);
}

static void assert_broken(struct fixture *f, const char *says)
{
    fake_vm_run_ms(f->vm, 2);
    assert_true(driver_status(&f->driver) & STATUS_BROKEN);
    assert_int_equal(fake_vm_logged(f->vm, says), 1);
}

static void test_a_page_that_is_no_memory_stops_the_device(void **state)
{
    struct fixture *f = *state;
    const uint32_t numbers[] = {FILL_GPA / 4096, 0xffffffff};
    pages_send(f, INFLATE, numbers, 2);
    assert_broken(f, "a page for the balloon is no memory");
}

static void test_a_request_without_end_stops_the_device(void **state)
{
    struct fixture *f = *state;
    const struct driver_buffer buffer = {FILL_GPA, 4 * 16384 + 4};
    driver_add(&f->driver, INFLATE, &buffer, 1, 0);
    driver_kick(&f->driver, INFLATE);
    assert_broken(f, "a request for the balloon is too long");
}

static void test_a_malformed_state_is_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct buffer saved;
    static const uint8_t more[] = {0x10, 0xff, 0xff, 0xff, 0x7f}; /* target_pages */
    f->device->ops->io_stop(f->device);
    buffer_init(&saved, 0);
    assert_int_equal(f->device->ops->save(f->device, &saved), 0);
    assert_int_equal(buffer_append(&saved, more, sizeof(more)), 0);
    assert_int_equal(f->device->ops->load(f->device, 1, saved.data, saved.size, &err),
                     DROVER_EMALFORMED);
    assert_non_null(strstr(err.text, "more pages than the guest"));
    assert_int_equal(f->device->ops->load(f->device, 1, more, 3, &err),
                     DROVER_EMALFORMED);
    buffer_done(&saved);
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_pages_in_the_balloon_leave_the_host),
        CASE(test_free_pages_that_are_reported_leave_the_host),
        CASE(test_an_order_reaches_the_guest_and_its_answer_is_seen),
        CASE(test_nobody_who_asks_or_orders_waits_for_the_device),
        CASE(test_orders_that_make_no_sense_are_refused),
        CASE(test_figures_come_and_are_asked_for_again),
        CASE(test_the_balloon_moves_with_the_guest),
        CASE(test_after_a_reset_the_order_stands_and_the_balloon_is_empty),
        CASE(test_a_page_that_is_no_memory_stops_the_device),
        CASE(test_a_request_without_end_stops_the_device),
        CASE(test_a_malformed_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
