/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-vsock device (virtio 1.2, 5.10): making it, its configuration, its state.
 * Packets: vsock_io.c, vsock_receive.c; the host's sockets: vsock_socket.c. */
#include "vmm/virtio/virtio_vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "vmm/host/event_loop.h"
#include "vmm/virtio/virtio_state.h"
#include "vmm/virtio/vsock_io.h"
#include "vmm/vm.h"

#define CLASS_CODE    0x078000u
#define BUFFERS_BYTES ((size_t)VIRTIO_VSOCK_CONNECTIONS_MAX * VSOCK_BUFFER_BYTES)

static struct virtio_vsock *from_virtio(struct virtio_device *virtio)
{
    return (struct virtio_vsock *)virtio;
}

/* Configuration (5.10.4): 0 guest_cid u64 */
static void config_read(struct virtio_device *virtio, unsigned offset, uint8_t *data,
                        unsigned size)
{
    uint8_t config[8];

    memcpy(config, &from_virtio(virtio)->config.cid, sizeof(config));
    if (offset < sizeof(config)) {
        memcpy(data, config + offset,
               size < sizeof(config) - offset ? size : sizeof(config) - offset);
    }
}

static void queue_run(struct virtio_device *virtio, unsigned queue_index)
{
    (void)queue_index; /* each can make room for the others */
    vsock_run(from_virtio(virtio));
}

static void forget(struct virtio_device *virtio)
{
    struct virtio_vsock *vsock = from_virtio(virtio);

    vsock_connections_free(vsock);
    vsock->reset_first = vsock->reset_count = 0;
    vsock->reset_event = false;
}

static void sockets_ready(void *owner, uint32_t epoll_events)
{
    struct virtio_vsock *vsock = owner;
    struct virtio_device *virtio = &vsock->virtio;

    (void)epoll_events;
    pthread_mutex_lock(&virtio->lock);
    if (virtio_running(virtio)) {
        vsock_run(vsock);
    } else {
        /* Noted for when it goes on. */
        vsock_sockets_look(vsock);
        if (!atomic_load(&virtio->stopped)) {
            /* There is no guest that listens: nobody shall wait for it. */
            vsock_accept(vsock);
            vsock_connections_free(vsock);
        }
    }
    pthread_mutex_unlock(&virtio->lock);
}

static int attach(struct virtio_device *virtio)
{
    struct virtio_vsock *vsock = from_virtio(virtio);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.ptr = NULL}};

    if (vsock->config.listen_fd >= 0 &&
        epoll_ctl(vsock->epoll_fd, EPOLL_CTL_ADD, vsock->config.listen_fd, &event) < 0) {
        return -errno;
    }
    return event_loop_add(vm_io_loop(virtio->vm), vsock->epoll_fd, EPOLLIN, sockets_ready,
                          vsock, &vsock->source);
}

static const struct virtio_ops virtio_vsock_ops = {
    .type = VIRTIO_TYPE_VSOCK,
    .class_code = CLASS_CODE,
    .queue_count = VSOCK_QUEUE_COUNT,
    .queue_size = VSOCK_QUEUE_SIZE,
    .queue_run = queue_run,
    .config_read = config_read,
    .reset = forget,
    .attach = attach,
};

/* ---- state ---------------------------------------------------------------- */

/* Connections do not move: they end at the host's programs when this process does, and
 * the guest is told where it goes on. If it goes on here, they do too. */
static int save(struct device *device, struct buffer *out)
{
    struct virtio_vsock *vsock = (struct virtio_vsock *)device;
    Drover__VirtioVsockState message = DROVER__VIRTIO_VSOCK_STATE__INIT;

    message.cid = vsock->config.cid;
    return virtio_state_save(&vsock->virtio, &message.base, &message.virtio, out);
}

static int message_load(struct virtio_device *virtio, const ProtobufCMessage *base,
                        struct error *err)
{
    struct virtio_vsock *vsock = from_virtio(virtio);
    const Drover__VirtioVsockState *message = (const Drover__VirtioVsockState *)base;
    int ret = virtio_state_load(virtio, message->virtio, NULL, err);

    if (ret < 0) {
        return ret;
    }
    forget(virtio);
    /* The guest reads its cid anew then: this host's counts. */
    vsock->reset_event = (virtio->status & VIRTIO_STATUS_DRIVER_OK) != 0;
    return 0;
}

static int load(struct device *device, uint32_t version, const uint8_t *payload,
                size_t size, struct error *err)
{
    return virtio_state_unpack((struct virtio_device *)device, version,
                               &drover__virtio_vsock_state__descriptor,
                               (struct state_payload){payload, size}, message_load, err);
}

/* ---- making and releasing ------------------------------------------------- */

void virtio_vsock_config_release(const struct virtio_vsock_config *config)
{
    if (config->listen_fd >= 0) {
        (void)close(config->listen_fd);
    }
    if (config->ops->free != NULL) {
        config->ops->free(config->owner);
    }
}

static void vsock_free(struct device *device)
{
    struct virtio_vsock *vsock = (struct virtio_vsock *)device;

    vsock_connections_free(vsock);
    event_loop_remove(vsock->source);
    virtio_done(&vsock->virtio);
    if (vsock->epoll_fd >= 0) {
        (void)close(vsock->epoll_fd);
    }
    if (vsock->buffers != NULL) {
        (void)munmap(vsock->buffers, BUFFERS_BYTES);
    }
    virtio_vsock_config_release(&vsock->config);
    free(vsock);
}

static const struct device_ops vsock_device_ops = {
    .name = "virtio-vsock",
    .version = VIRTIO_STATE_VERSION,
    .io_stop = virtio_io_stop,
    .io_drained = virtio_io_drained,
    .io_start = virtio_io_start,
    .save = save,
    .load = load,
    .reset = virtio_machine_reset,
    .free = vsock_free,
};

static int vsock_start(struct virtio_vsock *vsock, struct vm *vm, struct error *err)
{
    void *buffers = mmap(NULL, BUFFERS_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (buffers == MAP_FAILED) {
        return error_set(err, -ENOMEM, "no memory for vsock");
    }
    vsock->buffers = buffers;
    vsock->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (vsock->epoll_fd < 0) {
        return error_set(err, -errno,
                         "no epoll set for vsock: raise the limit of open files");
    }
    return virtio_init(&vsock->virtio, vm, 0, err);
}

int virtio_vsock_create(struct vm *vm, const struct virtio_vsock_config *config,
                        struct error *err)
{
    struct virtio_vsock *vsock = calloc(1, sizeof(*vsock));
    int ret;

    if (vsock == NULL) {
        virtio_vsock_config_release(config);
        return error_set(err, -ENOMEM, "no memory for vsock");
    }
    vsock->config = *config;
    vsock->epoll_fd = -1;
    vsock->next_host_port = VSOCK_HOST_PORT_MIN;
    vsock->virtio.ops = &virtio_vsock_ops;
    vsock->virtio.device.ops = &vsock_device_ops;
    ret = vsock_start(vsock, vm, err);
    if (ret < 0) {
        vsock_free(&vsock->virtio.device);
    }
    return ret;
}
