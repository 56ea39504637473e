/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that somebody else made: they come out as they went in, and none is lost. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "migration/transport.h"

struct fixture {
    struct transport_listener *listener;
    const struct transport_ops *ops;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    const char *address = NULL;
    struct error err = {0};
    assert_int_equal(transport_find("handed:192.0.2.1:7400", &f->ops, &address, &err), 0);
    assert_string_equal(address, "192.0.2.1:7400");
    assert_int_equal(f->ops->listen(address, &f->listener, &err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    transport_listener_close(f->listener);
    free(f);
    return 0;
}

static void pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static void test_connections_come_out_in_order(void **state)
{
    struct fixture *f = *state;
    int fds[3][2];
    for (unsigned i = 0; i < 3; i++) {
        pair(fds[i]);
        assert_int_equal(f->listener->ops->give(f->listener, fds[i][0]), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        struct transport_link *link = NULL;
        assert_int_equal(f->listener->ops->accept(f->listener, -1, 1000, 1000, &link), 0);
        char said = (char)('a' + i);
        char heard = 0;
        struct iovec out = {.iov_base = &said, .iov_len = 1};
        assert_int_equal(link->ops->send(link, &out, 1, 1000, NULL), 0);
        assert_int_equal(read(fds[i][1], &heard, 1), 1);
        assert_int_equal(heard, said);
        (void)close(fds[i][1]);
        size_t size = 0;
        struct iovec in = {.iov_base = &heard, .iov_len = 1};
        assert_int_equal(link->ops->recv(link, &in, 1, 1000, &size), DROVER_ECLOSED);
        transport_link_close(link);
    }
}

static void *give_later(void *owner)
{
    struct fixture *f = owner;
    int fds[2];
    pair(fds);
    (void)usleep(20000);
    assert_int_equal(f->listener->ops->give(f->listener, fds[0]), 0);
    (void)close(fds[1]);
    return NULL;
}

static void test_who_waits_is_woken(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;
    struct transport_link *link = NULL;
    assert_int_equal(pthread_create(&thread, NULL, give_later, f), 0);
    assert_int_equal(f->listener->ops->accept(f->listener, -1, 5000, 1000, &link), 0);
    transport_link_close(link);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_waiting_ends_with_the_time_or_a_cancel(void **state)
{
    struct fixture *f = *state;
    struct transport_link *link = NULL;
    assert_int_equal(f->listener->ops->accept(f->listener, -1, 10, 1000, &link),
                     DROVER_ETIMEDOUT2);
    int cancel_fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(f->listener->ops->accept(f->listener, cancel_fd, UINT32_MAX, 1000, &link),
                     DROVER_ECANCELLED);
    assert_null(link);
    (void)close(cancel_fd);
}

static void test_who_says_nothing_is_passed_over(void **state)
{
    struct fixture *f = *state;
    struct transport_link *link = NULL;
    int fds[3][2];
    for (unsigned i = 0; i < 3; i++) {
        pair(fds[i]);
        assert_int_equal(f->listener->ops->give(f->listener, fds[i][0]), 0);
    }
    assert_int_equal(transport_handed_accept(f->listener, -1, -1, 10, &link),
                     DROVER_ETIMEDOUT2);
    (void)close(fds[1][1]); /* this one has gone again */
    assert_int_equal(write(fds[2][1], "c", 1), 1);
    assert_int_equal(transport_handed_accept(f->listener, -1, -1, 1000, &link), 0);
    assert_false(is_open(fds[1][0]));
    char heard = 0;
    size_t size = 0;
    struct iovec in = {.iov_base = &heard, .iov_len = 1};
    assert_int_equal(link->ops->recv(link, &in, 1, 1000, &size), 0);
    assert_int_equal(heard, 'c'); /* which was not taken away by looking */
    transport_link_close(link);

    int other_fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(transport_handed_accept(f->listener, other_fd, -1, 1000, &link), -EAGAIN);
    (void)close(other_fd);
    int cancel_fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(transport_handed_accept(f->listener, -1, cancel_fd, UINT32_MAX, &link),
                     DROVER_ECANCELLED);
    (void)close(cancel_fd);
    assert_int_equal(write(fds[0][1], "a", 1), 1);
    assert_int_equal(transport_handed_accept(f->listener, -1, -1, 1000, &link), 0);
    transport_link_close(link);
    (void)close(fds[0][1]);
    (void)close(fds[2][1]);
}

static void test_too_many_are_the_givers_again(void **state)
{
    struct fixture *f = *state;
    int fds[2];
    unsigned taken = 0;
    pair(fds);
    for (;;) {
        int fd = dup(fds[0]);
        int rv = f->listener->ops->give(f->listener, fd);
        if (rv != 0) {
            assert_int_equal(rv, DROVER_ELIMIT);
            assert_true(is_open(fd));
            (void)close(fd);
            break;
        }
        taken++;
        assert_true(taken < 1000);
    }
    assert_true(taken > 0);
    (void)close(fds[0]);
    /* Those that nobody took are closed with the listener: then the other end sees it. */
    transport_listener_close(f->listener);
    char byte;
    assert_int_equal(read(fds[1], &byte, 1), 0);
    (void)close(fds[1]);
    struct error err = {0};
    assert_int_equal(f->ops->listen("x:1", &f->listener, &err), 0);
}

static void test_nobody_connects_this_way(void **state)
{
    struct fixture *f = *state;
    struct transport_link *link = NULL;
    struct error err = {0};
    assert_int_equal(f->ops->connect("h:1", -1, 1, 1, &link, &err), DROVER_EBADINPUT);
    assert_non_null(strstr(err.text, "tcp:HOST:PORT"));
    char uri[TRANSPORT_URI_SIZE];
    f->listener->ops->uri(f->listener, uri);
    assert_string_equal(uri, "handed:192.0.2.1:7400");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_connections_come_out_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_who_waits_is_woken, setup, teardown),
        cmocka_unit_test_setup_teardown(test_waiting_ends_with_the_time_or_a_cancel,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_says_nothing_is_passed_over, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_too_many_are_the_givers_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_nobody_connects_this_way, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
