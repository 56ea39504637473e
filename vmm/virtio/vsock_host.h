/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of vsock by the VMM's own hands: it listens on PATH, and connects to
 * PATH_PORT. For a VMM that may open sockets by name. */
#ifndef DROVER_VMM_VIRTIO_VSOCK_HOST_H
#define DROVER_VMM_VIRTIO_VSOCK_HOST_H

struct error;
struct virtio_vsock_config;

/* Fills listen_fd, ops and owner for virtio_vsock_create(), which takes them. The socket
 * is removed with the device. */
int vsock_host_open(const char *path, struct virtio_vsock_config *config,
                    struct error *err);

#endif
