/* SPDX-License-Identifier: Apache-2.0 */
/* See moves_fixture.h. */
#include "tests/unit/moves_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "tests/unit/unit.h"

static const char *op_address(void *owner, uint64_t host_id)
{
    return NULL;
}

static bool op_admits(void *owner, uint64_t host_id)
{
    return ((struct moves_host *)owner)->refuses != host_id;
}

static void op_refused(void *owner, const char *text)
{
    ((struct moves_host *)owner)->refused++;
}

static void op_move_opened(void *owner, const struct peer_opened *opened)
{
    moves_accept(((struct moves_host *)owner)->moves, opened);
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
    struct moves_host *host = owner;
    host->judged++;
    host->wish = *wish;
    return host->judgement == 0
               ? 0
               : error_set(err, host->judgement, "VM 7 does not wait here");
}

static void op_arrived(void *owner, uint64_t host_id, const struct move_wish *wish,
                       const struct move_socket *socket)
{
    struct moves_host *host = owner;
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
    struct moves_host *host = owner;
    host->opened++;
    host->socket = *socket;
}

static void op_failed(void *owner, int error, const char *text)
{
    struct moves_host *host = owner;
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

struct moves_host *moves_fixture_host(struct moves_fixture *f, uint64_t host_id,
                                      struct pki_fixture *pki)
{
    struct moves_host *host = &f->hosts[f->count++];
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
                                        .open_ms = MOVES_OPEN_MS,
                                        .idle_ms = MOVES_OPEN_MS,
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

int moves_fixture_setup(void **state)
{
    struct moves_fixture *f = calloc(1, sizeof(*f));
    assert_int_equal(uv_loop_init(&f->loop), 0);
    pki_fixture_init(&f->pki, "cluster-one");
    pki_fixture_init(&f->other_pki, "cluster-two");
    f->relay_only = true;
    f->open_ms = MOVES_OPEN_MS;
    *state = f;
    return 0;
}

static void on_closed(void *owner)
{
    ((struct moves_host *)owner)->closed++;
}

void moves_fixture_close(struct moves_host *host)
{
    peers_close(host->peers, on_closed, host);
    moves_close(host->moves, on_closed, host);
}

int moves_fixture_teardown(void **state)
{
    struct moves_fixture *f = *state;
    for (unsigned i = 0; i < f->count; i++) {
        moves_fixture_close(&f->hosts[i]);
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

void moves_fixture_run(struct moves_fixture *f, const unsigned *counter, unsigned wanted,
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

struct move_dial *moves_fixture_dial(struct moves_host *from, const struct moves_host *to,
                                     uint64_t host_id)
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
void moves_fixture_told(const struct moves_host *one, const struct moves_host *two)
{
    assert_int_equal(two->wish.encryption,
                     one->socket.by_kernel
                         ? DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_KERNEL
                         : DROVER__MOVE_ENCRYPTION__MOVE_ENCRYPTION_RELAY);
}

/* A connection from host 1 to host 2; its ends are the hosts' `socket.fd`. */
void moves_fixture_connect(struct moves_fixture *f)
{
    struct moves_host *one = moves_fixture_host(f, 1, &f->pki);
    struct moves_host *two = moves_fixture_host(f, 2, &f->pki);
    (void)moves_fixture_dial(one, two, 2);
    moves_fixture_run(f, &one->opened, 1, MOVES_WAIT_MS);
    moves_fixture_run(f, &two->arrived, 1, MOVES_WAIT_MS);
    assert_int_equal(one->opened, 1);
    assert_int_equal(two->arrived, 1);
    assert_int_equal(two->wish.vm_id, 7);
    assert_int_equal(two->wish.epoch, 3);
    assert_int_equal(two->wish.stream, 1);
    moves_fixture_told(one, two);
    for (unsigned i = 0; i < 2; i++) {
        int flags = fcntl(f->hosts[i].socket.fd, F_GETFL);
        assert_int_equal(fcntl(f->hosts[i].socket.fd, F_SETFL, flags & ~O_NONBLOCK), 0);
    }
}

/* The end of the stream, or a reset. */
void moves_fixture_ends(int fd)
{
    char byte;
    const struct timeval wait = {.tv_sec = 10};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), 0);
    ssize_t got = recv(fd, &byte, 1, 0);
    assert_true(got == 0 || (got < 0 && (errno == ECONNRESET || errno == EIO)));
}
