/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that somebody else has made: the cluster's agents, which encrypt them. A socket may
 * be TCP of which the kernel does the TLS, or one of a pair whose other end encrypts; both
 * read and write as transport_tcp.c's do.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/transport.h"

/* Handed over and not taken yet. */
#define WAITING_MAX 32

struct handed_listener {
    struct transport_listener listener;
    char uri[TRANSPORT_URI_SIZE];
    pthread_mutex_t lock;
    int event_fd; /* readable while one waits */
    unsigned count;
    int fds[WAITING_MAX]; /* oldest first; under the lock */
};

static int handed_connect(const char *address, int cancel_fd, uint32_t wait_ms,
                          uint32_t idle_ms, struct transport_link **ret_link,
                          struct error *err)
{
    (void)cancel_fd;
    (void)wait_ms;
    (void)idle_ms;
    (void)ret_link;
    return error_set(err, DROVER_EBADINPUT,
                     "'handed:%s' names connections that come with the order: only "
                     "droverd makes them; use tcp:HOST:PORT",
                     address);
}

/* This one, or (-1) the oldest; -1: it is not there any more. */
static int take_one(struct handed_listener *listener, int wanted)
{
    int fd = -1;
    (void)pthread_mutex_lock(&listener->lock); /* neither fails: a plain mutex of ours */
    for (unsigned i = 0; i < listener->count && fd < 0; i++) {
        if (wanted < 0 || listener->fds[i] == wanted) {
            fd = listener->fds[i];
            listener->count--;
            memmove(listener->fds + i, listener->fds + i + 1,
                    (listener->count - i) * sizeof(int));
        }
    }
    (void)pthread_mutex_unlock(&listener->lock);
    return fd;
}

static int take(struct handed_listener *listener)
{
    return take_one(listener, -1);
}

static int listener_accept(struct transport_listener *base, int cancel_fd,
                           uint32_t wait_ms, uint32_t idle_ms,
                           struct transport_link **ret_link)
{
    struct handed_listener *listener = (struct handed_listener *)base;
    uint64_t until_ms = clock_now_ms() + wait_ms;
    (void)idle_ms; /* who made the connection has seen to it */
    for (;;) {
        struct pollfd fds[2] = {{.fd = listener->event_fd, .events = POLLIN},
                                {.fd = cancel_fd, .events = POLLIN}};
        uint64_t now_ms = clock_now_ms();
        int left_ms = wait_ms == UINT32_MAX ? -1
                      : now_ms >= until_ms  ? 0
                                            : (int)(until_ms - now_ms);
        int rv = poll(fds, 2, left_ms);
        if (rv < 0 && errno != EINTR) {
            return -errno;
        }
        if (rv > 0 && fds[1].revents != 0) {
            return DROVER_ECANCELLED;
        }
        if (rv > 0) {
            eventfd_t value = 0;
            (void)eventfd_read(listener->event_fd, &value); /* a semaphore: one less */
            int fd = take(listener);
            if (fd >= 0) {
                return transport_socket_adopt(fd, cancel_fd, ret_link);
            }
        }
        if (rv == 0 && left_ms == 0) {
            return DROVER_ETIMEDOUT2;
        }
    }
}

/* The first one that has said something; -1: none. Those that have ended are dropped. */
static int take_speaking(struct handed_listener *listener, const struct pollfd *fds,
                         unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char byte;
        if (fds[i].revents == 0) {
            continue;
        }
        ssize_t size = recv(fds[i].fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
            continue;
        }
        int fd = take_one(listener, fds[i].fd);
        if (fd >= 0 && size > 0) {
            return fd;
        }
        if (fd >= 0) {
            (void)close(fd); /* nobody is left to tell */
        }
    }
    return -1;
}

int transport_handed_accept(struct transport_listener *base, int other_fd, int cancel_fd,
                            uint32_t wait_ms, struct transport_link **ret_link)
{
    struct handed_listener *listener = (struct handed_listener *)base;
    uint64_t until_ms = clock_now_ms() + wait_ms;
    for (;;) {
        struct pollfd fds[3 + WAITING_MAX] = {{.fd = listener->event_fd, .events = POLLIN},
                                              {.fd = cancel_fd, .events = POLLIN},
                                              {.fd = other_fd, .events = POLLIN}};
        (void)pthread_mutex_lock(&listener->lock);
        unsigned count = listener->count;
        for (unsigned i = 0; i < count; i++) {
            fds[3 + i] = (struct pollfd){.fd = listener->fds[i], .events = POLLIN};
        }
        (void)pthread_mutex_unlock(&listener->lock);
        uint64_t now_ms = clock_now_ms();
        int left_ms = wait_ms == UINT32_MAX ? -1
                      : now_ms >= until_ms  ? 0
                                            : (int)(until_ms - now_ms);
        int rv = poll(fds, 3 + count, left_ms);
        if (rv < 0 && errno != EINTR) {
            return -errno;
        }
        if (rv > 0 && fds[1].revents != 0) {
            return DROVER_ECANCELLED;
        }
        if (rv > 0 && fds[2].revents != 0) {
            return -EAGAIN;
        }
        if (rv > 0 && fds[0].revents != 0) {
            eventfd_t value = 0;
            (void)eventfd_read(listener->event_fd, &value); /* there are others now: look again */
        }
        int fd = rv > 0 ? take_speaking(listener, fds + 3, count) : -1;
        if (fd >= 0) {
            return transport_socket_adopt(fd, cancel_fd, ret_link);
        }
        if (rv == 0 && left_ms == 0) {
            return DROVER_ETIMEDOUT2;
        }
    }
}

static void listener_uri(struct transport_listener *base,
                         char ret_uri[TRANSPORT_URI_SIZE])
{
    struct handed_listener *listener = (struct handed_listener *)base;
    memcpy(ret_uri, listener->uri, TRANSPORT_URI_SIZE);
}

static int listener_give(struct transport_listener *base, int fd)
{
    struct handed_listener *listener = (struct handed_listener *)base;
    (void)pthread_mutex_lock(&listener->lock);
    bool fits = listener->count < WAITING_MAX;
    if (fits) {
        listener->fds[listener->count++] = fd;
    }
    (void)pthread_mutex_unlock(&listener->lock);
    if (!fits) {
        return DROVER_ELIMIT;
    }
    (void)eventfd_write(listener->event_fd, 1); /* counts to far more */
    return 0;
}

static void listener_close(struct transport_listener *base)
{
    struct handed_listener *listener = (struct handed_listener *)base;
    for (int fd = take(listener); fd >= 0; fd = take(listener)) {
        (void)close(fd); /* nobody is left to tell */
    }
    (void)pthread_mutex_destroy(&listener->lock);
    (void)close(listener->event_fd); /* an eventfd */
    free(listener);
}

static const struct transport_listener_ops listener_ops = {
    .accept = listener_accept,
    .uri = listener_uri,
    .give = listener_give,
    .close = listener_close,
};

/* `address` is only repeated: where those who hand connections over are to be found. */
static int handed_listen(const char *address, struct transport_listener **ret_listener,
                         struct error *err)
{
    struct handed_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    listener->listener.ops = &listener_ops;
    listener->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
    if (listener->event_fd < 0) {
        int rv = -errno;
        free(listener);
        return error_set(err, rv, "can't make an eventfd: %s", err_text(rv));
    }
    CHECK(pthread_mutex_init(&listener->lock, NULL) == 0);
    (void)snprintf(listener->uri, sizeof(listener->uri), "handed:%s",
                   address); /* transport_find() judged its size */
    *ret_listener = &listener->listener;
    return 0;
}

static int handed_adopt(int fd, const char *address, int cancel_fd, uint32_t wait_ms,
                        uint32_t idle_ms, struct transport_link **ret_link,
                        struct error *err)
{
    (void)address;
    (void)wait_ms;
    (void)idle_ms;
    int rv = transport_socket_adopt(fd, cancel_fd, ret_link);
    return rv != 0 ? error_set(err, rv, "out of memory") : 0;
}

const struct transport_ops *transport_handed(void)
{
    static const struct transport_ops ops = {
        .scheme = "handed",
        .connect = handed_connect,
        .adopt = handed_adopt,
        .listen = handed_listen,
    };
    return &ops;
}
