/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk's saved state: it goes on elsewhere with all it had taken, and hostile
 * states are refused. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/buffer.h"
#include "base/err.h"
#include "proto/virtio_state.pb-c.h"
#include "tests/unit/block_driver.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtio_block.h"

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
    struct block_driver *f = *state;
    struct virtio_block_config config = {.path = f->path, .unlocked = true};
    struct vm *target = fake_vm_create(DRIVER_MEMORY_BYTES);
    struct buffer saved;
    struct error err = {0};
    struct device *device;
    uint8_t data[1024];
    uint16_t head;
    uint32_t written;

    block_driver_add(f, false, false);
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA, 4096, 0);
    block_driver_pattern_fill(data, sizeof(data), 9);
    driver_memory_write(&f->driver, BLOCK_DRIVER_PAYLOAD_GPA, data, sizeof(data));
    fake_vm_run_ms(f->vm, 1);
    f->vm->io_allowed = false;
    block_driver_request_add(f, BLOCK_DRIVER_OUT, 7, BLOCK_DRIVER_PAYLOAD_GPA, 1024);
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
    assert_int_equal(block_driver_status(f), BLOCK_DRIVER_OK);
    block_driver_assert_disk(f, 7 * 512, data, sizeof(data));
    assert_true(target->msi_count > 0);
    block_driver_write_and_read(f, BLOCK_DRIVER_PAYLOAD_GPA, 4096, 64);
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
    struct block_driver *f = *state;
    struct device *device;
    struct buffer saved;
    struct error err = {0};
    unsigned refused = 0;

    block_driver_add(f, false, false);
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
    struct block_driver *f = *state;
    struct device *device;
    struct buffer saved, changed;
    Drover__VirtioBlockState *message;

    block_driver_add(f, false, false);
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
#define BLOCK_TEST(name)                                                                 \
    cmocka_unit_test_setup_teardown(name, block_driver_setup, block_driver_teardown)
    const struct CMUnitTest tests[] = {
        BLOCK_TEST(test_saved_device_goes_on_elsewhere_with_requests_it_had_taken),
        BLOCK_TEST(test_malformed_state_is_refused),
        BLOCK_TEST(test_state_of_another_disk_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
