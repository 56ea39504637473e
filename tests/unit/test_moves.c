/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encrypted connections for moves, over real TLS on the loopback, by a relay and (where
 * the kernel has it) by the kernel: bytes arrive as they were sent, ends and cuts are
 * passed on, and who must not come in does not.
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
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "node-agent/moves.h"
#include "node-agent/peers.h"
#include "tests/unit/pki_fixture.h"

#define WAIT_MS_MAX 20000
#define OPEN_MS     10000 /* emulated machines need seconds for two handshakes */
#define BULK_BYTES  (24u * 1024u * 1024u)

struct host {
    struct fixture *fixture;
    struct peers *peers;
    struct moves *moves;
    struct tls_context *context;
    struct peer_self self;
    char listen[32];
    uint64_t refuses; /* a host that is no member */
    int judgement;
    unsigned judged, arrived, opened, failed, refused;
    struct move_wish wish;
    struct move_socket socket;
    int error;
    char text[256];
    unsigned closed;
};

struct fixture {
    uv_loop_t loop;
    struct pki_fixture pki, other_pki;
    struct host hosts[3];
    unsigned count;
    bool relay_only;
    uint32_t open_ms;
};

/* ---- operations ---- */

static const char *op_address(void *owner, uint64_t host_id)
{
    return NULL;
}

static bool op_admits(void *owner, uint64_t host_id)
{
    return ((struct host *)owner)->refuses != host_id;
}

static void op_refused(void *owner, const char *text)
{
    ((struct host *)owner)->refused++;
}

static void op_move_opened(void *owner, const struct peer_opened *opened)
{
    moves_accept(((struct host *)owner)->moves, opened);
}

static const struct peers_ops peers_ops = {
    .address = op_address,
    .admits = op_admits,
    .move_opened = op_move_opened,
    .refused = op_refused,
};

static int op_judge(void *owner, uint64_t host_id, const struct move_wish *wish,
                    struct error *err)
{
    struct host *host = owner;
    host->judged++;
    host->wish = *wish;
    return host->judgement == 0
               ? 0
               : error_set(err, host->judgement, "VM 7 does not wait here");
}

static void op_arrived(void *owner, uint64_t host_id, const struct move_wish *wish,
                       const struct move_socket *socket)
{
    struct host *host = owner;
    host->arrived++;
    host->socket = *socket;
}

static void op_note(void *owner, const char *text)
{
}

static const struct moves_ops moves_ops = {
    .judge = op_judge, .arrived = op_arrived, .note = op_note};

static void op_opened(void *owner, const struct move_socket *socket)
{
    struct host *host = owner;
    host->opened++;
    host->socket = *socket;
}

static void op_failed(void *owner, int error, const char *text)
{
    struct host *host = owner;
    host->failed++;
    host->error = error;
    (void)snprintf(host->text, sizeof(host->text), "%s", text);
}

static const struct move_dial_ops dial_ops = {.opened = op_opened, .failed = op_failed};

/* ---- fixture ---- */

static unsigned free_port(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)close(fd);
    return ntohs(address.sin_port);
}

static struct host *add_host(struct fixture *f, uint64_t host_id, struct pki_fixture *pki)
{
    struct host *host = &f->hosts[f->count++];
    struct error err = {0};
    host->fixture = f;
    host->socket.fd = -1;
    host->context = pki_fixture_context(pki, host_id, &f->pki);
    host->self = (struct peer_self){.cluster_id = pki->cluster_id,
                                    .host_id = host_id,
                                    .boot_id = "boot",
                                    .incarnation = "run",
                                    .address = ""};
    (void)snprintf(host->listen, sizeof(host->listen), "127.0.0.1:%u", free_port());
    const struct peers_config config = {.loop = &f->loop,
                                        .context = host->context,
                                        .self = &host->self,
                                        .listen = host->listen,
                                        .open_ms = OPEN_MS,
                                        .idle_ms = OPEN_MS,
                                        .redial_ms_max = 200,
                                        .ops = &peers_ops,
                                        .owner = host};
    assert_int_equal(peers_create(&config, &host->peers, &err), 0);
    const struct moves_config moves = {.loop = &f->loop,
                                       .context = host->context,
                                       .self = &host->self,
                                       .open_ms = f->open_ms,
                                       .ack_ms = 2000,
                                       .relay_only = f->relay_only,
                                       .ops = &moves_ops,
                                       .owner = host};
    assert_int_equal(moves_create(&moves, &host->moves), 0);
    bool by_kernel = false;
    while (!moves_probed(host->moves, &by_kernel)) {
        (void)usleep(1000);
    }
    assert_true(!by_kernel || !f->relay_only);
    return host;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_int_equal(uv_loop_init(&f->loop), 0);
    pki_fixture_init(&f->pki, "cluster-one");
    pki_fixture_init(&f->other_pki, "cluster-two");
    f->relay_only = true;
    f->open_ms = OPEN_MS;
    *state = f;
    return 0;
}

static void on_closed(void *owner)
{
    ((struct host *)owner)->closed++;
}

static void host_close(struct host *host)
{
    peers_close(host->peers, on_closed, host);
    moves_close(host->moves, on_closed, host);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < f->count; i++) {
        host_close(&f->hosts[i]);
    }
    assert_int_equal(uv_run(&f->loop, UV_RUN_DEFAULT), 0);
    for (unsigned i = 0; i < f->count; i++) {
        assert_int_equal(f->hosts[i].closed, 2);
        if (f->hosts[i].socket.fd >= 0) {
            (void)close(f->hosts[i].socket.fd);
        }
        peers_free(f->hosts[i].peers);
        moves_free(f->hosts[i].moves);
        tls_context_free(f->hosts[i].context);
    }
    assert_int_equal(uv_loop_close(&f->loop), 0);
    pki_fixture_done(&f->pki);
    pki_fixture_done(&f->other_pki);
    free(f);
    return 0;
}

static void on_tick(uv_timer_t *timer)
{
}

static void run_until(struct fixture *f, const unsigned *counter, unsigned wanted,
                      unsigned ms)
{
    uv_timer_t timer;
    assert_int_equal(uv_timer_init(&f->loop, &timer), 0);
    assert_int_equal(uv_timer_start(&timer, on_tick, 10, 10), 0);
    uv_update_time(&f->loop);
    uint64_t end = uv_now(&f->loop) + ms;
    while (*counter < wanted && uv_now(&f->loop) < end) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&timer, NULL);
    (void)uv_run(&f->loop, UV_RUN_NOWAIT);
}

static struct move_dial *dial(struct host *from, const struct host *to, uint64_t host_id)
{
    const struct move_wish wish = {.vm_id = 7, .epoch = 3, .stream = 1};
    struct move_dial *made = NULL;
    struct error err = {0};
    assert_int_equal(
        moves_dial(from->moves, host_id, to->listen, &wish, &dial_ops, from, &made, &err),
        0);
    return made;
}

/* By what it encrypts. */
static void assert_source_told(const struct host *one, const struct host *two)
{
    assert_int_equal(two->wish.encryption,
                     one->socket.by_kernel
                         ? DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL
                         : DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY);
}

/* A connection from host 1 to host 2; its ends are the hosts' `socket.fd`. */
static void connect_hosts(struct fixture *f)
{
    struct host *one = add_host(f, 1, &f->pki);
    struct host *two = add_host(f, 2, &f->pki);
    (void)dial(one, two, 2);
    run_until(f, &one->opened, 1, WAIT_MS_MAX);
    run_until(f, &two->arrived, 1, WAIT_MS_MAX);
    assert_int_equal(one->opened, 1);
    assert_int_equal(two->arrived, 1);
    assert_int_equal(two->wish.vm_id, 7);
    assert_int_equal(two->wish.epoch, 3);
    assert_int_equal(two->wish.stream, 1);
    assert_source_told(one, two);
    for (unsigned i = 0; i < 2; i++) {
        int flags = fcntl(f->hosts[i].socket.fd, F_GETFL);
        assert_int_equal(fcntl(f->hosts[i].socket.fd, F_SETFL, flags & ~O_NONBLOCK), 0);
    }
}

/* ---- bytes ---- */

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

static void both_ways(struct fixture *f)
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

/* The end of the stream, or a reset. */
static void assert_ends(int fd)
{
    char byte;
    const struct timeval wait = {.tv_sec = 10};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), 0);
    ssize_t got = recv(fd, &byte, 1, 0);
    assert_true(got == 0 || (got < 0 && (errno == ECONNRESET || errno == EIO)));
}

static void test_bytes_arrive_both_ways_through_relays(void **state)
{
    struct fixture *f = *state;
    connect_hosts(f);
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
    struct fixture *f = *state;
    f->relay_only = false;
    connect_hosts(f);
    assert_true(f->hosts[0].socket.by_kernel);
    assert_true(f->hosts[1].socket.by_kernel);
    both_ways(f);
    (void)close(f->hosts[1].socket.fd);
    f->hosts[1].socket.fd = -1;
    assert_ends(f->hosts[0].socket.fd);
}

static void test_kernel_and_relay_understand_each_other(void **state)
{
    struct fixture *f = *state;
    struct host *one = add_host(f, 1, &f->pki);
    f->relay_only = false;
    struct host *two = add_host(f, 2, &f->pki);
    (void)dial(one, two, 2);
    run_until(f, &one->opened, 1, WAIT_MS_MAX);
    run_until(f, &two->arrived, 1, WAIT_MS_MAX);
    assert_false(one->socket.by_kernel);
    assert_true(two->socket.by_kernel);
    assert_source_told(one, two);
    int flags = fcntl(two->socket.fd, F_GETFL);
    assert_int_equal(fcntl(two->socket.fd, F_SETFL, flags & ~O_NONBLOCK), 0);
    both_ways(f);
    (void)close(one->socket.fd);
    one->socket.fd = -1;
    assert_ends(two->socket.fd);
}

static void test_last_words_arrive_before_the_end(void **state)
{
    struct fixture *f = *state;
    connect_hosts(f);
    struct host *one = &f->hosts[0], *two = &f->hosts[1];
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
    assert_ends(one->socket.fd);
}

static void test_half_an_end_is_passed_on_and_the_other_half_lives(void **state)
{
    struct fixture *f = *state;
    connect_hosts(f);
    struct host *one = &f->hosts[0], *two = &f->hosts[1];
    char heard[4] = "";
    assert_int_equal(shutdown(one->socket.fd, SHUT_WR), 0);
    assert_ends(two->socket.fd);
    assert_int_equal(send(two->socket.fd, "yes", 3, MSG_NOSIGNAL), 3);
    assert_int_equal(recv(one->socket.fd, heard, 3, MSG_WAITALL), 3);
    assert_string_equal(heard, "yes");
}

static void test_idle_relay_costs_nothing(void **state)
{
    struct fixture *f = *state;
    connect_hosts(f);
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
    struct fixture *f = *state;
    connect_hosts(f);
    host_close(&f->hosts[0]);
    assert_ends(f->hosts[0].socket.fd);
    assert_ends(f->hosts[1].socket.fd);
    /* Closed already: only once more what the teardown does. */
    struct host *one = &f->hosts[0];
    run_until(f, &one->closed, 2, WAIT_MS_MAX);
    assert_int_equal(one->closed, 2);
    moves_free(one->moves);
    peers_free(one->peers);
    tls_context_free(one->context);
    (void)close(one->socket.fd);
    f->hosts[0] = f->hosts[1];
    f->count = 1;
}

/* ---- who must not come in ---- */

static void test_vm_that_does_not_wait_is_refused_with_the_reason(void **state)
{
    struct fixture *f = *state;
    struct host *one = add_host(f, 1, &f->pki);
    struct host *two = add_host(f, 2, &f->pki);
    two->judgement = DROVER_ENOTFOUND;
    (void)dial(one, two, 2);
    run_until(f, &one->failed, 1, WAIT_MS_MAX);
    assert_int_equal(one->error, DROVER_ENOTFOUND);
    assert_non_null(strstr(one->text, "VM 7 does not wait here"));
    assert_int_equal(two->arrived, 0);
}

static void test_host_of_another_cluster_is_not_judged(void **state)
{
    struct fixture *f = *state;
    struct host *stranger = add_host(f, 1, &f->other_pki);
    struct host *two = add_host(f, 2, &f->pki);
    (void)dial(stranger, two, 2);
    run_until(f, &stranger->failed, 1, WAIT_MS_MAX);
    assert_int_equal(stranger->failed, 1);
    assert_int_equal(two->judged, 0);
}

static void test_removed_host_is_not_judged(void **state)
{
    struct fixture *f = *state;
    struct host *one = add_host(f, 1, &f->pki);
    struct host *two = add_host(f, 2, &f->pki);
    two->refuses = 1;
    (void)dial(one, two, 2);
    run_until(f, &one->failed, 1, WAIT_MS_MAX);
    assert_int_equal(one->failed, 1);
    assert_int_equal(two->refused, 1);
    assert_int_equal(two->judged, 0);
}

static void test_wrong_host_is_not_spoken_to(void **state)
{
    struct fixture *f = *state;
    struct host *one = add_host(f, 1, &f->pki);
    struct host *two = add_host(f, 2, &f->pki);
    (void)dial(one, two, 3);
    run_until(f, &one->failed, 1, WAIT_MS_MAX);
    assert_int_equal(one->error, DROVER_EPEER);
    assert_int_equal(two->judged, 0);
}

static void test_cancelled_dial_is_silent(void **state)
{
    struct fixture *f = *state;
    struct host *one = add_host(f, 1, &f->pki);
    struct host *two = add_host(f, 2, &f->pki);
    moves_dial_cancel(dial(one, two, 2));
    unsigned never = 0;
    run_until(f, &never, 1, 100);
    assert_int_equal(one->failed + one->opened, 0);
    assert_int_equal(two->arrived, 0);
}

static void test_who_never_answers_is_left_in_time(void **state)
{
    struct fixture *f = *state;
    f->open_ms = 500;
    struct host *one = add_host(f, 1, &f->pki);
    struct host mute = {0};
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
    (void)dial(one, &mute, 2);
    run_until(f, &one->failed, 1, WAIT_MS_MAX);
    assert_int_equal(one->error, DROVER_ETIMEDOUT2);
    assert_true(clock_now_ms() - from_ms < OPEN_MS);
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

static void be_rude(struct fixture *f, bool early)
{
    struct host *one = add_host(f, 1, &f->pki);
    struct host *two = add_host(f, 2, &f->pki);
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
    run_until(f, &rude.closed, 1, WAIT_MS_MAX);
    assert_int_equal(rude.closed, 1);
    assert_int_equal(two->arrived, 0);
}

static void test_nonsense_instead_of_an_opening_is_refused(void **state)
{
    be_rude(*state, false);
    struct fixture *f = *state;
    assert_int_equal(f->hosts[1].judged, 0);
}

static void test_bytes_before_the_answer_are_refused(void **state)
{
    be_rude(*state, true);
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest moves[] = {
        TEST(test_bytes_arrive_both_ways_through_relays),
        TEST(test_last_words_arrive_before_the_end),
        TEST(test_half_an_end_is_passed_on_and_the_other_half_lives),
        TEST(test_idle_relay_costs_nothing),
        TEST(test_cut_relays_end_both_sides),
        TEST(test_vm_that_does_not_wait_is_refused_with_the_reason),
        TEST(test_host_of_another_cluster_is_not_judged),
        TEST(test_removed_host_is_not_judged),
        TEST(test_wrong_host_is_not_spoken_to),
        TEST(test_cancelled_dial_is_silent),
        TEST(test_who_never_answers_is_left_in_time),
        TEST(test_nonsense_instead_of_an_opening_is_refused),
        TEST(test_bytes_before_the_answer_are_refused),
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
