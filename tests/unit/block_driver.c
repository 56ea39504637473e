/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's virtio-blk driver for tests. */
#include "tests/unit/unit.h"

#include "tests/unit/block_driver.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "vmm/virtio/virtio_block.h"

static void disk_make(struct block_driver *f, uint64_t size)
{
    (void)snprintf(f->path, sizeof(f->path), "/var/tmp/test-virtio-block-XXXXXX");
    f->fd = mkstemp(f->path);
    assert_true(f->fd >= 0);
    assert_int_equal(ftruncate(f->fd, (off_t)size), 0);
}

int block_driver_setup(void **state)
{
    struct block_driver *f = calloc(1, sizeof(*f));

    f->vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    disk_make(f, BLOCK_DRIVER_DISK_BYTES);
    *state = f;
    return 0;
}

int block_driver_teardown(void **state)
{
    struct block_driver *f = *state;

    if (f->vm != NULL) {
        fake_vm_free(f->vm);
    }
    (void)close(f->fd);
    (void)unlink(f->path);
    free(f);
    return 0;
}

void block_driver_add(struct block_driver *f, bool read_only, bool direct)
{
    block_driver_add_config(
        f, (struct virtio_block_config){.read_only = read_only, .direct = direct}, 1,
        BLOCK_DRIVER_F_FLUSH);
}

void block_driver_add_config(struct block_driver *f, struct virtio_block_config config,
                             unsigned queue_count, uint64_t features)
{
    struct error err = {0};
    int ret;

    config.path = f->path;
    config.serial = "disk-serial";
    ret = virtio_block_create(f->vm, &config, &err);

    if (ret < 0) {
        print_error("%s\n", err.text);
    }
    assert_int_equal(ret, 0);
    driver_init(&f->driver, f->vm, 1);
    assert_true(driver_start(&f->driver, features, queue_count, 64));
}

void block_driver_header_write(struct block_driver *f, uint32_t type, uint64_t sector)
{
    uint8_t header[16] = {0};
    uint8_t status = 0xaa;

    memcpy(header, &type, 4);
    memcpy(header + 8, &sector, 8);
    driver_memory_write(&f->driver, BLOCK_DRIVER_HEADER_GPA, header, sizeof(header));
    driver_memory_write(&f->driver, BLOCK_DRIVER_STATUS_GPA, &status, 1);
}

void block_driver_request_add(struct block_driver *f, uint32_t type, uint64_t sector,
                              uint64_t gpa, uint32_t size)
{
    struct driver_buffer buffers[3] = {
        {BLOCK_DRIVER_HEADER_GPA, 16}, {gpa, size}, {BLOCK_DRIVER_STATUS_GPA, 1}};
    bool to_guest = type == BLOCK_DRIVER_IN || type == BLOCK_DRIVER_ID;

    block_driver_header_write(f, type, sector);
    if (size == 0) {
        buffers[1] = buffers[2];
        driver_add(&f->driver, 0, buffers, 1, 1);
    } else {
        driver_add(&f->driver, 0, buffers, to_guest ? 1 : 2, to_guest ? 2 : 1);
    }
    driver_kick(&f->driver, 0);
}

uint8_t block_driver_status(struct block_driver *f)
{
    uint8_t status = 0;

    driver_memory_read(&f->driver, BLOCK_DRIVER_STATUS_GPA, &status, 1);
    return status;
}

uint32_t block_driver_request_run(struct block_driver *f, uint32_t type, uint64_t sector,
                                  uint64_t gpa, uint32_t size, uint8_t expected_status)
{
    uint16_t head;
    uint32_t written = 0;

    block_driver_request_add(f, type, sector, gpa, size);
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(block_driver_status(f), expected_status);
    return written;
}

void block_driver_pattern_fill(uint8_t *data, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)((i * 31 + i / 509 + seed) * 7);
    }
}

void block_driver_assert_disk(struct block_driver *f, uint64_t offset,
                              const uint8_t *data, size_t size)
{
    uint8_t *found = malloc(size);

    assert_int_equal(pread(f->fd, found, size, (off_t)offset), (ssize_t)size);
    assert_memory_equal(found, data, size);
    free(found);
}

/* Writes and reads back through the device, at an address of the guest that may be
 * misaligned. */
void block_driver_write_and_read(struct block_driver *f, uint64_t gpa, uint32_t size,
                                 uint64_t sector)
{
    uint8_t *data = malloc(size), *back = malloc(size);

    block_driver_pattern_fill(data, size, (unsigned)sector);
    memset(back, 0, size);
    driver_memory_write(&f->driver, gpa, data, size);
    assert_int_equal(
        block_driver_request_run(f, BLOCK_DRIVER_OUT, sector, gpa, size, BLOCK_DRIVER_OK),
        1);
    block_driver_assert_disk(f, sector * 512, data, size);
    driver_memory_write(&f->driver, gpa, back, size);
    assert_int_equal(
        block_driver_request_run(f, BLOCK_DRIVER_IN, sector, gpa, size, BLOCK_DRIVER_OK),
        size + 1);
    driver_memory_read(&f->driver, gpa, back, size);
    assert_memory_equal(data, back, size);
    free(data);
    free(back);
}
