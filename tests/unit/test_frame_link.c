/* SPDX-License-Identifier: Apache-2.0 */
/* droverd's connections to processes of its host: whole frames, both ways, and each end.
 * The other side is a socket of the test's own. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/err.h"
#include "node-agent/frame_link.h"
#include "proto/frame.h"
#include "proto/unix_files.h"

#define LIMIT_BYTES   256
#define DEADLINE_S    30 /* of the whole program: a test that waits in vain ends it */
#define NOTHING_ENDED (-1)

struct fixture {
    uv_loop_t loop;
    char folder[32];
    char path[64];
    int listener;
    int peer;
    struct frame_link *link;
    bool connected;
    unsigned taken;
    char last[LIMIT_BYTES];
    int end;
    bool refuses;       /* take() does not like it */
    bool closes_itself; /* in take() */
};

static void on_connected(void *owner)
{
    struct fixture *f = owner;
    f->connected = true;
}

static bool on_take(void *owner, const uint8_t *payload, size_t size)
{
    struct fixture *f = owner;
    assert_in_range(size, 1, sizeof(f->last) - 1);
    memcpy(f->last, payload, size);
    f->last[size] = '\0';
    f->taken++;
    if (f->closes_itself) {
        frame_link_close(f->link);
        f->link = NULL;
    }
    return !f->refuses;
}

static void on_ended(void *owner, enum frame_link_end end)
{
    struct fixture *f = owner;
    assert_int_equal(f->end, NOTHING_ENDED); /* once */
    f->end = (int)end;
    frame_link_close(f->link);
    f->link = NULL;
}

static const struct frame_link_ops ops = {
    .connected = on_connected, .take = on_take, .ended = on_ended};

static void open_link(struct fixture *f)
{
    const struct frame_link_config config = {.loop = &f->loop,
                                             .path = f->path,
                                             .limit_bytes = LIMIT_BYTES,
                                             .ops = &ops,
                                             .owner = f};
    assert_int_equal(frame_link_open(&config, &f->link), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_non_null(f);
    f->end = NOTHING_ENDED;
    assert_int_equal(uv_loop_init(&f->loop), 0);
    strcpy(f->folder, "/tmp/frame-link-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    (void)snprintf(f->path, sizeof(f->path), "%s/socket", f->folder);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->path);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(f->listener, 1), 0);
    open_link(f);
    f->peer = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(f->peer >= 0);
    while (!f->connected) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    frame_link_close(f->link);
    assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    if (f->peer >= 0) {
        (void)close(f->peer);
    }
    (void)close(f->listener);
    (void)unlink(f->path);
    (void)rmdir(f->folder);
    free(f);
    return 0;
}

static void frame_of(const char *text, struct buffer *frame)
{
    assert_int_equal(frame_encode(frame, FRAME_KIND_CONTROL, text, strlen(text), 4096),
                     0);
}

static void peer_says(struct fixture *f, const char *text)
{
    struct buffer frame = {0};
    frame_of(text, &frame);
    assert_int_equal(write(f->peer, frame.data, frame.size), frame.size);
    buffer_done(&frame);
}

static void run_until_taken(struct fixture *f, unsigned count)
{
    while (f->taken < count && f->end == NOTHING_ENDED) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(f->taken, count);
}

static void run_until_ended(struct fixture *f, enum frame_link_end end)
{
    while (f->end == NOTHING_ENDED) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    assert_int_equal(f->end, end);
}

static void assert_peer_hears(struct fixture *f, const char *text)
{
    struct buffer frame = {0};
    uint8_t heard[FRAME_HEADER_SIZE + LIMIT_BYTES];
    frame_of(text, &frame);
    assert_int_equal(recv(f->peer, heard, frame.size, MSG_WAITALL), frame.size);
    assert_memory_equal(heard, frame.data, frame.size);
    buffer_done(&frame);
}

static void test_frames_come_whole_however_they_were_cut(void **state)
{
    struct fixture *f = *state;
    struct buffer frames = {0};
    frame_of("one", &frames);
    frame_of("two", &frames);
    frame_of("three", &frames);
    for (size_t at = 0; at + 1 < frames.size; at++) {
        assert_int_equal(write(f->peer, frames.data + at, 1), 1);
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    run_until_taken(f, 2);
    assert_string_equal(f->last, "two");
    assert_int_equal(write(f->peer, frames.data + frames.size - 1, 1), 1);
    run_until_taken(f, 3);
    assert_string_equal(f->last, "three");
    buffer_done(&frames);
}

static void test_several_frames_of_one_read_are_all_taken(void **state)
{
    struct fixture *f = *state;
    peer_says(f, "one");
    peer_says(f, "two");
    run_until_taken(f, 2);
    assert_string_equal(f->last, "two");
}

static void test_what_is_sent_arrives_in_order(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(frame_link_send(f->link, (const uint8_t *)"one", 3), 0);
    assert_int_equal(frame_link_send(f->link, (const uint8_t *)"two", 3), 0);
    (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    assert_peer_hears(f, "one");
    assert_peer_hears(f, "two");
}

static void test_payload_over_the_limit_is_not_sent(void **state)
{
    struct fixture *f = *state;
    uint8_t large[LIMIT_BYTES + 1] = {0};
    assert_int_equal(frame_link_send(f->link, large, sizeof(large)), DROVER_ELIMIT);
    assert_int_equal(frame_link_send(f->link, large, LIMIT_BYTES), 0);
}

static void test_files_go_with_their_frame(void **state)
{
    struct fixture *f = *state;
    struct unix_files files = {.count = 1,
                               .fds = {open("/dev/zero", O_RDONLY | O_CLOEXEC)}};
    struct unix_files got = {0};
    uint8_t heard[FRAME_HEADER_SIZE + 4];
    uint8_t zero = 1;
    assert_int_equal(frame_link_send_files(f->link, (const uint8_t *)"move", 4, &files),
                     0);
    unix_files_done(&files);
    assert_int_equal(unix_files_receive(f->peer, heard, sizeof(heard), &got, 0),
                     sizeof(heard));
    assert_memory_equal(heard + FRAME_HEADER_SIZE, "move", 4);
    assert_int_equal(got.count, 1);
    assert_int_equal(read(got.fds[0], &zero, 1), 1);
    assert_int_equal(zero, 0);
    unix_files_done(&got);
}

static void test_peer_that_goes_away_is_told_once(void **state)
{
    struct fixture *f = *state;
    peer_says(f, "last");
    (void)close(f->peer);
    f->peer = -1;
    run_until_ended(f, FRAME_LINK_CLOSED);
    assert_int_equal(f->taken, 1); /* what it had said was heard */
}

static void test_nonsense_ends_it(void **state)
{
    struct fixture *f = *state;
    static const uint8_t nonsense[FRAME_HEADER_SIZE] = "no frame";
    assert_int_equal(write(f->peer, nonsense, sizeof(nonsense)), sizeof(nonsense));
    run_until_ended(f, FRAME_LINK_MALFORMED);
    assert_int_equal(f->taken, 0);
}

static void test_frame_over_the_limit_ends_it(void **state)
{
    struct fixture *f = *state;
    char large[LIMIT_BYTES + 2];
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    peer_says(f, large);
    run_until_ended(f, FRAME_LINK_MALFORMED);
    assert_int_equal(f->taken, 0);
}

static void test_refused_frame_ends_it(void **state)
{
    struct fixture *f = *state;
    f->refuses = true;
    peer_says(f, "one");
    peer_says(f, "two");
    run_until_ended(f, FRAME_LINK_MALFORMED);
    assert_int_equal(f->taken, 1);
}

static void test_nothing_is_called_once_it_is_closed(void **state)
{
    struct fixture *f = *state;
    f->closes_itself = true;
    f->refuses = true;
    peer_says(f, "one");
    peer_says(f, "two");
    run_until_taken(f, 1);
    assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(f->taken, 1);
    assert_int_equal(f->end, NOTHING_ENDED);
}

static void test_socket_where_nobody_listens_is_told(void **state)
{
    struct fixture *f = *state;
    frame_link_close(f->link);
    f->connected = false;
    (void)unlink(f->path);
    open_link(f);
    run_until_ended(f, FRAME_LINK_UNREACHED);
    assert_false(f->connected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        CASE(test_frames_come_whole_however_they_were_cut),
        CASE(test_several_frames_of_one_read_are_all_taken),
        CASE(test_what_is_sent_arrives_in_order),
        CASE(test_payload_over_the_limit_is_not_sent),
        CASE(test_files_go_with_their_frame),
        CASE(test_peer_that_goes_away_is_told_once),
        CASE(test_nonsense_ends_it),
        CASE(test_frame_over_the_limit_ends_it),
        CASE(test_refused_frame_ends_it),
        CASE(test_nothing_is_called_once_it_is_closed),
        CASE(test_socket_where_nobody_listens_is_told),
    };
    (void)alarm(DEADLINE_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
