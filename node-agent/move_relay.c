/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes between a TLS connection and a VMM's socket. */
#include "node-agent/move_relay.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"

#define PIPE_SIZE    (128u * 1024u)
#define PAIR_BUFFER  (1024 * 1024)  /* of the kernel's, each way */
#define STACK_SIZE   (1024u * 1024u) /* OpenSSL needs less; sanitizers and thread-local data more */
#define LINGER_MS    1000u /* after the VMM has gone: else its last words would be lost to a reset */

/* One direction. What comes after `ended` does not matter. */
struct pipe {
    uint8_t data[PIPE_SIZE];
    size_t start, size;
    bool ended;  /* no more comes in */
    bool closed; /* and the other side was told so */
};

struct move_relay {
    struct tls_taken taken;
    int pair_fd, stop_fd;
    pthread_t thread;
    void (*ended)(void *owner);
    void *owner;
    atomic_bool over;
    /* The thread's, until it is over: */
    struct pipe in, out; /* from, and to, the TLS connection */
    bool deaf;           /* the VMM takes nothing any more */
    short tls_events;    /* what OpenSSL waits for */
    short pair_events;
    struct move_relay_end end;
};

static size_t room(struct pipe *pipe)
{
    if (pipe->size == 0) {
        pipe->start = 0;
    } else if (pipe->start > PIPE_SIZE / 2) {
        memmove(pipe->data, pipe->data + pipe->start, pipe->size);
        pipe->start = 0;
    }
    return PIPE_SIZE - pipe->start - pipe->size;
}

static void drop(struct pipe *pipe, size_t size)
{
    CHECK(size <= pipe->size);
    pipe->start += size;
    pipe->size -= size;
}

/* After a call of OpenSSL's that did nothing: 0, or why the connection is over. */
static int tls_waits(struct move_relay *relay, int result)
{
    int saved = errno;
    int why = SSL_get_error(relay->taken.ssl, result);
    switch (why) {
    case SSL_ERROR_WANT_READ:
        relay->tls_events |= POLLIN;
        return 0;
    case SSL_ERROR_WANT_WRITE:
        relay->tls_events |= POLLOUT;
        return 0;
    case SSL_ERROR_ZERO_RETURN:
        relay->in.ended = true;
        return 0;
    case SSL_ERROR_SYSCALL:
        ERR_clear_error();
        return saved == 0 || saved == ECONNRESET || saved == EPIPE ? DROVER_ECLOSED
                                                                   : -saved;
    default:
        ERR_clear_error();
        return DROVER_EPEER;
    }
}

/* The next ones return 1 when they got on, 0, or why the connection is over. */

static int tls_read(struct move_relay *relay)
{
    struct pipe *in = &relay->in;
    if (relay->deaf) {
        in->size = 0;
    }
    size_t size = room(in);
    if (in->ended || size == 0) {
        return 0;
    }
    errno = 0;
    ERR_clear_error();
    int got =
        SSL_read(relay->taken.ssl, in->data + in->start + in->size, (int)size);
    if (got <= 0) {
        return tls_waits(relay, got);
    }
    in->size += (size_t)got;
    relay->end.bytes_in += (uint64_t)got;
    return 1;
}

static int tls_write(struct move_relay *relay)
{
    struct pipe *out = &relay->out;
    if (out->size == 0) {
        return 0;
    }
    errno = 0;
    ERR_clear_error();
    int sent = SSL_write(relay->taken.ssl, out->data + out->start, (int)out->size);
    if (sent <= 0) {
        return tls_waits(relay, sent);
    }
    drop(out, (size_t)sent);
    relay->end.bytes_out += (uint64_t)sent;
    return 1;
}

static int pair_read(struct move_relay *relay)
{
    struct pipe *out = &relay->out;
    size_t size = room(out);
    if (out->ended || size == 0) {
        return 0;
    }
    ssize_t got =
        recv(relay->pair_fd, out->data + out->start + out->size, size, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        relay->pair_events |= POLLIN;
        return 0;
    }
    if (got <= 0) { /* closed; reset when it left something unread */
        out->ended = true;
        return 1;
    }
    out->size += (size_t)got;
    return 1;
}

static int pair_write(struct move_relay *relay)
{
    struct pipe *in = &relay->in;
    if (in->size == 0 || relay->deaf) {
        return 0;
    }
    ssize_t sent = send(relay->pair_fd, in->data + in->start, in->size,
                        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
        relay->pair_events |= POLLOUT;
        return 0;
    }
    if (sent < 0) {
        relay->deaf = true;
        return 1;
    }
    drop(in, (size_t)sent);
    return 1;
}

/* An end goes on to the other side once all before it has. No close_notify: a kernel at the other end would
 * show that to its VMM as an error. A cut connection can pass for an end; the migration's messages tell the two apart. */
static void pass_ends(struct move_relay *relay)
{
    if (relay->in.ended && !relay->in.closed && (relay->in.size == 0 || relay->deaf)) {
        relay->in.closed = true;
        (void)shutdown(relay->pair_fd, SHUT_WR); /* it may have closed it itself */
    }
    if (relay->out.ended && !relay->out.closed && relay->out.size == 0) {
        relay->out.closed = true;
        (void)shutdown(relay->taken.fd, SHUT_WR); /* as above */
    }
}

static int step(struct move_relay *relay)
{
    int (*const steps[])(struct move_relay *) = {tls_read, pair_write, pair_read,
                                                 tls_write};
    int result = 0;
    relay->tls_events = 0;
    relay->pair_events = 0;
    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        int rv = steps[i](relay);
        if (rv < 0) {
            return rv;
        }
        result |= rv;
    }
    pass_ends(relay);
    return result;
}

/* 1: stop; 0: go on. */
static int wait_for(struct move_relay *relay, int wait_ms)
{
    struct pollfd fds[] = {{.fd = relay->stop_fd, .events = POLLIN},
                           {.fd = relay->tls_events != 0 ? relay->taken.fd : -1,
                            .events = relay->tls_events},
                           {.fd = relay->pair_events != 0 ? relay->pair_fd : -1,
                            .events = relay->pair_events}};
    int rv = poll(fds, 3, wait_ms);
    return (rv < 0 && errno != EINTR) || fds[0].revents != 0;
}

static int run(struct move_relay *relay)
{
    uint64_t until_ms = 0; /* 0: the VMM is there */
    for (;;) {
        int rv = step(relay);
        if (rv < 0) {
            /* With nothing left to say, a reset is an end like another. */
            return rv == DROVER_ECLOSED && relay->out.closed ? 0 : rv;
        }
        if (relay->in.closed && relay->out.closed) {
            return 0;
        }
        if (until_ms == 0 && relay->out.closed) {
            until_ms = clock_now_ms() + LINGER_MS;
        }
        uint64_t now_ms = until_ms == 0 ? 0 : clock_now_ms();
        if (until_ms != 0 && now_ms >= until_ms) {
            return 0;
        }
        int wait_ms = rv == 1         ? 0
                      : until_ms == 0 ? -1
                                      : (int)(until_ms - now_ms);
        if (wait_for(relay, wait_ms) != 0) {
            return DROVER_ECANCELLED;
        }
    }
}

static void *relay_main(void *owner)
{
    struct move_relay *relay = owner;
    relay->end.error = run(relay);
    /* Both sides hear of it now, not when somebody comes to free this. */
    (void)shutdown(relay->taken.fd, SHUT_RDWR);
    (void)shutdown(relay->pair_fd, SHUT_RDWR);
    atomic_store(&relay->over, true);
    relay->ended(relay->owner);
    return NULL;
}

static int thread_start(struct move_relay *relay)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, STACK_SIZE) == 0);
    (void)sigfillset(&all);
    /* Signals are the loop's. */
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    int rv = -pthread_create(&relay->thread, &attributes, relay_main, relay);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    CHECK(pthread_attr_destroy(&attributes) == 0);
    return rv;
}

static int pair_open(int ret_fds[2])
{
    const int size = PAIR_BUFFER;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret_fds) != 0) {
        return -errno;
    }
    for (unsigned i = 0; i < 2; i++) {
        /* Slower without, not wrong. */
        (void)setsockopt(ret_fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    }
    return 0;
}

int move_relay_start(struct tls_taken *taken, void (*ended)(void *owner), void *owner,
                     struct move_relay **ret_relay, int *ret_fd)
{
    struct move_relay *relay = calloc(1, sizeof(*relay));
    if (relay == NULL) {
        return -ENOMEM;
    }
    int fds[2] = {-1, -1};
    relay->ended = ended;
    relay->owner = owner;
    relay->taken = *taken;
    relay->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rv = relay->stop_fd < 0 ? -errno : pair_open(fds);
    relay->pair_fd = fds[0];
    if (rv == 0 && SSL_set_fd(taken->ssl, taken->fd) != 1) {
        rv = -ENOMEM;
    }
    if (rv == 0) {
        /* Fewer calls into the kernel: tls_read() goes on until nothing is buffered. */
        SSL_set_read_ahead(taken->ssl, 1);
        SSL_set_default_read_buffer_len(taken->ssl, PIPE_SIZE);
        (void)SSL_set_mode(taken->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                           SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        (void)SSL_set_options(taken->ssl, SSL_OP_IGNORE_UNEXPECTED_EOF);
        rv = thread_start(relay);
    }
    if (rv != 0) {
        cleanup_fd(&relay->stop_fd);
        cleanup_fd(&fds[0]);
        cleanup_fd(&fds[1]);
        free(relay);
        return rv;
    }
    *taken = (struct tls_taken){.fd = -1};
    *ret_relay = relay;
    *ret_fd = fds[1];
    return 0;
}

bool move_relay_ended(const struct move_relay *relay)
{
    return atomic_load(&relay->over);
}

void move_relay_free(struct move_relay *relay, struct move_relay_end *ret_end)
{
    if (relay == NULL) {
        return;
    }
    (void)eventfd_write(relay->stop_fd, 1); /* full means that it is readable */
    CHECK(pthread_join(relay->thread, NULL) == 0);
    if (ret_end != NULL) {
        *ret_end = relay->end;
    }
    tls_taken_done(&relay->taken);
    (void)close(relay->pair_fd); /* nobody is left to tell */
    (void)close(relay->stop_fd); /* an eventfd */
    free(relay);
}
