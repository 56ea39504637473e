/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk on real files through real io_uring, driven by registers and rings as a
 * guest would. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "tests/unit/block_driver.h"
#include "vmm/device.h"
#include "vmm/virtio/virtio_block.h"

static void test_data_that_was_written_is_on_the_disk(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, false);
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA, 512, 0);
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA, 65536, 100);
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA + 3, 4096,
                                BLOCK_DRIVER_DISK_BYTES / 512 - 8);
}

static void test_direct_disk_takes_misaligned_memory(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, true);
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA, 4096, 8);
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA + 1, 4096, 16);
    /* More than a bounce buffer holds. */
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA + 5, 1024 * 1024, 64);
}

static void test_many_misaligned_requests_share_the_bounce_buffers(void **state)
{
    struct block_driver *f = *state;
    uint8_t data[4096];
    unsigned done = 0;

    block_driver_add(f, false, true);
    block_driver_header_write(f, BLOCK_DRIVER_OUT, 0);
    for (unsigned i = 0; i < 16; i++) {
        uint64_t header_gpa = BLOCK_DRIVER_HEADER_GPA + 32u * i, sector = 8u * i;
        uint64_t gpa = BLOCK_DRIVER_PAYLOAD_GPA + 8192u * i + 7;
        uint32_t type = BLOCK_DRIVER_OUT;
        struct driver_buffer buffers[3] = {
            {header_gpa, 16}, {gpa, 4096}, {BLOCK_DRIVER_STATUS_GPA + i, 1}};

        block_driver_pattern_fill(data, sizeof(data), i);
        driver_memory_write(&f->driver, gpa, data, sizeof(data));
        driver_memory_write(&f->driver, header_gpa, &type, 4);
        driver_memory_write(&f->driver, header_gpa + 8, &sector, 8);
        driver_add(&f->driver, 0, buffers, 2, 1);
    }
    driver_kick(&f->driver, 0);
    for (uint16_t head; done < 16; done++) {
        uint32_t written;

        assert_true(driver_wait(&f->driver, 0, &head, &written));
    }
    for (unsigned i = 0; i < 16; i++) {
        block_driver_pattern_fill(data, sizeof(data), i);
        block_driver_assert_disk(f, 4096u * i, data, sizeof(data));
    }
}

static void test_flush_completes(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, false);
    block_driver_request_run(f, BLOCK_DRIVER_FLUSH, 0, 0, 0, BLOCK_DRIVER_OK);
}

static void test_serial_is_told(void **state)
{
    struct block_driver *f = *state;
    char serial[21] = {0};

    block_driver_add(f, false, false);
    assert_int_equal(block_driver_request_run(f, BLOCK_DRIVER_ID, 0,
                                              BLOCK_DRIVER_PAYLOAD_GPA, 20,
                                              BLOCK_DRIVER_OK),
                     21);
    driver_memory_read(&f->driver, BLOCK_DRIVER_PAYLOAD_GPA, serial, 20);
    assert_string_equal(serial, "disk-serial");
}

static void test_capacity_is_in_the_configuration(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, false);
    assert_int_equal(driver_read(&f->driver, f->driver.config, 8),
                     BLOCK_DRIVER_DISK_BYTES / 512);
    assert_int_equal(driver_read(&f->driver, f->driver.config + 20, 4), 512);
}

static void test_requests_beyond_the_end_fail(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, false);
    block_driver_request_run(f, BLOCK_DRIVER_IN, BLOCK_DRIVER_DISK_BYTES / 512,
                             BLOCK_DRIVER_PAYLOAD_GPA, 512, BLOCK_DRIVER_IOERR);
    block_driver_request_run(f, BLOCK_DRIVER_OUT, BLOCK_DRIVER_DISK_BYTES / 512 - 1,
                             BLOCK_DRIVER_PAYLOAD_GPA, 1024, BLOCK_DRIVER_IOERR);
    block_driver_request_run(f, BLOCK_DRIVER_OUT, UINT64_MAX, BLOCK_DRIVER_PAYLOAD_GPA,
                             512, BLOCK_DRIVER_IOERR);
    block_driver_request_run(f, BLOCK_DRIVER_OUT, UINT64_MAX / 512,
                             BLOCK_DRIVER_PAYLOAD_GPA, 512, BLOCK_DRIVER_IOERR);
    block_driver_request_run(f, BLOCK_DRIVER_IN, 0, BLOCK_DRIVER_PAYLOAD_GPA, 511,
                             BLOCK_DRIVER_IOERR);
}

static void test_unknown_request_is_unsupported(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, false);
    block_driver_request_run(f, 77, 0, BLOCK_DRIVER_PAYLOAD_GPA, 512,
                             BLOCK_DRIVER_UNSUPP);
}

static void test_read_only_disk_refuses_writes(void **state)
{
    struct block_driver *f = *state;
    uint32_t features;

    block_driver_add(f, true, false);
    driver_write(&f->driver, f->driver.common, 0, 4);
    features = (uint32_t)driver_read(&f->driver, f->driver.common + 4, 4);
    assert_true(features & (1u << 5));
    assert_false(features & (1u << 13));
    block_driver_request_run(f, BLOCK_DRIVER_OUT, 0, BLOCK_DRIVER_PAYLOAD_GPA, 512,
                             BLOCK_DRIVER_IOERR);
    block_driver_request_run(f, BLOCK_DRIVER_ZEROES, 0, BLOCK_DRIVER_PAYLOAD_GPA, 16,
                             BLOCK_DRIVER_IOERR);
    block_driver_request_run(f, BLOCK_DRIVER_IN, 0, BLOCK_DRIVER_PAYLOAD_GPA, 512,
                             BLOCK_DRIVER_OK);
}

static void range_put(struct block_driver *f, uint64_t sector, uint32_t count,
                      uint32_t flags)
{
    driver_memory_write(&f->driver, BLOCK_DRIVER_PAYLOAD_GPA, &sector, 8);
    driver_memory_write(&f->driver, BLOCK_DRIVER_PAYLOAD_GPA + 8, &count, 4);
    driver_memory_write(&f->driver, BLOCK_DRIVER_PAYLOAD_GPA + 12, &flags, 4);
}

static void test_zeroes_are_written(void **state)
{
    struct block_driver *f = *state;
    uint8_t zeros[8192] = {0};

    block_driver_add(f, false, false);
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA, 16384, 0);
    range_put(f, 8, 16, 1);
    block_driver_request_run(f, BLOCK_DRIVER_ZEROES, 0, BLOCK_DRIVER_PAYLOAD_GPA, 16,
                             BLOCK_DRIVER_OK);
    block_driver_assert_disk(f, 4096, zeros, 8192);
    range_put(f, 8, 16, 0);
    block_driver_request_run(f, BLOCK_DRIVER_DISCARD, 0, BLOCK_DRIVER_PAYLOAD_GPA, 16,
                             BLOCK_DRIVER_OK);
    range_put(f, BLOCK_DRIVER_DISK_BYTES / 512, 16, 0);
    block_driver_request_run(f, BLOCK_DRIVER_ZEROES, 0, BLOCK_DRIVER_PAYLOAD_GPA, 16,
                             BLOCK_DRIVER_IOERR);
    range_put(f, 0, UINT32_MAX, 0);
    block_driver_request_run(f, BLOCK_DRIVER_DISCARD, 0, BLOCK_DRIVER_PAYLOAD_GPA, 16,
                             BLOCK_DRIVER_IOERR);
    range_put(f, 0, 8, 8);
    block_driver_request_run(f, BLOCK_DRIVER_ZEROES, 0, BLOCK_DRIVER_PAYLOAD_GPA, 16,
                             BLOCK_DRIVER_UNSUPP);
}

static void test_disk_that_shrank_gives_an_error_once_in_the_log(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, false);
    assert_int_equal(ftruncate(f->fd, 4096), 0);
    block_driver_request_run(f, BLOCK_DRIVER_IN, 100, BLOCK_DRIVER_PAYLOAD_GPA, 512,
                             BLOCK_DRIVER_IOERR);
    block_driver_request_run(f, BLOCK_DRIVER_IN, 100, BLOCK_DRIVER_PAYLOAD_GPA, 512,
                             BLOCK_DRIVER_IOERR);
    assert_int_equal(fake_vm_logged(f->vm, "has become shorter"), 1);
}

static void test_request_without_status_byte_breaks_the_device(void **state)
{
    struct block_driver *f = *state;
    struct driver_buffer buffer = {BLOCK_DRIVER_HEADER_GPA, 16};

    block_driver_add(f, false, false);
    block_driver_header_write(f, BLOCK_DRIVER_FLUSH, 0);
    driver_add(&f->driver, 0, &buffer, 1, 0);
    driver_kick(&f->driver, 0);
    fake_vm_run_ms(f->vm, 20);
    assert_true(driver_status(&f->driver) & 64);
    assert_int_equal(fake_vm_logged(f->vm, "stopped until the guest resets it"), 1);
    /* A reset mends it. */
    assert_true(driver_start(&f->driver, BLOCK_DRIVER_F_FLUSH, 1, 64));
    block_driver_request_run(f, BLOCK_DRIVER_FLUSH, 0, 0, 0, BLOCK_DRIVER_OK);
}

static void test_stopped_device_leaves_requests_until_it_goes_on(void **state)
{
    struct block_driver *f = *state;
    struct device *device;
    uint16_t head;
    uint32_t written;

    block_driver_add(f, false, false);
    device = vm_devices(f->vm);
    device->ops->io_stop(device);
    assert_true(device->ops->io_drained(device));
    block_driver_request_add(f, BLOCK_DRIVER_FLUSH, 0, 0, 0);
    fake_vm_run_ms(f->vm, 20);
    assert_false(driver_used(&f->driver, 0, &head, &written));
    device->ops->io_start(device);
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(block_driver_status(f), BLOCK_DRIVER_OK);
}

static void test_nothing_is_submitted_after_the_deadline(void **state)
{
    struct block_driver *f = *state;
    uint8_t before[512] = {0}, data[512];
    uint16_t head;
    uint32_t written;

    block_driver_add(f, false, false);
    fake_vm_run_ms(f->vm, 1);
    block_driver_pattern_fill(data, sizeof(data), 1);
    driver_memory_write(&f->driver, BLOCK_DRIVER_PAYLOAD_GPA, data, sizeof(data));
    f->vm->io_allowed = false;
    block_driver_request_add(f, BLOCK_DRIVER_OUT, 5, BLOCK_DRIVER_PAYLOAD_GPA, 512);
    fake_vm_run_ms(f->vm, 50);
    assert_false(driver_used(&f->driver, 0, &head, &written));
    block_driver_assert_disk(f, 5 * 512, before, sizeof(before));
    /* The lease came back before anybody stopped the device: it goes on by itself. */
    f->vm->io_allowed = true;
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    block_driver_assert_disk(f, 5 * 512, data, sizeof(data));
}

static void test_reset_waits_for_requests_that_are_out(void **state)
{
    struct block_driver *f = *state;

    block_driver_add(f, false, false);
    for (unsigned i = 0; i < 20; i++) {
        block_driver_request_add(f, BLOCK_DRIVER_IN, 0, BLOCK_DRIVER_PAYLOAD_GPA, 65536);
        fake_vm_run_ms(f->vm, 0);
        driver_write(&f->driver, f->driver.common + DRIVER_STATUS, 0, 1);
        for (unsigned wait = 0; driver_status(&f->driver) != 0 && wait < 1000; wait++) {
            fake_vm_run_ms(f->vm, 1);
        }
        assert_int_equal(driver_status(&f->driver), 0);
        assert_true(driver_start(&f->driver, BLOCK_DRIVER_F_FLUSH, 1, 64));
        block_driver_request_run(f, BLOCK_DRIVER_FLUSH, 0, 0, 0, BLOCK_DRIVER_OK);
    }
}

static bool is_locked(const char *path)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
    assert_int_equal(close(fd), 0);
    return lock.l_type != F_UNLCK;
}

/* The process's own descriptor goes at once when it is killed; its requests may not. */
static void test_ring_keeps_the_lock_of_the_process(void **state)
{
    struct block_driver *f = *state;
    char path[] = "/var/tmp/test-virtio-block-lock-XXXXXX";
    int lock_fd = mkstemp(path);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct virtio_block_config config = {.path = f->path, .lock_fd = lock_fd};
    struct error err = {0};

    assert_true(lock_fd > 0);
    assert_int_equal(fcntl(lock_fd, F_OFD_SETLK, &lock), 0);
    assert_int_equal(virtio_block_create(f->vm, &config, &err), 0);
    assert_int_equal(close(lock_fd), 0);
    assert_true(is_locked(path));
    fake_vm_free(f->vm);
    f->vm = NULL;
    for (unsigned i = 0; i < 1000 && is_locked(path); i++) {
        (void)usleep(5000); /* the kernel takes a ring down by and by */
    }
    assert_false(is_locked(path));
    assert_int_equal(unlink(path), 0);
}

int main(void)
{
#define BLOCK_TEST(name)                                                                 \
    cmocka_unit_test_setup_teardown(name, block_driver_setup, block_driver_teardown)
    const struct CMUnitTest tests[] = {
        BLOCK_TEST(test_data_that_was_written_is_on_the_disk),
        BLOCK_TEST(test_direct_disk_takes_misaligned_memory),
        BLOCK_TEST(test_many_misaligned_requests_share_the_bounce_buffers),
        BLOCK_TEST(test_flush_completes),
        BLOCK_TEST(test_serial_is_told),
        BLOCK_TEST(test_capacity_is_in_the_configuration),
        BLOCK_TEST(test_requests_beyond_the_end_fail),
        BLOCK_TEST(test_unknown_request_is_unsupported),
        BLOCK_TEST(test_read_only_disk_refuses_writes),
        BLOCK_TEST(test_zeroes_are_written),
        BLOCK_TEST(test_disk_that_shrank_gives_an_error_once_in_the_log),
        BLOCK_TEST(test_request_without_status_byte_breaks_the_device),
        BLOCK_TEST(test_stopped_device_leaves_requests_until_it_goes_on),
        BLOCK_TEST(test_nothing_is_submitted_after_the_deadline),
        BLOCK_TEST(test_reset_waits_for_requests_that_are_out),
        BLOCK_TEST(test_ring_keeps_the_lock_of_the_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
