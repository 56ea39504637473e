/* SPDX-License-Identifier: Apache-2.0 */
/* The header of a vsock packet (virtio 1.2, 5.10.6). Pure. */
#ifndef DROVER_VMM_VIRTIO_VSOCK_PACKET_H
#define DROVER_VMM_VIRTIO_VSOCK_PACKET_H

#include <stdint.h>

#define VSOCK_HEADER_SIZE 44
#define VSOCK_CID_HOST    2
#define VSOCK_TYPE_STREAM 1

enum vsock_operation {
    VSOCK_REQUEST = 1,
    VSOCK_RESPONSE = 2,
    VSOCK_RESET = 3,
    VSOCK_SHUTDOWN = 4,
    VSOCK_DATA = 5,
    VSOCK_CREDIT_UPDATE = 6,
    VSOCK_CREDIT_REQUEST = 7,
};

enum vsock_shutdown {
    VSOCK_SHUTDOWN_RECEIVE = 1, /* the sender receives no more */
    VSOCK_SHUTDOWN_SEND = 2,
    VSOCK_SHUTDOWN_BOTH = 3,
};

struct vsock_packet {
    uint64_t source_cid, destination_cid;
    uint32_t source_port, destination_port;
    uint32_t size; /* of the data behind the header */
    uint16_t type;
    uint16_t operation; /* enum vsock_operation, or anything else */
    uint32_t flags;
    uint32_t buffer_bytes;    /* that the sender has for this connection */
    uint32_t forwarded_bytes; /* that left the sender's buffer, modulo 2^32 */
};

void vsock_packet_decode(const uint8_t data[VSOCK_HEADER_SIZE],
                         struct vsock_packet *ret_packet);
void vsock_packet_encode(const struct vsock_packet *packet,
                         uint8_t ret_data[VSOCK_HEADER_SIZE]);

#endif
