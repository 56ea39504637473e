/* SPDX-License-Identifier: Apache-2.0 */
/* Zero pages and checksums: the fast versions say what the plain ones say. */
#include <string.h>

#include "migration/crc32c.h"
#include "migration/guest.h"
#include "migration/zero.h"
#include "tests/unit/unit.h"

static void test_one_byte_anywhere_makes_a_page_not_zero(void **state)
{
    static _Alignas(4096) uint8_t page[MIGRATION_PAGE_SIZE];
    zero_page_function is_zero = zero_page_pick();
    assert_true(is_zero(page));
    assert_true(zero_page_portable(page));
    for (unsigned i = 0; i < sizeof(page); i++) {
        page[i] = i % 8 == 0 ? 0x80 : 1;
        assert_false(is_zero(page));
        assert_false(zero_page_portable(page));
        page[i] = 0;
    }
    assert_true(is_zero(page));
}

static void test_crc32c_is_the_one_of_rfc_3720(void **state)
{
    uint8_t data[4096 + 7];
    crc32c_function crc32c = crc32c_pick();
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
    memset(data, 0, 32);
    assert_int_equal(crc32c_portable(0, data, 32), 0x8a9136aau);
    for (unsigned i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 31 + i / 256);
    }
    for (unsigned size = 0; size < 70; size++) {
        assert_int_equal(crc32c(0, data, size), crc32c_portable(0, data, size));
    }
    uint32_t whole = crc32c(0, data, sizeof(data));
    assert_int_equal(whole, crc32c_portable(0, data, sizeof(data)));
    assert_int_equal(crc32c(crc32c(0, data, 1000), data + 1000, sizeof(data) - 1000),
                     whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_byte_anywhere_makes_a_page_not_zero),
        cmocka_unit_test(test_crc32c_is_the_one_of_rfc_3720),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
