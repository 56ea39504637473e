/* SPDX-License-Identifier: Apache-2.0 */
/* The VMM's side of the broker. */
#include "vmm/jail/broker.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/jail/broker_list.h"
#include "vmm/jail/broker_wire.h"
#include "vmm/jail/jail_world.h"

struct broker {
    int fd;                  /* -1: local */
    pid_t host_pid;          /* 0: the launcher has told it, but nobody has read it yet */
    pthread_mutex_t lock;    /* one request at a time */
    struct broker_list list; /* local only */
};

static int create(int fd, pid_t host_pid, struct broker **ret_broker)
{
    struct broker *broker = calloc(1, sizeof(*broker));
    if (broker == NULL) {
        return -ENOMEM;
    }
    broker->fd = fd;
    broker->host_pid = host_pid;
    CHECK(pthread_mutex_init(&broker->lock, NULL) == 0);
    *ret_broker = broker;
    return 0;
}

int broker_create_local(struct broker **ret_broker)
{
    return create(-1, getpid(), ret_broker);
}

int broker_create(int fd, struct broker **ret_broker)
{
    int result = create(fd, 0, ret_broker);
    if (result < 0) {
        (void)close(fd); /* taken on every return */
    }
    return result;
}

struct broker_list *broker_local_list(struct broker *broker)
{
    return broker->fd < 0 ? &broker->list : NULL;
}

void broker_free(struct broker *broker)
{
    if (broker == NULL) {
        return;
    }
    broker_list_done(&broker->list);
    cleanup_fd(&broker->fd);
    (void)pthread_mutex_destroy(&broker->lock); /* nobody uses it any more */
    free(broker);
}

pid_t broker_host_pid(const struct broker *broker)
{
    return broker != NULL ? broker->host_pid : getpid();
}

int broker_fd(const struct broker *broker)
{
    return broker->fd;
}

/* Before the first request: there is no wait for the launcher, which has just forked,
 * when nothing is asked yet. Under lock. */
static int hello_read(struct broker *broker)
{
    uint8_t hello[BROKER_HELLO_SIZE];
    size_t size = 0;
    if (broker->host_pid != 0) {
        return 0;
    }
    int result = broker_packet_recv(broker->fd, hello, sizeof(hello), &size, NULL);
    if (result == 0 && size != sizeof(hello)) {
        result = DROVER_EMALFORMED;
    }
    if (result == 0) {
        broker->host_pid = (pid_t)broker_get32(hello);
    }
    return result;
}

/* Result of the launcher: 0 or more, or an error with its line. Under lock. */
static int ask(struct broker *broker, const uint8_t *request, size_t request_size,
               int *ret_fds, struct error *err)
{
    uint8_t reply[BROKER_REPLY_SIZE];
    size_t size = 0;
    int fds[BROKER_FDS_MAX] = {-1, -1};
    int result = hello_read(broker);
    result =
        result < 0 ? result : broker_packet_send(broker->fd, request, request_size, NULL);
    if (result == 0) {
        result = broker_packet_recv(broker->fd, reply, sizeof(reply), &size, fds);
    }
    if (result == 0 && size < BROKER_REPLY_HEAD) {
        result = DROVER_EMALFORMED;
    }
    if (result < 0) {
        return error_set(err, result, "no answer of the launcher: %s", err_text(result));
    }
    result = (int)broker_get32(reply);
    if (result < 0) {
        cleanup_fd(&fds[0]);
        cleanup_fd(&fds[1]);
        return error_set(err, result, "%.*s", (int)(size - BROKER_REPLY_HEAD),
                         (const char *)reply + BROKER_REPLY_HEAD);
    }
    memcpy(ret_fds, fds, sizeof(fds));
    return result;
}

static int request(struct broker *broker, enum broker_what what, uint32_t number,
                   uint32_t argument, const char *path, int *ret_fds, struct error *err)
{
    uint8_t packet[BROKER_REQUEST_SIZE];
    size_t path_size = path == NULL ? 0 : strlen(path);
    if (path_size >= BROKER_PATH_SIZE) {
        return DROVER_ELIMIT;
    }
    broker_put32(packet, what);
    broker_put32(packet + 4, number);
    broker_put32(packet + 8, argument);
    if (path_size > 0) {
        memcpy(packet + BROKER_REQUEST_HEAD, path, path_size);
    }
    CHECK(pthread_mutex_lock(&broker->lock) == 0);
    int result = ask(broker, packet, BROKER_REQUEST_HEAD + path_size, ret_fds, err);
    CHECK(pthread_mutex_unlock(&broker->lock) == 0);
    return result;
}

int broker_allow(struct broker *broker, enum broker_kind kind, const char *path,
                 unsigned *ret_id)
{
    if (broker->fd < 0) {
        return broker_list_allow(&broker->list, kind, path, ret_id);
    }
    int fds[BROKER_FDS_MAX];
    int result = request(broker, BROKER_ALLOW, kind, 0, path, fds, NULL);
    if (result >= 0) {
        *ret_id = (unsigned)result;
    }
    return result < 0 ? result : 0;
}

int broker_seal(struct broker *broker, struct jail_world *ret_world, struct error *err)
{
    int fds[BROKER_FDS_MAX] = {-1, -1};
    int result = 0;
    if (broker->fd < 0) {
        broker->list.sealed = true;
    } else {
        result = request(broker, BROKER_SEAL, 0, 0, NULL, fds, err);
    }
    if (result == 0) {
        *ret_world = (struct jail_world){.network_fd = fds[0], .mount_fd = fds[1]};
    }
    return result;
}

int broker_open(struct broker *broker, unsigned id, uint32_t argument, int *ret_fd,
                struct error *err)
{
    int fds[BROKER_FDS_MAX] = {-1, -1};
    int result = 0;
    if (broker->fd >= 0) {
        result = request(broker, BROKER_OPEN, id, argument, NULL, fds, err);
    } else {
        CHECK(pthread_mutex_lock(&broker->lock) == 0);
        result = broker_list_open(&broker->list, id, argument, &fds[0], err);
        CHECK(pthread_mutex_unlock(&broker->lock) == 0);
    }
    if (result == 0) {
        *ret_fd = fds[0];
    }
    return result;
}
