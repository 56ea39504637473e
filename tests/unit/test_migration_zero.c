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
    zero_page_function variants[ZERO_PAGE_VARIANTS_MAX];
    unsigned count = zero_page_variants(variants);
    assert_true(count >= 1);
    for (unsigned v = 0; v < count; v++) {
        assert_true(variants[v](page));
        for (unsigned i = 0; i < sizeof(page); i++) {
            page[i] = i % 8 == 0 ? 0x80 : 1;
            assert_false(variants[v](page));
            page[i] = 0;
        }
        assert_true(variants[v](page));
    }
    assert_ptr_equal(zero_page_pick(), variants[count - 1]);
}

static void test_all_checksums_are_the_plain_one(void **state)
{
    static uint8_t data[3 * 4096 + 64];
    crc32c_function variants[CRC32C_VARIANTS_MAX];
    unsigned count = crc32c_variants(variants);
    uint64_t seed = 1;
    for (unsigned i = 0; i < sizeof(data); i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        data[i] = (uint8_t)(seed >> 56);
    }
    /* Around a page, a block of three parts, and two of them; at any alignment. */
    static const size_t sizes[] = {0,    1,    7,    8,    1359, 1360, 4079, 4080,
                                   4081, 4095, 4096, 4097, 8159, 8160, 8176, 3 * 4096};
    for (unsigned v = 0; v < count; v++) {
        for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            for (unsigned offset = 0; offset < 64; offset += 9) {
                uint32_t crc = offset * 0x01234567u;
                assert_int_equal(variants[v](crc, data + offset, sizes[i]),
                                 crc32c_portable(crc, data + offset, sizes[i]));
            }
        }
    }
    assert_ptr_equal(crc32c_pick(), variants[count - 1]);
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
        cmocka_unit_test(test_all_checksums_are_the_plain_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
