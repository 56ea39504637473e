/* SPDX-License-Identifier: Apache-2.0 */
/* The PCI bus: both ways to configuration space, BARs, MSI-X, save and load. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/buffer.h"
#include "base/err.h"
#include "vmm/bus/pci.h"
#include "vmm/layout.h"

#define COMMAND      0x04
#define BAR0         0x10
#define BAR2         0x18
#define VECTORS      3
#define MSIX_BAR_REG 0x14

struct fixture {
    struct bus *ports;
    struct bus *memory;
    struct pci_bus *pci;
    struct pci_function *function;
    unsigned sent;
    uint64_t sent_address;
    uint32_t sent_data;
    unsigned resets;
    uint64_t moved_to;
    unsigned reads;
};

static void msi_send(void *owner, uint64_t address, uint32_t data)
{
    struct fixture *fixture = owner;
    fixture->sent++;
    fixture->sent_address = address;
    fixture->sent_data = data;
}

static void reset(void *owner)
{
    ((struct fixture *)owner)->resets++;
}

static void bar_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    (void)offset;
    ((struct fixture *)owner)->reads++;
    memset(data, 0x77, size);
}

static void bar_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    (void)owner;
    (void)offset;
    (void)data;
    (void)size;
}

static void bar_moved(void *owner, unsigned bar_index, uint64_t base)
{
    assert_int_equal(bar_index, 0);
    ((struct fixture *)owner)->moved_to = base;
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

static int setup(void **state)
{
    static struct fixture fixture;
    fixture = (struct fixture){0};
    assert_int_equal(bus_create(&fixture.ports), 0);
    assert_int_equal(bus_create(&fixture.memory), 0);
    const struct pci_bus_config bus = {.port_bus = fixture.ports,
                                       .memory_bus = fixture.memory,
                                       .owner = &fixture,
                                       .msi_send = msi_send,
                                       .reset = reset};
    assert_int_equal(pci_bus_create(&bus, &fixture.pci), 0);
    const struct pci_function_config config = {
        .vendor_id = 0x1af4,
        .device_id = 0x1042,
        .class_code = 0x018000,
        .bars = {{.size_bytes = 0x4000, .ops = &bar_ops}},
        .msix_vectors = VECTORS,
        .msix_bar = 1,
        .owner = &fixture,
        .bar_moved = bar_moved,
    };
    assert_int_equal(pci_function_add(fixture.pci, &config, &fixture.function), 0);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    pci_bus_free(fixture->pci);
    bus_free(fixture->ports);
    bus_free(fixture->memory);
    return 0;
}

static uint64_t ecam(unsigned slot, unsigned offset)
{
    return LAYOUT_ECAM_START + (slot << 15) + offset;
}

static uint32_t get32(struct bus *bus, uint64_t address)
{
    uint8_t data[4];
    bus_read(bus, address, data, 4);
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

static void set32(struct bus *bus, uint64_t address, uint32_t value)
{
    const uint8_t data[4] = {(uint8_t)value, (uint8_t)(value >> 8),
                             (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    bus_write(bus, address, data, 4);
}

static uint32_t ports_get32(struct fixture *fixture, unsigned slot, unsigned offset)
{
    set32(fixture->ports, 0xcf8, 0x80000000u | slot << 11 | offset);
    return get32(fixture->ports, 0xcfc);
}

static void decode(struct fixture *fixture, bool on)
{
    set32(fixture->memory, ecam(1, COMMAND), on ? 6 : 0);
}

static void test_both_ways_show_the_same(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(pci_function_slot(fixture->function), 1);
    assert_int_equal(get32(fixture->memory, ecam(1, 0)), 0x10421af4);
    assert_int_equal(ports_get32(fixture, 1, 0), 0x10421af4);
    assert_int_equal(ports_get32(fixture, 0, 8) >> 8, 0x060000);
    assert_int_equal(get32(fixture->memory, ecam(2, 0)), 0xffffffff);
    assert_int_equal(get32(fixture->memory, ecam(1, 0) | 1 << 12),
                     0xffffffff); /* function 1 */
    assert_int_equal(get32(fixture->memory, ecam(1, 0x100)),
                     0);                   /* no extended capabilities */
    set32(fixture->memory, ecam(1, 0), 0); /* identity is read only */
    assert_int_equal(get32(fixture->memory, ecam(1, 0)), 0x10421af4);
}

static void test_the_reset_port_lies_between(void **state)
{
    struct fixture *fixture = *state;
    const uint8_t value = 6;
    bus_write(fixture->ports, LAYOUT_PORT_RESET, &value, 1);
    assert_int_equal(fixture->resets, 1);
}

static void test_a_bar_tells_its_size_and_moves(void **state)
{
    struct fixture *fixture = *state;
    uint32_t first = get32(fixture->memory, ecam(1, BAR0));
    assert_true(first >= LAYOUT_PCI_WINDOW_START && first % 0x4000 == 0);
    set32(fixture->memory, ecam(1, BAR0), 0xffffffff);
    assert_int_equal(get32(fixture->memory, ecam(1, BAR0)), 0xffffc000);
    set32(fixture->memory, ecam(1, BAR0), 0xd0000000);
    assert_int_equal(get32(fixture->memory, 0xd0000000),
                     0xffffffff); /* not decoded yet */
    decode(fixture, true);
    assert_int_equal(fixture->moved_to, 0xd0000000);
    assert_int_equal(get32(fixture->memory, 0xd0000000), 0x77777777);
    set32(fixture->memory, ecam(1, BAR0), 0xd1000000);
    assert_int_equal(get32(fixture->memory, 0xd0000000), 0xffffffff);
    assert_int_equal(get32(fixture->memory, 0xd1003ffc), 0x77777777);
    decode(fixture, false);
    assert_int_equal(fixture->moved_to, 0);
    assert_int_equal(fixture->reads, 2);
    assert_int_equal(get32(fixture->memory, ecam(1, BAR2)), 0);
}

static void test_a_bar_on_a_place_that_is_taken_answers_nothing(void **state)
{
    struct fixture *fixture = *state;
    set32(fixture->memory, ecam(1, BAR0), (uint32_t)LAYOUT_ECAM_START);
    decode(fixture, true);
    assert_int_equal(get32(fixture->memory, ecam(1, 0)), 0x10421af4);
    set32(fixture->memory, ecam(1, BAR0), 0xd0000000);
    assert_int_equal(get32(fixture->memory, 0xd0000000), 0x77777777);
}

/* Offset of the MSI-X capability in configuration space. */
static unsigned msix_capability(struct fixture *fixture)
{
    unsigned offset = get32(fixture->memory, ecam(1, 0x34)) & 0xff;
    assert_int_equal(get32(fixture->memory, ecam(1, offset)) & 0xff, 0x11);
    return offset;
}

static void msix_enable(struct fixture *fixture, uint32_t flags)
{
    unsigned offset = msix_capability(fixture);
    set32(fixture->memory, ecam(1, offset), flags << 16);
}

static uint64_t vector_set_up(struct fixture *fixture, unsigned vector, bool masked)
{
    set32(fixture->memory, ecam(1, MSIX_BAR_REG), 0xd8000000);
    decode(fixture, true);
    uint64_t entry = 0xd8000000u + 16 * vector;
    set32(fixture->memory, entry, 0xfee01000);
    set32(fixture->memory, entry + 4, 0);
    set32(fixture->memory, entry + 8, 0x4041 + vector);
    set32(fixture->memory, entry + 12, masked ? 1 : 0);
    return entry;
}

static void test_msix_sends_what_the_guest_programmed(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(get32(fixture->memory, ecam(1, msix_capability(fixture))) >> 16 &
                         0x7ff,
                     VECTORS - 1);
    (void)vector_set_up(fixture, 2, false);
    pci_msix_raise(fixture->function, 2);
    assert_int_equal(fixture->sent, 0); /* not enabled: nothing, not even remembered */
    msix_enable(fixture, 0x8000);
    assert_int_equal(fixture->sent, 0);
    assert_true(pci_msix_enabled(fixture->function));
    pci_msix_raise(fixture->function, 2);
    assert_int_equal(fixture->sent, 1);
    assert_int_equal(fixture->sent_address, 0xfee01000);
    assert_int_equal(fixture->sent_data, 0x4043);
    pci_msix_raise(fixture->function, VECTORS); /* above the table */
    assert_int_equal(fixture->sent, 1);
}

static void test_masked_vectors_wait(void **state)
{
    struct fixture *fixture = *state;
    uint64_t entry = vector_set_up(fixture, 1, true);
    msix_enable(fixture, 0x8000);
    pci_msix_raise(fixture->function, 1);
    assert_int_equal(fixture->sent, 0);
    assert_int_equal(get32(fixture->memory, 0xd8000800), 2); /* pending */
    set32(fixture->memory, entry + 12, 0);
    assert_int_equal(fixture->sent, 1);
    assert_int_equal(get32(fixture->memory, 0xd8000800), 0);
    msix_enable(fixture, 0xc000); /* the whole function */
    pci_msix_raise(fixture->function, 1);
    assert_int_equal(fixture->sent, 1);
    msix_enable(fixture, 0x8000);
    assert_int_equal(fixture->sent, 2);
}

static void test_saved_state_comes_back(void **state)
{
    struct fixture *fixture = *state;
    struct buffer saved = {0};
    struct error err = {0};
    set32(fixture->memory, ecam(1, BAR0), 0xd0000000);
    (void)vector_set_up(fixture, 0, true);
    msix_enable(fixture, 0x8000);
    pci_msix_raise(fixture->function, 0);
    assert_int_equal(pci_function_save(fixture->function, &saved), 0);

    pci_function_reset(fixture->function);
    assert_int_equal(get32(fixture->memory, 0xd0000000), 0xffffffff);
    assert_false(pci_msix_enabled(fixture->function));

    assert_int_equal(
        pci_function_load(fixture->function, saved.data, (uint32_t)saved.size, &err), 0);
    assert_int_equal(get32(fixture->memory, 0xd0000000), 0x77777777);
    assert_int_equal(fixture->moved_to, 0xd0000000);
    assert_true(pci_msix_enabled(fixture->function));
    set32(fixture->memory, 0xd8000000 + 12, 0);
    assert_int_equal(fixture->sent, 1); /* it was pending */
    buffer_done(&saved);
}

static void test_state_of_another_device_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct buffer saved = {0};
    struct error err = {0};
    assert_int_equal(pci_function_save(fixture->function, &saved), 0);
    for (size_t size = 0; size < saved.size; size++) {
        assert_int_equal(
            pci_function_load(fixture->function, saved.data, (uint32_t)size, &err),
            DROVER_EMALFORMED);
    }
    saved.data[5] ^= 1; /* the device's identity, behind the field's key and size */
    assert_int_equal(
        pci_function_load(fixture->function, saved.data, (uint32_t)saved.size, &err),
        DROVER_EMALFORMED);
    assert_non_null(strstr(err.text, "another device"));
    buffer_done(&saved);
}

static struct pci_function *sata_add(struct fixture *fixture, unsigned number)
{
    const struct pci_function_config config = {.place = PCI_PLACE(31, number),
                                               .vendor_id = 0x8086,
                                               .device_id = (uint16_t)(0x2900 + number),
                                               .class_code = 0x010601};
    struct pci_function *function = NULL;
    assert_int_equal(pci_function_add(fixture->pci, &config, &function), 0);
    return function;
}

static void test_a_slot_with_several_functions_says_so(void **state)
{
    struct fixture *fixture = *state;
    struct pci_function *third = sata_add(fixture, 2);
    assert_int_equal(get32(fixture->memory, ecam(31, 0)), 0xffffffff);
    struct pci_function *first = sata_add(fixture, 0);
    assert_int_equal(get32(fixture->memory, ecam(31, 0x0c)) >> 16, 0x80);
    assert_int_equal(get32(fixture->memory, ecam(31, 2 << 12)), 0x29028086);
    assert_int_equal(ports_get32(fixture, 31, 2 << 8), 0x29028086);
    assert_int_equal(get32(fixture->memory, ecam(31, 0x0c | 2 << 12)) >> 16, 0);
    assert_int_equal(get32(fixture->memory, ecam(1, 0x0c)) >> 16, 0); /* alone */
    pci_function_reset(first);
    assert_int_equal(get32(fixture->memory, ecam(31, 0x0c)) >> 16, 0x80);
    assert_ptr_equal(pci_function_at(fixture->pci, PCI_PLACE(31, 2)), third);
    const struct pci_function_config again = {.place = PCI_PLACE(31, 2)};
    struct pci_function *none = NULL;
    assert_int_equal(pci_function_add(fixture->pci, &again, &none), -EEXIST);
}

static void test_msi_sends_what_the_guest_programmed(void **state)
{
    struct fixture *fixture = *state;
    struct buffer saved = {0};
    struct error err = {0};
    struct pci_function *function = sata_add(fixture, 0);
    assert_int_equal(pci_msi_add(function), 0);
    unsigned offset = get32(fixture->memory, ecam(31, 0x34)) & 0xff;
    assert_int_equal(get32(fixture->memory, ecam(31, offset)), 0x00800005);
    set32(fixture->memory, ecam(31, offset + 4), 0xfee02003);
    set32(fixture->memory, ecam(31, offset + 12), 0xabcd4055);
    pci_msi_raise(function);
    assert_int_equal(fixture->sent, 0); /* not turned on */
    set32(fixture->memory, ecam(31, offset), 0x00010000);
    pci_msi_raise(function);
    assert_int_equal(fixture->sent, 1);
    assert_int_equal(fixture->sent_address, 0xfee02000);
    assert_int_equal(fixture->sent_data, 0x4055);

    assert_int_equal(pci_function_save(function, &saved), 0);
    pci_function_reset(function);
    pci_msi_raise(function);
    assert_int_equal(fixture->sent, 1);
    assert_int_equal(pci_function_load(function, saved.data, (uint32_t)saved.size, &err),
                     0);
    pci_msi_raise(function);
    assert_int_equal(fixture->sent, 2);
    assert_int_equal(fixture->sent_data, 0x4055);
    buffer_done(&saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_both_ways_show_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_reset_port_lies_between, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_bar_tells_its_size_and_moves, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_a_bar_on_a_place_that_is_taken_answers_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_msix_sends_what_the_guest_programmed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_masked_vectors_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_saved_state_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_slot_with_several_functions_says_so, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_msi_sends_what_the_guest_programmed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_state_of_another_device_is_refused, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
