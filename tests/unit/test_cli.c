/* SPDX-License-Identifier: Apache-2.0 */
/* Small things of the command line: sizes, numbers, fields that are missing. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "cli/cli.h"

static void test_sizes_for_people(void **state)
{
    char text[CLI_SIZE_SIZE];
    assert_string_equal(cli_size(0, text), "0K");
    assert_string_equal(cli_size(512u << 20, text), "512M");
    assert_string_equal(cli_size(UINT64_C(3) << 29, text), "1.5G");
    assert_string_equal(cli_size(UINT64_C(4) << 40, text), "4T");
    assert_string_equal(cli_size(UINT64_C(5) << 50, text), "5120T");
}

static void test_numbers_are_whole_and_in_range(void **state)
{
    uint64_t value = 77;
    assert_int_equal(cli_parse_number("v", "--n", "10", 1, 10, &value), CLI_OK);
    assert_int_equal(value, 10);
    static const char *const bad[] = {
        "", "0", "11", "-1", "1x", "1.5", "99999999999999999999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(cli_parse_number("v", "--n", bad[i], 1, 10, &value), CLI_USAGE);
        assert_int_equal(value, 10);
    }
}

static void test_missing_fields_are_dashes_and_zeros(void **state)
{
    json_t *object =
        json_pack("{s:n,s:s,s:i,s:f}", "null", "empty", "", "negative", -5, "real", 2.6);
    assert_string_equal(cli_text(object, "none"), "-");
    assert_string_equal(cli_text(object, "null"), "-");
    assert_string_equal(cli_text(object, "empty"), "-");
    assert_int_equal(cli_number(object, "none"), 0);
    assert_int_equal(cli_number(object, "negative"), 0);
    assert_int_equal(cli_number(object, "real"), 3);
    json_decref(object);
}

/* Events have words of VMMs in them, and a VMM may be its guest's. */
static void test_what_others_wrote_does_nothing_to_a_terminal(void **state)
{
    json_t *answer = json_pack("{s:[{s:s,s:i}],s:s}", "events", "text",
                               "gone: \x1b[2J\x1b]0;x\x07\nroot# \xc2\x9b"
                               "1m h\xc3\xa4lt \x7f",
                               "index", 3, "plain", "as it was: \xc3\xa4 \xe2\x82\xac");
    assert_non_null(answer);
    cli_texts_plain(answer);
    const json_t *event = json_array_get(json_object_get(answer, "events"), 0);
    assert_string_equal(cli_text(event, "text"),
                        "gone:  [2J ]0;x  root#   1m h\xc3\xa4lt  ");
    assert_int_equal(cli_number(event, "index"), 3);
    assert_string_equal(cli_text(answer, "plain"), "as it was: \xc3\xa4 \xe2\x82\xac");
    json_decref(answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_for_people),
        cmocka_unit_test(test_numbers_are_whole_and_in_range),
        cmocka_unit_test(test_missing_fields_are_dashes_and_zeros),
        cmocka_unit_test(test_what_others_wrote_does_nothing_to_a_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
