/* SPDX-License-Identifier: Apache-2.0 */
/* Error texts, and messages of one line. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"

static void test_every_code_has_its_text(void **state)
{
#define X(name, number, text) assert_string_equal(err_text(DROVER_##name), text);
    DROVER_ERRORS(X)
#undef X
    assert_string_equal(err_text(0), "no error");
    assert_string_equal(err_text(-ENOENT), "No such file or directory");
    assert_string_equal(err_text(-99999), "unknown error");
}

static void test_codes_are_apart_from_errno(void **state)
{
#define X(name, number, text) assert_true((number) > 4095);
    DROVER_ERRORS(X)
#undef X
}

static void test_set_gives_one_line_and_the_code(void **state)
{
    struct error err = {0};
    assert_int_equal(error_set(&err, -ENOENT, "no %s:\nmake one\r", "disk"), -ENOENT);
    assert_int_equal(err.code, -ENOENT);
    assert_string_equal(err.text, "no disk: make one ");
    assert_int_equal(error_set(NULL, DROVER_ELIMIT, "nobody reads this"), DROVER_ELIMIT);
}

static void test_long_text_is_cut(void **state)
{
    char text[2 * ERROR_TEXT_SIZE];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    struct error err = {0};
    (void)error_set(&err, -EIO, "%s", text);
    assert_int_equal(strlen(err.text), ERROR_TEXT_SIZE - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_has_its_text),
        cmocka_unit_test(test_codes_are_apart_from_errno),
        cmocka_unit_test(test_set_gives_one_line_and_the_code),
        cmocka_unit_test(test_long_text_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
