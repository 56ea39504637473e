/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port as a driver sees it, and its saved state. */
#include "tests/unit/unit.h"

#include <stdbool.h>
#include <string.h>

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/fake_vm.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/devices/serial.h"
#include "vmm/layout.h"
#include "vmm/vm.h"

#define DATA 0
#define IER  1
#define IIR  2
#define LCR  3
#define MCR  4
#define LSR  5
#define MSR  6
#define SCR  7

struct fixture {
    struct vm *vm;
    struct serial *serial;
    uint8_t output[64];
    size_t output_size;
    unsigned rooms;
};

/* The line's level: vm_irq_set() has no owner to hang it on but the one VM of the test.
 */
static bool line;

void vm_irq_set(struct vm *vm, unsigned irq, bool level)
{
    (void)vm;
    assert_int_equal(irq, LAYOUT_IRQ_COM1);
    line = level;
}

static void output(void *owner, const uint8_t *data, size_t size)
{
    struct fixture *fixture = owner;
    assert_true(fixture->output_size + size <= sizeof(fixture->output));
    memcpy(fixture->output + fixture->output_size, data, size);
    fixture->output_size += size;
}

static void input_room(void *owner)
{
    ((struct fixture *)owner)->rooms++;
}

static int setup(void **state)
{
    static struct fixture fixture;
    struct error err = {0};
    fixture = (struct fixture){.vm = fake_vm_create(UINT64_C(1) << 20)};
    line = false;
    const struct serial_config config = {
        .output = output, .input_room = input_room, .owner = &fixture};
    assert_int_equal(serial_create(fixture.vm, &config, &fixture.serial, &err), 0);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    fake_vm_free(((struct fixture *)*state)->vm);
    return 0;
}

static uint8_t get(struct fixture *fixture, unsigned reg)
{
    uint8_t value = 0;
    bus_read(vm_port_bus(fixture->vm), LAYOUT_PORT_COM1 + reg, &value, 1);
    return value;
}

static void set(struct fixture *fixture, unsigned reg, uint8_t value)
{
    bus_write(vm_port_bus(fixture->vm), LAYOUT_PORT_COM1 + reg, &value, 1);
}

static void test_bytes_go_out_at_once(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(get(fixture, LSR) & 0x60, 0x60);
    set(fixture, DATA, 'h');
    set(fixture, DATA, 'i');
    assert_int_equal(fixture->output_size, 2);
    assert_memory_equal(fixture->output, "hi", 2);
    assert_int_equal(get(fixture, LSR) & 0x60, 0x60);
}

static void test_sent_interrupt_comes_and_is_acknowledged(void **state)
{
    struct fixture *fixture = *state;
    set(fixture, MCR, 0x08);
    set(fixture, IER, 0x02);
    assert_true(line); /* switching it on tells that there is room */
    assert_int_equal(get(fixture, IIR) & 0x0f, 0x02);
    assert_false(line);
    assert_int_equal(get(fixture, IIR) & 0x0f, 0x01);
    set(fixture, DATA, 'x');
    assert_true(line);
    set(fixture, MCR, 0); /* the gate to the interrupt controller */
    assert_false(line);
}

static void test_input_interrupts_until_it_is_read(void **state)
{
    struct fixture *fixture = *state;
    set(fixture, MCR, 0x08);
    set(fixture, IER, 0x01);
    assert_int_equal(serial_input(fixture->serial, (const uint8_t *)"ab", 2), 2);
    assert_true(line);
    assert_int_equal(get(fixture, IIR) & 0x0f, 0x04);
    assert_int_equal(get(fixture, LSR) & 1, 1);
    assert_int_equal(get(fixture, DATA), 'a');
    assert_true(line);
    assert_int_equal(get(fixture, DATA), 'b');
    assert_false(line);
    assert_int_equal(get(fixture, LSR) & 1, 0);
    assert_int_equal(fixture->rooms, 2);
}

static void test_input_that_does_not_fit_is_left_to_the_caller(void **state)
{
    struct fixture *fixture = *state;
    uint8_t typed[200];
    for (unsigned i = 0; i < sizeof(typed); i++) {
        typed[i] = (uint8_t)i;
    }
    size_t taken = serial_input(fixture->serial, typed, sizeof(typed));
    assert_true(taken >= 16 && taken < sizeof(typed));
    for (unsigned i = 0; i < taken; i++) {
        assert_int_equal(get(fixture, DATA), i);
    }
    assert_int_equal(serial_input(fixture->serial, typed, 1), 1);
}

static void test_divisor_hides_behind_dlab(void **state)
{
    struct fixture *fixture = *state;
    set(fixture, LCR, 0x83);
    set(fixture, DATA, 0x34);
    set(fixture, IER, 0x12);
    assert_int_equal(get(fixture, DATA), 0x34);
    assert_int_equal(get(fixture, IER), 0x12);
    set(fixture, LCR, 0x03);
    assert_int_equal(get(fixture, IER), 0);
    assert_int_equal(fixture->output_size, 0);
}

static void test_a_driver_finds_the_chip_by_loopback(void **state)
{
    struct fixture *fixture = *state;
    set(fixture, SCR, 0xa5);
    assert_int_equal(get(fixture, SCR), 0xa5);
    set(fixture, MCR, 0x1a); /* loop, OUT2, RTS */
    assert_int_equal(get(fixture, MSR) & 0xf0, 0x90);
    set(fixture, DATA, 'z');
    assert_int_equal(fixture->output_size, 0);
    assert_int_equal(get(fixture, DATA), 'z');
    set(fixture, IIR, 0x01);
    assert_int_equal(get(fixture, IIR) & 0xc0, 0xc0); /* FIFOs: a 16550A */
}

static void test_saved_state_comes_back(void **state)
{
    struct fixture *fixture = *state;
    struct device *device = vm_devices(fixture->vm);
    struct buffer saved = {0};
    struct error err = {0};
    set(fixture, MCR, 0x08);
    set(fixture, IER, 0x03);
    set(fixture, LCR, 0x1b);
    assert_int_equal(serial_input(fixture->serial, (const uint8_t *)"typed", 5), 5);
    assert_int_equal(device->ops->save(device, &saved), 0);
    device->ops->reset(device);
    assert_false(line);
    assert_int_equal(get(fixture, LSR) & 1, 0);
    assert_int_equal(device->ops->load(device, 1, saved.data, saved.size, &err), 0);
    assert_true(line);
    assert_int_equal(get(fixture, LCR), 0x1b);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(get(fixture, DATA), "typed"[i]);
    }
    static const uint8_t garbage[] = {0xff, 0xff, 0xff};
    assert_int_equal(device->ops->load(device, 1, garbage, sizeof(garbage), &err),
                     DROVER_EMALFORMED);
    buffer_done(&saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bytes_go_out_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sent_interrupt_comes_and_is_acknowledged,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_input_interrupts_until_it_is_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_input_that_does_not_fit_is_left_to_the_caller, setup, teardown),
        cmocka_unit_test_setup_teardown(test_divisor_hides_behind_dlab, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_driver_finds_the_chip_by_loopback, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_saved_state_comes_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
