# SPDX-License-Identifier: Apache-2.0
# Adds to vmm_libvmm_a_SOURCES, which vmm/local.mk begins.
vmm_libvmm_a_SOURCES += \
	vmm/virtio/block_io.c vmm/virtio/block_io.h \
	vmm/virtio/block_request.c \
	vmm/virtio/block_uring.c \
	vmm/virtio/block_vhost.c vmm/virtio/block_vhost.h \
	vmm/virtio/block_vhost_life.c \
	vmm/virtio/block_vhost_worker.c \
	vmm/virtio/net_announce.c \
	vmm/virtio/net_control.c \
	vmm/virtio/net_filter.c vmm/virtio/net_filter.h \
	vmm/virtio/net_io.c vmm/virtio/net_io.h \
	vmm/virtio/net_state.c \
	vmm/virtio/net_tap.c vmm/virtio/net_tap.h \
	vmm/virtio/net_vhost.c vmm/virtio/net_vhost.h vmm/virtio/net_vhost_internal.h \
	vmm/virtio/net_vhost_log.c \
	vmm/virtio/rate_limit.c vmm/virtio/rate_limit.h \
	vmm/virtio/vhost_ring.c vmm/virtio/vhost_ring.h \
	vmm/virtio/vhost_user.c vmm/virtio/vhost_user.h \
	vmm/virtio/virtio.c vmm/virtio/virtio.h \
	vmm/virtio/balloon_numbers.c vmm/virtio/balloon_numbers.h \
	vmm/virtio/virtio_balloon.c vmm/virtio/virtio_balloon.h \
	vmm/virtio/virtio_block.c vmm/virtio/virtio_block.h \
	vmm/virtio/virtio_console.c vmm/virtio/virtio_console.h \
	vmm/virtio/virtio_net.c vmm/virtio/virtio_net.h \
	vmm/virtio/virtio_pci.c vmm/virtio/virtio_pci.h \
	vmm/virtio/virtio_pci_common.c vmm/virtio/virtio_pci_common.h \
	vmm/virtio/virtio_rng.c vmm/virtio/virtio_rng.h \
	vmm/virtio/virtio_state.c vmm/virtio/virtio_state.h \
	vmm/virtio/virtio_vsock.c vmm/virtio/virtio_vsock.h \
	vmm/virtio/virtqueue.c vmm/virtio/virtqueue.h \
	vmm/virtio/virtqueue_chain.c \
	vmm/virtio/vsock_connection.c \
	vmm/virtio/vsock_host.c vmm/virtio/vsock_host.h \
	vmm/virtio/vsock_io.c vmm/virtio/vsock_io.h \
	vmm/virtio/vsock_packet.c vmm/virtio/vsock_packet.h \
	vmm/virtio/vsock_receive.c \
	vmm/virtio/vsock_socket.c
