/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Links are made: by connecting, or by accepting. A listener takes plain TCP at the same
 * address too, for a source whose host has no RDMA; or, in a cluster, connections that are
 * handed to it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/id.h"
#include "migration/transport.h"
#include "migration/transport_rdma_internal.h"
#include "migration/transport_rdma_memory.h"
#include "migration/transport_rdma_setup.h"

#define BACKLOG    16
#define RETRIES    7 /* the most that there are */
#define HOST_BYTES 128

struct rdma_listener {
    struct transport_listener listener; /* first */
    struct transport_rdma *rdma;
    struct transport_listener *tcp;    /* either this, */
    struct transport_listener *handed; /* or this */
    struct rdma_cm_id *id; /* has a channel of its own once it is settled */
    bool listens;          /* else TCP only, as yet or for good */
    struct addrinfo *where;
    char key[ID_TEXT_SIZE]; /* who connects must know it; "": nobody must */
    char address[TRANSPORT_URI_SIZE]; /* once it listens: by number, with the real port */
};

/* "HOST:PORT", with [HOST] for IPv6. */
static int resolve(const char *address, bool passive, struct addrinfo **ret_infos,
                   struct error *err)
{
    char host[HOST_BYTES];
    const char *colon = strrchr(address, ':');
    size_t size = colon == NULL ? 0 : (size_t)(colon - address);
    const char *start = address;
    if (size >= 2 && start[0] == '[' && start[size - 1] == ']') {
        start++;
        size -= 2;
    }
    if (size == 0 || size >= sizeof(host) || colon[1] == '\0') {
        return error_set(err, DROVER_EBADINPUT,
                         "'rdma:%s' is not a migration address: use rdma:HOST:PORT",
                         address);
    }
    memcpy(host, start, size);
    host[size] = '\0';
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags =
                                       AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)};
    int failed = getaddrinfo(host, colon + 1, &hints, ret_infos);
    if (failed != 0) {
        return error_set(err, DROVER_EBADINPUT, "can't resolve 'rdma:%s': %s", address,
                         gai_strerror(failed));
    }
    return 0;
}

/* ---- one link ---------------------------------------------------------------------- */

/* Takes `id`, also when it fails. */
static int link_create(struct transport_rdma *rdma, struct rdma_cm_id *id, bool passive,
                       int cancel_fd, struct rdma_link **ret_link)
{
    struct rdma_link *link = calloc(1, sizeof(*link));
    struct rdma_event_channel *channel = link == NULL ? NULL : rdma_channel_take(rdma);
    if (channel == NULL || rdma->library.manager.migrate_id(id, channel) != 0) {
        int rv = link == NULL ? -ENOMEM : channel == NULL ? -EMFILE : -errno;
        (void)rdma->library.manager.destroy_id(id); /* nobody knows it yet */
        if (channel != NULL) {
            rdma_channel_give(rdma, channel);
        }
        free(link);
        return rv;
    }
    *link = (struct rdma_link){
        .link.ops = rdma_link_ops(),
        .rdma = rdma,
        .library = &rdma->library,
        .memory = rdma->memory,
        .passive = passive,
        .cancel_fd = cancel_fd,
        .channel = channel,
        .id = id,
    };
    *ret_link = link;
    return 0;
}

static int event_error(const struct rdma_cm_event *event)
{
    switch (event->event) {
    case RDMA_CM_EVENT_REJECTED:
        return -ECONNREFUSED;
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR:
    case RDMA_CM_EVENT_UNREACHABLE:
        return -EHOSTUNREACH;
    default:
        return DROVER_ECLOSED;
    }
}

/* The next step of a connection. `ret_hello` (may be NULL): what the peer said with it. */
static int event_wait(struct rdma_link *link, enum rdma_cm_event_type wanted,
                      uint64_t until_ms, struct rdma_hello *ret_hello)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = link->channel->fd, .events = POLLIN},
                               {.fd = link->cancel_fd, .events = POLLIN}};
        uint64_t now_ms = clock_now_ms();
        int left_ms = now_ms >= until_ms ? 0 : (int)(until_ms - now_ms);
        int rv = poll(fds, 2, left_ms);
        if (rv < 0 && errno != EINTR) {
            return -errno;
        }
        if (rv > 0 && fds[1].revents != 0) {
            return DROVER_ECANCELLED;
        }
        struct rdma_cm_event *event = NULL;
        if (rv > 0 && link->library->manager.get_cm_event(link->channel, &event) == 0) {
            rv = event->event == wanted ? 0 : event_error(event);
            if (rv == 0 && ret_hello != NULL) {
                rv = rdma_hello_decode(event->param.conn.private_data,
                                       event->param.conn.private_data_len, ret_hello);
            }
            (void)link->library->manager.ack_cm_event(event); /* it can't fail */
            return rv;
        }
        if (rv == 0 && left_ms == 0) {
            return DROVER_ETIMEDOUT2;
        }
    }
}

/* How long the device tries again, before it gives the peer up: about `idle_ms`. */
static void patience_set(struct rdma_link *link, uint32_t idle_ms)
{
    uint8_t exponent = 0; /* 4.096 us times two to the power of this, for each try */
    while (exponent < 31 &&
           (UINT64_C(4096) << exponent) / 1000000 * (RETRIES + 1) < idle_ms) {
        exponent++;
    }
    /* Without it the device has its own. */
    (void)link->library->manager.set_option(link->id, RDMA_OPTION_ID,
                                            RDMA_OPTION_ID_ACK_TIMEOUT, &exponent,
                                            sizeof(exponent));
}

static struct rdma_conn_param parameters(uint8_t hello[RDMA_HELLO_SIZE], const char *key)
{
    rdma_hello_encode(hello, key);
    return (struct rdma_conn_param){.private_data = hello,
                                    .private_data_len = RDMA_HELLO_SIZE,
                                    .retry_count = RETRIES,
                                    .rnr_retry_count = RETRIES};
}

/* ---- connecting -------------------------------------------------------------------- */

static int link_connect(struct rdma_link *link, struct sockaddr *to, const char *key,
                        uint32_t wait_ms, uint32_t idle_ms)
{
    uint8_t hello[RDMA_HELLO_SIZE];
    struct rdma_hello theirs;
    const struct rdma_library *library = link->library;
    uint64_t until_ms = clock_now_ms() + wait_ms;
    if (library->manager.resolve_addr(link->id, NULL, to, (int)wait_ms) != 0) {
        return -errno;
    }
    int rv = event_wait(link, RDMA_CM_EVENT_ADDR_RESOLVED, until_ms, NULL);
    if (rv != 0) {
        return rv;
    }
    patience_set(link, idle_ms);
    if (library->manager.resolve_route(link->id, (int)wait_ms) != 0) {
        return -errno;
    }
    rv = event_wait(link, RDMA_CM_EVENT_ROUTE_RESOLVED, until_ms, NULL);
    rv = rv != 0 ? rv : rdma_link_open(link);
    if (rv != 0) {
        return rv;
    }
    struct rdma_conn_param param = parameters(hello, key);
    if (library->manager.connect(link->id, &param) != 0) {
        return -errno;
    }
    rv = event_wait(link, RDMA_CM_EVENT_ESTABLISHED, until_ms, &theirs);
    if (rv == 0) {
        rdma_place_seal(&link->link); /* nobody writes into the source */
    }
    return rv;
}

/* "HOST:PORT#KEY" in two; the key stays out of all texts. */
static int key_cut(const char *address, char ret_plain[TRANSPORT_URI_SIZE],
                   char ret_key[RDMA_KEY_TEXT + 1], struct error *err)
{
    size_t size = strcspn(address, "#");
    const char *key = address[size] == '#' ? address + size + 1 : "";
    if (size >= TRANSPORT_URI_SIZE || strlen(key) > RDMA_KEY_TEXT) {
        return error_set(err, DROVER_EBADINPUT, "the address for RDMA is too long");
    }
    memcpy(ret_plain, address, size);
    ret_plain[size] = '\0';
    memcpy(ret_key, key, strlen(key) + 1);
    return 0;
}

int transport_rdma_connect(struct transport_rdma *rdma, const char *address,
                           int cancel_fd, uint32_t wait_ms, uint32_t idle_ms,
                           struct transport_link **ret_link, struct error *err)
{
    struct addrinfo *infos = NULL;
    struct rdma_link *link = NULL;
    char plain[TRANSPORT_URI_SIZE];
    char key[RDMA_KEY_TEXT + 1];
    int rv = key_cut(address, plain, key, err);
    rv = rv != 0 ? rv : resolve(plain, false, &infos, err);
    if (rv != 0) {
        return rv;
    }
    struct rdma_cm_id *id = rdma_id_take(rdma);
    rv = id == NULL ? DROVER_ELIMIT : link_create(rdma, id, false, cancel_fd, &link);
    rv = rv != 0 ? rv : link_connect(link, infos->ai_addr, key, wait_ms, idle_ms);
    freeaddrinfo(infos);
    if (rv == 0) {
        *ret_link = &link->link;
        return 0;
    }
    rdma_link_free(link);
    return error_set(err, rv, "can't connect to rdma:%s: %s", plain,
                     rv == DROVER_ELIMIT
                         ? "this VM has used up the connections that it could prepare"
                         : err_text(rv));
}

/* ---- listening --------------------------------------------------------------------- */

static int link_accept(struct rdma_link *link, uint32_t idle_ms)
{
    uint8_t hello[RDMA_HELLO_SIZE];
    patience_set(link, idle_ms);
    int rv = rdma_link_open(link);
    if (rv != 0) {
        return rv;
    }
    struct rdma_conn_param param = parameters(hello, "");
    if (link->library->manager.accept(link->id, &param) != 0) {
        return -errno;
    }
    return event_wait(link, RDMA_CM_EVENT_ESTABLISHED, clock_now_ms() + idle_ms, NULL);
}

/* -EAGAIN: it was nobody. */
static int request_take(struct rdma_listener *self, int cancel_fd, uint32_t idle_ms,
                        struct transport_link **ret_link)
{
    const struct rdma_library *library = &self->rdma->library;
    struct rdma_cm_event *event = NULL;
    if (library->manager.get_cm_event(self->id->channel, &event) != 0) {
        return -EAGAIN;
    }
    struct rdma_hello hello;
    struct rdma_cm_id *id = event->id;
    bool is_request = event->event == RDMA_CM_EVENT_CONNECT_REQUEST;
    bool is_ours =
        is_request && rdma_hello_decode(event->param.conn.private_data,
                                        event->param.conn.private_data_len, &hello) == 0;
    (void)library->manager.ack_cm_event(event); /* it can't fail with an event */
    if (!is_ours || strcmp(hello.key, self->key) != 0) {
        if (is_request) {
            (void)library->manager.reject(id, NULL, 0); /* it will notice anyway */
            (void)library->manager.destroy_id(id);
        }
        return -EAGAIN;
    }
    struct rdma_link *link = NULL;
    int rv = link_create(self->rdma, id, true, cancel_fd, &link);
    rv = rv != 0 ? rv : link_accept(link, idle_ms);
    if (rv != 0) {
        rdma_link_free(link);
        return rv == DROVER_ECANCELLED ? rv : -EAGAIN;
    }
    *ret_link = &link->link;
    return 0;
}

static int listener_accept(struct transport_listener *base, int cancel_fd,
                           uint32_t wait_ms, uint32_t idle_ms,
                           struct transport_link **ret_link)
{
    struct rdma_listener *self = (struct rdma_listener *)base;
    uint64_t until_ms = clock_now_ms() + wait_ms;
    for (;;) {
        int channel_fd = self->listens ? self->id->channel->fd : -1;
        struct pollfd fds[] = {
            {.fd = channel_fd, .events = POLLIN},
            {.fd = transport_tcp_listener_fd(self->tcp), .events = POLLIN},
            {.fd = cancel_fd, .events = POLLIN}};
        uint64_t now_ms = clock_now_ms();
        int left_ms = wait_ms == UINT32_MAX ? -1
                      : now_ms >= until_ms  ? 0
                                            : (int)(until_ms - now_ms);
        int rv = poll(fds, 3, left_ms);
        if (rv < 0 && errno != EINTR) {
            return -errno;
        }
        if (rv == 0 && left_ms == 0) {
            return DROVER_ETIMEDOUT2;
        }
        if (rv > 0 && fds[2].revents != 0) {
            return DROVER_ECANCELLED;
        }
        int taken = -EAGAIN;
        if (rv > 0 && fds[0].revents != 0) {
            taken = request_take(self, cancel_fd, idle_ms, ret_link);
        } else if (rv > 0 && fds[1].revents != 0) {
            taken = self->tcp->ops->accept(self->tcp, cancel_fd, 0, idle_ms, ret_link);
            taken = taken == DROVER_ETIMEDOUT2 ? -EAGAIN : taken;
        }
        if (taken != -EAGAIN) {
            return taken;
        }
    }
}

/* The same with connections that are handed over. */
static int handed_accept(struct transport_listener *base, int cancel_fd, uint32_t wait_ms,
                         uint32_t idle_ms, struct transport_link **ret_link)
{
    struct rdma_listener *self = (struct rdma_listener *)base;
    uint64_t until_ms = clock_now_ms() + wait_ms;
    for (;;) {
        uint64_t now_ms = clock_now_ms();
        uint32_t left_ms = wait_ms == UINT32_MAX ? UINT32_MAX
                           : now_ms >= until_ms  ? 0
                                                 : (uint32_t)(until_ms - now_ms);
        int rv = transport_handed_accept(self->handed,
                                         self->listens ? self->id->channel->fd : -1,
                                         cancel_fd, left_ms, ret_link);
        if (rv == -EAGAIN) {
            rv = request_take(self, cancel_fd, idle_ms, ret_link);
        }
        if (rv != -EAGAIN) {
            return rv;
        }
    }
}

static void handed_uri(struct transport_listener *base, char ret_uri[TRANSPORT_URI_SIZE])
{
    struct rdma_listener *self = (struct rdma_listener *)base;
    self->handed->ops->uri(self->handed, ret_uri);
}

static int handed_give(struct transport_listener *base, int fd)
{
    struct rdma_listener *self = (struct rdma_listener *)base;
    return self->handed->ops->give(self->handed, fd);
}

static void listener_uri(struct transport_listener *base,
                         char ret_uri[TRANSPORT_URI_SIZE])
{
    struct rdma_listener *self = (struct rdma_listener *)base;
    char tcp[TRANSPORT_URI_SIZE];
    self->tcp->ops->uri(self->tcp, tcp);
    CHECK(strncmp(tcp, "tcp:", 4) == 0);
    int size = snprintf(ret_uri, TRANSPORT_URI_SIZE, "rdma:%.*s",
                        TRANSPORT_URI_SIZE - 6, tcp + 4);
    CHECK(size > 0 && size < TRANSPORT_URI_SIZE);
}

static void listener_close(struct transport_listener *base)
{
    struct rdma_listener *self = (struct rdma_listener *)base;
    transport_listener_close(self->tcp);
    transport_listener_close(self->handed);
    if (self->id != NULL) {
        struct rdma_event_channel *channel = self->id->channel;
        (void)self->rdma->library.manager.destroy_id(self->id); /* nobody is left to tell */
        if (channel != self->rdma->nursery) {
            rdma_channel_give(self->rdma, channel);
        }
    }
    if (self->where != NULL) {
        freeaddrinfo(self->where);
    }
    self->rdma->listener = NULL;
    free(self);
}

static const struct transport_listener_ops listener_ops = {
    .accept = listener_accept,
    .uri = listener_uri,
    .close = listener_close,
};

static const struct transport_listener_ops handed_ops = {
    .accept = handed_accept,
    .give = handed_give,
    .uri = handed_uri,
    .close = listener_close,
};

/* With what it takes beside RDMA: at `handed`, or as TCP. */
static int listen_beside(struct rdma_listener *self, const char *handed,
                         const char *address, struct error *err)
{
    if (handed != NULL) {
        self->listener.ops = &handed_ops;
        int rv = id_random_text(self->key);
        if (rv != 0) {
            return error_set(err, rv, "no random numbers: %s", err_text(rv));
        }
        return transport_handed()->listen(handed, &self->handed, err);
    }
    int rv = transport_tcp()->listen(address, &self->tcp, err);
    return rv != 0 ? rv : transport_tcp_listener_defer(self->tcp, err);
}

int transport_rdma_listen(struct transport_rdma *rdma, const char *address,
                          const char *handed, struct transport_listener **ret_listener,
                          struct error *err)
{
    CHECK(!rdma->settled && rdma->listener == NULL);
    struct rdma_listener *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    self->listener.ops = &listener_ops;
    self->rdma = rdma;
    rdma->listener = self;
    int rv = resolve(address, true, &self->where, err);
    rv = rv != 0 ? rv : listen_beside(self, handed, address, err);
    if (rv == 0 && rdma->library.manager.create_id(rdma->nursery, &self->id, NULL,
                                                   RDMA_PS_TCP) != 0) {
        self->id = NULL;
        rv = error_set(err, -errno, "can't listen on rdma:%s: %s", address,
                       err_text(-errno));
    }
    if (rv != 0) {
        listener_close(&self->listener);
        return rv;
    }
    *ret_listener = &self->listener;
    return 0;
}

int rdma_listener_move(struct transport_rdma *rdma)
{
    struct rdma_event_channel *channel = rdma_channel_take(rdma);
    CHECK(channel != NULL); /* nobody took one yet */
    if (rdma->library.manager.migrate_id(rdma->listener->id, channel) != 0) {
        int rv = -errno;
        rdma_channel_give(rdma, channel);
        return rv;
    }
    return 0;
}

static uint16_t *port_of(struct sockaddr *where)
{
    return where->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)where)->sin6_port
                                        : &((struct sockaddr_in *)where)->sin_port;
}

static void where_text(const struct rdma_listener *self, char ret_text[TRANSPORT_URI_SIZE])
{
    const struct sockaddr *where = self->where->ai_addr;
    char host[HOST_BYTES] = "?";
    char port[16] = "0";
    (void)getnameinfo(where, self->where->ai_addrlen, host, sizeof(host), port, sizeof(port),
                      NI_NUMERICHOST | NI_NUMERICSERV); /* of numbers: both fit */
    (void)snprintf(ret_text, TRANSPORT_URI_SIZE,
                   where->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port); /* fits */
}

/* At the same address and port as its TCP, if it has that. */
int rdma_listener_begin(struct transport_rdma *rdma, struct error *err)
{
    struct rdma_listener *self = rdma->listener;
    struct sockaddr *where = self->where->ai_addr;
    char text[TRANSPORT_URI_SIZE];
    if (self->tcp != NULL) {
        self->tcp->ops->uri(self->tcp, text);
        *port_of(where) = htons((uint16_t)strtoul(strrchr(text, ':') + 1, NULL, 10));
    }
    if (rdma->library.manager.bind_addr(self->id, where) != 0 ||
        rdma->library.manager.listen(self->id, BACKLOG) != 0) {
        int rv = -errno;
        where_text(self, text);
        return error_set(err, rv,
                         "can't listen by RDMA at %s: %s; does a device have this address?",
                         text, err_text(rv));
    }
    *port_of(where) = rdma->library.manager.get_src_port(self->id);
    where_text(self, text); /* now: in a jail nothing is looked up any more */
    int size = snprintf(self->address, sizeof(self->address), "%s%s%s", text,
                        self->key[0] != '\0' ? "#" : "", self->key);
    CHECK(size > 0 && (size_t)size < sizeof(self->address)); /* numbers are short */
    self->listens = true;
    return 0;
}

void transport_rdma_listener_address(const struct transport_listener *listener,
                                     char ret_address[TRANSPORT_URI_SIZE])
{
    const struct rdma_listener *self = (const struct rdma_listener *)listener;
    memcpy(ret_address, self->address, TRANSPORT_URI_SIZE);
}
