/* SPDX-License-Identifier: Apache-2.0 */
/* The bus: who answers where, and that a removed range is quiet. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "vmm/bus/bus.h"

struct probe {
    struct bus *bus;
    uint64_t offset;
    uint8_t data[8];
    unsigned size;
    unsigned calls;
    atomic_bool gone; /* no handler may run any more */
    atomic_bool wrong;
};

static void probe_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct probe *probe = owner;
    probe->offset = offset;
    probe->size = size;
    probe->calls++;
    memset(data, 0x11, size);
}

static void probe_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct probe *probe = owner;
    probe->offset = offset;
    probe->size = size;
    probe->calls++;
    memcpy(probe->data, data, size);
}

static const struct bus_ops probe_ops = {.read = probe_read, .write = probe_write};

static struct bus *make(void)
{
    struct bus *bus = NULL;
    assert_int_equal(bus_create(&bus), 0);
    return bus;
}

static void test_the_owner_of_an_address_answers(void **state)
{
    (void)state;
    struct bus *bus = make();
    struct probe low = {0};
    struct probe high = {0};
    assert_int_equal(bus_add(bus, 0x200, 8, &probe_ops, &high), 0);
    assert_int_equal(bus_add(bus, 0x100, 8, &probe_ops, &low), 0);
    uint8_t data[4] = {1, 2, 3, 4};
    bus_write(bus, 0x204, data, 4);
    assert_int_equal(high.calls, 1);
    assert_int_equal(high.offset, 4);
    assert_memory_equal(high.data, data, 4);
    bus_read(bus, 0x107, data, 1);
    assert_int_equal(low.calls, 1);
    assert_int_equal(low.offset, 7);
    assert_int_equal(data[0], 0x11);
    bus_free(bus);
}

static void test_nobody_reads_as_ones(void **state)
{
    (void)state;
    struct bus *bus = make();
    struct probe probe = {0};
    uint8_t data[8] = {0};
    assert_int_equal(bus_add(bus, 0x100, 4, &probe_ops, &probe), 0);
    bus_read(bus, 0x102, data, 4); /* reaches over the end: nobody's */
    assert_memory_equal(data, "\xff\xff\xff\xff", 4);
    bus_read(bus, 0xff, data, 1);
    bus_write(bus, 0x104, data, 1);
    bus_read(bus, UINT64_MAX - 3, data, 8);
    assert_int_equal(probe.calls, 0);
    bus_free(bus);
}

static void test_overlaps_are_refused(void **state)
{
    (void)state;
    struct bus *bus = make();
    struct probe probe = {0};
    assert_int_equal(bus_add(bus, 0x100, 0x10, &probe_ops, &probe), 0);
    assert_int_equal(bus_add(bus, 0x100, 1, &probe_ops, &probe), -EEXIST);
    assert_int_equal(bus_add(bus, 0x10f, 1, &probe_ops, &probe), -EEXIST);
    assert_int_equal(bus_add(bus, 0xf0, 0x11, &probe_ops, &probe), -EEXIST);
    assert_int_equal(bus_add(bus, 0, 0x1000, &probe_ops, &probe), -EEXIST);
    assert_int_equal(bus_add(bus, 0xf0, 0x10, &probe_ops, &probe), 0);
    assert_int_equal(bus_add(bus, 0x110, 1, &probe_ops, &probe), 0);
    assert_int_equal(bus_add(bus, UINT64_MAX, 1, &probe_ops, &probe), 0);
    bus_free(bus);
}

static void slow_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct probe *probe = owner;
    (void)offset;
    if (atomic_load(&probe->gone)) {
        atomic_store(&probe->wrong, true);
    }
    memset(data, 0x22, size);
}

static const struct bus_ops slow_ops = {.read = slow_read, .write = probe_write};

static void *reader(void *argument)
{
    struct probe *probe = argument;
    uint8_t data[4];
    for (unsigned i = 0; i < 20000; i++) {
        bus_read(probe->bus, 0x100, data, 4);
    }
    return NULL;
}

static void test_after_removal_no_handler_runs(void **state)
{
    (void)state;
    struct probe probe = {.bus = make()};
    pthread_t thread;
    assert_int_equal(bus_add(probe.bus, 0x100, 4, &slow_ops, &probe), 0);
    assert_int_equal(pthread_create(&thread, NULL, reader, &probe), 0);
    for (unsigned i = 0; i < 200; i++) {
        bus_remove(probe.bus, 0x100);
        atomic_store(&probe.gone, true);
        atomic_store(&probe.gone, false);
        assert_int_equal(bus_add(probe.bus, 0x100, 4, &slow_ops, &probe), 0);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(probe.wrong);
    bus_free(probe.bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_owner_of_an_address_answers),
        cmocka_unit_test(test_nobody_reads_as_ones),
        cmocka_unit_test(test_overlaps_are_refused),
        cmocka_unit_test(test_after_removal_no_handler_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
