/* SPDX-License-Identifier: Apache-2.0 */
/* The ring between the guest's serial port and its clients. */
#include "vmm/host/serial_host.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/host/event_loop.h"
#include "vmm/host/unix_socket.h"

#define RING_SIZE   65536u
#define CLIENTS_MAX 16
#define INPUT_SIZE  256
#define CHUNK_SIZE  4096 /* what a pipe that is ready takes at once without waiting */
#define ESCAPE_KEY  0x01 /* Ctrl-A */
#define ESCAPE_QUIT 'x'

struct serial_client {
    struct serial_host *host;
    int out_fd; /* -1: free */
    int in_fd;  /* -1: none, or at its end */
    bool is_stdio;
    bool polls_output;           /* EPOLLOUT is asked for */
    struct event_source *source; /* NULL: a file, always ready */
    struct event_source
        *out_source;   /* stdio: descriptors of its own for input and output */
    uint64_t position; /* in the stream of all bytes ever written */
    size_t input_size; /* typed, not taken by the guest yet */
    bool escaped;
    uint8_t input[INPUT_SIZE];
};

struct serial_host {
    struct event_loop *loop;
    serial_host_input input; /* of the guest's port */
    void *port;
    void (*escape)(void *owner);
    void *owner;
    int listen_fd;
    struct event_source *listen_source;
    int wake_fd;
    struct event_source *wake_source;
    atomic_bool woken;
    bool terminal_raw;
    struct termios terminal; /* as it was */
    struct serial_client clients[CLIENTS_MAX];
    pthread_mutex_t lock; /* of the ring */
    uint64_t written;     /* bytes ever */
    uint8_t ring[RING_SIZE];
};

static void lock(struct serial_host *host)
{
    CHECK(pthread_mutex_lock(&host->lock) == 0);
}

static void unlock(struct serial_host *host)
{
    CHECK(pthread_mutex_unlock(&host->lock) == 0);
}

static void wake(struct serial_host *host)
{
    uint64_t one = 1;
    if (!atomic_exchange(&host->woken, true)) {
        ssize_t written = write(host->wake_fd, &one, sizeof(one));
        (void)written; /* fails only when it is awake anyway */
    }
}

void serial_host_output(void *owner, const uint8_t *data, size_t size)
{
    struct serial_host *host = owner;
    lock(host);
    for (size_t i = 0; i < size; i++) {
        host->ring[host->written++ % RING_SIZE] = data[i];
    }
    unlock(host);
    wake(host);
}

void serial_host_input_room(void *owner)
{
    wake(owner);
}

static void client_close(struct serial_client *client)
{
    event_loop_remove(client->source);
    event_loop_remove(client->out_source);
    client->source = NULL;
    client->out_source = NULL;
    if (!client->is_stdio) {
        cleanup_fd(&client->out_fd);
    }
    client->out_fd = -1;
    client->in_fd = -1;
}

/* The next bytes for the client, from where the ring still has them. */
static size_t chunk_get(struct serial_client *client, uint8_t chunk[CHUNK_SIZE])
{
    struct serial_host *host = client->host;
    lock(host);
    if (host->written - client->position > RING_SIZE) {
        client->position = host->written - RING_SIZE;
    }
    size_t size = 0;
    while (size < CHUNK_SIZE && client->position + size < host->written) {
        chunk[size] = host->ring[(client->position + size) % RING_SIZE];
        size++;
    }
    unlock(host);
    return size;
}

/* True if it could take more at once. */
static bool chunk_write(struct serial_client *client)
{
    uint8_t chunk[CHUNK_SIZE];
    size_t size = chunk_get(client, chunk);
    if (size == 0) {
        return false;
    }
    bool is_socket = client->host->listen_fd >= 0;
    ssize_t written = is_socket
                          ? send(client->out_fd, chunk, size, MSG_NOSIGNAL | MSG_DONTWAIT)
                          : write(client->out_fd, chunk, size);
    if (written < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            client_close(client); /* gone, or its disk is full: the guest does not care */
        }
        return false;
    }
    client->position += (uint64_t)written;
    return (size_t)written == size && size == CHUNK_SIZE;
}

static bool has_output(struct serial_client *client)
{
    lock(client->host);
    bool has = client->position < client->host->written;
    unlock(client->host);
    return has;
}

/* Asks for EPOLLOUT only while there is something to say. */
static void client_poll(struct serial_client *client)
{
    struct event_source *source =
        client->out_source != NULL ? client->out_source : client->source;
    if (client->out_fd < 0 || source == NULL) {
        return;
    }
    bool wanted = has_output(client);
    bool room = client->input_size < INPUT_SIZE;
    uint32_t events = wanted ? EPOLLOUT : 0;
    if (client->out_source == NULL && client->in_fd >= 0 && room) {
        events |= EPOLLIN;
    }
    if (client->out_source != NULL && client->source != NULL) {
        (void)event_loop_modify(client->source,
                                room ? EPOLLIN : 0); /* a descriptor that is open */
    }
    client->polls_output = wanted;
    if (event_loop_modify(source, events) < 0) {
        client_close(client);
    }
}

static void input_pass(struct serial_client *client)
{
    if (client->host->input == NULL || client->input_size == 0) {
        return;
    }
    size_t taken =
        client->host->input(client->host->port, client->input, client->input_size);
    client->input_size -= taken;
    memmove(client->input, client->input + taken, client->input_size);
}

/* Takes Ctrl-A sequences out of what was typed at stdio. */
static size_t escapes_take(struct serial_client *client, uint8_t *data, size_t size)
{
    size_t kept = 0;
    for (size_t i = 0; i < size; i++) {
        if (client->escaped && data[i] == ESCAPE_QUIT) {
            client->host->escape(client->host->owner);
            client->escaped = false;
        } else if (!client->escaped && data[i] == ESCAPE_KEY) {
            client->escaped = true;
        } else {
            client->escaped = false;
            data[kept++] = data[i];
        }
    }
    return kept;
}

static void input_read(struct serial_client *client)
{
    uint8_t *to = client->input + client->input_size;
    ssize_t got = read(client->in_fd, to, INPUT_SIZE - client->input_size);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        if (client->is_stdio) {
            event_loop_remove(client->source); /* the output goes on */
            client->source = NULL;
            client->in_fd = -1;
        } else {
            client_close(client);
        }
        return;
    }
    size_t size = (size_t)got;
    if (client->host->terminal_raw && client->is_stdio) {
        size = escapes_take(client, to, size);
    }
    client->input_size += size;
    input_pass(client);
}

static void client_ready(void *owner, uint32_t epoll_events)
{
    struct serial_client *client = owner;
    if ((epoll_events & EPOLLOUT) != 0) {
        (void)chunk_write(client);
    }
    if (client->in_fd >= 0 && client->input_size < INPUT_SIZE &&
        (epoll_events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        input_read(client);
    } else if ((epoll_events & (EPOLLHUP | EPOLLERR)) != 0 && client->out_fd >= 0 &&
               !client->is_stdio) {
        client_close(client);
    }
    client_poll(client);
}

static void stdout_ready(void *owner, uint32_t epoll_events)
{
    struct serial_client *client = owner;
    if ((epoll_events & (EPOLLERR | EPOLLHUP)) != 0 || (epoll_events & EPOLLOUT) == 0) {
        client_close(client);
        return;
    }
    (void)chunk_write(client);
    client_poll(client);
}

static void host_woken(void *owner, uint32_t epoll_events)
{
    struct serial_host *host = owner;
    uint64_t count = 0;
    (void)epoll_events;
    ssize_t got = read(host->wake_fd, &count, sizeof(count));
    (void)got; /* looking once too often does no harm */
    atomic_store(&host->woken, false);
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct serial_client *client = &host->clients[i];
        if (client->out_fd < 0) {
            continue;
        }
        input_pass(client);
        if (client->source == NULL && client->out_source == NULL) {
            while (client->out_fd >= 0 && chunk_write(client)) {
            }
        }
        client_poll(client);
    }
}

static struct serial_client *client_free_find(struct serial_host *host)
{
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        if (host->clients[i].out_fd < 0) {
            return &host->clients[i];
        }
    }
    return NULL;
}

static struct serial_client *client_begin(struct serial_host *host, int out_fd, int in_fd)
{
    struct serial_client *client = client_free_find(host);
    if (client == NULL) {
        return NULL;
    }
    *client = (struct serial_client){.host = host, .out_fd = out_fd, .in_fd = in_fd};
    lock(host);
    client->position = host->written > RING_SIZE ? host->written - RING_SIZE : 0;
    unlock(host);
    return client;
}

static void client_arrived(void *owner, uint32_t epoll_events)
{
    struct serial_host *host = owner;
    (void)epoll_events;
    CLEANUP(cleanup_fd)
    int fd = accept4(host->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return; /* it went away again */
    }
    struct serial_client *client = client_begin(host, fd, fd);
    if (client == NULL) {
        return; /* too many: closing tells it */
    }
    if (event_loop_add(host->loop, fd, EPOLLIN, client_ready, client, &client->source) <
        0) {
        client->out_fd = -1;
        return;
    }
    (void)take_fd(&fd); /* the client's now */
    client_poll(client);
}

static int file_open(struct serial_host *host, const char *path, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) {
        int result = -errno;
        return error_set(err, result,
                         "cannot write serial output to %s: %s; give a path in a "
                         "folder that exists",
                         path, err_text(result));
    }
    CHECK(client_begin(host, fd, -1) != NULL);
    return 0;
}

static int socket_open(struct serial_host *host, const char *path, struct error *err)
{
    int result = unix_socket_listen(path, &host->listen_fd, err);
    if (result < 0) {
        return result;
    }
    result = event_loop_add(host->loop, host->listen_fd, EPOLLIN, client_arrived, host,
                            &host->listen_source);
    return result < 0 ? error_set(err, result, "cannot listen on %s", path) : 0;
}

static void terminal_set_raw(struct serial_host *host)
{
    if (isatty(STDIN_FILENO) != 1 || tcgetattr(STDIN_FILENO, &host->terminal) < 0) {
        return;
    }
    struct termios raw = host->terminal;
    cfmakeraw(&raw);
    host->terminal_raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

static void stdio_open(struct serial_host *host)
{
    struct serial_client *client = client_begin(host, STDOUT_FILENO, STDIN_FILENO);
    CHECK(client != NULL);
    client->is_stdio = true;
    /* Files and /dev/null can't be polled: no input from them, and output is always
     * possible. */
    if (event_loop_add(host->loop, STDIN_FILENO, EPOLLIN, client_ready, client,
                       &client->source) < 0) {
        client->in_fd = -1;
    }
    if (event_loop_add(host->loop, STDOUT_FILENO, 0, stdout_ready, client,
                       &client->out_source) < 0) {
        client->out_source = NULL;
    }
    terminal_set_raw(host);
}

static int where_open(struct serial_host *host, const char *where, struct error *err)
{
    if (strcmp(where, "none") == 0) {
        return 0;
    }
    if (strcmp(where, "stdio") == 0) {
        stdio_open(host);
        return 0;
    }
    if (strncmp(where, "file:", 5) == 0 && where[5] != '\0') {
        return file_open(host, where + 5, err);
    }
    if (strncmp(where, "unix:", 5) == 0 && where[5] != '\0') {
        return socket_open(host, where + 5, err);
    }
    return error_set(err, DROVER_EBADINPUT,
                     "--serial %s: give stdio, none, file:PATH or unix:PATH", where);
}

static void host_free_scope(struct serial_host **host)
{
    serial_host_free(*host);
}

int serial_host_create(struct event_loop *main_loop, const char *where,
                       void (*escape)(void *owner), void *owner,
                       struct serial_host **ret_host, struct error *err)
{
    CLEANUP(host_free_scope) struct serial_host *host = calloc(1, sizeof(*host));
    if (host == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    host->loop = main_loop;
    host->escape = escape;
    host->owner = owner;
    host->listen_fd = -1;
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        host->clients[i].out_fd = -1;
    }
    CHECK(pthread_mutex_init(&host->lock, NULL) == 0);
    host->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int result = host->wake_fd < 0 ? -errno
                                   : event_loop_add(main_loop, host->wake_fd, EPOLLIN,
                                                    host_woken, host, &host->wake_source);
    if (result < 0) {
        return error_set(err, result, "cannot make the serial port: %s",
                         err_text(result));
    }
    result = where_open(host, where, err);
    if (result == 0) {
        *ret_host = TAKE(host);
    }
    return result;
}

void serial_host_free(struct serial_host *host)
{
    if (host == NULL) {
        return;
    }
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        struct serial_client *client = &host->clients[i];
        while (client->out_fd >= 0 && chunk_write(client)) {
        }
        if (client->out_fd >= 0) {
            client_close(client);
        }
    }
    if (host->terminal_raw) {
        (void)tcsetattr(STDIN_FILENO, TCSANOW,
                        &host->terminal); /* nobody is left to tell */
    }
    event_loop_remove(host->listen_source);
    event_loop_remove(host->wake_source);
    cleanup_fd(&host->listen_fd);
    cleanup_fd(&host->wake_fd);
    (void)pthread_mutex_destroy(&host->lock); /* nobody uses it any more */
    free(host);
}

void serial_host_attach(struct serial_host *host, serial_host_input input, void *port)
{
    host->input = input;
    host->port = port;
}
