/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI tables as a guest finds them: RSDP to XSDT to each table, checksums, and the
 * DSDT's AML structure. */
#include "tests/unit/unit.h"

#include <stdbool.h>
#include <string.h>

#include "base/buffer.h"
#include "base/err.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/aml.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

static uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

static void assert_sums_to_zero(const uint8_t *data, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + data[i]);
    }
    assert_int_equal(sum, 0);
}

static struct acpi_machine machine_of(unsigned cpus)
{
    return (struct acpi_machine){
        .cpu_count = cpus,
        .ecam = LAYOUT_ECAM_START,
        .window64_start = LAYOUT_HIGH_RAM_START,
        .window64_end = UINT64_C(1) << 40,
    };
}

static struct guest_ram *make(unsigned cpus)
{
    struct guest_ram *ram = NULL;
    struct error err = {0};
    assert_int_equal(guest_ram_create(UINT64_C(1) << 20, &ram, &err), 0);
    const struct acpi_machine machine = machine_of(cpus);
    assert_int_equal(acpi_tables_write(&machine, ram), 0);
    return ram;
}

/* The table with that signature, by way of RSDP and XSDT. */
static const uint8_t *table_find(struct guest_ram *ram, const char *signature)
{
    const uint8_t *rsdp = guest_ram_pointer(ram, LAYOUT_ACPI_RSDP, 36);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_sums_to_zero(rsdp, 20);
    assert_sums_to_zero(rsdp, 36);
    const uint8_t *xsdt = guest_ram_pointer(ram, get(rsdp + 24, 8), 36);
    size_t size = get(xsdt + 4, 4);
    assert_sums_to_zero(xsdt, size);
    for (size_t at = 36; at < size; at += 8) {
        const uint8_t *table = guest_ram_pointer(ram, get(xsdt + at, 8), 36);
        assert_non_null(table);
        assert_sums_to_zero(table, get(table + 4, 4));
        if (memcmp(table, signature, 4) == 0) {
            return table;
        }
    }
    return NULL;
}

static void test_madt_lists_each_processor(void **state)
{
    (void)state;
    struct guest_ram *ram = make(3);
    const uint8_t *madt = table_find(ram, "APIC");
    assert_non_null(madt);
    size_t size = get(madt + 4, 4);
    unsigned processors = 0;
    unsigned io_apics = 0;
    size_t at = 44;
    while (at < size) {
        assert_true(madt[at + 1] >= 2);
        if (madt[at] == 0) {
            assert_int_equal(madt[at + 3], processors);
            processors++;
        }
        io_apics += madt[at] == 1 ? 1 : 0;
        at += madt[at + 1];
    }
    assert_int_equal(at, size);
    assert_int_equal(processors, 3);
    assert_int_equal(io_apics, 1);
    guest_ram_free(ram);
}

static void test_fadt_leads_to_dsdt_and_facs(void **state)
{
    (void)state;
    struct guest_ram *ram = make(1);
    const uint8_t *fadt = table_find(ram, "FACP");
    assert_non_null(fadt);
    assert_int_equal(get(fadt + 40, 4), get(fadt + 140, 8));
    const uint8_t *dsdt = guest_ram_pointer(ram, get(fadt + 140, 8), 36);
    assert_memory_equal(dsdt, "DSDT", 4);
    assert_sums_to_zero(dsdt, get(dsdt + 4, 4));
    uint64_t facs = get(fadt + 36, 4);
    assert_int_equal(facs % 64 % 16, 0);
    assert_memory_equal(guest_ram_pointer(ram, facs, 64), "FACS", 4);
    assert_int_equal(get(fadt + 56, 4), LAYOUT_PORT_ACPI_EVENT);
    guest_ram_free(ram);
}

static void test_mcfg_names_the_ecam_range(void **state)
{
    (void)state;
    struct guest_ram *ram = make(1);
    const uint8_t *mcfg = table_find(ram, "MCFG");
    assert_non_null(mcfg);
    assert_int_equal(get(mcfg + 44, 8), LAYOUT_ECAM_START);
    assert_int_equal(mcfg[44 + 10], 0);
    assert_int_equal(mcfg[44 + 11], 0);
    guest_ram_free(ram);
}

static void test_the_most_processors_fit(void **state)
{
    (void)state;
    struct guest_ram *ram = make(64);
    assert_non_null(table_find(ram, "APIC"));
    guest_ram_free(ram);
}

static void test_eisa_ids_and_integers(void **state)
{
    (void)state;
    struct buffer out = {0};
    struct aml aml;
    aml_init(&aml, &out);
    aml_eisa_id(&aml, "PNP0A08");
    aml_integer(&aml, 0);
    aml_integer(&aml, 1);
    aml_integer(&aml, 5);
    aml_integer(&aml, 0x1ffff);
    assert_int_equal(aml.error, 0);
    static const uint8_t wanted[] = {0x0c, 0x41, 0xd0, 0x0a, 0x08, 0x00, 0x01,
                                     0x0a, 0x05, 0x0c, 0xff, 0xff, 0x01, 0x00};
    assert_int_equal(out.size, sizeof(wanted));
    assert_memory_equal(out.data, wanted, sizeof(wanted));
    buffer_done(&out);
}

static void test_blocks_tell_their_length(void **state)
{
    (void)state;
    struct buffer out = {0};
    struct aml aml;
    aml_init(&aml, &out);
    aml_device_begin(&aml, "DEV0");
    aml_name(&aml, "_UID");
    aml_integer(&aml, 1);
    aml_end(&aml);
    assert_int_equal(aml.error, 0);
    /* 5B 82, length in three bytes: itself, 4 of the name, 6 of the object within. */
    static const uint8_t wanted[] = {0x5b, 0x82, 0x8d, 0x00, 0x00, 'D', 'E', 'V',
                                     '0',  0x08, '_',  'U',  'I',  'D', 0x01};
    assert_int_equal(out.size, sizeof(wanted));
    assert_memory_equal(out.data, wanted, sizeof(wanted));
    buffer_done(&out);
}

static void test_dsdt_names_what_guests_look_for(void **state)
{
    (void)state;
    struct buffer out = {0};
    const struct acpi_machine machine = machine_of(1);
    assert_int_equal(acpi_dsdt_make(&machine, &out), 0);
    assert_sums_to_zero(out.data, out.size);
    static const char *const names[] = {"PCI0", "_PRT", "COM1", "RTC_", "PEVT", "_S5_"};
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_non_null(memmem(out.data, out.size, names[i], 4));
    }
    buffer_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_madt_lists_each_processor),
        cmocka_unit_test(test_fadt_leads_to_dsdt_and_facs),
        cmocka_unit_test(test_mcfg_names_the_ecam_range),
        cmocka_unit_test(test_the_most_processors_fit),
        cmocka_unit_test(test_eisa_ids_and_integers),
        cmocka_unit_test(test_blocks_tell_their_length),
        cmocka_unit_test(test_dsdt_names_what_guests_look_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
