/* SPDX-License-Identifier: Apache-2.0 */
/* See move_sockets.h. */
#include "node-agent/move_sockets.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/ktls.h"
#include "node-agent/move_relay.h"
#include "node-agent/moves.h"
#include "node-agent/tls_stream.h"

struct relay {
    struct relay *next;
    struct move_relay *relay;
    struct move_wish wish;
};

enum probe_state { PROBE_RUNS, PROBE_CAN, PROBE_CANNOT };

/* Its thread may outlive its owner: who lets go of it last frees it. */
struct probe {
    atomic_int state; /* enum probe_state */
    atomic_uint users;
};

struct move_sockets {
    struct move_sockets_config config;
    struct probe *probe;
    uv_async_t async; /* a relay has ended */
    struct relay *relays;
    void (*closed)(void *owner); /* set once closing */
    void *closed_owner;
    bool async_closed;
};

static void note(const struct move_sockets *sockets, const struct move_wish *wish,
                 const char *text)
{
    sockets->config.note(sockets->config.owner, wish, text);
}

/* ---- what the kernel can ---- */

static void probe_drop(struct probe *probe)
{
    if (atomic_fetch_sub(&probe->users, 1) == 1) {
        free(probe);
    }
}

static void *probe_main(void *owner)
{
    struct probe *probe = owner;
    atomic_store(&probe->state, ktls_probe() == 0 ? PROBE_CAN : PROBE_CANNOT);
    probe_drop(probe);
    return NULL;
}

static int probe_start(bool relay_only, struct probe **ret_probe)
{
    pthread_t thread;
    sigset_t all, before;
    struct probe *probe = calloc(1, sizeof(*probe));
    if (probe == NULL) {
        return -ENOMEM;
    }
    atomic_init(&probe->users, relay_only ? 1 : 2);
    atomic_init(&probe->state, relay_only ? PROBE_CANNOT : PROBE_RUNS);
    if (!relay_only) {
        (void)sigfillset(&all); /* signals are the loop's */
        CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
        int rv = -pthread_create(&thread, NULL, probe_main, probe);
        CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
        if (rv != 0) {
            free(probe);
            return rv;
        }
        CHECK(pthread_detach(thread) == 0);
    }
    *ret_probe = probe;
    return 0;
}

bool move_sockets_probed(const struct move_sockets *sockets, bool *ret_by_kernel)
{
    int state = atomic_load(&sockets->probe->state);
    if (state == PROBE_RUNS) {
        return false;
    }
    *ret_by_kernel = state == PROBE_CAN;
    return true;
}

bool move_sockets_by_kernel(const struct move_sockets *sockets)
{
    bool by_kernel = false;
    return move_sockets_probed(sockets, &by_kernel) && by_kernel;
}

bool move_sockets_prepare(const struct move_sockets *sockets,
                          const struct tls_stream *stream)
{
    return move_sockets_by_kernel(sockets) && ktls_attach(tls_stream_fd(stream)) == 0;
}

/* ---- relays ---- */

static void on_relay_ended(void *owner)
{
    struct move_sockets *sockets = owner;
    (void)uv_async_send(&sockets->async); /* open until all relays are joined */
}

static unsigned relay_count(const struct move_sockets *sockets)
{
    unsigned count = 0;
    for (const struct relay *relay = sockets->relays; relay != NULL;
         relay = relay->next) {
        count++;
    }
    return count;
}

static int relay_add(struct move_sockets *sockets, struct tls_taken *taken,
                     const struct move_wish *wish, int *ret_fd)
{
    if (relay_count(sockets) >= MOVES_RELAYS_MAX) {
        return DROVER_ELIMIT;
    }
    struct relay *relay = calloc(1, sizeof(*relay));
    if (relay == NULL) {
        return -ENOMEM;
    }
    relay->wish = *wish;
    int rv = move_relay_start(taken, on_relay_ended, sockets, &relay->relay, ret_fd);
    if (rv != 0) {
        free(relay);
        return rv;
    }
    relay->next = sockets->relays;
    sockets->relays = relay;
    return 0;
}

static void relay_end(struct move_sockets *sockets, struct relay *relay)
{
    struct move_relay_end end = {0};
    char text[ERROR_TEXT_SIZE];
    move_relay_free(relay->relay, &end);
    (void)snprintf(
        text, sizeof(text),
        "a relay of a move's has ended sent=%" PRIu64 " received=%" PRIu64 " why=%s",
        end.bytes_out, end.bytes_in, end.error == 0 ? "done" : err_text(end.error));
    note(sockets, &relay->wish, text);
    free(relay);
}

static void on_async(uv_async_t *async)
{
    struct move_sockets *sockets = async->data;
    for (struct relay **at = &sockets->relays; *at != NULL;) {
        struct relay *relay = *at;
        if (move_relay_ended(relay->relay)) {
            *at = relay->next;
            relay_end(sockets, relay);
        } else {
            at = &relay->next;
        }
    }
}

/* As migration/transport_tcp.c does with sockets of its own; slower to notice without. */
static void tune(int fd, uint32_t ack_ms)
{
    const int values[][3] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, ack_ms < 2000 ? 1 : (int)(ack_ms / 2000)},
        {IPPROTO_TCP, TCP_KEEPINTVL, ack_ms < 2000 ? 1 : (int)(ack_ms / 2000)},
        {IPPROTO_TCP, TCP_KEEPCNT, 2},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, (int)ack_ms},
    };
    for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        (void)setsockopt(fd, values[i][0], values[i][1], &values[i][2], sizeof(int));
    }
}

/* ---- sockets ---- */

int move_sockets_make(struct move_sockets *sockets, struct tls_stream *stream,
                      const struct move_wish *wish, bool by_kernel,
                      struct move_socket *ret_socket)
{
    CLEANUP(tls_taken_done) struct tls_taken taken = {.fd = -1};
    int rv = tls_stream_take(stream, &taken);
    if (rv != 0) {
        tls_stream_close(stream, rv, NULL);
        return rv;
    }
    struct move_socket socket = {
        .fd = -1, .by_kernel = true, .cipher = SSL_get_cipher_name(taken.ssl)};
    tune(taken.fd, sockets->config.ack_ms);
    rv = by_kernel ? ktls_install(&taken) : -ENOTSUP;
    if (rv == 0) {
        socket.fd = taken.fd;
        taken.fd = -1;
    } else if (rv == -ENOTSUP) {
        if (by_kernel) {
            note(sockets, wish, "the kernel refuses this connection: a relay has it");
        }
        socket.by_kernel = false;
        rv = relay_add(sockets, &taken, wish, &socket.fd);
    }
    if (rv == 0) {
        *ret_socket = socket;
    }
    return rv;
}

/* ---- all of them ---- */

int move_sockets_create(const struct move_sockets_config *config,
                        struct move_sockets **ret_sockets)
{
    struct move_sockets *sockets = calloc(1, sizeof(*sockets));
    if (sockets == NULL) {
        return -ENOMEM;
    }
    sockets->config = *config;
    int rv = probe_start(config->relay_only, &sockets->probe);
    if (rv != 0) {
        free(sockets);
        return rv;
    }
    rv = uv_async_init(config->loop, &sockets->async, on_async);
    if (rv != 0) {
        probe_drop(sockets->probe);
        free(sockets);
        return rv;
    }
    sockets->async.data = sockets;
    *ret_sockets = sockets;
    return 0;
}

static void on_async_closed(uv_handle_t *handle)
{
    struct move_sockets *sockets = handle->data;
    sockets->async_closed = true;
    sockets->closed(sockets->closed_owner);
}

void move_sockets_close(struct move_sockets *sockets, void (*closed)(void *owner),
                        void *owner)
{
    CHECK(sockets->closed == NULL);
    sockets->closed = closed;
    sockets->closed_owner = owner;
    while (sockets->relays != NULL) {
        struct relay *relay = sockets->relays;
        sockets->relays = relay->next;
        relay_end(sockets, relay);
    }
    uv_close((uv_handle_t *)&sockets->async, on_async_closed);
}

void move_sockets_free(struct move_sockets *sockets)
{
    if (sockets == NULL) {
        return;
    }
    CHECK(sockets->relays == NULL && sockets->async_closed);
    probe_drop(sockets->probe);
    free(sockets);
}
