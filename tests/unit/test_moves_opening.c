/* SPDX-License-Identifier: Apache-2.0 */
/* The opening words of a move's connection, over real TLS on the loopback: who must not
 * come in does not, and who never answers is left. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/err.h"
#include "tests/unit/moves_fixture.h"

static void test_vm_that_does_not_wait_is_refused_with_the_reason(void **state)
{
    struct moves_fixture *f = *state;
    struct moves_host *one = moves_fixture_host(f, 1, &f->pki);
    struct moves_host *two = moves_fixture_host(f, 2, &f->pki);
    two->judgement = DROVER_ENOTFOUND;
    (void)moves_fixture_dial(one, two, 2);
    moves_fixture_run(f, &one->failed, 1, MOVES_WAIT_MS);
    assert_int_equal(one->error, DROVER_ENOTFOUND);
    assert_non_null(strstr(one->text, "VM 7 does not wait here"));
    assert_int_equal(two->arrived, 0);
}

static void test_host_of_another_cluster_is_not_judged(void **state)
{
    struct moves_fixture *f = *state;
    struct moves_host *stranger = moves_fixture_host(f, 1, &f->other_pki);
    struct moves_host *two = moves_fixture_host(f, 2, &f->pki);
    (void)moves_fixture_dial(stranger, two, 2);
    moves_fixture_run(f, &stranger->failed, 1, MOVES_WAIT_MS);
    assert_int_equal(stranger->failed, 1);
    assert_int_equal(two->judged, 0);
}

static void test_removed_host_is_not_judged(void **state)
{
    struct moves_fixture *f = *state;
    struct moves_host *one = moves_fixture_host(f, 1, &f->pki);
    struct moves_host *two = moves_fixture_host(f, 2, &f->pki);
    two->refuses = 1;
    (void)moves_fixture_dial(one, two, 2);
    moves_fixture_run(f, &one->failed, 1, MOVES_WAIT_MS);
    assert_int_equal(one->failed, 1);
    assert_int_equal(two->refused, 1);
    assert_int_equal(two->judged, 0);
}

static void test_wrong_host_is_not_spoken_to(void **state)
{
    struct moves_fixture *f = *state;
    struct moves_host *one = moves_fixture_host(f, 1, &f->pki);
    struct moves_host *two = moves_fixture_host(f, 2, &f->pki);
    (void)moves_fixture_dial(one, two, 3);
    moves_fixture_run(f, &one->failed, 1, MOVES_WAIT_MS);
    assert_int_equal(one->error, DROVER_EPEER);
    assert_int_equal(two->judged, 0);
}

static void test_cancelled_dial_is_silent(void **state)
{
    struct moves_fixture *f = *state;
    struct moves_host *one = moves_fixture_host(f, 1, &f->pki);
    struct moves_host *two = moves_fixture_host(f, 2, &f->pki);
    moves_dial_cancel(moves_fixture_dial(one, two, 2));
    unsigned never = 0;
    moves_fixture_run(f, &never, 1, 100);
    assert_int_equal(one->failed + one->opened, 0);
    assert_int_equal(two->arrived, 0);
}

static void test_who_never_answers_is_left_in_time(void **state)
{
    struct moves_fixture *f = *state;
    f->open_ms = 500;
    struct moves_host *one = moves_fixture_host(f, 1, &f->pki);
    struct moves_host mute = {0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)snprintf(mute.listen, sizeof(mute.listen), "127.0.0.1:%u",
                   ntohs(address.sin_port));
    uint64_t from_ms = clock_now_ms();
    (void)moves_fixture_dial(one, &mute, 2);
    moves_fixture_run(f, &one->failed, 1, MOVES_WAIT_MS);
    assert_int_equal(one->error, DROVER_ETIMEDOUT2);
    assert_true(clock_now_ms() - from_ms < MOVES_OPEN_MS);
    (void)close(fd);
}

/* A member that says something else than it should. */
struct rude {
    const struct peer_opened *none;
    struct tls_stream *stream;
    bool early; /* a whole MoveOpen, and a byte more */
    unsigned closed;
};

static void rude_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                          size_t size)
{
}

static void rude_closed(void *owner, struct tls_stream *stream, int error,
                        const char *text)
{
    ((struct rude *)owner)->closed++;
}

static const struct tls_stream_ops rude_ops = {.received = rude_received,
                                               .closed = rude_closed};

static void rude_opened(void *owner, struct peer_channel *channel,
                        const struct peer_opened *opened)
{
    struct rude *rude = owner;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    Drover__MoveOpen open = DROVER__MOVE_OPEN__INIT;
    Drover__MoveAnswer answer = DROVER__MOVE_ANSWER__INIT;
    struct buffer out = {0};
    open.vm_id = 7;
    message.what_case = rude->early ? DROVER__PEER_MESSAGE__WHAT_MOVE_OPEN
                                    : DROVER__PEER_MESSAGE__WHAT_MOVE_ANSWER;
    if (rude->early) {
        message.move_open = &open;
    } else {
        message.move_answer = &answer;
    }
    tls_stream_set_ops(opened->stream, &rude_ops, rude);
    assert_int_equal(peer_message_encode(&message, 4096, &out), 0);
    if (rude->early) {
        assert_int_equal(buffer_append(&out, "x", 1), 0);
    }
    assert_int_equal(tls_stream_write(opened->stream, out.data, out.size), 0);
    buffer_done(&out);
}

static void rude_failed(void *owner, struct peer_channel *channel, int error,
                        const char *text)
{
    fail();
}

static const struct peer_channel_ops rude_channel_ops = {.opened = rude_opened,
                                                         .failed = rude_failed};

static void be_rude(struct moves_fixture *f, bool early)
{
    struct moves_host *one = moves_fixture_host(f, 1, &f->pki);
    struct moves_host *two = moves_fixture_host(f, 2, &f->pki);
    struct rude rude = {.early = early};
    struct peer_channel *channel = NULL;
    const struct peer_channel_config config = {.loop = &f->loop,
                                               .context = one->context,
                                               .self = &one->self,
                                               .open_ms = 3000,
                                               .ops = &rude_channel_ops,
                                               .owner = &rude};
    assert_int_equal(peer_channel_dial(&config, two->listen, 2,
                                       DROVER__PEER_CHANNEL__PEER_CHANNEL_MOVE, &channel,
                                       NULL),
                     0);
    moves_fixture_run(f, &rude.closed, 1, MOVES_WAIT_MS);
    assert_int_equal(rude.closed, 1);
    assert_int_equal(two->arrived, 0);
}

static void test_nonsense_instead_of_an_opening_is_refused(void **state)
{
    be_rude(*state, false);
    struct moves_fixture *f = *state;
    assert_int_equal(f->hosts[1].judged, 0);
}

static void test_bytes_before_the_answer_are_refused(void **state)
{
    be_rude(*state, true);
}

#define TEST(name)                                                                       \
    cmocka_unit_test_setup_teardown(name, moves_fixture_setup, moves_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_vm_that_does_not_wait_is_refused_with_the_reason),
        TEST(test_host_of_another_cluster_is_not_judged),
        TEST(test_removed_host_is_not_judged),
        TEST(test_wrong_host_is_not_spoken_to),
        TEST(test_cancelled_dial_is_silent),
        TEST(test_who_never_answers_is_left_in_time),
        TEST(test_nonsense_instead_of_an_opening_is_refused),
        TEST(test_bytes_before_the_answer_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
