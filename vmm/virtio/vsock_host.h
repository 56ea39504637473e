/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of vsock: it listens on PATH, and has PATH_PORT connected to by who may
 * open sockets by name (broker.h). */
#ifndef DROVER_VMM_VIRTIO_VSOCK_HOST_H
#define DROVER_VMM_VIRTIO_VSOCK_HOST_H

struct broker;
struct error;
struct virtio_vsock_config;

/*
 * Before the jail. Fills listen_fd, ops and owner for virtio_vsock_create(), which takes
 * them. The broker outlives the device; with its end, the socket is removed.
 */
int vsock_host_open(struct broker *broker, const char *path,
                    struct virtio_vsock_config *config, struct error *err);

#endif
