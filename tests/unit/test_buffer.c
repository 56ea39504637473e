/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that grow: contents, limits, and that a failure changes nothing. */
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/err.h"

static void test_append_keeps_all_bytes_in_order(void **state)
{
    struct buffer buffer;
    buffer_init(&buffer, 0);
    for (unsigned i = 0; i < 10000; i++) {
        uint8_t byte = (uint8_t)(i * 7);
        assert_int_equal(buffer_append(&buffer, &byte, 1), 0);
    }
    assert_int_equal(buffer.size, 10000);
    for (unsigned i = 0; i < 10000; i++) {
        assert_int_equal(buffer.data[i], (uint8_t)(i * 7));
    }
    buffer_done(&buffer);
}

static void test_integers_are_big_endian(void **state)
{
    static const uint8_t expected[] = {0x12, 0x34, 0xde, 0xad, 0xbe, 0xef, 1,
                                       2,    3,    4,    5,    6,    7,    8};
    struct buffer buffer;
    buffer_init(&buffer, 0);
    assert_int_equal(buffer_append_u16(&buffer, 0x1234), 0);
    assert_int_equal(buffer_append_u32(&buffer, 0xdeadbeef), 0);
    assert_int_equal(buffer_append_u64(&buffer, UINT64_C(0x0102030405060708)), 0);
    assert_int_equal(buffer.size, sizeof(expected));
    assert_memory_equal(buffer.data, expected, sizeof(expected));
    buffer_done(&buffer);
}

static void test_limit_refuses_and_changes_nothing(void **state)
{
    struct buffer buffer;
    buffer_init(&buffer, 8);
    assert_int_equal(buffer_append(&buffer, "12345678", 8), 0);
    assert_int_equal(buffer_append(&buffer, "9", 1), DROVER_ELIMIT);
    assert_int_equal(buffer_reserve(&buffer, SIZE_MAX), DROVER_ELIMIT);
    assert_int_equal(buffer.size, 8);
    assert_memory_equal(buffer.data, "12345678", 8);
    buffer_done(&buffer);
}

static void test_consume_drops_the_front(void **state)
{
    struct buffer buffer;
    buffer_init(&buffer, 0);
    assert_int_equal(buffer_append(&buffer, "abcdef", 6), 0);
    buffer_consume(&buffer, 2);
    assert_int_equal(buffer.size, 4);
    assert_memory_equal(buffer.data, "cdef", 4);
    buffer_consume(&buffer, 4);
    assert_int_equal(buffer.size, 0);
    buffer_done(&buffer);
}

static void test_take_hands_the_memory_over(void **state)
{
    struct buffer buffer;
    size_t size = 0;
    buffer_init(&buffer, 100);
    assert_int_equal(buffer_append(&buffer, "xyz", 3), 0);
    uint8_t *data = buffer_take(&buffer, &size);
    assert_int_equal(size, 3);
    assert_memory_equal(data, "xyz", 3);
    assert_null(buffer.data);
    assert_int_equal(buffer.limit_bytes, 100);
    free(data);
    buffer_done(&buffer);
    buffer_done(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append_keeps_all_bytes_in_order),
        cmocka_unit_test(test_integers_are_big_endian),
        cmocka_unit_test(test_limit_refuses_and_changes_nothing),
        cmocka_unit_test(test_consume_drops_the_front),
        cmocka_unit_test(test_take_hands_the_memory_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
