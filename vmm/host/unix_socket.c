/* SPDX-License-Identifier: Apache-2.0 */
/* Listening and connecting on unix sockets. */
#include "vmm/host/unix_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

#define BACKLOG 16

static int address_set(const char *path, struct sockaddr_un *ret_address,
                       struct error *err)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (path[0] == '\0' || strlen(path) >= sizeof(ret_address->sun_path)) {
        return error_set(
            err, DROVER_EBADINPUT,
            "socket path \"%s\" is empty or longer than %zu characters: give a "
            "shorter one",
            path, sizeof(ret_address->sun_path) - 1);
    }
    memcpy(ret_address->sun_path, path, strlen(path) + 1);
    return 0;
}

static int socket_failed(const char *what, const char *path, struct error *err)
{
    int result = -errno;
    return error_set(err, result,
                     "cannot %s socket %s: %s; give a path in a folder that exists", what,
                     path, err_text(result));
}

int unix_socket_connect(const char *path, int *ret_fd, struct error *err)
{
    struct sockaddr_un address;
    int result = address_set(path, &address, err);
    if (result < 0) {
        return result;
    }
    CLEANUP(cleanup_fd) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        result = -errno;
        return error_set(err, result, "cannot reach socket %s: %s; does its VM run?",
                         path, err_text(result));
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

/* Removes a socket that nobody listens on. */
static int stale_remove(const char *path, struct error *err)
{
    struct stat status;
    if (lstat(path, &status) < 0) {
        return errno == ENOENT ? 0 : socket_failed("make", path, err);
    }
    if (!S_ISSOCK(status.st_mode)) {
        return error_set(err, DROVER_EINUSE,
                         "%s exists and is no socket: give another path", path);
    }
    CLEANUP(cleanup_fd) int probe = -1;
    int result = unix_socket_connect(path, &probe, NULL);
    if (result != -ECONNREFUSED && result != -ENOENT) {
        return error_set(
            err, DROVER_EINUSE,
            "another program answers on socket %s: stop it or give another path", path);
    }
    return unlink(path) == 0 || errno == ENOENT ? 0 : socket_failed("replace", path, err);
}

int unix_socket_listen(const char *path, int *ret_fd, struct error *err)
{
    struct sockaddr_un address;
    int result = address_set(path, &address, err);
    result = result < 0 ? result : stale_remove(path, err);
    if (result < 0) {
        return result;
    }
    CLEANUP(cleanup_fd)
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return socket_failed("make", path, err);
    }
    /* Only one thread runs yet: nobody else's files get this mask. */
    mode_t mask = umask(0177);
    int bound = bind(fd, (struct sockaddr *)&address, sizeof(address));
    int bind_errno = errno;
    (void)umask(mask);
    errno = bind_errno;
    if (bound < 0 || listen(fd, BACKLOG) < 0) {
        return socket_failed("listen on", path, err);
    }
    *ret_fd = take_fd(&fd);
    return 0;
}
