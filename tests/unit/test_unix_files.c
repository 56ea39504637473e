/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/unix_files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/unit.h"

struct pair {
    int ends[2];
};

static int pair_make(void **state)
{
    static struct pair pair;
    *state = &pair;
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair.ends);
}

static int pair_close(void **state)
{
    struct pair *pair = *state;
    (void)close(pair->ends[0]);
    (void)close(pair->ends[1]);
    return 0;
}

static void test_files_arrive_beside_the_bytes(void **state)
{
    struct pair *pair = *state;
    struct unix_files out = {.count = 2};
    assert_int_equal(pipe(out.fds), 0);
    assert_int_equal(unix_files_send(pair->ends[0], "ab", 2, &out, 0), 2);
    char text[8];
    struct unix_files in = {0};
    assert_int_equal(unix_files_receive(pair->ends[1], text, sizeof(text), &in, 0), 2);
    assert_int_equal(in.count, 2);
    assert_int_equal(fcntl(in.fds[0], F_GETFD), FD_CLOEXEC);
    /* They are the same pipe. */
    assert_int_equal(write(in.fds[1], "x", 1), 1);
    assert_int_equal(read(out.fds[0], text, 1), 1);
    int taken = unix_files_take(&in, 0);
    assert_true(taken >= 0);
    assert_int_equal(unix_files_take(&in, 7), -1);
    unix_files_done(&in);
    assert_int_equal(close(taken), 0);
    unix_files_done(&out);
}

static void test_bytes_alone_bring_no_files(void **state)
{
    struct pair *pair = *state;
    struct unix_files none = {0};
    assert_int_equal(unix_files_send(pair->ends[0], "abc", 3, &none, 0), 3);
    char text[8];
    assert_int_equal(unix_files_receive(pair->ends[1], text, sizeof(text), &none, 0), 3);
    assert_int_equal(none.count, 0);
}

static void test_too_many_files_are_refused_and_closed(void **state)
{
    struct pair *pair = *state;
    struct unix_files out = {.count = UNIX_FILES_MAX};
    for (unsigned i = 0; i < UNIX_FILES_MAX; i++) {
        out.fds[i] = pair->ends[0];
    }
    int before = dup(0);
    (void)close(before);
    struct unix_files in = {0};
    char text[8];
    assert_int_equal(unix_files_send(pair->ends[0], "a", 1, &out, 0), 1);
    assert_int_equal(unix_files_receive(pair->ends[1], text, 1, &in, 0), 1);
    assert_int_equal(in.count, UNIX_FILES_MAX);
    out.count = 3;
    assert_int_equal(unix_files_send(pair->ends[0], "a", 1, &out, 0), 1);
    assert_int_equal(unix_files_receive(pair->ends[1], text, 1, &in, 0), -EMFILE);
    unix_files_done(&in);
    int after = dup(0);
    assert_int_equal(before, after); /* nothing stayed open */
    (void)close(after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_files_arrive_beside_the_bytes, pair_make,
                                        pair_close),
        cmocka_unit_test_setup_teardown(test_bytes_alone_bring_no_files, pair_make,
                                        pair_close),
        cmocka_unit_test_setup_teardown(test_too_many_files_are_refused_and_closed,
                                        pair_make, pair_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
