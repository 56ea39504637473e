/* SPDX-License-Identifier: Apache-2.0 */
/* QMP over a socket: one JSON object a line. */
#include "vmm/storage/storage_qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"

static void json_free_scope(json_t **json)
{
    json_decref(*json);
}

static int wait_readable(int fd, uint64_t deadline_ms)
{
    for (;;) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        uint64_t now_ms = clock_now_ms();
        int ret;

        if (now_ms >= deadline_ms) {
            return DROVER_ETIMEDOUT2;
        }
        ret = poll(&poll_fd, 1, (int)(deadline_ms - now_ms));
        if (ret > 0) {
            return 0;
        }
        if (ret < 0 && errno != EINTR) {
            return -errno;
        }
    }
}

/* The next object that the daemon sends; the caller frees. */
static int object_receive(struct storage_qmp *qmp, uint64_t deadline_ms,
                          json_t **ret_object)
{
    for (;;) {
        char *end = memchr(qmp->line, '\n', qmp->size);
        ssize_t got;
        int ret;

        if (end != NULL) {
            size_t size = (size_t)(end - qmp->line);
            json_t *object = json_loadb(qmp->line, size, 0, NULL);

            qmp->size -= size + 1;
            memmove(qmp->line, end + 1, qmp->size);
            if (!json_is_object(object)) {
                json_decref(object);
                return DROVER_EMALFORMED;
            }
            *ret_object = object;
            return 0;
        }
        if (qmp->size == sizeof(qmp->line)) {
            return DROVER_EMALFORMED;
        }
        ret = wait_readable(qmp->fd, deadline_ms);
        if (ret < 0) {
            return ret;
        }
        got = recv(qmp->fd, qmp->line + qmp->size, sizeof(qmp->line) - qmp->size,
                   MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno == ECONNRESET)) {
            return DROVER_ECLOSED;
        }
        if (got < 0 && errno != EINTR && errno != EAGAIN) {
            return -errno;
        }
        qmp->size += got > 0 ? (size_t)got : 0;
    }
}

static void event_note(struct storage_qmp *qmp, const json_t *object)
{
    const char *event = json_string_value(json_object_get(object, "event"));

    if (event != NULL && strcmp(event, "BLOCK_EXPORT_DELETED") == 0) {
        qmp->export_gone = true;
    }
}

/* Events in between are noted. */
static int answer_receive(struct storage_qmp *qmp, uint64_t deadline_ms, char *ret_reason)
{
    for (unsigned lines = 0; lines < STORAGE_QMP_LINES; lines++) {
        CLEANUP(json_free_scope) json_t *object = NULL;
        int ret = object_receive(qmp, deadline_ms, &object);
        const json_t *error;

        if (ret < 0) {
            return ret;
        }
        if (json_object_get(object, "return") != NULL) {
            return 0;
        }
        error = json_object_get(object, "error");
        if (error != NULL) {
            const char *text = json_string_value(json_object_get(error, "desc"));

            (void)snprintf(ret_reason, ERROR_TEXT_SIZE, "%s",
                           text != NULL ? text : "no reason given"); /* cut is fine */
            return DROVER_EWRONGSTATE;
        }
        event_note(qmp, object);
    }
    return DROVER_EMALFORMED;
}

int storage_qmp_order(struct storage_qmp *qmp, const char *name, json_t *arguments,
                      uint64_t deadline_ms, char ret_reason[ERROR_TEXT_SIZE])
{
    CLEANUP(json_free_scope)
    json_t *order = arguments != NULL
                        ? json_pack("{s:s,s:o}", "execute", name, "arguments", arguments)
                        : json_pack("{s:s}", "execute", name);
    CLEANUP(cleanup_free)
    char *text = order != NULL ? json_dumps(order, JSON_COMPACT) : NULL;
    size_t size;

    ret_reason[0] = '\0';
    if (text == NULL) {
        return -ENOMEM;
    }
    size = strlen(text);
    /* Far less than a socket takes at once, unless nobody reads it. */
    if (send(qmp->fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size ||
        send(qmp->fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) {
        return DROVER_ECLOSED;
    }
    return answer_receive(qmp, deadline_ms, ret_reason);
}

int storage_qmp_export_gone(struct storage_qmp *qmp, uint64_t deadline_ms)
{
    for (unsigned lines = 0; !qmp->export_gone && lines < STORAGE_QMP_LINES; lines++) {
        CLEANUP(json_free_scope) json_t *object = NULL;
        int ret = object_receive(qmp, deadline_ms, &object);

        if (ret < 0) {
            return ret;
        }
        event_note(qmp, object);
    }
    return qmp->export_gone ? 0 : DROVER_EMALFORMED;
}

int storage_qmp_open(struct storage_qmp *qmp, int fd, uint64_t deadline_ms)
{
    char reason[ERROR_TEXT_SIZE];
    json_t *greeting = NULL;
    int ret;

    CHECK(fd >= 0);
    qmp->fd = fd;
    qmp->size = 0;
    qmp->export_gone = false;
    ret = object_receive(qmp, deadline_ms, &greeting);
    json_decref(greeting);
    return ret < 0
               ? ret
               : storage_qmp_order(qmp, "qmp_capabilities", NULL, deadline_ms, reason);
}

void storage_qmp_close(struct storage_qmp *qmp)
{
    cleanup_fd(&qmp->fd);
    qmp->fd = -1;
}
