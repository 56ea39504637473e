/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk behind a real qemu-storage-daemon, with a qcow2 image. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/block_driver.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/storage/storage_daemon.h"
#include "vmm/storage/storage_process.h"
#include "vmm/virtio/block_io.h"
#include "vmm/virtio/virtio_block.h"

#define MANY 200 /* more than the daemon's ring has */

/* Real daemons, whose process numbers the test can ask for. */
struct storage_fixture {
    struct block_driver *block;
    struct storage_daemon *daemon;
    unsigned opened_count, killed_count;
};

static int daemon_start(void *owner, unsigned index, struct error *err)
{
    (void)index;
    return storage_daemon_start(((struct storage_fixture *)owner)->daemon, err);
}

static int daemon_open(void *owner, unsigned index, uint64_t deadline_ms, int *ret_fd,
                       struct error *err)
{
    struct storage_fixture *f = owner;

    (void)index;
    f->opened_count++;
    return storage_daemon_open(f->daemon, deadline_ms, ret_fd, err);
}

static int daemon_close(void *owner, unsigned index, uint64_t deadline_ms,
                        struct error *err)
{
    (void)index;
    return storage_daemon_close(((struct storage_fixture *)owner)->daemon, deadline_ms,
                                err);
}

static void daemon_kill(void *owner, unsigned index)
{
    struct storage_fixture *f = owner;

    (void)index;
    f->killed_count++;
    storage_daemon_kill(f->daemon);
}

static const struct storage_ops ops = {.start = daemon_start,
                                       .open = daemon_open,
                                       .close = daemon_close,
                                       .kill = daemon_kill};

static bool can_run(void)
{
    return access(STORAGE_PROGRAM, X_OK) == 0 &&
           access("/usr/bin/qemu-img", X_OK) == 0;
}

static void add(struct storage_fixture *f, uint64_t features)
{
    const struct virtio_block_config config = {
        .format = STORAGE_FORMAT_QCOW2, .storage = &ops, .storage_owner = f};

    block_driver_add_config(f->block, config, 1, features);
}

static int setup(void **state)
{
    struct storage_fixture *f = calloc(1, sizeof(*f));
    struct storage_disk disk = {.format = STORAGE_FORMAT_QCOW2};
    struct error err = {0};
    char command[160];
    void *block = NULL;

    assert_int_equal(block_driver_setup(&block), 0);
    f->block = block;
    (void)snprintf(command, sizeof(command), "qemu-img create -q -f qcow2 %s 4M",
                   f->block->path);
    assert_int_equal(system(command), 0);
    disk.path = f->block->path;
    assert_int_equal(storage_daemon_create(&disk, &f->daemon, &err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct storage_fixture *f = *state;
    void *block = f->block;

    fake_vm_free(f->block->vm);
    f->block->vm = NULL;
    storage_daemon_free(f->daemon);
    assert_int_equal(block_driver_teardown(&block), 0);
    free(f);
    return 0;
}

static void write_some(struct storage_fixture *f, uint64_t sector, unsigned seed)
{
    uint8_t data[4096];

    block_driver_pattern_fill(data, sizeof(data), seed);
    driver_memory_write(&f->block->driver, BLOCK_DRIVER_PAYLOAD_GPA, data, sizeof(data));
    (void)block_driver_request_run(f->block, BLOCK_DRIVER_OUT, sector,
                                   BLOCK_DRIVER_PAYLOAD_GPA, sizeof(data),
                                   BLOCK_DRIVER_OK);
}

static void assert_reads(struct storage_fixture *f, uint64_t sector, unsigned seed)
{
    uint8_t data[4096], back[4096] = {0};

    driver_memory_write(&f->block->driver, BLOCK_DRIVER_PAYLOAD_GPA, back, sizeof(back));
    assert_int_equal(block_driver_request_run(f->block, BLOCK_DRIVER_IN, sector,
                                              BLOCK_DRIVER_PAYLOAD_GPA, sizeof(back),
                                              BLOCK_DRIVER_OK),
                     sizeof(back) + 1);
    driver_memory_read(&f->block->driver, BLOCK_DRIVER_PAYLOAD_GPA, back, sizeof(back));
    block_driver_pattern_fill(data, sizeof(data), seed);
    assert_memory_equal(data, back, sizeof(data));
}

static void flush(struct storage_fixture *f)
{
    (void)block_driver_request_run(f->block, BLOCK_DRIVER_FLUSH, 0, 0, 0,
                                   BLOCK_DRIVER_OK);
}

/* The daemon is the only child that a thread of this process has. */
static void daemon_die(struct storage_fixture *f)
{
    DIR *tasks = opendir("/proc/self/task");
    unsigned killed = 0;

    (void)f;
    assert_non_null(tasks);
    for (struct dirent *task = readdir(tasks); task != NULL; task = readdir(tasks)) {
        char path[300];
        FILE *file;
        int pid = 0;

        (void)snprintf(path, sizeof(path), "/proc/self/task/%s/children", task->d_name);
        file = fopen(path, "re");
        if (file != NULL && fscanf(file, "%d", &pid) == 1) {
            assert_int_equal(kill(pid, SIGKILL), 0);
            killed++;
        }
        if (file != NULL) {
            (void)fclose(file);
        }
    }
    (void)closedir(tasks);
    assert_int_equal(killed, 1);
}

static bool opened_again(void *owner)
{
    struct storage_fixture *f = owner;

    return f->opened_count >= 2;
}

static void test_data_comes_back(void **state)
{
    struct storage_fixture *f = *state;

    add(f, BLOCK_DRIVER_F_FLUSH);
    write_some(f, 8, 1);
    write_some(f, 800, 2);
    flush(f);
    assert_reads(f, 8, 1);
    assert_reads(f, 800, 2);
}

static void test_read_pages_are_known_to_be_dirty(void **state)
{
    struct storage_fixture *f = *state;
    uint64_t bitmap[DRIVER_MEMORY_BYTES / GUEST_PAGE_SIZE / 64] = {0};
    uint64_t page = BLOCK_DRIVER_PAYLOAD_GPA / GUEST_PAGE_SIZE;

    add(f, BLOCK_DRIVER_F_FLUSH);
    assert_int_equal(guest_ram_track_dirty(f->block->vm->ram, true), 0);
    (void)block_driver_request_run(f->block, BLOCK_DRIVER_IN, 0, BLOCK_DRIVER_PAYLOAD_GPA,
                                   4096, BLOCK_DRIVER_OK);
    guest_ram_fetch_dirty(f->block->vm->ram, 0, bitmap);
    assert_true(bitmap[page / 64] & UINT64_C(1) << page % 64);
}

static void test_zeroes_and_holes_read_as_zero(void **state)
{
    struct storage_fixture *f = *state;
    uint8_t zeroes[4096] = {0}, back[4096];

    add(f, BLOCK_DRIVER_F_FLUSH);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t type = i == 0 ? BLOCK_DRIVER_ZEROES : BLOCK_DRIVER_DISCARD;
        uint8_t range[16] = {0};

        write_some(f, 0, 3);
        range[8] = 8;
        driver_memory_write(&f->block->driver, BLOCK_DRIVER_PAYLOAD_GPA, range, 16);
        (void)block_driver_request_run(f->block, type, 0, BLOCK_DRIVER_PAYLOAD_GPA, 16,
                                       BLOCK_DRIVER_OK);
        if (i == 0) {
            (void)block_driver_request_run(f->block, BLOCK_DRIVER_IN, 0,
                                           BLOCK_DRIVER_PAYLOAD_GPA, 4096,
                                           BLOCK_DRIVER_OK);
            driver_memory_read(&f->block->driver, BLOCK_DRIVER_PAYLOAD_GPA, back,
                               sizeof(back));
            assert_memory_equal(back, zeroes, sizeof(back));
        }
    }
}

static void test_more_requests_than_the_ring_has_are_all_answered(void **state)
{
    struct storage_fixture *f = *state;
    const struct virtio_block_config config = {
        .format = STORAGE_FORMAT_QCOW2, .queues = 2, .storage = &ops, .storage_owner = f};
    struct driver *driver = &f->block->driver;
    struct driver_buffer buffers[2] = {{BLOCK_DRIVER_HEADER_GPA, 16},
                                       {BLOCK_DRIVER_STATUS_GPA, 1}};
    uint16_t head;
    uint32_t written;

    block_driver_add_config(f->block, config, 2, BLOCK_DRIVER_F_FLUSH);
    assert_true(driver_start(driver, BLOCK_DRIVER_F_FLUSH, 2, 256));
    block_driver_header_write(f->block, BLOCK_DRIVER_FLUSH, 0);
    for (unsigned i = 0; i < MANY; i++) {
        (void)driver_add(driver, i % 2, buffers, 1, 1);
    }
    driver_kick(driver, 0);
    driver_kick(driver, 1);
    for (unsigned i = 0; i < MANY; i++) {
        assert_true(driver_wait(driver, i % 2, &head, &written));
    }
}

static void test_dead_daemon_is_replaced_when_all_was_flushed(void **state)
{
    struct storage_fixture *f = *state;

    add(f, BLOCK_DRIVER_F_FLUSH);
    write_some(f, 8, 1);
    flush(f);
    daemon_die(f);
    assert_true(fake_vm_run(f->block->vm, opened_again, f));
    assert_reads(f, 8, 1);
    assert_int_equal(f->block->vm->reset_count, 0);
    assert_int_equal(fake_vm_logged(f->block->vm, "its storage daemon has died"), 1);
    assert_int_equal(fake_vm_logged(f->block->vm, "its storage daemon is back"), 1);
}

static void test_guest_is_reset_when_unflushed_writes_died_with_the_daemon(void **state)
{
    struct storage_fixture *f = *state;

    add(f, BLOCK_DRIVER_F_FLUSH);
    write_some(f, 8, 1);
    daemon_die(f);
    assert_true(fake_vm_run(f->block->vm, opened_again, f));
    assert_int_equal(f->block->vm->reset_count, 1);
}

static void
test_without_flush_each_write_is_stable_before_it_is_acknowledged(void **state)
{
    struct storage_fixture *f = *state;

    add(f, 0);
    write_some(f, 8, 1);
    daemon_die(f);
    assert_true(fake_vm_run(f->block->vm, opened_again, f));
    assert_int_equal(f->block->vm->reset_count, 0);
    assert_reads(f, 8, 1);
}

static void test_nothing_is_opened_after_the_deadline(void **state)
{
    struct storage_fixture *f = *state;

    add(f, BLOCK_DRIVER_F_FLUSH);
    fake_vm_run_ms(f->block->vm, 5);
    f->block->vm->io_allowed = false;
    daemon_die(f);
    fake_vm_run_ms(f->block->vm, 300);
    assert_int_equal(f->killed_count, 1);
    assert_int_equal(f->opened_count, 1);
    f->block->vm->io_allowed = true;
    write_some(f, 8, 1);
    assert_int_equal(f->opened_count, 2);
}

static void test_image_is_free_between_release_and_claim(void **state)
{
    struct storage_fixture *f = *state;
    struct device *devices = vm_devices(f->block->vm);
    char command[160];
    struct error err = {0};

    add(f, BLOCK_DRIVER_F_FLUSH);
    devices = vm_devices(f->block->vm);
    write_some(f, 8, 1);
    devices->ops->io_stop(devices);
    (void)snprintf(command, sizeof(command), "qemu-img check -q %s 2>/dev/null",
                   f->block->path);
    assert_int_not_equal(system(command), 0);
    assert_int_equal(virtio_block_unlock(devices, &err), 0);
    assert_int_equal(system(command), 0);
    assert_int_equal(virtio_block_lock(devices, &err), 0);
    devices->ops->io_start(devices);
    assert_reads(f, 8, 1);
}

static void test_frozen_vms_image_is_not_closed_in_order(void **state)
{
    struct storage_fixture *f = *state;
    struct error err = {0};
    struct device *devices;

    add(f, BLOCK_DRIVER_F_FLUSH);
    devices = vm_devices(f->block->vm);
    write_some(f, 8, 1);
    devices->ops->io_stop(devices);
    f->block->vm->config.ha = true; /* the deadline is 0: long over */
    assert_int_equal(virtio_block_unlock(devices, &err), DROVER_ENOLEASE);
    assert_int_equal(f->killed_count, 1);
}

static void test_daemon_that_can_not_be_had_is_told_as_trouble(void **state)
{
    struct storage_fixture *f = *state;
    char text[128], moved[80];

    add(f, BLOCK_DRIVER_F_FLUSH);
    write_some(f, 8, 1);
    flush(f);
    virtio_block_trouble(vm_devices(f->block->vm), text, sizeof(text));
    assert_string_equal(text, "");
    (void)snprintf(moved, sizeof(moved), "%s-moved", f->block->path);
    assert_int_equal(rename(f->block->path, moved), 0);
    daemon_die(f);
    for (unsigned i = 0; i < 300 && text[0] == '\0'; i++) {
        fake_vm_run_ms(f->block->vm, 10);
        virtio_block_trouble(vm_devices(f->block->vm), text, sizeof(text));
    }
    assert_non_null(strstr(text, "I/O stands"));
    assert_int_equal(rename(moved, f->block->path), 0);
    assert_int_equal(fake_vm_logged(f->block->vm, "I/O stands"), 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_data_comes_back),
        TEST(test_read_pages_are_known_to_be_dirty),
        TEST(test_zeroes_and_holes_read_as_zero),
        TEST(test_more_requests_than_the_ring_has_are_all_answered),
        TEST(test_dead_daemon_is_replaced_when_all_was_flushed),
        TEST(test_guest_is_reset_when_unflushed_writes_died_with_the_daemon),
        TEST(test_without_flush_each_write_is_stable_before_it_is_acknowledged),
        TEST(test_nothing_is_opened_after_the_deadline),
        TEST(test_daemon_that_can_not_be_had_is_told_as_trouble),
        TEST(test_image_is_free_between_release_and_claim),
        TEST(test_frozen_vms_image_is_not_closed_in_order),
    };

    if (!can_run()) {
        print_message("skip: no " STORAGE_PROGRAM " or qemu-img\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
