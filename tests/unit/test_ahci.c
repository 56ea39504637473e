/* SPDX-License-Identifier: Apache-2.0 */
/* The AHCI controller with a drive, driven as by a guest: commands, interrupts, errors,
 * resets, stops, save and load, and what a guest can do wrong. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/ahci_driver.h"
#include "vmm/device.h"
#include "vmm/devices/ahci.h"
#include "vmm/memory/guest_ram.h"

#define BLOCK  2048u
#define BLOCKS 200u
#define MEMORY (4u << 20)

enum { REG_IS = 0x10, REG_CMD = 0x18, REG_TFD = 0x20, REG_SIG = 0x24, REG_SSTS = 0x28 };
enum { REG_SCTL = 0x2c, REG_CI = 0x38 };

#define IS_DHRS 0x00000001u
#define IS_PSS  0x00000002u
#define IS_OFS  0x01000000u
#define IS_HBFS 0x20000000u
#define IS_TFES 0x40000000u

static const uint8_t read_ten_blocks[12] = {0x28, 0, 0, 0, 0, 100, 0, 0, 10};
static const uint8_t read_80_blocks[12] = {0x28, 0, 0, 0, 0, 20, 0, 0, 80};
static const uint8_t read_behind_the_end[12] = {0x28, 0, 0, 0, 0, 199, 0, 0, 2};
static const uint8_t request_sense[12] = {0x03, 0, 0, 0, 18};

struct fixture {
    struct vm *vm;
    struct device *device;
    struct ahci_driver driver;
    char path[64];
};

/* Block 16 is an ISO's; each other is full of its number. */
static void image_make(char path[64])
{
    uint8_t block[BLOCK];
    (void)snprintf(path, 64, "/tmp/test-ahci-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        memset(block, (int)i, sizeof(block));
        if (i == 16) {
            const uint32_t volume_blocks = BLOCKS;
            memcpy(block, "\001CD001\001", 7);
            memcpy(block + 80, &volume_blocks, sizeof(volume_blocks));
        }
        assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    }
    assert_int_equal(close(fd), 0);
}

static int setup(void **state)
{
    static struct fixture fixture;
    struct error err = {0};
    fixture = (struct fixture){.vm = fake_vm_create(MEMORY)};
    image_make(fixture.path);
    const struct ahci_config config = {.cdrom_count = 2,
                                       .cdroms = {fixture.path, fixture.path}};
    assert_int_equal(ahci_create(fixture.vm, &config, &err), 0);
    fixture.device = vm_devices(fixture.vm);
    ahci_driver_init(&fixture.driver, fixture.vm);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    fake_vm_free(fixture->vm);
    (void)unlink(fixture->path);
    return 0;
}

static void assert_data(struct fixture *fixture, unsigned first, unsigned count)
{
    uint8_t block[BLOCK];
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(guest_ram_read(fixture->vm->ram,
                                        AHCI_DRIVER_DATA_GPA + i * BLOCK, block, BLOCK),
                         0);
        for (unsigned at = 0; at < BLOCK; at++) {
            assert_int_equal(block[at], first + i);
        }
    }
}

static void test_drives_present_themselves_when_fises_are_stored(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    uint8_t fis[20];
    assert_int_equal(ahci_driver_get(driver, 0x0c), 3); /* ports */
    assert_int_equal(ahci_driver_get(driver, 0x00) & 0x1f, 1);
    for (driver->port = 0; driver->port < 2; driver->port++) {
        assert_int_equal(ahci_driver_port_get(driver, REG_SSTS) & 0xf, 3);
        assert_int_equal(ahci_driver_port_get(driver, REG_TFD), 0x7f);
        ahci_driver_start(driver);
        assert_int_equal(ahci_driver_port_get(driver, REG_SIG), 0xeb140101);
        assert_int_equal(ahci_driver_port_get(driver, REG_TFD), 0x0100);
        assert_int_equal(ahci_driver_port_get(driver, REG_CMD) & 0xc011, 0xc011);
        assert_int_equal(
            guest_ram_read(fixture->vm->ram, AHCI_DRIVER_FIS_GPA + 0x40, fis, 20), 0);
        assert_int_equal(fis[0], 0x34);
        assert_int_equal(fis[6], 0xeb);
    }
    driver->port = 2;
    assert_int_equal(ahci_driver_port_get(driver, REG_SSTS), 0);
}

static void test_identify_comes_by_pio(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    uint8_t data[512];
    uint8_t fis[20];
    ahci_driver_start(driver);
    ahci_driver_prepare(driver, 0xa1, NULL, 512);
    ahci_driver_issue(driver);
    assert_true(ahci_driver_wait(driver));
    assert_int_equal(ahci_driver_port_get(driver, REG_IS), IS_PSS);
    assert_int_equal(ahci_driver_port_get(driver, REG_TFD), 0x50);
    assert_int_equal(ahci_driver_done_bytes(driver), 512);
    struct guest_ram *ram = fixture->vm->ram;
    assert_int_equal(guest_ram_read(ram, AHCI_DRIVER_DATA_GPA, data, 512), 0);
    assert_int_equal(data[0] | data[1] << 8, 0x85c0);
    assert_memory_equal(data + 54, "rDvoreC -DOR M", 14);
    assert_int_equal(guest_ram_read(ram, AHCI_DRIVER_FIS_GPA + 0x20, fis, 20), 0);
    assert_int_equal(fis[0], 0x5f);
    assert_int_equal(fis[15], 0x50);
    assert_int_equal(fixture->vm->msi_count, 1);
    assert_int_equal(fixture->vm->msi[0].address, AHCI_DRIVER_MSI);
}

static void test_blocks_arrive_in_pieces(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    ahci_driver_start(driver);
    assert_true(ahci_driver_packet(driver, read_ten_blocks, 10 * BLOCK));
    assert_data(fixture, 100, 10);
    assert_int_equal(ahci_driver_port_get(driver, REG_IS), IS_DHRS);
    assert_true(ahci_driver_packet(driver, read_80_blocks, 80 * BLOCK));
    assert_data(fixture, 20, 80);
    assert_int_equal(ahci_driver_done_bytes(driver), 80 * BLOCK);
    assert_int_equal(fixture->vm->msi_count, 2);
}

static void test_more_data_than_room_is_told_and_cut(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    ahci_driver_start(driver);
    assert_true(ahci_driver_packet(driver, read_80_blocks, 3 * BLOCK));
    assert_int_equal(ahci_driver_port_get(driver, REG_IS), IS_DHRS | IS_OFS);
    assert_int_equal(ahci_driver_done_bytes(driver), 3 * BLOCK);
    assert_data(fixture, 20, 3);
}

static void test_an_error_stops_the_port_until_st_is_cleared(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    uint8_t sense[18];
    ahci_driver_start(driver);
    assert_false(ahci_driver_packet(driver, read_behind_the_end, 2 * BLOCK));
    assert_int_equal(ahci_driver_port_get(driver, REG_TFD), 0x5451);
    assert_int_equal(ahci_driver_port_get(driver, REG_CI), 1); /* stays */
    ahci_driver_prepare(driver, 0xa0, request_sense, 18);
    ahci_driver_port_set(driver, REG_IS, 0xffffffff);
    ahci_driver_port_set(driver, REG_CI, 1);
    fake_vm_run_ms(fixture->vm, 20);
    assert_int_equal(ahci_driver_port_get(driver, REG_IS), 0); /* nothing is served */
    ahci_driver_port_set(driver, REG_CMD, 0x16);
    assert_int_equal(ahci_driver_port_get(driver, REG_CI), 0);
    ahci_driver_port_set(driver, REG_CMD, 0x17);
    assert_true(ahci_driver_packet(driver, request_sense, 18));
    assert_int_equal(
        guest_ram_read(fixture->vm->ram, AHCI_DRIVER_DATA_GPA, sense, sizeof(sense)), 0);
    assert_int_equal(sense[2], 5);
    assert_int_equal(sense[12], 0x21);
}

static void test_a_disk_command_is_aborted(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    ahci_driver_start(driver);
    ahci_driver_prepare(driver, 0xec, NULL, 512); /* IDENTIFY DEVICE */
    ahci_driver_issue(driver);
    assert_true(ahci_driver_wait(driver));
    assert_int_equal(ahci_driver_port_get(driver, REG_TFD), 0x0451);
    assert_true((ahci_driver_port_get(driver, REG_IS) & IS_TFES) != 0);
}

/* The guest clears the port's bits, then IS; what came between must not get lost. */
static void test_an_interrupt_that_comes_while_one_is_cleared_is_sent_again(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    static const uint8_t test_unit_ready[12] = {0};
    ahci_driver_start(driver);
    assert_true(ahci_driver_packet(driver, test_unit_ready, 0));
    assert_int_equal(fixture->vm->msi_count, 1);
    assert_int_equal(ahci_driver_get(driver, 0x08), 1);
    ahci_driver_port_set(driver, REG_IS, 0xffffffff);
    ahci_driver_port_set(driver, REG_CI, 1);
    assert_true(ahci_driver_wait(driver));
    assert_int_equal(fixture->vm->msi_count, 1); /* the guest is still at the first */
    ahci_driver_set(driver, 0x08, 1);
    assert_int_equal(fixture->vm->msi_count, 2);
    assert_int_equal(ahci_driver_get(driver, 0x08), 1);
    ahci_driver_port_set(driver, REG_IS, 0xffffffff);
    ahci_driver_set(driver, 0x08, 1);
    assert_int_equal(ahci_driver_get(driver, 0x08), 0);
    assert_int_equal(fixture->vm->msi_count, 2);
}

static void test_resets_in_flight_drop_what_was_read(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    for (unsigned way = 0; way < 3; way++) {
        ahci_driver_start(driver);
        ahci_driver_prepare(driver, 0xa0, read_80_blocks, 80 * BLOCK);
        ahci_driver_issue(driver);
        fake_vm_run_ms(fixture->vm, way); /* sometimes a part has come */
        switch (way) {
        case 0:
            ahci_driver_port_set(driver, REG_CMD, 0x16);
            break;
        case 1:
            ahci_driver_port_set(driver, REG_SCTL, 1);
            ahci_driver_port_set(driver, REG_SCTL, 0);
            break;
        default:
            ahci_driver_set(driver, 0x04, 1);
            break;
        }
        assert_int_equal(ahci_driver_port_get(driver, REG_CI), 0);
        ahci_driver_start(driver);
        assert_true(ahci_driver_packet(driver, read_ten_blocks, 10 * BLOCK));
        assert_data(fixture, 100, 10);
    }
}

static void test_soft_reset_presents_the_drive_anew(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    uint8_t fis[20] = {0x27};
    ahci_driver_start(driver);
    for (unsigned step = 0; step < 2; step++) {
        ahci_driver_prepare(driver, 0, NULL, 0);
        fis[15] = step == 0 ? 4 : 0; /* SRST */
        assert_int_equal(
            guest_ram_write(fixture->vm->ram, AHCI_DRIVER_TABLE_GPA, fis, sizeof(fis)),
            0);
        ahci_driver_issue(driver);
        assert_true(ahci_driver_wait(driver));
        assert_int_equal(ahci_driver_port_get(driver, REG_TFD), step == 0 ? 0x80 : 0x100);
    }
}

static void test_lists_outside_of_memory_stop_the_port_and_nothing_else(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    const uint64_t outside = UINT64_C(0xfffffffffffffc00);
    const uint32_t bad_prd[4] = {0x80000000, 0x1234, 0, 10 * BLOCK - 1};
    for (unsigned what = 0; what < 4; what++) {
        ahci_driver_start(driver);
        ahci_driver_prepare(driver, 0xa0, read_ten_blocks, 10 * BLOCK);
        uint32_t header[4] = {1u << 16 | 5, 0, (uint32_t)outside,
                              (uint32_t)(outside >> 32)};
        if (what == 0) {
            ahci_driver_port_set(driver, 0x00, (uint32_t)outside);
            ahci_driver_port_set(driver, 0x04, (uint32_t)(outside >> 32));
        } else if (what == 1) {
            (void)guest_ram_write(fixture->vm->ram, AHCI_DRIVER_LIST_GPA, header, 16);
        } else if (what == 2) {
            (void)guest_ram_write(fixture->vm->ram, AHCI_DRIVER_TABLE_GPA + 0x80, bad_prd,
                                  16);
        } else {
            ahci_driver_port_set(driver, 0x0c, 0xffff0000); /* FISes */
        }
        ahci_driver_issue(driver);
        assert_true(ahci_driver_wait(driver));
        assert_true((ahci_driver_port_get(driver, REG_IS) & IS_HBFS) != 0);
        ahci_driver_port_set(driver, REG_CMD, 0);
        ahci_driver_start(driver);
        assert_true(ahci_driver_packet(driver, read_ten_blocks, 10 * BLOCK));
        driver->port = 1;
        ahci_driver_start(driver);
        assert_true(ahci_driver_packet(driver, read_ten_blocks, 10 * BLOCK));
        driver->port = 0;
    }
    assert_int_equal(fake_vm_logged(fixture->vm, "stopped until the guest resets"), 4);
}

static void test_nothing_is_read_while_stopped_or_not_allowed(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    const struct device_ops *ops = fixture->device->ops;
    ahci_driver_start(driver);
    ops->io_stop(fixture->device);
    ahci_driver_prepare(driver, 0xa0, read_ten_blocks, 10 * BLOCK);
    ahci_driver_issue(driver);
    fake_vm_run_ms(fixture->vm, 20);
    assert_true(ops->io_drained(fixture->device));
    assert_int_equal(ahci_driver_port_get(driver, REG_CI), 1);
    ops->io_start(fixture->device);
    assert_true(ahci_driver_wait(driver));
    fixture->vm->io_allowed = false; /* nobody has told the device */
    ahci_driver_issue(driver);
    fake_vm_run_ms(fixture->vm, 20);
    assert_int_equal(ahci_driver_port_get(driver, REG_CI), 1);
    fixture->vm->io_allowed = true;
    assert_true(ahci_driver_wait(driver));
    assert_data(fixture, 100, 10);
}

static void test_a_saved_command_is_begun_again(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    const struct device_ops *ops = fixture->device->ops;
    struct buffer saved = {0};
    struct error err = {0};
    ahci_driver_start(driver);
    ops->io_stop(fixture->device);
    ahci_driver_prepare(driver, 0xa0, read_80_blocks, 80 * BLOCK);
    ahci_driver_issue(driver);
    assert_true(ops->io_drained(fixture->device));
    assert_int_equal(ops->save(fixture->device, &saved), 0);
    ops->reset(fixture->device);
    assert_int_equal(ops->load(fixture->device, 1, saved.data, saved.size, &err), 0);
    ops->io_start(fixture->device);
    assert_true(ahci_driver_wait(driver));
    assert_data(fixture, 20, 80);
    assert_int_equal(fixture->vm->msi_count, 1);
    for (size_t size = 0; size < saved.size; size++) { /* cut: refused, or harmless */
        (void)ops->load(fixture->device, 1, saved.data, size, &err);
    }
    buffer_done(&saved);
}

static void test_an_image_that_has_shrunk_is_a_read_error(void **state)
{
    struct fixture *fixture = *state;
    struct ahci_driver *driver = &fixture->driver;
    ahci_driver_start(driver);
    assert_int_equal(truncate(fixture->path, 50 * BLOCK), 0);
    assert_false(ahci_driver_packet(driver, read_ten_blocks, 10 * BLOCK));
    assert_int_equal(ahci_driver_port_get(driver, REG_TFD), 0x3451); /* medium error */
    assert_int_equal(fake_vm_logged(fixture->vm, "has become shorter"), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_drives_present_themselves_when_fises_are_stored),
        TEST(test_identify_comes_by_pio),
        TEST(test_blocks_arrive_in_pieces),
        TEST(test_more_data_than_room_is_told_and_cut),
        TEST(test_an_error_stops_the_port_until_st_is_cleared),
        TEST(test_a_disk_command_is_aborted),
        TEST(test_an_interrupt_that_comes_while_one_is_cleared_is_sent_again),
        TEST(test_resets_in_flight_drop_what_was_read),
        TEST(test_soft_reset_presents_the_drive_anew),
        TEST(test_lists_outside_of_memory_stop_the_port_and_nothing_else),
        TEST(test_nothing_is_read_while_stopped_or_not_allowed),
        TEST(test_a_saved_command_is_begun_again),
        TEST(test_an_image_that_has_shrunk_is_a_read_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
