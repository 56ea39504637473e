/* SPDX-License-Identifier: Apache-2.0 */
/* Tables: columns are as wide as their widest cell, and no cell steers the terminal. */
#include "tests/unit/unit.h"

#include <stdio.h>
#include <stdlib.h>

#include "cli/table.h"

static void assert_prints(struct table *table, const char *expected)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    table_print(table, out);
    assert_int_equal(fclose(out), 0);
    assert_string_equal(text, expected);
    free(text);
}

static void test_columns_line_up(void **state)
{
    static const char *const titles[] = {"NAME", "STATE", "N", NULL};
    struct table *table = table_create(titles);
    assert_non_null(table);
    assert_int_equal(table_cell(table, "a-long-name"), 0);
    assert_int_equal(table_cell(table, "up"), 0);
    assert_int_equal(table_cell(table, "%d", 12), 0);
    assert_prints(table, "NAME         STATE  N\na-long-name  up     12\n");
    table_free(table);
}

static void test_control_characters_are_defused(void **state)
{
    static const char *const titles[] = {"T", NULL};
    struct table *table = table_create(titles);
    assert_non_null(table);
    assert_int_equal(table_cell(table, "a\033[2Jb\nc\177"), 0);
    assert_prints(table, "T\na?[2Jb?c?\n");
    table_free(table);
    table_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns_line_up),
        cmocka_unit_test(test_control_characters_are_defused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
