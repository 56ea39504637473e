/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encrypted connections for moves that stand, by a relay and (where the kernel has it) by
 * the kernel: bytes arrive as they were sent, ends and cuts are passed on.
 *
 * With `kernel-tls` as its argument: only the cases that need the kernel's TLS, which
 * fail where it has none. The scenario migrate-encrypted of tests/lab runs it so, in a
 * host.
 */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/moves_fixture.h"

#define BULK_BYTES (24u * 1024u * 1024u)

struct talker {
    int fd;
    uint8_t seed;
    bool good;
};

static uint8_t byte_at(size_t at, uint8_t seed)
{
    return (uint8_t)((at >> 16) * 31 + at * 7 + seed);
}

static void *talk(void *owner)
{
    struct talker *talker = owner;
    uint8_t data[10007];
    for (size_t at = 0; at < BULK_BYTES;) {
        size_t size = sizeof(data) < BULK_BYTES - at ? sizeof(data) : BULK_BYTES - at;
        for (size_t i = 0; i < size; i++) {
            data[i] = byte_at(at + i, talker->seed);
        }
        ssize_t sent = send(talker->fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0) {
            return NULL;
        }
        at += (size_t)sent;
    }
    talker->good = true;
    return NULL;
}

static void *listen_to(void *owner)
{
    struct talker *talker = owner;
    static __thread uint8_t data[65536];
    size_t at = 0;
    while (at < BULK_BYTES) {
        size_t want = sizeof(data) < BULK_BYTES - at ? sizeof(data) : BULK_BYTES - at;
        ssize_t got = recv(talker->fd, data, want, 0);
        if (got <= 0) {
            return NULL;
        }
        for (ssize_t i = 0; i < got; i++) {
            if (data[i] != byte_at(at + (size_t)i, talker->seed)) {
                return NULL;
            }
        }
        at += (size_t)got;
    }
    talker->good = true;
    return NULL;
}

static void both_ways(struct moves_fixture *f)
{
    struct talker talkers[4] = {
        {.fd = f->hosts[0].socket.fd, .seed = 1},
        {.fd = f->hosts[1].socket.fd, .seed = 1},
        {.fd = f->hosts[1].socket.fd, .seed = 2},
        {.fd = f->hosts[0].socket.fd, .seed = 2},
    };
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, i % 2 == 0 ? talk : listen_to, &talkers[i]),
            0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_true(talkers[i].good);
    }
}

static void test_bytes_arrive_both_ways_through_relays(void **state)
{
    struct moves_fixture *f = *state;
    moves_fixture_connect(f);
    assert_false(f->hosts[0].socket.by_kernel);
    assert_false(f->hosts[1].socket.by_kernel);
    both_ways(f);
}

static bool kernel_has_tls(void)
{
    int fds[2] = {socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    assert_int_equal(bind(fds[0], (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(fds[0], 1), 0);
    assert_int_equal(getsockname(fds[0], (struct sockaddr *)&address, &size), 0);
    assert_int_equal(connect(fds[1], (struct sockaddr *)&address, size), 0);
    bool has = setsockopt(fds[1], IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0;
    (void)close(fds[0]);
    (void)close(fds[1]);
    return has;
}

static void test_bytes_arrive_both_ways_through_the_kernel(void **state)
{
    struct moves_fixture *f = *state;
    f->relay_only = false;
    moves_fixture_connect(f);
    assert_true(f->hosts[0].socket.by_kernel);
    assert_true(f->hosts[1].socket.by_kernel);
    both_ways(f);
    (void)close(f->hosts[1].socket.fd);
    f->hosts[1].socket.fd = -1;
    moves_fixture_ends(f->hosts[0].socket.fd);
}

static void test_kernel_and_relay_understand_each_other(void **state)
{
    struct moves_fixture *f = *state;
    struct moves_host *one = moves_fixture_host(f, 1, &f->pki);
    f->relay_only = false;
    struct moves_host *two = moves_fixture_host(f, 2, &f->pki);
    (void)moves_fixture_dial(one, two, 2);
    moves_fixture_run(f, &one->opened, 1, MOVES_WAIT_MS);
    moves_fixture_run(f, &two->arrived, 1, MOVES_WAIT_MS);
    assert_false(one->socket.by_kernel);
    assert_true(two->socket.by_kernel);
    moves_fixture_told(one, two);
    int flags = fcntl(two->socket.fd, F_GETFL);
    assert_int_equal(fcntl(two->socket.fd, F_SETFL, flags & ~O_NONBLOCK), 0);
    both_ways(f);
    (void)close(one->socket.fd);
    one->socket.fd = -1;
    moves_fixture_ends(two->socket.fd);
}

static void test_last_words_arrive_before_the_end(void **state)
{
    struct moves_fixture *f = *state;
    moves_fixture_connect(f);
    struct moves_host *one = &f->hosts[0], *two = &f->hosts[1];
    char heard[8] = "";
    /* What the other side goes on to send must not cost it the words. */
    static const char waste[100000];
    assert_int_equal(send(one->socket.fd, waste, sizeof(waste), MSG_NOSIGNAL),
                     sizeof(waste));
    assert_int_equal(send(two->socket.fd, "refused", 7, MSG_NOSIGNAL), 7);
    (void)close(two->socket.fd);
    two->socket.fd = -1;
    assert_int_equal(recv(one->socket.fd, heard, 7, MSG_WAITALL), 7);
    assert_string_equal(heard, "refused");
    moves_fixture_ends(one->socket.fd);
}

static void test_half_an_end_is_passed_on_and_the_other_half_lives(void **state)
{
    struct moves_fixture *f = *state;
    moves_fixture_connect(f);
    struct moves_host *one = &f->hosts[0], *two = &f->hosts[1];
    char heard[4] = "";
    assert_int_equal(shutdown(one->socket.fd, SHUT_WR), 0);
    moves_fixture_ends(two->socket.fd);
    assert_int_equal(send(two->socket.fd, "yes", 3, MSG_NOSIGNAL), 3);
    assert_int_equal(recv(one->socket.fd, heard, 3, MSG_WAITALL), 3);
    assert_string_equal(heard, "yes");
}

static void test_idle_relay_costs_nothing(void **state)
{
    struct moves_fixture *f = *state;
    moves_fixture_connect(f);
    struct timespec before, after;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before), 0);
    (void)usleep(300000);
    assert_int_equal(shutdown(f->hosts[0].socket.fd, SHUT_WR), 0);
    (void)usleep(300000);
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after), 0);
    long used_ms = (after.tv_sec - before.tv_sec) * 1000 +
                   (after.tv_nsec - before.tv_nsec) / 1000000;
    assert_true(used_ms < 100);
}

static void test_cut_relays_end_both_sides(void **state)
{
    struct moves_fixture *f = *state;
    moves_fixture_connect(f);
    moves_fixture_close(&f->hosts[0]);
    moves_fixture_ends(f->hosts[0].socket.fd);
    moves_fixture_ends(f->hosts[1].socket.fd);
    /* Closed already: only once more what the teardown does. */
    struct moves_host *one = &f->hosts[0];
    moves_fixture_run(f, &one->closed, 2, MOVES_WAIT_MS);
    assert_int_equal(one->closed, 2);
    moves_free(one->moves);
    peers_free(one->peers);
    tls_context_free(one->context);
    (void)close(one->socket.fd);
    f->hosts[0] = f->hosts[1];
    f->count = 1;
}

#define TEST(name)                                                                       \
    cmocka_unit_test_setup_teardown(name, moves_fixture_setup, moves_fixture_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest moves[] = {
        TEST(test_bytes_arrive_both_ways_through_relays),
        TEST(test_last_words_arrive_before_the_end),
        TEST(test_half_an_end_is_passed_on_and_the_other_half_lives),
        TEST(test_idle_relay_costs_nothing),
        TEST(test_cut_relays_end_both_sides),
    };
    const struct CMUnitTest moves_by_kernel[] = {
        TEST(test_bytes_arrive_both_ways_through_the_kernel),
        TEST(test_kernel_and_relay_understand_each_other),
    };
    bool only_kernel = argc == 2 && strcmp(argv[1], "kernel-tls") == 0;
    int failures = only_kernel ? 0 : cmocka_run_group_tests(moves, NULL, NULL);
    if (only_kernel || kernel_has_tls()) {
        failures += cmocka_run_group_tests(moves_by_kernel, NULL, NULL);
    } else {
        printf("No TLS in this kernel (modprobe tls): the cases that need it run in a "
               "host of the lab, by tests/lab/run migrate-encrypted.\n");
    }
    return failures;
}
