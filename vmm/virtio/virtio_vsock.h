/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock: streams between programs of the guest (AF_VSOCK) and unix sockets of the
 * host. A host program connects to the listening socket and writes "CONNECT PORT\n"; it
 * gets "OK PORT\n" (the host's port of the stream) once the guest has accepted, else the
 * connection is closed. What the guest connects to, its user's ops reach. Connections end
 * with a move of the VM, cleanly; listeners stay.
 */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_VSOCK_H
#define DROVER_VMM_VIRTIO_VIRTIO_VSOCK_H

#include <stdint.h>

struct error;
struct vm;

#define VIRTIO_VSOCK_CID_MIN         3u
#define VIRTIO_VSOCK_CID_MAX         0xfffffffeu
#define VIRTIO_VSOCK_CONNECTIONS_MAX 256

/* How the guest reaches the host. */
struct virtio_vsock_ops {
    /*
     * A stream to the host's program behind `port`: a descriptor that the device closes
     * (made non-blocking by it), or -errno. I/O loop; must not take long.
     */
    int (*connect)(void *owner, uint32_t port);
    void (*free)(void *owner); /* with the device; may be NULL */
};

struct virtio_vsock_config {
    uint64_t cid;
    int listen_fd; /* unix stream socket; taken, on failure too; -1: none */
    const struct virtio_vsock_ops *ops;
    void *owner; /* of ops; taken, on failure too */
};

/* Releases what a config would hand over. */
void virtio_vsock_config_release(const struct virtio_vsock_config *config);
int virtio_vsock_create(struct vm *vm, const struct virtio_vsock_config *config,
                        struct error *err);

#endif
