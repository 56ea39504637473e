/* SPDX-License-Identifier: Apache-2.0 */
/* Names that are names, and identities that differ. */
#include "tests/unit/unit.h"

#include <string.h>

#include "base/id.h"

static void test_names_are_rfc1123_labels(void **state)
{
    static const char *const good[] = {
        "a", "web",  "web-1",
        "0", "a--b", "a23456789012345678901234567890123456789012345678901234567890bcd"};
    static const char *const bad[] = {
        "",    "-a",
        "a-",  "A",
        "a.b", "a b",
        "a/b", "\xc3\xa4",
        "a\n", "a23456789012345678901234567890123456789012345678901234567890bcde"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(id_name_valid(good[i]));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(id_name_valid(bad[i]));
    }
}

static void test_random_texts_differ(void **state)
{
    char one[ID_TEXT_SIZE], two[ID_TEXT_SIZE];
    assert_int_equal(id_random_text(one), 0);
    assert_int_equal(id_random_text(two), 0);
    assert_int_equal(strlen(one), 32);
    assert_int_equal(strspn(one, "0123456789abcdef"), 32);
    assert_string_not_equal(one, two);
}

static void test_boot_id_stays_within_a_boot(void **state)
{
    char one[ID_TEXT_SIZE], two[ID_TEXT_SIZE];
    assert_int_equal(id_boot_text(one), 0);
    assert_int_equal(id_boot_text(two), 0);
    assert_true(strlen(one) >= 32);
    assert_string_equal(one, two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_are_rfc1123_labels),
        cmocka_unit_test(test_random_texts_differ),
        cmocka_unit_test(test_boot_id_stays_within_a_boot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
