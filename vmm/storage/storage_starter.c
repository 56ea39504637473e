/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starter of storage daemons. One packet each way:
 *
 *   order:  network | root | count | count times: writable (1 byte), path, NUL
 *   answer: result | pid | text (no NUL; may be cut), with socket and folder
 */
#include "vmm/storage/storage_starter.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/jail/broker_wire.h"
#include "vmm/storage/storage_jail.h"

#define ORDER_HEAD  12
#define ORDER_MAX   65536
#define ANSWER_HEAD 8
#define ANSWER_SIZE (ANSWER_HEAD + ERROR_TEXT_SIZE)
/* In the starter; the lock keeps its number. */
#define STARTER_FD (STORAGE_JAIL_LOCK_FD + 1)

struct storage_starter {
    pid_t pid;
    int fd;
};

/* ---- the starter ---------------------------------------------------------- */

/* The paths stay in `order`. Nobody but the launcher sends: a wrong order is a fault of
 * ours, and the end. */
static bool order_read(char *order, size_t size, struct storage_jail *jail,
                       struct storage_chain *files)
{
    size_t at = ORDER_HEAD;
    if (size < ORDER_HEAD) {
        return false;
    }
    jail->network = broker_get32((uint8_t *)order) != 0;
    jail->uid = broker_get32((uint8_t *)order + 4) != 0 ? 0 : jail->uid;
    files->count = broker_get32((uint8_t *)order + 8);
    if (files->count > STORAGE_CHAIN_MAX) {
        return false;
    }
    for (unsigned i = 0; i < files->count; i++) {
        size_t length = at < size ? strnlen(order + at, size - at) : 0;
        if (at + 1 >= size) {
            return false;
        }
        files->files[i].writable = order[at] == 'w';
        files->files[i].path = order + at + 1;
        if (length < 2 || at + length >= size) {
            return false;
        }
        at += length + 1;
    }
    return true;
}

static void order_serve(const struct storage_jail *jail)
{
    uint8_t answer[ANSWER_SIZE] = {0};
    struct storage_jailed jailed = {.talk_fd = -1, .folder_fd = -1};
    struct error err = {0};
    int result = storage_jail_start(jail, true, &jailed, &err);
    size_t size = strnlen(err.text, sizeof(answer) - ANSWER_HEAD);
    const int fds[BROKER_FDS_MAX] = {jailed.talk_fd, jailed.folder_fd};
    broker_put32(answer, (uint32_t)result);
    broker_put32(answer + 4, (uint32_t)jailed.pid);
    memcpy(answer + ANSWER_HEAD, err.text, size);
    /* A launcher that is gone takes all along. */
    (void)broker_packet_send(STARTER_FD, answer, ANSWER_HEAD + size, fds);
    cleanup_fd(&jailed.talk_fd);
    cleanup_fd(&jailed.folder_fd);
}

static void descriptors_close(int lock_fd)
{
    for (int fd = STORAGE_JAIL_TALK_FD; fd < STARTER_FD; fd++) {
        if (fd != lock_fd) {
            (void)close(fd); /* it may be none */
        }
    }
    (void)close_range(STARTER_FD + 1, ~0u, 0);
}

static _Noreturn void starter_main(const struct storage_jail *common, int fd)
{
    static char order[ORDER_MAX];
    static struct storage_chain files;
    size_t size = 0;
    if (dup2(fd, STARTER_FD) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 ||
        prctl(PR_SET_NAME, "drover-starter", 0, 0, 0) < 0) {
        _exit(EXIT_FAILURE);
    }
    descriptors_close(common->lock_fd);
    while (broker_packet_recv(STARTER_FD, (uint8_t *)order, sizeof(order), &size, NULL) ==
           0) {
        struct storage_jail jail = *common;
        jail.files = &files;
        if (!order_read(order, size, &jail, &files)) {
            break;
        }
        order_serve(&jail);
    }
    _exit(EXIT_SUCCESS);
}

int storage_starter_create(const struct storage_jail *common,
                           struct storage_starter **ret_starter, struct error *err)
{
    int pair[2];
    struct storage_starter *starter = calloc(1, sizeof(*starter));
    if (starter == NULL ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        int result = starter == NULL ? -ENOMEM : -errno;
        free(starter);
        return error_set(err, result, "can't prepare for storage daemons: %s",
                         err_text(result));
    }
    pid_t pid = fork();
    if (pid == 0) {
        starter_main(common, pair[1]);
    }
    int result = pid < 0 ? -errno : 0;
    (void)close(pair[1]); /* the starter's */
    starter->pid = pid;
    starter->fd = pair[0];
    if (result < 0) {
        starter->pid = 0;
        storage_starter_free(starter);
        return error_set(err, result, "can't prepare for storage daemons: %s",
                         err_text(result));
    }
    *ret_starter = starter;
    return 0;
}

void storage_starter_free(struct storage_starter *starter)
{
    if (starter == NULL) {
        return;
    }
    (void)close(starter->fd); /* it ends by that too */
    if (starter->pid > 0) {
        (void)kill(starter->pid, SIGKILL);
        while (waitpid(starter->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    free(starter);
}

/* ---- the launcher --------------------------------------------------------- */

static int order_write(const struct storage_jail *jail, uint8_t *order, size_t *ret_size)
{
    size_t at = ORDER_HEAD;
    broker_put32(order, jail->network);
    broker_put32(order + 4, jail->uid == 0);
    broker_put32(order + 8, jail->files->count);
    for (unsigned i = 0; i < jail->files->count; i++) {
        const struct storage_chain_file *file = &jail->files->files[i];
        size_t size = strlen(file->path) + 1;
        if (size + 1 > ORDER_MAX - at) {
            return DROVER_ELIMIT;
        }
        order[at++] = file->writable ? 'w' : 'r';
        memcpy(order + at, file->path, size);
        at += size;
    }
    *ret_size = at;
    return 0;
}

int storage_starter_start(struct storage_starter *starter,
                          const struct storage_jail *jail,
                          struct storage_jailed *ret_jailed, struct error *err)
{
    CLEANUP(cleanup_free) uint8_t *order = malloc(ORDER_MAX);
    uint8_t answer[ANSWER_SIZE];
    int fds[BROKER_FDS_MAX] = {-1, -1};
    size_t size = 0;
    int result = order == NULL ? -ENOMEM : order_write(jail, order, &size);
    result = result < 0 ? result : broker_packet_send(starter->fd, order, size, NULL);
    result = result < 0
                 ? result
                 : broker_packet_recv(starter->fd, answer, sizeof(answer), &size, fds);
    if (result == 0 && size < ANSWER_HEAD) {
        result = DROVER_EMALFORMED;
    }
    if (result < 0) {
        return error_set(err, result, "no storage daemon can be started: %s",
                         err_text(result));
    }
    result = (int)broker_get32(answer);
    pid_t pid = (pid_t)broker_get32(answer + 4);
    if (result < 0) {
        while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
        return error_set(err, result, "%.*s", (int)(size - ANSWER_HEAD),
                         (const char *)answer + ANSWER_HEAD);
    }
    *ret_jailed =
        (struct storage_jailed){.pid = pid, .talk_fd = fds[0], .folder_fd = fds[1]};
    return 0;
}
