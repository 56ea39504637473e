/* SPDX-License-Identifier: Apache-2.0 */
/* vsock's unix sockets. */
#include "vmm/virtio/vsock_host.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "vmm/host/unix_socket.h"
#include "vmm/jail/broker.h"
#include "vmm/virtio/virtio_vsock.h"

struct vsock_host {
    struct broker *broker;
    unsigned id; /* of the broker's entry */
};

static int host_connect(void *owner, uint32_t port)
{
    const struct vsock_host *host = owner;
    int fd = -1;
    int ret = broker_open(host->broker, host->id, port, &fd, NULL);

    return ret < 0 ? ret : fd;
}

static const struct virtio_vsock_ops host_ops = {.connect = host_connect, .free = free};

int vsock_host_open(struct broker *broker, const char *path,
                    struct virtio_vsock_config *config, struct error *err)
{
    struct vsock_host *host = calloc(1, sizeof(*host));
    unsigned removed;
    int ret = host == NULL ? error_set(err, -ENOMEM, "no memory for vsock")
                           : unix_socket_listen(path, &config->listen_fd, err);

    if (ret < 0) {
        free(host);
        return ret;
    }
    config->ops = &host_ops;
    config->owner = host;
    host->broker = broker;
    ret = broker_allow(broker, BROKER_UNIX_SOCKET_PORT, path, &host->id);
    ret = ret < 0 ? ret : broker_allow(broker, BROKER_REMOVE_AT_END, path, &removed);
    if (ret < 0) {
        virtio_vsock_config_release(config);
        return error_set(err, ret, "vsock: %s", err_text(ret));
    }
    return 0;
}
