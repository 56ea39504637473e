/* SPDX-License-Identifier: Apache-2.0 */
/* What firmware gets: boot order, UUID, the script that joins the ACPI tables (played here
 * as firmware plays it), and flash whose variables reach their file. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/fake_vm.h"
#include "vmm/boot/acpi.h"
#include "vmm/bus/bus.h"
#include "vmm/bus/pci.h"
#include "vmm/device.h"
#include "vmm/firmware/firmware.h"
#include "vmm/firmware/flash.h"
#include "vmm/firmware/vars_store.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"

#define CODE_BYTES      65536u
#define VARIABLES_BYTES 32768u
#define VARIABLES_GPA   (LAYOUT_FLASH_END - CODE_BYTES - VARIABLES_BYTES)
#define PLACE           0x100000u /* where the tables are put */

static struct flash *flash_device;
static bool variables_mapped;

void vm_flash_set(struct vm *vm, struct flash *flash)
{
    assert_non_null(vm);
    flash_device = flash;
}

struct flash *vm_flash(struct vm *vm)
{
    assert_non_null(vm);
    return flash_device;
}

int kvm_rom_set(struct vm *vm, enum kvm_rom rom, uint64_t gpa, const void *memory,
                uint64_t size)
{
    assert_non_null(vm);
    assert_int_equal(gpa % 4096, 0);
    assert_true(size == 0 || memory != NULL);
    if (rom == KVM_ROM_VARIABLES) {
        variables_mapped = size != 0;
    }
    return 0;
}

static uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

static uint8_t sum(const uint8_t *data, size_t size)
{
    uint8_t value = 0;
    for (size_t i = 0; i < size; i++) {
        value = (uint8_t)(value + data[i]);
    }
    return value;
}

static void test_boot_order_names_devices_as_firmware_does(void **state)
{
    (void)state;
    const struct firmware_boot boot[] = {
        {.kind = FIRMWARE_BOOT_DISK, .place = PCI_PLACE(1, 0), .order = 3},
        {.kind = FIRMWARE_BOOT_DISK, .place = PCI_PLACE(10, 0), .order = 0},
        {.kind = FIRMWARE_BOOT_NET, .place = PCI_PLACE(11, 0), .order = 2},
        {.kind = FIRMWARE_BOOT_CDROM, .place = PCI_PLACE(31, 2), .port = 1, .order = 1},
    };
    char text[4096];
    int size = firmware_boot_order(boot, 4, text, sizeof(text));
    assert_string_equal(text, "/pci@i0cf8/pci8086,2922@1f,2/drive@1/disk@0\n"
                              "/pci@i0cf8/ethernet@b/ethernet-phy@0\n"
                              "/pci@i0cf8/scsi@1/disk@0,0");
    assert_int_equal(size, strlen(text) + 1);
    assert_int_equal(firmware_boot_order(boot + 1, 1, text, sizeof(text)), 0);
    assert_true(firmware_boot_order(boot, 4, text, 60) < 0);
}

static void test_uuids_are_told_apart_and_read(void **state)
{
    (void)state;
    uint8_t one[16];
    uint8_t two[16];
    firmware_uuid_make("web", 1, one);
    firmware_uuid_make("web", 1, two);
    assert_memory_equal(one, two, 16);
    firmware_uuid_make("web", 2, two);
    assert_memory_not_equal(one, two, 16);
    assert_int_equal(firmware_uuid_parse("00112233-4455-6677-8899-AABBccddeeff", one), 0);
    assert_int_equal(one[0], 0);
    assert_int_equal(one[10], 0xaa);
    assert_int_equal(one[15], 0xff);
    assert_true(firmware_uuid_parse("00112233-4455-6677-8899-aabbccddeef", one) < 0);
    assert_true(firmware_uuid_parse("00112233x4455-6677-8899-aabbccddeeff", one) < 0);
    assert_true(firmware_uuid_parse("g0112233-4455-6677-8899-aabbccddeeff", one) < 0);
}

/* Commands 2 and 3 of the script; 1 has put the tables at PLACE. */
static void script_play(const struct buffer *script, uint8_t *tables, uint8_t *rsdp)
{
    for (size_t at = 0; at < script->size; at += 128) {
        const uint8_t *entry = script->data + at;
        bool to_tables = strcmp((const char *)entry + 4, ACPI_FILE_TABLES) == 0;
        uint8_t *file = to_tables ? tables : rsdp;
        if (entry[0] == 2) {
            uint8_t *pointer = file + get(entry + 116, 4);
            uint64_t value = get(pointer, entry[120]) + PLACE;
            for (unsigned i = 0; i < entry[120]; i++) {
                pointer[i] = (uint8_t)(value >> (8 * i));
            }
        } else if (entry[0] == 3) {
            /* As OVMF does it: of what stands there, the sum's own place included. */
            uint8_t *result = file + get(entry + 60, 4);
            *result = (uint8_t)-sum(file + get(entry + 64, 4), get(entry + 68, 4));
        } else {
            assert_int_equal(entry[0], 1);
        }
    }
}

static void test_firmware_can_join_the_acpi_tables(void **state)
{
    (void)state;
    const struct acpi_machine machine = {.cpu_count = 3, .ecam = 0xb0000000};
    struct buffer tables = {0};
    struct buffer script = {0};
    struct acpi_places places;
    uint8_t rsdp[ACPI_RSDP_SIZE];
    assert_int_equal(acpi_files_make(&machine, &tables, rsdp, &places), 0);
    assert_int_equal(acpi_loader_make(&places, &script), 0);
    script_play(&script, tables.data, rsdp);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, sizeof(rsdp)), 0);
    assert_int_equal(get(rsdp + 16, 4), PLACE + places.rsdt);
    assert_int_equal(get(rsdp + 24, 8), PLACE + places.xsdt);
    const uint8_t *xsdt = tables.data + places.xsdt;
    assert_int_equal(sum(xsdt, get(xsdt + 4, 4)), 0);
    static const char *const names[ACPI_LISTED] = {"FACP", "APIC", "MCFG"};
    for (unsigned i = 0; i < ACPI_LISTED; i++) {
        const uint8_t *table = tables.data + get(xsdt + 36 + 8 * i, 8) - PLACE;
        assert_memory_equal(table, names[i], 4);
        assert_int_equal(sum(table, get(table + 4, 4)), 0);
    }
    const uint8_t *fadt = tables.data + places.fadt;
    assert_int_equal(get(fadt + 40, 4), get(fadt + 140, 8));
    assert_memory_equal(tables.data + get(fadt + 40, 4) - PLACE, "DSDT", 4);
    assert_int_equal(get(tables.data + places.listed[2] + 44, 8), 0xb0000000);
    buffer_done(&tables);
    buffer_done(&script);
}

struct chip {
    struct vm *vm;
    struct device *device;
    char path[32];
};

static void chip_make(struct chip *chip)
{
    static const uint8_t zeros[VARIABLES_BYTES];
    struct error err = {0};
    strcpy(chip->path, "/tmp/test-vars-XXXXXX");
    int fd = mkstemp(chip->path);
    int code = memfd_create("code", MFD_CLOEXEC);
    assert_true(fd >= 0 && code >= 0);
    assert_int_equal(ftruncate(fd, VARIABLES_BYTES), 0);
    assert_int_equal(ftruncate(code, CODE_BYTES), 0);
    struct flash_config config = {.code_fd = code,
                                  .code_bytes = CODE_BYTES,
                                  .variables_bytes = VARIABLES_BYTES,
                                  .variables = zeros};
    assert_int_equal(
        vars_store_open(chip->path, zeros, VARIABLES_BYTES, true, &config.store, &err), 0);
    chip->vm = fake_vm_create(1u << 20);
    struct flash *flash = NULL;
    assert_int_equal(flash_create(chip->vm, &config, &flash, &err), 0);
    chip->device = vm_devices(chip->vm);
    chip->device->ops->io_start(chip->device);
    (void)close(fd);
    (void)close(code);
}

static void chip_free(struct chip *chip)
{
    fake_vm_free(chip->vm);
    assert_int_equal(unlink(chip->path), 0);
}

static void chip_write(struct chip *chip, unsigned offset, uint8_t value)
{
    bus_write(vm_memory_bus(chip->vm), VARIABLES_GPA + offset, &value, 1);
}

static uint8_t chip_read(struct chip *chip, unsigned offset)
{
    uint8_t value = 0;
    bus_read(vm_memory_bus(chip->vm), VARIABLES_GPA + offset, &value, 1);
    return value;
}

static uint8_t file_byte(const struct chip *chip, unsigned offset)
{
    uint8_t value = 0xee;
    FILE *file = fopen(chip->path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, offset, SEEK_SET), 0);
    assert_int_equal(fread(&value, 1, 1, file), 1);
    (void)fclose(file);
    return value;
}

static void byte_program(struct chip *chip, unsigned offset, uint8_t value)
{
    chip_write(chip, offset, 0x10);
    chip_write(chip, offset, value);
    chip_write(chip, offset, 0xff);
}

static void test_variables_reach_their_file(void **state)
{
    (void)state;
    struct chip chip;
    chip_make(&chip);
    assert_true(variables_mapped);
    byte_program(&chip, 5000, 0x42);
    assert_false(variables_mapped); /* until it is read some times */
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(chip_read(&chip, 5000), 0x42);
    }
    assert_true(variables_mapped);
    fake_vm_run_ms(chip.vm, 50);
    assert_int_equal(file_byte(&chip, 5000), 0x42);
    chip_write(&chip, 4096, 0x20); /* erases its sector */
    chip_write(&chip, 4096, 0xd0);
    assert_int_equal(chip_read(&chip, 0), 0x80); /* the status: ready */
    chip_write(&chip, 4096, 0xff);
    assert_int_equal(chip_read(&chip, 5000), 0xff);
    assert_int_equal(chip_read(&chip, 8192), 0);
    chip.device->ops->io_stop(chip.device); /* what is pending comes before it stands */
    assert_int_equal(file_byte(&chip, 5000), 0xff);
    chip_free(&chip);
}

static void test_nothing_is_written_without_a_lease(void **state)
{
    (void)state;
    struct chip chip;
    chip_make(&chip);
    fake_vm_run_ms(chip.vm, 30);
    chip.vm->config.ha = true; /* with a deadline of 0: over */
    chip.vm->io_allowed = false;
    byte_program(&chip, 100, 0x42);
    fake_vm_run_ms(chip.vm, 30);
    chip.device->ops->io_stop(chip.device);
    assert_int_equal(file_byte(&chip, 100), 0);
    chip.vm->config.ha = false; /* it comes back */
    chip.vm->io_allowed = true;
    chip.device->ops->io_start(chip.device);
    fake_vm_run_ms(chip.vm, 50);
    assert_int_equal(file_byte(&chip, 100), 0x42);
    chip_free(&chip);
}

static void test_variables_move_and_are_written_where_the_guest_goes_on(void **state)
{
    (void)state;
    struct chip from;
    struct chip to;
    struct buffer saved = {0};
    struct error err = {0};
    chip_make(&from);
    byte_program(&from, 7, 0x42);
    assert_int_equal(from.device->ops->save(from.device, &saved), 0);
    chip_make(&to);
    to.device->ops->io_stop(to.device);
    assert_int_equal(to.device->ops->load(to.device, 1, saved.data, saved.size, &err), 0);
    to.device->ops->io_stop(to.device); /* the move fails: the file is not its own */
    assert_int_equal(file_byte(&to, 7), 0);
    to.device->ops->io_start(to.device);
    fake_vm_run_ms(to.vm, 50);
    assert_int_equal(file_byte(&to, 7), 0x42);
    assert_true(to.device->ops->load(to.device, 1, saved.data, saved.size / 2, &err) < 0);
    buffer_done(&saved);
    chip_free(&from);
    chip_free(&to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_boot_order_names_devices_as_firmware_does),
        cmocka_unit_test(test_uuids_are_told_apart_and_read),
        cmocka_unit_test(test_firmware_can_join_the_acpi_tables),
        cmocka_unit_test(test_variables_reach_their_file),
        cmocka_unit_test(test_nothing_is_written_without_a_lease),
        cmocka_unit_test(test_variables_move_and_are_written_where_the_guest_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
