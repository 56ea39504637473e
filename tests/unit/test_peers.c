/* SPDX-License-Identifier: Apache-2.0 */
/* Agents' connections over real TLS on the loopback: who may speak, and what hostile or
 * broken others can not do. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "node-agent/peers.h"
#include "tests/unit/pki_fixture.h"

#define WAIT_MS_MAX 5000

struct host {
    struct fixture *fixture;
    struct peers *peers;
    struct tls_context *context;
    struct peer_self self;
    char listen[32];
    uint64_t refuses; /* a host that is no member */
    unsigned received, connected, lost, lost_unsent, refused, joins;
    uint64_t received_from, last_round;
    bool closed;
};

struct fixture {
    uv_loop_t loop;
    struct pki_fixture pki, other_pki;
    struct host hosts[3];
    unsigned count;
};

static const char *op_address(void *owner, uint64_t host_id)
{
    struct host *host = owner;
    for (unsigned i = 0; i < host->fixture->count; i++) {
        if (host->fixture->hosts[i].self.host_id == host_id) {
            return host->fixture->hosts[i].listen;
        }
    }
    return NULL;
}

static bool op_admits(void *owner, uint64_t host_id)
{
    return ((struct host *)owner)->refuses != host_id;
}

static void op_received(void *owner, uint64_t host_id, const Drover__PeerMessage *message)
{
    struct host *host = owner;
    host->received++;
    host->received_from = host_id;
    assert_int_equal(message->what_case, DROVER__PEER_MESSAGE__WHAT_CONFIRM_REQUEST);
    host->last_round = message->confirm_request->round;
}

static void op_connected(void *owner, uint64_t host_id)
{
    ((struct host *)owner)->connected++;
}

static void op_lost(void *owner, uint64_t host_id, bool unsent, const char *text)
{
    struct host *host = owner;
    host->lost++;
    host->lost_unsent += unsent;
}

static void ignore_received(void *owner, struct tls_stream *stream, const uint8_t *data,
                            size_t size)
{
}

static void ignore_closed(void *owner, struct tls_stream *stream, int error,
                          const char *text)
{
}

static const struct tls_stream_ops no_ops = {.received = ignore_received,
                                             .closed = ignore_closed};

static void op_opened(void *owner, const struct peer_opened *opened)
{
    ((struct host *)owner)->joins++;
    tls_stream_set_ops(opened->stream, &no_ops, NULL);
    tls_stream_close(opened->stream, 0, NULL);
}

static void op_refused(void *owner, const char *text)
{
    ((struct host *)owner)->refused++;
}

static const struct peers_ops ops = {
    .address = op_address,
    .admits = op_admits,
    .received = op_received,
    .connected = op_connected,
    .lost = op_lost,
    .raft_opened = op_opened,
    .join_opened = op_opened,
    .move_opened = op_opened,
    .refused = op_refused,
};

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

static struct host *add_host(struct fixture *fixture, uint64_t host_id,
                             struct pki_fixture *pki, const struct pki_fixture *trust,
                             uint32_t idle_ms)
{
    struct host *host = &fixture->hosts[fixture->count++];
    struct error err = {0};
    host->fixture = fixture;
    host->context = pki_fixture_context(pki, host_id, trust);
    host->self = (struct peer_self){.cluster_id = pki->cluster_id,
                                    .host_id = host_id,
                                    .boot_id = "boot",
                                    .incarnation = "run", .address = ""};
    (void)snprintf(host->listen, sizeof(host->listen), "127.0.0.1:%u", free_port());
    struct peers_config config = {.loop = &fixture->loop,
                                  .context = host->context,
                                  .self = &host->self,
                                  .listen = host->listen,
                                  .open_ms = 1000,
                                  .idle_ms = idle_ms,
                                  .redial_ms_max = 200,
                                  .ops = &ops,
                                  .owner = host};
    assert_int_equal(peers_create(&config, &host->peers, &err), 0);
    return host;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    assert_int_equal(uv_loop_init(&fixture->loop), 0);
    pki_fixture_init(&fixture->pki, "cluster-one");
    pki_fixture_init(&fixture->other_pki, "cluster-two");
    *state = fixture;
    return 0;
}

static void on_closed(void *owner)
{
    ((struct host *)owner)->closed = true;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < fixture->count; i++) {
        peers_close(fixture->hosts[i].peers, on_closed, &fixture->hosts[i]);
    }
    assert_int_equal(uv_run(&fixture->loop, UV_RUN_DEFAULT), 0);
    for (unsigned i = 0; i < fixture->count; i++) {
        assert_true(fixture->hosts[i].closed);
        peers_free(fixture->hosts[i].peers);
        tls_context_free(fixture->hosts[i].context);
    }
    assert_int_equal(uv_loop_close(&fixture->loop), 0);
    pki_fixture_done(&fixture->pki);
    pki_fixture_done(&fixture->other_pki);
    free(fixture);
    return 0;
}

static void on_tick(uv_timer_t *timer)
{
}

/* Runs the loop until *counter is `wanted`, or the time is over. */
static void run_until(struct fixture *fixture, const unsigned *counter, unsigned wanted,
                      unsigned ms)
{
    uv_timer_t timer;
    assert_int_equal(uv_timer_init(&fixture->loop, &timer), 0);
    assert_int_equal(uv_timer_start(&timer, on_tick, 10, 10), 0);
    uv_update_time(&fixture->loop);
    uint64_t end = uv_now(&fixture->loop) + ms;
    while (*counter < wanted && uv_now(&fixture->loop) < end) {
        (void)uv_run(&fixture->loop, UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&timer, NULL);
    (void)uv_run(&fixture->loop, UV_RUN_NOWAIT);
}

static int say(struct host *from, uint64_t to, uint64_t round)
{
    Drover__ConfirmRequest request = DROVER__CONFIRM_REQUEST__INIT;
    request.term = 1;
    request.round = round;
    Drover__PeerMessage message = DROVER__PEER_MESSAGE__INIT;
    message.what_case = DROVER__PEER_MESSAGE__WHAT_CONFIRM_REQUEST;
    message.confirm_request = &request;
    return peers_send(from->peers, to, &message);
}

static void test_messages_arrive_in_order_from_the_certified_host(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 2000);
    struct host *two = add_host(fixture, 2, &fixture->pki, &fixture->pki, 2000);
    for (unsigned i = 1; i <= 100; i++) {
        assert_int_equal(say(one, 2, i), 0); /* the first ones wait for the connection */
    }
    run_until(fixture, &two->received, 100, WAIT_MS_MAX);
    assert_int_equal(two->received, 100);
    assert_int_equal(two->received_from, 1);
    assert_int_equal(two->last_round, 100);
    assert_int_equal(say(two, 1, 7), 0); /* over the same connection */
    run_until(fixture, &one->received, 1, WAIT_MS_MAX);
    assert_int_equal(one->received_from, 2);
    assert_int_equal(two->connected, 1);
}

static void test_host_of_another_cluster_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 2000);
    /* It believes in our CA, but its own certificate is of another. */
    struct host *stranger =
        add_host(fixture, 2, &fixture->other_pki, &fixture->pki, 2000);
    assert_int_equal(say(stranger, 1, 1), 0);
    run_until(fixture, &stranger->lost, 1, WAIT_MS_MAX);
    assert_int_equal(stranger->lost, 1);
    assert_int_equal(one->connected, 0);
    assert_int_equal(one->received, 0);
}

static void test_host_that_is_no_member_any_more_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 2000);
    struct host *two = add_host(fixture, 2, &fixture->pki, &fixture->pki, 2000);
    one->refuses = 2;
    assert_int_equal(say(two, 1, 1), 0);
    run_until(fixture, &one->refused, 1, WAIT_MS_MAX);
    assert_int_equal(one->refused, 1);
    assert_int_equal(one->received, 0);
}

static void test_wrong_host_at_an_address_is_not_spoken_to(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 2000);
    struct host *two = add_host(fixture, 2, &fixture->pki, &fixture->pki, 2000);
    struct host *three = add_host(fixture, 3, &fixture->pki, &fixture->pki, 2000);
    memcpy(three->listen, two->listen,
           sizeof(three->listen)); /* host 3 is looked for where host 2 is */
    assert_int_equal(say(one, 3, 1), 0);
    run_until(fixture, &one->lost, 1, WAIT_MS_MAX);
    assert_int_equal(one->lost_unsent, 1);
    assert_int_equal(two->received, 0);
}

static void test_unreachable_host_is_told_and_dialled_again_later(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 2000);
    struct host *ghost = &fixture->hosts[1];
    ghost->self.host_id = 2;
    (void)snprintf(ghost->listen, sizeof(ghost->listen), "127.0.0.1:%u", free_port());
    fixture->count = 2;
    assert_int_equal(say(one, 2, 1), 0);
    run_until(fixture, &one->lost, 1, WAIT_MS_MAX);
    assert_int_equal(one->lost_unsent, 1);
    assert_int_equal(say(one, 2, 1), DROVER_ECLOSED); /* not at once */
    unsigned never = 0;
    run_until(fixture, &never, 1, 250);
    assert_int_equal(say(one, 2, 1), 0);
    run_until(fixture, &one->lost, 2, WAIT_MS_MAX);
    assert_int_equal(one->lost, 2);
    fixture->count = 1;
    assert_int_equal(say(one, 9, 1), DROVER_ENOTFOUND);
}

static void test_silent_connection_is_cut(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 300);
    struct host *two = add_host(fixture, 2, &fixture->pki, &fixture->pki, 300);
    assert_int_equal(say(one, 2, 1), 0);
    run_until(fixture, &two->received, 1, WAIT_MS_MAX);
    run_until(fixture, &one->lost, 1, WAIT_MS_MAX);
    assert_int_equal(one->lost, 1);
    assert_int_equal(one->lost_unsent, 0);
    assert_int_equal(say(one, 2, 2),
                     0); /* and made anew when there is something to say */
    run_until(fixture, &two->received, 2, WAIT_MS_MAX);
    assert_int_equal(two->received, 2);
}

static void test_removed_host_is_cut_off(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 2000);
    struct host *two = add_host(fixture, 2, &fixture->pki, &fixture->pki, 2000);
    assert_int_equal(say(one, 2, 1), 0);
    run_until(fixture, &two->received, 1, WAIT_MS_MAX);
    assert_true(peers_connected(one->peers, 2));
    peers_drop(one->peers, 2);
    run_until(fixture, &two->lost, 1, WAIT_MS_MAX);
    assert_int_equal(two->lost, 1);
    assert_false(peers_connected(one->peers, 2));
}

static int dial_raw(const struct host *host)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(strchr(host->listen, ':') + 1));
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void test_garbage_instead_of_tls_harms_nobody(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 2000);
    struct host *two = add_host(fixture, 2, &fixture->pki, &fixture->pki, 2000);
    int fds[4];
    uint8_t garbage[3000];
    for (unsigned i = 0; i < 4; i++) {
        fds[i] = dial_raw(one);
        for (size_t at = 0; at < sizeof(garbage); at++) {
            garbage[at] = (uint8_t)(at * 31 + i * 7 + (at >> 3));
        }
        garbage[0] = i == 1 ? 0x16 : garbage[0]; /* looks like a handshake at first */
        assert_true(send(fds[i], garbage, sizeof(garbage), MSG_NOSIGNAL) > 0);
    }
    assert_int_equal(say(two, 1, 1), 0);
    run_until(fixture, &one->received, 1, WAIT_MS_MAX);
    run_until(fixture, &one->refused, 4, WAIT_MS_MAX);
    assert_int_equal(one->received, 1);
    assert_int_equal(one->refused, 4);
    for (unsigned i = 0; i < 4; i++) {
        (void)close(fds[i]);
    }
}

static void test_many_silent_strangers_do_not_keep_members_out(void **state)
{
    struct fixture *fixture = *state;
    struct host *one = add_host(fixture, 1, &fixture->pki, &fixture->pki, 2000);
    struct host *two = add_host(fixture, 2, &fixture->pki, &fixture->pki, 2000);
    int fds[PEERS_PENDING_MAX + 10];
    unsigned never = 0;
    for (unsigned i = 0; i < PEERS_PENDING_MAX + 10; i++) {
        fds[i] = dial_raw(one);
    }
    run_until(fixture, &never, 1, 1300); /* they are given up after open_ms */
    (void)say(two, 1, 1);
    run_until(fixture, &one->received, 1, WAIT_MS_MAX);
    assert_int_equal(one->received, 1);
    for (unsigned i = 0; i < PEERS_PENDING_MAX + 10; i++) {
        (void)close(fds[i]);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_messages_arrive_in_order_from_the_certified_host),
        TEST(test_host_of_another_cluster_is_refused),
        TEST(test_host_that_is_no_member_any_more_is_refused),
        TEST(test_wrong_host_at_an_address_is_not_spoken_to),
        TEST(test_unreachable_host_is_told_and_dialled_again_later),
        TEST(test_silent_connection_is_cut),
        TEST(test_removed_host_is_cut_off),
        TEST(test_garbage_instead_of_tls_harms_nobody),
        TEST(test_many_silent_strangers_do_not_keep_members_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
