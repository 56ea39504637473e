/* SPDX-License-Identifier: Apache-2.0 */
/* One event is one line, whatever it quotes. Method: the log writes into a pipe. */
#include "tests/unit/unit.h"

#include <string.h>
#include <unistd.h>

#include "base/log.h"

struct fixture {
    struct log log;
    int read_fd;
};

static void set_up(struct fixture *f, enum log_level level)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    log_init(&f->log, "test", level);
    f->log.fd = fds[1];
    f->log.journal = 0;
    f->read_fd = fds[0];
}

static size_t close_and_read(struct fixture *f, char *text, size_t size)
{
    assert_int_equal(close(f->log.fd), 0);
    ssize_t got = read(f->read_fd, text, size - 1);
    assert_true(got >= 0);
    text[got] = '\0';
    assert_int_equal(close(f->read_fd), 0);
    return (size_t)got;
}

static void test_line_has_program_level_and_text(void **state)
{
    struct fixture f;
    char text[256];
    set_up(&f, LOG_LEVEL_INFO);
    log_notice(&f.log, "vm started vm=%s", "web");
    (void)close_and_read(&f, text, sizeof(text));
    assert_non_null(strstr(text, " test notice: vm started vm=web\n"));
}

static void test_lines_above_the_level_are_dropped(void **state)
{
    struct fixture f;
    char text[256];
    set_up(&f, LOG_LEVEL_WARN);
    log_notice(&f.log, "not this");
    log_error(&f.log, "but this");
    (void)close_and_read(&f, text, sizeof(text));
    assert_null(strstr(text, "not this"));
    assert_non_null(strstr(text, "but this"));
}

static void test_quoted_input_cannot_forge_a_line(void **state)
{
    struct fixture f;
    char text[256];
    set_up(&f, LOG_LEVEL_INFO);
    log_info(&f.log, "peer said: %s", "hello\n00:00:00 test error: all is lost");
    size_t size = close_and_read(&f, text, sizeof(text));
    assert_ptr_equal(strchr(text, '\n'), text + size - 1);
}

static void test_long_line_is_cut_and_ended(void **state)
{
    struct fixture f;
    char text[4096], input[3000];
    memset(input, 'y', sizeof(input));
    input[sizeof(input) - 1] = '\0';
    set_up(&f, LOG_LEVEL_INFO);
    log_info(&f.log, "%s", input);
    size_t size = close_and_read(&f, text, sizeof(text));
    assert_true(size <= 1024);
    assert_int_equal(text[size - 1], '\n');
}

static void test_journal_lines_carry_their_priority(void **state)
{
    struct fixture f;
    char text[256];
    set_up(&f, LOG_LEVEL_INFO);
    f.log.journal = 1;
    log_warn(&f.log, "watch out");
    (void)close_and_read(&f, text, sizeof(text));
    assert_string_equal(text, "<4>watch out\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_has_program_level_and_text),
        cmocka_unit_test(test_lines_above_the_level_are_dropped),
        cmocka_unit_test(test_quoted_input_cannot_forge_a_line),
        cmocka_unit_test(test_long_line_is_cut_and_ended),
        cmocka_unit_test(test_journal_lines_carry_their_priority),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
