/* SPDX-License-Identifier: Apache-2.0 */
/* vsock's unix sockets, opened by their names. */
#include "vmm/virtio/vsock_host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/unix_socket.h"
#include "vmm/virtio/virtio_vsock.h"

static int host_connect(void *owner, uint32_t port)
{
    const char *path = owner;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length =
        snprintf(address.sun_path, sizeof(address.sun_path), "%s_%u", path, port);
    CLEANUP(cleanup_fd)
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) {
        return -errno;
    }
    if (length < 0 || (size_t)length >= sizeof(address.sun_path)) {
        return -ENAMETOOLONG;
    }
    /* A program whose backlog is full refuses: the guest must not make us wait. */
    return connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0
               ? -errno
               : take_fd(&fd);
}

static void host_free(void *owner)
{
    (void)unlink(owner); /* gone is fine */
    free(owner);
}

static const struct virtio_vsock_ops host_ops = {.connect = host_connect,
                                                 .free = host_free};

int vsock_host_open(const char *path, struct virtio_vsock_config *config,
                    struct error *err)
{
    char *owner = strdup(path);
    int ret = owner == NULL ? error_set(err, -ENOMEM, "no memory for vsock")
                            : unix_socket_listen(path, &config->listen_fd, err);

    if (ret < 0) {
        free(owner);
        return ret;
    }
    config->ops = &host_ops;
    config->owner = owner;
    return 0;
}
