/* SPDX-License-Identifier: Apache-2.0 */
/* TCP to where a guest shall go. */
#include "proto/move_link.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "proto/unix_files.h"

#define HOST_SIZE       128
#define CONNECT_WAIT_MS 5000 /* for each address of a name */

/* "tcp:HOST:PORT" or "rdma:HOST:PORT", with [HOST] for IPv6, in two parts. */
static int uri_split(const char *uri, char ret_host[HOST_SIZE], const char **ret_port,
                     struct error *err)
{
    const char *start = strncmp(uri, "tcp:", 4) == 0    ? uri + 4
                        : strncmp(uri, "rdma:", 5) == 0 ? uri + 5
                                                        : NULL;
    const char *colon = start == NULL ? NULL : strrchr(start, ':');
    size_t size = colon == NULL ? 0 : (size_t)(colon - start);
    if (size >= 2 && start[0] == '[' && start[size - 1] == ']') {
        start++;
        size -= 2;
    }
    if (size == 0 || size >= HOST_SIZE || colon[1] == '\0') {
        return error_set(err, DROVER_EBADINPUT,
                         "'%s' is not a migration address: use tcp:HOST:PORT or "
                         "rdma:HOST:PORT",
                         uri);
    }
    char *end = NULL;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port > UINT16_MAX) {
        return error_set(err, DROVER_EBADINPUT,
                         "'%s': the port must be a number from 0 to 65535", uri);
    }
    memcpy(ret_host, start, size);
    ret_host[size] = '\0';
    *ret_port = colon + 1;
    return 0;
}

/* Begun, or done. */
static int begin(const struct addrinfo *info, int *ret_fd)
{
    CLEANUP(cleanup_fd)
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, info->ai_addr, info->ai_addrlen) < 0 && errno != EINPROGRESS) {
        return -errno;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

static bool answers(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    return poll(&wait, 1, CONNECT_WAIT_MS) == 1 &&
           (wait.revents & (POLLERR | POLLHUP)) == 0;
}

int move_link_open(const char *uri, bool numeric, int *ret_fd, struct error *err)
{
    char host[HOST_SIZE];
    const char *port = NULL;
    struct addrinfo *infos = NULL;
    int result = uri_split(uri, host, &port, err);
    if (result < 0) {
        return result;
    }
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags =
                                       AI_NUMERICSERV | (numeric ? AI_NUMERICHOST : 0)};
    int failed = getaddrinfo(host, port, &hints, &infos);
    if (failed != 0) {
        return error_set(err, DROVER_EBADINPUT, "can't resolve '%s': %s", uri,
                         gai_strerror(failed));
    }
    int fd = -1;
    result = -EADDRNOTAVAIL;
    for (const struct addrinfo *info = infos; info != NULL; info = info->ai_next) {
        cleanup_fd(&fd);
        fd = -1;
        result = begin(info, &fd);
        /* The last one's failure is told by whoever gets it. */
        if (result == 0 && (info->ai_next == NULL || numeric || answers(fd))) {
            break;
        }
    }
    freeaddrinfo(infos);
    if (fd < 0) {
        return error_set(err, result,
                         "can't connect to %s: %s; is the target waiting there?", uri,
                         err_text(result));
    }
    *ret_fd = fd;
    return 0;
}

int move_link_number(const char *uri, char ret_uri[MOVE_LINK_URI_SIZE],
                     struct error *err)
{
    char host[HOST_SIZE];
    const char *port = NULL;
    struct addrinfo *infos = NULL;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICSERV};
    int result = uri_split(uri, host, &port, err);
    if (result < 0) {
        return result;
    }
    if (strncmp(uri, "rdma:", 5) != 0) {
        int size = snprintf(ret_uri, MOVE_LINK_URI_SIZE, "%s", uri);
        return size < (int)MOVE_LINK_URI_SIZE
                   ? 0
                   : error_set(err, DROVER_EBADINPUT, "'%s' is too long", uri);
    }
    int failed = getaddrinfo(host, port, &hints, &infos);
    if (failed == 0) {
        failed = getnameinfo(infos->ai_addr, infos->ai_addrlen, host, sizeof(host), NULL, 0,
                             NI_NUMERICHOST);
        freeaddrinfo(infos);
    }
    if (failed != 0) {
        return error_set(err, DROVER_EBADINPUT, "can't resolve '%s': %s", uri,
                         gai_strerror(failed));
    }
    (void)snprintf(ret_uri, MOVE_LINK_URI_SIZE,
                   strchr(host, ':') != NULL ? "rdma:[%s]:%s" : "rdma:%s:%s", host,
                   port); /* both are short */
    return 0;
}

int move_links_open(const char *uri, bool numeric, unsigned count,
                    struct unix_files *ret_files, struct error *err)
{
    struct unix_files files = {0};
    int result = 0;
    count = count == 0 ? MOVE_LINK_STREAMS : count;
    while (result == 0 && files.count < count && files.count < UNIX_FILES_MAX) {
        result = move_link_open(uri, numeric, &files.fds[files.count], err);
        files.count += result == 0 ? 1 : 0;
    }
    if (result < 0) {
        unix_files_done(&files);
        return result;
    }
    *ret_files = files;
    return 0;
}
