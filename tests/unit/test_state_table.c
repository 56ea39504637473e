/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of states: what they allow; that a forbidden move aborts, and so does CHECK().
 */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/state_table.h"

enum { LIGHT_RED, LIGHT_GREEN, LIGHT_OFF, LIGHT_COUNT };

static const struct state_row light_rows[] = {
    [LIGHT_RED] = {"red", STATE_BIT(LIGHT_GREEN) | STATE_BIT(LIGHT_OFF)},
    [LIGHT_GREEN] = {"green", STATE_BIT(LIGHT_RED)},
    [LIGHT_OFF] = {"off", 0},
};
static const struct state_table light = {"light", light_rows, LIGHT_COUNT};

/* Runs `body` in a child process and says whether SIGABRT ended it. */
static int aborts(void (*body)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)signal(SIGABRT, SIG_DFL);
        (void)close(STDERR_FILENO);
        body();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void forbidden_move(void)
{
    unsigned now = LIGHT_GREEN;
    state_table_move(&light, &now, LIGHT_OFF);
}

static void failed_check(void)
{
    CHECK(1 + 1 == 3);
}

static void passed_check(void)
{
    CHECK(1 + 1 == 2);
}

static void test_allowed_moves_are_made(void **state)
{
    unsigned now = LIGHT_RED;
    state_table_move(&light, &now, LIGHT_GREEN);
    assert_int_equal(now, LIGHT_GREEN);
    assert_true(state_table_allows(&light, LIGHT_GREEN, LIGHT_RED));
    assert_false(state_table_allows(&light, LIGHT_GREEN, LIGHT_GREEN));
    assert_false(state_table_allows(&light, LIGHT_OFF, LIGHT_RED));
    assert_false(state_table_allows(&light, LIGHT_RED, LIGHT_COUNT));
    assert_false(state_table_allows(&light, 99, LIGHT_RED));
}

static void test_forbidden_move_aborts(void **state)
{
    assert_true(aborts(forbidden_move));
}

static void test_check_aborts_only_when_false(void **state)
{
    assert_true(aborts(failed_check));
    assert_false(aborts(passed_check));
}

static void test_names_of_states(void **state)
{
    assert_string_equal(state_table_name(&light, LIGHT_OFF), "off");
    assert_string_equal(state_table_name(&light, 77), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allowed_moves_are_made),
        cmocka_unit_test(test_forbidden_move_aborts),
        cmocka_unit_test(test_check_aborts_only_when_false),
        cmocka_unit_test(test_names_of_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
