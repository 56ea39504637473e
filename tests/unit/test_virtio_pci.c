/* SPDX-License-Identifier: Apache-2.0 */
/* The transport, with virtio-rng and virtio-console behind it: registers, features,
 * reset, MSI-X, the window in configuration space; and what these two devices do. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/layout.h"
#include "vmm/virtio/virtio.h"
#include "vmm/virtio/virtio_console.h"
#include "vmm/virtio/virtio_rng.h"

#define DATA_GPA DRIVER_DATA_GPA

struct fixture {
    struct vm *vm;
    struct driver rng, console;
    struct device *console_device;
    char output[256];
    size_t output_size;
};

static void console_output(void *owner, const uint8_t *data, size_t size)
{
    struct fixture *f = owner;

    if (size > sizeof(f->output) - f->output_size - 1) {
        size = sizeof(f->output) - f->output_size - 1;
    }
    memcpy(f->output + f->output_size, data, size);
    f->output_size += size;
}

static void devices_make(struct vm *vm, struct fixture *f, struct device **ret_console)
{
    struct virtio_console_config config = {.output = console_output, .owner = f};

    assert_int_equal(virtio_rng_create(vm, NULL), 0);
    assert_int_equal(virtio_console_create(vm, &config, ret_console, NULL), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    devices_make(f->vm, f, &f->console_device);
    driver_init(&f->rng, f->vm, 1);
    driver_init(&f->console, f->vm, 2);
    fake_vm_run_ms(f->vm, 1);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    fake_vm_free(f->vm);
    free(f);
    return 0;
}

static void test_features_need_version_1(void **state)
{
    struct fixture *f = *state;

    assert_false(driver_negotiate(&f->rng, 0));
    assert_true(driver_negotiate(&f->rng, DRIVER_F_VERSION_1));
}

static void test_features_that_were_not_offered_are_refused(void **state)
{
    struct fixture *f = *state;

    assert_false(driver_negotiate(&f->rng, DRIVER_F_VERSION_1 | 1));
    assert_false(driver_negotiate(&f->rng, DRIVER_F_VERSION_1 | UINT64_C(1) << 63));
}

static void test_driver_ok_without_features_ok_does_nothing(void **state)
{
    struct fixture *f = *state;

    driver_write(&f->rng, f->rng.common + DRIVER_STATUS, 7, 1);
    assert_int_equal(driver_status(&f->rng), 3);
}

static void test_guest_cannot_set_needs_reset(void **state)
{
    struct fixture *f = *state;

    driver_write(&f->rng, f->rng.common + DRIVER_STATUS, 0x43, 1);
    assert_int_equal(driver_status(&f->rng), 3);
}

static void test_reset_clears_all(void **state)
{
    struct fixture *f = *state;

    assert_true(driver_start(&f->rng, 0, 1, 8));
    assert_int_equal(driver_read(&f->rng, f->rng.common + DRIVER_QUEUE_ENABLE, 2), 1);
    driver_write(&f->rng, f->rng.common + DRIVER_STATUS, 0, 1);
    assert_int_equal(driver_status(&f->rng), 0);
    assert_int_equal(driver_read(&f->rng, f->rng.common + DRIVER_QUEUE_ENABLE, 2), 0);
    assert_int_equal(driver_read(&f->rng, f->rng.common + 32, 8), 0);
    assert_int_equal(driver_read(&f->rng, f->rng.common + 16, 2), 0xffff);
}

static void test_queue_that_does_not_exist_has_size_zero(void **state)
{
    struct fixture *f = *state;

    driver_write(&f->rng, f->rng.common + DRIVER_QUEUE_SELECT, 1, 2);
    assert_int_equal(driver_read(&f->rng, f->rng.common + DRIVER_QUEUE_SIZE, 2), 0);
    driver_write(&f->rng, f->rng.common + DRIVER_QUEUE_ENABLE, 1, 2);
    driver_write(&f->rng, f->rng.common + DRIVER_QUEUE_SELECT, 0xffff, 2);
    assert_int_equal(driver_read(&f->rng, f->rng.common + DRIVER_QUEUE_SIZE, 2), 0);
}

static void test_vector_beyond_the_table_reads_as_none(void **state)
{
    struct fixture *f = *state;

    driver_write(&f->rng, f->rng.common + 16, 1, 2);
    assert_int_equal(driver_read(&f->rng, f->rng.common + 16, 2), 1);
    driver_write(&f->rng, f->rng.common + 16, 2, 2);
    assert_int_equal(driver_read(&f->rng, f->rng.common + 16, 2), 0xffff);
}

static void test_queue_outside_of_memory_breaks_the_device(void **state)
{
    struct fixture *f = *state;

    assert_true(driver_negotiate(&f->rng, DRIVER_F_VERSION_1));
    driver_write(&f->rng, f->rng.common + 32, DRIVER_MEMORY_BYTES, 4);
    driver_write(&f->rng, f->rng.common + DRIVER_QUEUE_ENABLE, 1, 2);
    assert_true(driver_status(&f->rng) & 64);
    assert_int_equal(fake_vm_logged(f->vm, "outside of memory"), 1);
}

static void test_log_of_a_guest_that_breaks_things_is_bounded(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 100; i++) {
        assert_true(driver_negotiate(&f->rng, DRIVER_F_VERSION_1));
        driver_write(&f->rng, f->rng.common + 32, DRIVER_MEMORY_BYTES, 4);
        driver_write(&f->rng, f->rng.common + DRIVER_QUEUE_ENABLE, 1, 2);
        assert_true(driver_status(&f->rng) & 64);
    }
    assert_int_equal(fake_vm_logged(f->vm, "outside of memory"), 8);
}

static void test_window_in_configuration_space_reaches_registers(void **state)
{
    struct fixture *f = *state;
    uint64_t window = LAYOUT_ECAM_START + ((uint64_t)f->rng.slot << 15) + f->rng.window;

    driver_write(&f->rng, window + 4, 0, 1);
    driver_write(&f->rng, window + 8, DRIVER_STATUS, 4);
    driver_write(&f->rng, window + 12, 1, 4);
    driver_write(&f->rng, window + 16, 3, 4);
    assert_int_equal(driver_status(&f->rng), 3);
    assert_int_equal(driver_read(&f->rng, window + 16, 4), 3);
    /* Out of range: nothing, and nothing happens. */
    driver_write(&f->rng, window + 8, 0xfffffffc, 4);
    driver_write(&f->rng, window + 12, 4, 4);
    assert_int_equal(driver_read(&f->rng, window + 16, 4), 0);
    driver_write(&f->rng, window + 16, 0xffffffff, 4);
    driver_write(&f->rng, window + 4, 1, 1);
    assert_int_equal(driver_read(&f->rng, window + 16, 4), 0);
}

static void test_odd_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;

    for (unsigned offset = 0; offset < 0x4000; offset += offset < 64 ? 1 : 61) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            uint64_t address = f->rng.common + offset;

            if (offset + size <= 0x4000) {
                (void)driver_read(&f->rng, address, size);
                driver_write(&f->rng, address, UINT64_C(0xa5a5a5a5a5a5a5a5), size);
            }
        }
    }
    driver_write(&f->rng, f->rng.common + DRIVER_STATUS, 0, 1);
    assert_true(driver_start(&f->rng, 0, 1, 8));
}

static void test_rng_fills_buffers_and_raises_its_vector(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffer = {DATA_GPA, 64};
    uint8_t zeros[64] = {0}, found[64];
    uint16_t head;
    uint32_t written;

    assert_true(driver_start(&f->rng, 0, 1, 8));
    driver_memory_write(&f->rng, DATA_GPA, zeros, sizeof(zeros));
    driver_add(&f->rng, 0, &buffer, 0, 1);
    driver_kick(&f->rng, 0);
    assert_true(driver_wait(&f->rng, 0, &head, &written));
    assert_int_equal(written, 64);
    driver_memory_read(&f->rng, DATA_GPA, found, sizeof(found));
    assert_memory_not_equal(found, zeros, sizeof(zeros));
    assert_int_equal(f->vm->msi_count, 1);
    assert_int_equal(f->vm->msi[0].data, 1);
}

static void test_rng_rate_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffer = {DATA_GPA, 65536};
    uint64_t total = 0;
    uint16_t head;
    uint32_t written;

    assert_true(driver_start(&f->rng, 0, 1, 8));
    for (unsigned i = 0; i < 8; i++) {
        driver_add(&f->rng, 0, &buffer, 0, 1);
    }
    driver_kick(&f->rng, 0);
    fake_vm_run_ms(f->vm, 20);
    while (driver_used(&f->rng, 0, &head, &written)) {
        total += written;
    }
    assert_true(total > 0 && total <= 2 * 128 * 1024);
    /* The rest comes with the next periods. */
    for (unsigned i = 0; i < 8 && driver_wait(&f->rng, 0, &head, &written); i++) {
        total += written;
        if (total >= 4 * 65536) {
            break;
        }
    }
    assert_true(total >= 4 * 65536);
}

static void test_console_passes_output_on(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffers[2] = {{DATA_GPA, 6}, {DATA_GPA + 100, 5}};
    uint16_t head;
    uint32_t written;

    assert_true(driver_start(&f->console, 0, 2, 8));
    driver_memory_write(&f->console, DATA_GPA, "Hello ", 6);
    driver_memory_write(&f->console, DATA_GPA + 100, "world", 5);
    driver_add(&f->console, 1, buffers, 2, 0);
    driver_kick(&f->console, 1);
    assert_true(driver_wait(&f->console, 1, &head, &written));
    assert_int_equal(written, 0);
    assert_string_equal(f->output, "Hello world");
}

static void test_console_types_into_buffers_as_they_come(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffer = {DATA_GPA, 4};
    char typed[9] = {0};
    uint16_t head;
    uint32_t written;

    assert_true(driver_start(&f->console, 0, 2, 8));
    assert_int_equal(
        virtio_console_input(f->console_device, (const uint8_t *)"abcdef", 6), 6);
    driver_add(&f->console, 0, &buffer, 0, 1);
    driver_kick(&f->console, 0);
    assert_true(driver_wait(&f->console, 0, &head, &written));
    assert_int_equal(written, 4);
    driver_memory_read(&f->console, DATA_GPA, typed, 4);
    assert_string_equal(typed, "abcd");
    driver_add(&f->console, 0, &buffer, 0, 1);
    driver_kick(&f->console, 0);
    assert_true(driver_wait(&f->console, 0, &head, &written));
    assert_int_equal(written, 2);
}

static void test_console_input_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct virtio_device *virtio = (struct virtio_device *)f->console_device;
    uint8_t data[3000] = {0};

    /* Also while the I/O loop has the device, and waits for a page of the guest's. */
    assert_int_equal(pthread_mutex_lock(&virtio->lock), 0);
    assert_int_equal(virtio_console_input(f->console_device, data, sizeof(data)), 3000);
    assert_int_equal(pthread_mutex_unlock(&virtio->lock), 0);
    assert_int_equal(virtio_console_input(f->console_device, data, sizeof(data)), 1096);
    assert_int_equal(virtio_console_input(f->console_device, data, sizeof(data)), 0);
}

static void test_console_goes_on_after_save_and_load(void **state)
{
    struct fixture *f = *state;
    struct vm *target = fake_vm_create(DRIVER_MEMORY_BYTES);
    struct driver_buffer buffer = {DATA_GPA, 64};
    struct buffer saved[2];
    struct device *from = vm_devices(f->vm), *to;
    uint16_t head;
    uint32_t written;

    assert_true(driver_start(&f->console, 0, 2, 8));
    assert_int_equal(virtio_console_input(f->console_device, (const uint8_t *)"xyz", 3),
                     3);
    devices_make(target, f, &f->console_device);
    to = vm_devices(target);
    for (unsigned i = 0; i < 2; i++, from = from->next, to = to->next) {
        buffer_init(&saved[i], 0);
        from->ops->io_stop(from);
        assert_true(from->ops->io_drained(from));
        assert_int_equal(from->ops->save(from, &saved[i]), 0);
        assert_int_equal(to->ops->load(to, 1, saved[i].data, saved[i].size, NULL), 0);
        buffer_done(&saved[i]);
        to->ops->io_start(to);
    }
    fake_vm_free(f->vm);
    f->vm = f->console.vm = target;
    driver_queue_start(&f->console, 0,
                       8); /* its memory; the device's queue is running already */
    assert_int_equal(driver_status(&f->console), 15);
    driver_add(&f->console, 0, &buffer, 0, 1);
    driver_kick(&f->console, 0);
    assert_true(driver_wait(&f->console, 0, &head, &written));
    assert_int_equal(written, 3);
    assert_true(target->msi_count > 0);
}

static void test_malformed_states_are_refused(void **state)
{
    struct fixture *f = *state;

    for (struct device *device = vm_devices(f->vm); device != NULL;
         device = device->next) {
        struct buffer saved;
        struct error err = {0};

        buffer_init(&saved, 0);
        assert_int_equal(device->ops->save(device, &saved), 0);
        assert_int_equal(device->ops->load(device, 1, NULL, 0, &err), DROVER_EMALFORMED);
        assert_int_equal(device->ops->load(device, 0, saved.data, saved.size, &err),
                         DROVER_EVERSION);
        for (size_t i = 0; i < saved.size; i++) {
            saved.data[i] ^= 0xff;
            (void)device->ops->load(device, 1, saved.data, saved.size,
                                    &err); /* must not crash */
            saved.data[i] ^= 0xff;
        }
        assert_int_equal(device->ops->load(device, 1, saved.data, saved.size, &err), 0);
        buffer_done(&saved);
    }
}

static void test_machine_reset_puts_registers_back(void **state)
{
    struct fixture *f = *state;
    struct device *device = vm_devices(f->vm);

    assert_true(driver_start(&f->rng, 0, 1, 8));
    device->ops->io_stop(device);
    device->ops->reset(device);
    device->ops->io_start(device);
    driver_init(&f->rng, f->vm, 1);
    assert_int_equal(driver_status(&f->rng), 0);
    assert_true(driver_start(&f->rng, 0, 1, 8));
}

int main(void)
{
#define PCI_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        PCI_TEST(test_features_need_version_1),
        PCI_TEST(test_features_that_were_not_offered_are_refused),
        PCI_TEST(test_driver_ok_without_features_ok_does_nothing),
        PCI_TEST(test_guest_cannot_set_needs_reset),
        PCI_TEST(test_reset_clears_all),
        PCI_TEST(test_queue_that_does_not_exist_has_size_zero),
        PCI_TEST(test_vector_beyond_the_table_reads_as_none),
        PCI_TEST(test_queue_outside_of_memory_breaks_the_device),
        PCI_TEST(test_log_of_a_guest_that_breaks_things_is_bounded),
        PCI_TEST(test_window_in_configuration_space_reaches_registers),
        PCI_TEST(test_odd_accesses_do_no_harm),
        PCI_TEST(test_rng_fills_buffers_and_raises_its_vector),
        PCI_TEST(test_rng_rate_is_bounded),
        PCI_TEST(test_console_passes_output_on),
        PCI_TEST(test_console_types_into_buffers_as_they_come),
        PCI_TEST(test_console_input_is_bounded),
        PCI_TEST(test_console_goes_on_after_save_and_load),
        PCI_TEST(test_malformed_states_are_refused),
        PCI_TEST(test_machine_reset_puts_registers_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
