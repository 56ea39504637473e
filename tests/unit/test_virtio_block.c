/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk on real files through real io_uring, driven by registers and rings as a
 * guest would. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "proto/virtio_state.pb-c.h"
#include "tests/unit/virtio_driver.h"
#include "vmm/device.h"
#include "vmm/guest_ram.h"
#include "vmm/virtio/virtio_block.h"

#define DISK_BYTES  (4u * 1024u * 1024u)
#define HEADER_GPA  DRIVER_DATA_GPA
#define STATUS_GPA  (DRIVER_DATA_GPA + 0x1000u)
#define PAYLOAD_GPA (DRIVER_DATA_GPA + 0x10000u)

#define F_FLUSH (UINT64_C(1) << 9)

enum {
    TYPE_IN = 0,
    TYPE_OUT = 1,
    TYPE_FLUSH = 4,
    TYPE_ID = 8,
    TYPE_DISCARD = 11,
    TYPE_ZEROES = 13
};
enum { OK = 0, IOERR = 1, UNSUPP = 2 };

struct fixture {
    struct vm *vm;
    struct driver driver;
    char path[64];
    int fd;
};

static void disk_make(struct fixture *f, uint64_t size)
{
    (void)snprintf(f->path, sizeof(f->path), "/var/tmp/test-virtio-block-XXXXXX");
    f->fd = mkstemp(f->path);
    assert_true(f->fd >= 0);
    assert_int_equal(ftruncate(f->fd, (off_t)size), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    disk_make(f, DISK_BYTES);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->vm != NULL) {
        fake_vm_free(f->vm);
    }
    (void)close(f->fd);
    (void)unlink(f->path);
    free(f);
    return 0;
}

static void block_add(struct fixture *f, bool read_only, bool direct)
{
    struct virtio_block_config config = {.path = f->path,
                                         .read_only = read_only,
                                         .direct = direct,
                                         .serial = "disk-serial"};
    struct error err = {0};
    int ret = virtio_block_create(f->vm, &config, &err);

    if (ret < 0) {
        print_error("%s\n", err.text);
    }
    assert_int_equal(ret, 0);
    driver_init(&f->driver, f->vm, 1);
    assert_true(driver_start(&f->driver, F_FLUSH, 1, 64));
}

static void header_write(struct fixture *f, uint32_t type, uint64_t sector)
{
    uint8_t header[16] = {0};
    uint8_t status = 0xaa;

    memcpy(header, &type, 4);
    memcpy(header + 8, &sector, 8);
    driver_memory_write(&f->driver, HEADER_GPA, header, sizeof(header));
    driver_memory_write(&f->driver, STATUS_GPA, &status, 1);
}

static void request_add(struct fixture *f, uint32_t type, uint64_t sector, uint64_t gpa,
                        uint32_t size)
{
    struct driver_buffer buffers[3] = {{HEADER_GPA, 16}, {gpa, size}, {STATUS_GPA, 1}};
    bool to_guest = type == TYPE_IN || type == TYPE_ID;

    header_write(f, type, sector);
    if (size == 0) {
        buffers[1] = buffers[2];
        driver_add(&f->driver, 0, buffers, 1, 1);
    } else {
        driver_add(&f->driver, 0, buffers, to_guest ? 1 : 2, to_guest ? 2 : 1);
    }
    driver_kick(&f->driver, 0);
}

static uint8_t status_of(struct fixture *f)
{
    uint8_t status = 0;

    driver_memory_read(&f->driver, STATUS_GPA, &status, 1);
    return status;
}

static uint32_t request_run(struct fixture *f, uint32_t type, uint64_t sector,
                            uint64_t gpa, uint32_t size, uint8_t expected_status)
{
    uint16_t head;
    uint32_t written = 0;

    request_add(f, type, sector, gpa, size);
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(status_of(f), expected_status);
    return written;
}

static void pattern_fill(uint8_t *data, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)((i * 31 + i / 509 + seed) * 7);
    }
}

static void assert_disk(struct fixture *f, uint64_t offset, const uint8_t *data,
                        size_t size)
{
    uint8_t *found = malloc(size);

    assert_int_equal(pread(f->fd, found, size, (off_t)offset), (ssize_t)size);
    assert_memory_equal(found, data, size);
    free(found);
}

/* Writes and reads back through the device, at an address of the guest that may be
 * misaligned. */
static void write_and_read(struct fixture *f, uint64_t gpa, uint32_t size,
                           uint64_t sector)
{
    uint8_t *data = malloc(size), *back = malloc(size);

    pattern_fill(data, size, (unsigned)sector);
    memset(back, 0, size);
    driver_memory_write(&f->driver, gpa, data, size);
    assert_int_equal(request_run(f, TYPE_OUT, sector, gpa, size, OK), 1);
    assert_disk(f, sector * 512, data, size);
    driver_memory_write(&f->driver, gpa, back, size);
    assert_int_equal(request_run(f, TYPE_IN, sector, gpa, size, OK), size + 1);
    driver_memory_read(&f->driver, gpa, back, size);
    assert_memory_equal(data, back, size);
    free(data);
    free(back);
}

static void test_data_that_was_written_is_on_the_disk(void **state)
{
    struct fixture *f = *state;

    block_add(f, false, false);
    write_and_read(f, PAYLOAD_GPA, 512, 0);
    write_and_read(f, PAYLOAD_GPA, 65536, 100);
    write_and_read(f, PAYLOAD_GPA + 3, 4096, DISK_BYTES / 512 - 8);
}

static void test_direct_disk_takes_misaligned_memory(void **state)
{
    struct fixture *f = *state;

    block_add(f, false, true);
    write_and_read(f, PAYLOAD_GPA, 4096, 8);
    write_and_read(f, PAYLOAD_GPA + 1, 4096, 16);
    /* More than a bounce buffer holds. */
    write_and_read(f, PAYLOAD_GPA + 5, 1024 * 1024, 64);
}

static void test_many_misaligned_requests_share_the_bounce_buffers(void **state)
{
    struct fixture *f = *state;
    uint8_t data[4096];
    unsigned done = 0;

    block_add(f, false, true);
    header_write(f, TYPE_OUT, 0);
    for (unsigned i = 0; i < 16; i++) {
        uint64_t header_gpa = HEADER_GPA + 32u * i, sector = 8u * i;
        uint64_t gpa = PAYLOAD_GPA + 8192u * i + 7;
        uint32_t type = TYPE_OUT;
        struct driver_buffer buffers[3] = {
            {header_gpa, 16}, {gpa, 4096}, {STATUS_GPA + i, 1}};

        pattern_fill(data, sizeof(data), i);
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
        pattern_fill(data, sizeof(data), i);
        assert_disk(f, 4096u * i, data, sizeof(data));
    }
}

static void test_flush_completes(void **state)
{
    struct fixture *f = *state;

    block_add(f, false, false);
    request_run(f, TYPE_FLUSH, 0, 0, 0, OK);
}

static void test_serial_is_told(void **state)
{
    struct fixture *f = *state;
    char serial[21] = {0};

    block_add(f, false, false);
    assert_int_equal(request_run(f, TYPE_ID, 0, PAYLOAD_GPA, 20, OK), 21);
    driver_memory_read(&f->driver, PAYLOAD_GPA, serial, 20);
    assert_string_equal(serial, "disk-serial");
}

static void test_capacity_is_in_the_configuration(void **state)
{
    struct fixture *f = *state;

    block_add(f, false, false);
    assert_int_equal(driver_read(&f->driver, f->driver.config, 8), DISK_BYTES / 512);
    assert_int_equal(driver_read(&f->driver, f->driver.config + 20, 4), 512);
}

static void test_requests_beyond_the_end_fail(void **state)
{
    struct fixture *f = *state;

    block_add(f, false, false);
    request_run(f, TYPE_IN, DISK_BYTES / 512, PAYLOAD_GPA, 512, IOERR);
    request_run(f, TYPE_OUT, DISK_BYTES / 512 - 1, PAYLOAD_GPA, 1024, IOERR);
    request_run(f, TYPE_OUT, UINT64_MAX, PAYLOAD_GPA, 512, IOERR);
    request_run(f, TYPE_OUT, UINT64_MAX / 512, PAYLOAD_GPA, 512, IOERR);
    request_run(f, TYPE_IN, 0, PAYLOAD_GPA, 511, IOERR);
}

static void test_unknown_request_is_unsupported(void **state)
{
    struct fixture *f = *state;

    block_add(f, false, false);
    request_run(f, 77, 0, PAYLOAD_GPA, 512, UNSUPP);
}

static void test_read_only_disk_refuses_writes(void **state)
{
    struct fixture *f = *state;
    uint32_t features;

    block_add(f, true, false);
    driver_write(&f->driver, f->driver.common, 0, 4);
    features = (uint32_t)driver_read(&f->driver, f->driver.common + 4, 4);
    assert_true(features & (1u << 5));
    assert_false(features & (1u << 13));
    request_run(f, TYPE_OUT, 0, PAYLOAD_GPA, 512, IOERR);
    request_run(f, TYPE_ZEROES, 0, PAYLOAD_GPA, 16, IOERR);
    request_run(f, TYPE_IN, 0, PAYLOAD_GPA, 512, OK);
}

static void range_put(struct fixture *f, uint64_t sector, uint32_t count, uint32_t flags)
{
    driver_memory_write(&f->driver, PAYLOAD_GPA, &sector, 8);
    driver_memory_write(&f->driver, PAYLOAD_GPA + 8, &count, 4);
    driver_memory_write(&f->driver, PAYLOAD_GPA + 12, &flags, 4);
}

static void test_zeroes_are_written(void **state)
{
    struct fixture *f = *state;
    uint8_t zeros[8192] = {0};

    block_add(f, false, false);
    write_and_read(f, PAYLOAD_GPA, 16384, 0);
    range_put(f, 8, 16, 1);
    request_run(f, TYPE_ZEROES, 0, PAYLOAD_GPA, 16, OK);
    assert_disk(f, 4096, zeros, 8192);
    range_put(f, 8, 16, 0);
    request_run(f, TYPE_DISCARD, 0, PAYLOAD_GPA, 16, OK);
    range_put(f, DISK_BYTES / 512, 16, 0);
    request_run(f, TYPE_ZEROES, 0, PAYLOAD_GPA, 16, IOERR);
    range_put(f, 0, UINT32_MAX, 0);
    request_run(f, TYPE_DISCARD, 0, PAYLOAD_GPA, 16, IOERR);
    range_put(f, 0, 8, 8);
    request_run(f, TYPE_ZEROES, 0, PAYLOAD_GPA, 16, UNSUPP);
}

static void test_disk_that_shrank_gives_an_error_once_in_the_log(void **state)
{
    struct fixture *f = *state;

    block_add(f, false, false);
    assert_int_equal(ftruncate(f->fd, 4096), 0);
    request_run(f, TYPE_IN, 100, PAYLOAD_GPA, 512, IOERR);
    request_run(f, TYPE_IN, 100, PAYLOAD_GPA, 512, IOERR);
    assert_int_equal(fake_vm_logged(f->vm, "has become shorter"), 1);
}

static void test_request_without_status_byte_breaks_the_device(void **state)
{
    struct fixture *f = *state;
    struct driver_buffer buffer = {HEADER_GPA, 16};

    block_add(f, false, false);
    header_write(f, TYPE_FLUSH, 0);
    driver_add(&f->driver, 0, &buffer, 1, 0);
    driver_kick(&f->driver, 0);
    fake_vm_run_ms(f->vm, 20);
    assert_true(driver_status(&f->driver) & 64);
    assert_int_equal(fake_vm_logged(f->vm, "stopped until the guest resets it"), 1);
    /* A reset mends it. */
    assert_true(driver_start(&f->driver, F_FLUSH, 1, 64));
    request_run(f, TYPE_FLUSH, 0, 0, 0, OK);
}

static void test_stopped_device_leaves_requests_until_it_goes_on(void **state)
{
    struct fixture *f = *state;
    struct device *device;
    uint16_t head;
    uint32_t written;

    block_add(f, false, false);
    device = vm_devices(f->vm);
    device->ops->io_stop(device);
    assert_true(device->ops->io_drained(device));
    request_add(f, TYPE_FLUSH, 0, 0, 0);
    fake_vm_run_ms(f->vm, 20);
    assert_false(driver_used(&f->driver, 0, &head, &written));
    device->ops->io_start(device);
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(status_of(f), OK);
}

static void test_nothing_is_submitted_after_the_deadline(void **state)
{
    struct fixture *f = *state;
    uint8_t before[512] = {0}, data[512];
    uint16_t head;
    uint32_t written;

    block_add(f, false, false);
    fake_vm_run_ms(f->vm, 1);
    pattern_fill(data, sizeof(data), 1);
    driver_memory_write(&f->driver, PAYLOAD_GPA, data, sizeof(data));
    f->vm->io_allowed = false;
    request_add(f, TYPE_OUT, 5, PAYLOAD_GPA, 512);
    fake_vm_run_ms(f->vm, 50);
    assert_false(driver_used(&f->driver, 0, &head, &written));
    assert_disk(f, 5 * 512, before, sizeof(before));
    /* The lease came back before anybody stopped the device: it goes on by itself. */
    f->vm->io_allowed = true;
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_disk(f, 5 * 512, data, sizeof(data));
}

static void test_reset_waits_for_requests_that_are_out(void **state)
{
    struct fixture *f = *state;

    block_add(f, false, false);
    for (unsigned i = 0; i < 20; i++) {
        request_add(f, TYPE_IN, 0, PAYLOAD_GPA, 65536);
        fake_vm_run_ms(f->vm, 0);
        driver_write(&f->driver, f->driver.common + DRIVER_STATUS, 0, 1);
        for (unsigned wait = 0; driver_status(&f->driver) != 0 && wait < 1000; wait++) {
            fake_vm_run_ms(f->vm, 1);
        }
        assert_int_equal(driver_status(&f->driver), 0);
        assert_true(driver_start(&f->driver, F_FLUSH, 1, 64));
        request_run(f, TYPE_FLUSH, 0, 0, 0, OK);
    }
}

/* ---- state ---------------------------------------------------------------- */

static void save(struct vm *vm, struct buffer *out)
{
    struct device *device = vm_devices(vm);

    buffer_init(out, 0);
    device->ops->io_stop(device);
    assert_true(device->ops->io_drained(device));
    assert_int_equal(device->ops->save(device, out), 0);
}

static void memory_copy(struct vm *to, struct vm *from)
{
    memcpy(guest_ram_region(to->ram, 0)->host, guest_ram_region(from->ram, 0)->host,
           DRIVER_MEMORY_BYTES);
}

static void test_saved_device_goes_on_elsewhere_with_requests_it_had_taken(void **state)
{
    struct fixture *f = *state;
    struct virtio_block_config config = {.path = f->path, .unlocked = true};
    struct vm *target = fake_vm_create(DRIVER_MEMORY_BYTES);
    struct buffer saved;
    struct error err = {0};
    struct device *device;
    uint8_t data[1024];
    uint16_t head;
    uint32_t written;

    block_add(f, false, false);
    write_and_read(f, PAYLOAD_GPA, 4096, 0);
    pattern_fill(data, sizeof(data), 9);
    driver_memory_write(&f->driver, PAYLOAD_GPA, data, sizeof(data));
    fake_vm_run_ms(f->vm, 1);
    f->vm->io_allowed = false;
    request_add(f, TYPE_OUT, 7, PAYLOAD_GPA, 1024);
    fake_vm_run_ms(f->vm, 5);
    save(f->vm, &saved);
    memory_copy(target, f->vm);

    assert_int_equal(virtio_block_create(target, &config, &err), 0);
    device = vm_devices(target);
    assert_int_equal(
        device->ops->load(device, device->ops->version, saved.data, saved.size, &err), 0);
    f->driver.vm = target;
    fake_vm_free(f->vm);
    f->vm = target;
    assert_int_equal(virtio_block_lock(vm_devices(target), &err), 0);
    device->ops->io_start(device);
    assert_true(driver_wait(&f->driver, 0, &head, &written));
    assert_int_equal(status_of(f), OK);
    assert_disk(f, 7 * 512, data, sizeof(data));
    assert_true(target->msi_count > 0);
    write_and_read(f, PAYLOAD_GPA, 4096, 64);
    buffer_done(&saved);
}

static void load_fails(struct device *device, const struct buffer *saved, int code,
                       const char *text)
{
    struct error err = {0};

    assert_int_equal(
        device->ops->load(device, device->ops->version, saved->data, saved->size, &err),
        code);
    assert_non_null(strstr(err.text, text));
}

static void test_malformed_state_is_refused(void **state)
{
    struct fixture *f = *state;
    struct device *device;
    struct buffer saved;
    struct error err = {0};
    unsigned refused = 0;

    block_add(f, false, false);
    save(f->vm, &saved);
    device = vm_devices(f->vm);
    assert_int_equal(device->ops->load(device, 2, saved.data, saved.size, &err),
                     DROVER_EVERSION);
    for (size_t size = 0; size < saved.size; size++) {
        refused += device->ops->load(device, 1, saved.data, size, &err) < 0;
    }
    /* A cut between two fields still decodes, but then something is missing. */
    assert_true(refused >= saved.size - 4);
    for (size_t i = 0; i < saved.size; i++) {
        saved.data[i] ^= 0x55;
        (void)device->ops->load(device, 1, saved.data, saved.size,
                                &err); /* must not crash */
        saved.data[i] ^= 0x55;
    }
    assert_int_equal(device->ops->load(device, 1, saved.data, saved.size, &err), 0);
    buffer_done(&saved);
}

/* Changes one field of a saved state, and packs it again. */
static void test_state_of_another_disk_is_refused(void **state)
{
    struct fixture *f = *state;
    struct device *device;
    struct buffer saved, changed;
    Drover__VirtioBlockState *message;

    block_add(f, false, false);
    save(f->vm, &saved);
    device = vm_devices(f->vm);
    for (unsigned kind = 0; kind < 5; kind++) {
        static const char *const texts[] = {"is it the same disk",
                                            "read-only on one side", "in flight",
                                            "does not offer", "out of range"};
        static const int codes[] = {DROVER_EBADINPUT, DROVER_EBADINPUT, DROVER_EMALFORMED,
                                    DROVER_EVERSION, DROVER_EMALFORMED};

        message = drover__virtio_block_state__unpack(NULL, saved.size, saved.data);
        assert_non_null(message);
        switch (kind) {
        case 0:
            message->capacity_sectors++;
            break;
        case 1:
            message->read_only = true;
            break;
        case 2:
            message->virtio->queues[0]->next_avail++;
            break;
        case 3:
            message->virtio->driver_features |= UINT64_C(1) << 40;
            break;
        default:
            message->virtio->config_vector = 17;
            break;
        }
        buffer_init(&changed, 0);
        assert_int_equal(buffer_reserve(&changed, 4096), 0);
        changed.size = drover__virtio_block_state__pack(message, changed.data);
        drover__virtio_block_state__free_unpacked(message, NULL);
        load_fails(device, &changed, codes[kind], texts[kind]);
        buffer_done(&changed);
    }
    buffer_done(&saved);
}

int main(void)
{
#define BLOCK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
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
        BLOCK_TEST(test_saved_device_goes_on_elsewhere_with_requests_it_had_taken),
        BLOCK_TEST(test_malformed_state_is_refused),
        BLOCK_TEST(test_state_of_another_disk_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
