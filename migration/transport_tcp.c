/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP as a transport. Sockets never block: every wait is a poll() on the socket and the
 * cancel descriptor. The kernel's keepalive and user timeout notice a peer without power.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/transport.h"

#define BACKLOG   4
#define HOST_SIZE 128
#define DEFER_S   60 /* a connection that says nothing for so long is shown all the same */

struct tcp_link {
    struct transport_link link;
    int fd;
    int cancel_fd;
};

struct tcp_listener {
    struct transport_listener listener;
    int fd;
    char host[HOST_SIZE];
};

/* Waits for `events`: 0, DROVER_ETIMEDOUT2, DROVER_ECANCELLED or -errno. */
static int wait_for(int fd, short events, int cancel_fd, uint32_t wait_ms)
{
    uint64_t until_ms = clock_now_ms() + wait_ms;
    for (;;) {
        struct pollfd fds[2] = {{.fd = fd, .events = events},
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
        if (rv > 0 && fds[0].revents != 0) {
            return 0;
        }
        if (rv == 0 && left_ms == 0) {
            return DROVER_ETIMEDOUT2;
        }
    }
}

static int closed_or(int error)
{
    /* EIO: the kernel's TLS has come to a record that is no data, such as the other side's
     * goodbye. */
    return error == EPIPE || error == ECONNRESET || error == ETIMEDOUT || error == EIO
               ? DROVER_ECLOSED
               : -error;
}

/* Drops `size` bytes at the front. */
static void advance(struct iovec **iov, unsigned *count, size_t size)
{
    while (*count > 0 && size >= (*iov)->iov_len) {
        size -= (*iov)->iov_len;
        (*iov)++;
        (*count)--;
    }
    if (size > 0) {
        CHECK(*count > 0);
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + size;
        (*iov)->iov_len -= size;
    }
}

static int link_send(struct transport_link *base, struct iovec *iov, unsigned count,
                     uint32_t idle_ms, size_t *ret_accepted)
{
    struct tcp_link *link = (struct tcp_link *)base;
    size_t accepted = 0;
    int rv = 0;
    CHECK(count <= TRANSPORT_IOV_MAX);
    advance(&iov, &count, 0);
    while (count > 0 && rv == 0) {
        struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
        ssize_t size = sendmsg(link->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (size >= 0) {
            accepted += (size_t)size;
            advance(&iov, &count, (size_t)size);
        } else if (errno == EAGAIN) {
            rv = wait_for(link->fd, POLLOUT, link->cancel_fd, idle_ms);
        } else if (errno != EINTR) {
            rv = closed_or(errno);
        }
    }
    if (ret_accepted != NULL) {
        *ret_accepted = accepted;
    }
    return rv;
}

static int link_recv(struct transport_link *base, const struct iovec *iov, unsigned count,
                     uint32_t wait_ms, size_t *ret_size)
{
    struct tcp_link *link = (struct tcp_link *)base;
    CHECK(count > 0 && count <= TRANSPORT_IOV_MAX);
    for (;;) {
        struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};
        ssize_t size = recvmsg(link->fd, &message, MSG_DONTWAIT);
        if (size > 0) {
            *ret_size = (size_t)size;
            return 0;
        }
        if (size == 0) {
            return DROVER_ECLOSED;
        }
        if (errno == EAGAIN) {
            int rv = wait_for(link->fd, POLLIN, link->cancel_fd, wait_ms);
            if (rv != 0) {
                return rv;
            }
        } else if (errno != EINTR) {
            return closed_or(errno);
        }
    }
}

static void link_set_cancel(struct transport_link *base, int cancel_fd)
{
    ((struct tcp_link *)base)->cancel_fd = cancel_fd;
}

static void link_close(struct transport_link *base)
{
    struct tcp_link *link = (struct tcp_link *)base;
    (void)close(link->fd); /* nobody is left to tell */
    free(link);
}

static const struct transport_link_ops link_ops = {
    .send = link_send,
    .recv = link_recv,
    .set_cancel = link_set_cancel,
    .close = link_close,
};

static int option_set(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) == 0 ? 0 : -errno;
}

/* Takes `fd` on success. */
static int link_create(int fd, int cancel_fd, uint32_t idle_ms,
                       struct transport_link **ret_link)
{
    int keep_s = idle_ms < 2000 ? 1 : (int)(idle_ms / 2000);
    int rv = option_set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    rv = rv != 0 ? rv : option_set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    rv = rv != 0 ? rv : option_set(fd, IPPROTO_TCP, TCP_KEEPIDLE, keep_s);
    rv = rv != 0 ? rv : option_set(fd, IPPROTO_TCP, TCP_KEEPINTVL, keep_s);
    rv = rv != 0 ? rv : option_set(fd, IPPROTO_TCP, TCP_KEEPCNT, 2);
    rv = rv != 0 ? rv : option_set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)idle_ms);
    if (rv != 0) {
        return rv;
    }
    struct tcp_link *link = calloc(1, sizeof(*link));
    if (link == NULL) {
        return -ENOMEM;
    }
    *link = (struct tcp_link){.link.ops = &link_ops, .fd = fd, .cancel_fd = cancel_fd};
    *ret_link = &link->link;
    return 0;
}

/* "HOST:PORT" or "[HOST]:PORT" to addresses; the caller frees with freeaddrinfo(). */
static int resolve(const char *address, bool passive, char ret_host[128],
                   struct addrinfo **ret_info, struct error *err)
{
    const char *colon = strrchr(address, ':');
    const char *start = address;
    size_t size = colon == NULL ? 0 : (size_t)(colon - address);
    if (size >= 2 && start[0] == '[' && start[size - 1] == ']') {
        start++;
        size -= 2;
    }
    if (size == 0 || size >= 128 || colon[1] == '\0') {
        return error_set(err, DROVER_EBADINPUT,
                         "'tcp:%s' is no address: use tcp:HOST:PORT", address);
    }
    /* getaddrinfo() takes any number, and cuts it to 16 bits. */
    char *end = NULL;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port > UINT16_MAX) {
        return error_set(err, DROVER_EBADINPUT,
                         "'tcp:%s': the port must be a number from 0 to 65535", address);
    }
    memcpy(ret_host, start, size);
    ret_host[size] = '\0';
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)};
    int rv = getaddrinfo(ret_host, colon + 1, &hints, ret_info);
    if (rv != 0) {
        return error_set(err, DROVER_EBADINPUT, "can't resolve 'tcp:%s': %s", address,
                         gai_strerror(rv));
    }
    return 0;
}

static int connect_end(int fd, int cancel_fd, uint32_t wait_ms)
{
    int rv = wait_for(fd, POLLOUT, cancel_fd, wait_ms);
    if (rv != 0) {
        return rv;
    }
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) {
        return error != 0 ? -error : -errno;
    }
    return 0;
}

/* Takes `fd` on success. */
static int connect_one(int fd, const struct addrinfo *info, int cancel_fd,
                       uint32_t wait_ms, uint32_t idle_ms,
                       struct transport_link **ret_link)
{
    if (connect(fd, info->ai_addr, info->ai_addrlen) != 0) {
        int rv = errno != EINPROGRESS ? -errno : connect_end(fd, cancel_fd, wait_ms);
        if (rv != 0) {
            return rv;
        }
    }
    return link_create(fd, cancel_fd, idle_ms, ret_link);
}

static int connect_failed(const char *address, int rv, struct error *err)
{
    return error_set(err, rv, "can't connect to tcp:%s: %s; is the target waiting there?",
                     address, err_text(rv));
}

int transport_socket_adopt(int fd, int cancel_fd, struct transport_link **ret_link)
{
    struct tcp_link *link = calloc(1, sizeof(*link));
    if (link == NULL) {
        (void)close(fd); /* nobody is left to tell */
        return -ENOMEM;
    }
    *link = (struct tcp_link){.link.ops = &link_ops, .fd = fd, .cancel_fd = cancel_fd};
    *ret_link = &link->link;
    return 0;
}

static int tcp_adopt(int fd, const char *address, int cancel_fd, uint32_t wait_ms,
                     uint32_t idle_ms, struct transport_link **ret_link,
                     struct error *err)
{
    int rv = connect_end(fd, cancel_fd, wait_ms);
    rv = rv != 0 ? rv : link_create(fd, cancel_fd, idle_ms, ret_link);
    if (rv != 0) {
        (void)close(fd); /* nobody is left to tell */
        return connect_failed(address, rv, err);
    }
    return 0;
}

static int tcp_connect(const char *address, int cancel_fd, uint32_t wait_ms,
                       uint32_t idle_ms, struct transport_link **ret_link,
                       struct error *err)
{
    char host[128];
    struct addrinfo *infos = NULL;
    int rv = resolve(address, false, host, &infos, err);
    if (rv != 0) {
        return rv;
    }
    for (struct addrinfo *info = infos; info != NULL; info = info->ai_next) {
        CLEANUP(cleanup_fd)
        int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        rv = fd < 0 ? -errno
                    : connect_one(fd, info, cancel_fd, wait_ms, idle_ms, ret_link);
        if (rv == 0) {
            (void)take_fd(&fd);
        }
        if (rv == 0 || rv == DROVER_ECANCELLED) {
            break;
        }
    }
    freeaddrinfo(infos);
    if (rv != 0) {
        return connect_failed(address, rv, err);
    }
    return 0;
}

static int listener_accept(struct transport_listener *base, int cancel_fd,
                           uint32_t wait_ms, uint32_t idle_ms,
                           struct transport_link **ret_link)
{
    struct tcp_listener *listener = (struct tcp_listener *)base;
    for (;;) {
        CLEANUP(cleanup_fd)
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            int rv = link_create(fd, cancel_fd, idle_ms, ret_link);
            if (rv == 0) {
                (void)take_fd(&fd);
            }
            return rv;
        }
        if (errno == EAGAIN) {
            int rv = wait_for(listener->fd, POLLIN, cancel_fd, wait_ms);
            if (rv != 0) {
                return rv;
            }
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return -errno;
        }
    }
}

static void listener_uri(struct transport_listener *base,
                         char ret_uri[TRANSPORT_URI_SIZE])
{
    struct tcp_listener *listener = (struct tcp_listener *)base;
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);
    char port[16] = "0";
    char number[HOST_SIZE] = "";
    const char *host = listener->host;
    /* A number needs no resolving there; one that stands for all addresses is none. */
    if (getsockname(listener->fd, (struct sockaddr *)&address, &size) == 0 &&
        getnameinfo((struct sockaddr *)&address, size, number, sizeof(number), port,
                    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) == 0 &&
        strcmp(number, "0.0.0.0") != 0 && strcmp(number, "::") != 0) {
        host = number;
    }
    bool v6 = strchr(host, ':') != NULL;
    (void)snprintf(ret_uri, TRANSPORT_URI_SIZE, v6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host,
                   port); /* host and port fit */
}

static void listener_close(struct transport_listener *base)
{
    struct tcp_listener *listener = (struct tcp_listener *)base;
    (void)close(listener->fd); /* nobody is left to tell */
    free(listener);
}

static const struct transport_listener_ops listener_ops = {
    .accept = listener_accept,
    .uri = listener_uri,
    .close = listener_close,
};

static int tcp_listen(const char *address, struct transport_listener **ret_listener,
                      struct error *err)
{
    struct tcp_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    listener->listener.ops = &listener_ops;
    struct addrinfo *infos = NULL;
    int rv = resolve(address, true, listener->host, &infos, err);
    if (rv != 0) {
        free(listener);
        return rv;
    }
    listener->fd =
        socket(infos->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    rv =
        listener->fd < 0 ? -errno : option_set(listener->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (rv == 0 && (bind(listener->fd, infos->ai_addr, infos->ai_addrlen) != 0 ||
                    listen(listener->fd, BACKLOG) != 0)) {
        rv = -errno;
    }
    freeaddrinfo(infos);
    if (rv != 0) {
        cleanup_fd(&listener->fd);
        free(listener);
        return error_set(err, rv,
                         "can't listen on tcp:%s: %s; choose a free port, or port 0",
                         address, err_text(rv));
    }
    *ret_listener = &listener->listener;
    return 0;
}

int transport_tcp_listener_fd(const struct transport_listener *base)
{
    return ((const struct tcp_listener *)base)->fd;
}

int transport_tcp_listener_defer(struct transport_listener *base, struct error *err)
{
    int fd = ((struct tcp_listener *)base)->fd;
    int rv = option_set(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, DEFER_S);
    return rv != 0 ? error_set(err, rv, "can't listen: %s", err_text(rv)) : 0;
}

const struct transport_ops *transport_tcp(void)
{
    static const struct transport_ops ops = {
        .scheme = "tcp",
        .connect = tcp_connect,
        .adopt = tcp_adopt,
        .listen = tcp_listen,
    };
    return &ops;
}
