/* SPDX-License-Identifier: Apache-2.0 */
/*
 *  0 src_cid u64 |  8 dst_cid u64 | 16 src_port u32 | 20 dst_port u32 | 24 len u32 |
 * 28 type u16 | 30 op u16 | 32 flags u32 | 36 buf_alloc u32 | 40 fwd_cnt u32
 */
#include "vmm/virtio/vsock_packet.h"

#include <string.h>

#define FIELDS(X)                                                                        \
    X(source_cid, 0)                                                                     \
    X(destination_cid, 8)                                                                \
    X(source_port, 16)                                                                   \
    X(destination_port, 20)                                                              \
    X(size, 24)                                                                          \
    X(type, 28)                                                                          \
    X(operation, 30)                                                                     \
    X(flags, 32)                                                                         \
    X(buffer_bytes, 36)                                                                  \
    X(forwarded_bytes, 40)

/* Little endian, as this machine is (virtqueue.c asserts it). */
void vsock_packet_decode(const uint8_t data[VSOCK_HEADER_SIZE],
                         struct vsock_packet *ret_packet)
{
#define GET(field, offset)                                                               \
    memcpy(&ret_packet->field, data + (offset), sizeof(ret_packet->field));
    FIELDS(GET)
}

void vsock_packet_encode(const struct vsock_packet *packet,
                         uint8_t ret_data[VSOCK_HEADER_SIZE])
{
#define PUT(field, offset)                                                               \
    memcpy(ret_data + (offset), &packet->field, sizeof(packet->field));
    FIELDS(PUT)
}
