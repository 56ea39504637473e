/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk with several queues, and with limits. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/err.h"
#include "tests/unit/block_driver.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtio_block.h"

#define FEATURE_MQ    (UINT64_C(1) << 12)
#define FEATURES      (BLOCK_DRIVER_F_FLUSH | FEATURE_MQ)
#define CONFIG_QUEUES 34
#define QUEUES        3

/* A read of one sector, on a queue. */
static uint16_t read_add(struct block_driver *f, unsigned queue, uint64_t sector)
{
    struct driver_buffer buffers[3] = {{BLOCK_DRIVER_HEADER_GPA, 16},
                                       {BLOCK_DRIVER_PAYLOAD_GPA, 512},
                                       {BLOCK_DRIVER_STATUS_GPA, 1}};
    uint16_t head;

    block_driver_header_write(f, BLOCK_DRIVER_IN, sector);
    head = driver_add(&f->driver, queue, buffers, 1, 2);
    driver_kick(&f->driver, queue);
    return head;
}

static void test_each_queue_is_served_and_answered_on_itself(void **state)
{
    struct block_driver *f = *state;
    uint16_t head;
    uint32_t written;

    block_driver_add_config(f, (struct virtio_block_config){.queues = QUEUES}, QUEUES,
                            FEATURES);
    assert_int_equal(driver_read(&f->driver, f->driver.config + CONFIG_QUEUES, 2),
                     QUEUES);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        uint16_t added = read_add(f, queue, queue);

        assert_true(driver_wait(&f->driver, queue, &head, &written));
        assert_int_equal(head, added);
        assert_int_equal(written, 513);
        for (unsigned other = 0; other < QUEUES; other++) {
            assert_false(driver_used(&f->driver, other, &head, &written));
        }
    }
}

static void test_one_queue_is_offered_without_the_feature(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, false);
    driver_write(&f->driver, f->driver.common, 0, 4);
    assert_int_equal(driver_read(&f->driver, f->driver.common + 4, 4) & FEATURE_MQ, 0);
    assert_int_equal(driver_read(&f->driver, f->driver.config + CONFIG_QUEUES, 2), 1);
}

static void test_taken_requests_of_all_queues_go_on_elsewhere(void **state)
{
    struct block_driver *f = *state;
    struct virtio_block_config config = {
        .path = f->path, .queues = QUEUES, .unlocked = true};
    struct vm *target = fake_vm_create(DRIVER_MEMORY_BYTES);
    struct error err = {0};
    struct device *device;
    struct buffer saved;
    uint16_t head;
    uint32_t written;

    block_driver_add_config(
        f, (struct virtio_block_config){.queues = QUEUES, .requests_per_s = 1}, QUEUES,
        FEATURES);
    fake_vm_run_ms(f->vm, 1);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        (void)read_add(f, queue, queue);
    }
    fake_vm_run_ms(f->vm, 20);
    /* One is through by the limit's burst; the others are taken, and wait. */
    device = vm_devices(f->vm);
    device->ops->io_stop(device);
    assert_true(device->ops->io_drained(device));
    buffer_init(&saved, 0);
    assert_int_equal(device->ops->save(device, &saved), 0);
    memcpy(guest_ram_region(target->ram, 0)->host, guest_ram_region(f->vm->ram, 0)->host,
           DRIVER_MEMORY_BYTES);
    assert_int_equal(virtio_block_create(target, &config, &err), 0);
    device = vm_devices(target);
    assert_int_equal(
        device->ops->load(device, device->ops->version, saved.data, saved.size, &err), 0);
    buffer_done(&saved);
    f->driver.vm = target;
    fake_vm_free(f->vm);
    f->vm = target;
    device->ops->io_start(device);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        assert_true(driver_wait(&f->driver, queue, &head, &written));
    }
}

static uint64_t reads_take_ms(struct block_driver *f, unsigned count)
{
    uint64_t began_ms;
    uint16_t head;
    uint32_t written;

    began_ms = clock_now_ms();
    for (unsigned i = 0; i < count; i++) {
        (void)read_add(f, 0, i);
        assert_true(driver_wait(&f->driver, 0, &head, &written));
        assert_int_equal(written, 513);
    }
    return clock_now_ms() - began_ms;
}

static void test_requests_are_held_to_their_limit(void **state)
{
    struct block_driver *f = *state;

    block_driver_add_config(f, (struct virtio_block_config){.requests_per_s = 100}, 1,
                            BLOCK_DRIVER_F_FLUSH);
    /* Eleven at once, then one each 10 ms. */
    assert_true(reads_take_ms(f, 41) >= 290);
}

static void test_bytes_are_held_to_their_limit(void **state)
{
    struct block_driver *f = *state;

    block_driver_add_config(f, (struct virtio_block_config){.bytes_per_s = 51200}, 1,
                            BLOCK_DRIVER_F_FLUSH);
    /* Eleven requests of 512 at once, then 100 a second. */
    assert_true(reads_take_ms(f, 41) >= 290);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_queue_is_served_and_answered_on_itself,
                                        block_driver_setup, block_driver_teardown),
        cmocka_unit_test_setup_teardown(test_one_queue_is_offered_without_the_feature,
                                        block_driver_setup, block_driver_teardown),
        cmocka_unit_test_setup_teardown(test_taken_requests_of_all_queues_go_on_elsewhere,
                                        block_driver_setup, block_driver_teardown),
        cmocka_unit_test_setup_teardown(test_requests_are_held_to_their_limit,
                                        block_driver_setup, block_driver_teardown),
        cmocka_unit_test_setup_teardown(test_bytes_are_held_to_their_limit,
                                        block_driver_setup, block_driver_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
