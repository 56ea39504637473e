/* SPDX-License-Identifier: Apache-2.0 */
/* The panic device: what a crashing kernel writes, and what each policy makes of it. */
#include "tests/unit/unit.h"

#include "base/buffer.h"
#include "base/err.h"
#include "tests/unit/fake_vm.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/devices/panic.h"

#define PANICKED     1
#define CRASH_LOADED 2

struct fixture {
    struct vm *vm;
    struct device *device;
};

static void make(struct fixture *fixture, enum panic_policy policy)
{
    struct error err = {0};
    fixture->vm = fake_vm_create(1 << 20);
    assert_int_equal(panic_create(fixture->vm, policy, &err), 0);
    fixture->device = vm_devices(fixture->vm);
}

static void tell(struct fixture *fixture, uint8_t events)
{
    bus_write(fixture->vm->ports, PANIC_PORT, &events, 1);
}

static struct panic_status status(struct fixture *fixture)
{
    struct panic_status now;
    panic_status(fixture->vm, &now);
    return now;
}

static void test_the_port_tells_which_events_it_knows(void **state)
{
    struct fixture fixture = {0};
    uint8_t events = 0xff;
    (void)state;
    make(&fixture, PANIC_POLICY_STOP);
    bus_read(fixture.vm->ports, PANIC_PORT, &events, 1);
    assert_int_equal(events, PANICKED | CRASH_LOADED);
    tell(&fixture, 0x80); /* of no meaning: nothing happens */
    assert_int_equal(status(&fixture).panics, 0);
    assert_int_equal(fixture.vm->end_count, 0);
    fake_vm_free(fixture.vm);
}

static void test_each_policy_is_carried_out(void **state)
{
    (void)state;
    for (unsigned policy = PANIC_POLICY_STOP; policy <= PANIC_POLICY_IGNORE; policy++) {
        struct fixture fixture = {0};
        make(&fixture, (enum panic_policy)policy);
        tell(&fixture, PANICKED);
        assert_true(status(&fixture).panicked);
        assert_int_equal(status(&fixture).panics, 1);
        assert_true(status(&fixture).last_unix_ms > 0);
        assert_int_equal(status(&fixture).ended, policy == PANIC_POLICY_STOP);
        assert_int_equal(fixture.vm->end_count, policy == PANIC_POLICY_STOP);
        assert_int_equal(fixture.vm->reset_count, policy == PANIC_POLICY_RESET);
        assert_int_equal(fixture.vm->holds,
                         policy == PANIC_POLICY_PAUSE ? VM_HOLD_PANIC : 0);
        assert_int_equal(fake_vm_logged(fixture.vm, "kernel has crashed"), 1);
        fake_vm_free(fixture.vm);
    }
}

static void test_a_crash_is_told_once_until_the_reset(void **state)
{
    struct fixture fixture = {0};
    (void)state;
    make(&fixture, PANIC_POLICY_RESET);
    tell(&fixture, PANICKED);
    tell(&fixture, PANICKED);
    assert_int_equal(status(&fixture).panics, 1);
    assert_int_equal(fixture.vm->reset_count, 1);
    fixture.device->ops->reset(fixture.device);
    assert_false(status(&fixture).panicked);
    tell(&fixture, PANICKED);
    assert_int_equal(status(&fixture).panics, 2);
    for (unsigned i = 0; i < 100; i++) { /* the log does not fill up */
        fixture.device->ops->reset(fixture.device);
        tell(&fixture, PANICKED);
    }
    assert_int_equal(status(&fixture).panics, 102);
    assert_int_equal(fake_vm_logged(fixture.vm, "kernel has crashed"), 32);
    fake_vm_free(fixture.vm);
}

static void test_a_crash_kernel_is_left_alone(void **state)
{
    struct fixture fixture = {0};
    (void)state;
    make(&fixture, PANIC_POLICY_STOP);
    tell(&fixture, CRASH_LOADED);
    assert_int_equal(status(&fixture).panics, 1);
    assert_false(status(&fixture).panicked);
    assert_int_equal(fixture.vm->end_count, 0);
    assert_int_equal(fake_vm_logged(fixture.vm, "crash kernel takes over"), 1);
    fake_vm_free(fixture.vm);
}

static void test_a_crashed_guest_stands_still_where_it_is_loaded(void **state)
{
    struct fixture source = {0};
    struct fixture target = {0};
    struct buffer saved = {0};
    struct error err = {0};
    (void)state;
    make(&source, PANIC_POLICY_PAUSE);
    make(&target, PANIC_POLICY_PAUSE);
    tell(&source, PANICKED);
    assert_int_equal(source.device->ops->save(source.device, &saved), 0);
    assert_int_equal(
        target.device->ops->load(target.device, 1, saved.data, saved.size, &err), 0);
    assert_true(status(&target).panicked);
    assert_int_equal(target.vm->holds, VM_HOLD_PANIC);
    assert_int_equal(status(&target).last_unix_ms, 0); /* was told at its source */
    assert_int_equal(
        target.device->ops->load(target.device, 1, (const uint8_t *)"\xff", 1, &err),
        DROVER_EMALFORMED);
    buffer_done(&saved);
    fake_vm_free(source.vm);
    fake_vm_free(target.vm);
}

static void test_policies_have_names(void **state)
{
    enum panic_policy policy = PANIC_POLICY_STOP;
    (void)state;
    assert_int_equal(panic_policy_parse("ignore", &policy), 0);
    assert_int_equal(policy, PANIC_POLICY_IGNORE);
    assert_int_equal(panic_policy_parse("crash", &policy), DROVER_EBADINPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_port_tells_which_events_it_knows),
        cmocka_unit_test(test_each_policy_is_carried_out),
        cmocka_unit_test(test_a_crash_is_told_once_until_the_reset),
        cmocka_unit_test(test_a_crash_kernel_is_left_alone),
        cmocka_unit_test(test_a_crashed_guest_stands_still_where_it_is_loaded),
        cmocka_unit_test(test_policies_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
