/* SPDX-License-Identifier: Apache-2.0 */
/* The handshake of vhost-user with a block back end (QEMU's docs/interop/vhost-user). */
#include <stdbool.h>

#include "vmm/virtio/vhost_user.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "vmm/virtio/virtio.h"

/*
 * A message: 0 request u32 | 4 flags u32 | 8 size u32 | 12 payload. Little endian, as the
 * host is. Descriptors come beside it.
 */
#define HEADER_SIZE  12u
#define PAYLOAD_MAX  (8u + 32u * VHOST_USER_MEMORY_MAX)
#define CONFIG_SIZE  60u
#define CONFIG_START 12u /* offset u32 | size u32 | flags u32, before the bytes */

enum request {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    SET_VRING_ENABLE = 18,
    GET_CONFIG = 24,
};

enum flags {
    FLAG_VERSION = 1,
    FLAG_VERSION_MASK = 3,
    FLAG_REPLY = 4,
    FLAG_NEED_REPLY = 8
};

#define PROTOCOL_REPLY_ACK VIRTIO_FEATURE(3)
#define PROTOCOL_CONFIG    VIRTIO_FEATURE(9)
#define PROTOCOL_FEATURES  VIRTIO_FEATURE(30)
#define BLOCK_RO           VIRTIO_FEATURE(5)
#define BLOCK_BLK_SIZE     VIRTIO_FEATURE(6)
#define BLOCK_FLUSH        VIRTIO_FEATURE(9)
#define BLOCK_DISCARD      VIRTIO_FEATURE(13)
#define BLOCK_WRITE_ZEROES VIRTIO_FEATURE(14)

struct connection {
    int fd;
    uint64_t deadline_ms;
    uint8_t payload[PAYLOAD_MAX]; /* of the last message, sent or received */
    uint32_t size;
};

/* ---- messages ------------------------------------------------------------- */

static int wait_for(const struct connection *connection, short events)
{
    for (;;) {
        struct pollfd poll_fd = {.fd = connection->fd, .events = events};
        uint64_t now_ms = clock_now_ms();
        int ret;

        if (now_ms >= connection->deadline_ms) {
            return DROVER_ETIMEDOUT2;
        }
        ret = poll(&poll_fd, 1, (int)(connection->deadline_ms - now_ms));
        if (ret > 0) {
            return 0;
        }
        if (ret < 0 && errno != EINTR) {
            return -errno;
        }
    }
}

static int message_send(struct connection *connection, enum request request,
                        uint32_t flags, const int *fds, unsigned fd_count)
{
    uint8_t bytes[HEADER_SIZE + PAYLOAD_MAX];
    uint32_t header[3] = {request, FLAG_VERSION | flags, connection->size};
    struct iovec vector = {.iov_base = bytes, .iov_len = HEADER_SIZE + connection->size};
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(VHOST_USER_MEMORY_MAX * sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    ssize_t sent;

    CHECK(connection->size <= PAYLOAD_MAX && fd_count <= VHOST_USER_MEMORY_MAX);
    memcpy(bytes, header, sizeof(header));
    memcpy(bytes + HEADER_SIZE, connection->payload, connection->size);
    if (fd_count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
    }
    do {
        int ret = wait_for(connection, POLLOUT);

        if (ret < 0) {
            return ret;
        }
        sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && (errno == EINTR || errno == EAGAIN));
    if (sent < 0) {
        return errno == EPIPE || errno == ECONNRESET ? DROVER_ECLOSED : -errno;
    }
    /* A message is far smaller than a socket's buffer: it goes whole, or not at all. */
    return (size_t)sent == vector.iov_len ? 0 : DROVER_ECLOSED;
}

static int bytes_receive(const struct connection *connection, uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t got;
        int ret = wait_for(connection, POLLIN);

        if (ret < 0) {
            return ret;
        }
        got = recv(connection->fd, data, size, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno == ECONNRESET)) {
            return DROVER_ECLOSED;
        }
        if (got < 0 && errno != EINTR && errno != EAGAIN) {
            return -errno;
        }
        if (got > 0) {
            data += got;
            size -= (size_t)got;
        }
    }
    return 0;
}

/* Descriptors that a back end sends along are not taken: none of these answers has any.
 */
static int reply_receive(struct connection *connection, enum request request,
                         uint32_t size)
{
    uint32_t header[3];
    int ret = bytes_receive(connection, (uint8_t *)header, sizeof(header));

    if (ret < 0) {
        return ret;
    }
    if (header[0] != (uint32_t)request || header[2] != size || size > PAYLOAD_MAX ||
        (header[1] & (FLAG_VERSION_MASK | FLAG_REPLY)) != (FLAG_VERSION | FLAG_REPLY)) {
        return DROVER_EMALFORMED;
    }
    connection->size = size;
    return bytes_receive(connection, connection->payload, size);
}

static int u64_get(struct connection *connection, enum request request,
                   uint64_t *ret_value)
{
    int ret;

    connection->size = 0;
    ret = message_send(connection, request, 0, NULL, 0);
    ret = ret < 0 ? ret : reply_receive(connection, request, sizeof(*ret_value));
    if (ret == 0) {
        memcpy(ret_value, connection->payload, sizeof(*ret_value));
    }
    return ret;
}

static int u64_set(struct connection *connection, enum request request, uint64_t value)
{
    memcpy(connection->payload, &value, sizeof(value));
    connection->size = sizeof(value);
    return message_send(connection, request, 0, NULL, 0);
}

/* Sends what is in `payload`, and waits for the word that it was done. */
static int order(struct connection *connection, enum request request, const int *fds,
                 unsigned fd_count)
{
    uint64_t failed = 1;
    int ret = message_send(connection, request, FLAG_NEED_REPLY, fds, fd_count);

    ret = ret < 0 ? ret : reply_receive(connection, request, sizeof(failed));
    if (ret < 0) {
        return ret;
    }
    memcpy(&failed, connection->payload, sizeof(failed));
    return failed == 0 ? 0 : DROVER_EPEER;
}

/* ---- the handshake -------------------------------------------------------- */

static int features_agree(struct connection *connection, uint64_t *ret_features)
{
    const uint64_t wanted_protocol = PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG;
    const uint64_t needed = PROTOCOL_FEATURES | VIRTIO_FEATURE_VERSION_1 |
                            VIRTIO_FEATURE_INDIRECT | BLOCK_FLUSH;
    const uint64_t known =
        needed | BLOCK_RO | BLOCK_BLK_SIZE | BLOCK_DISCARD | BLOCK_WRITE_ZEROES;
    uint64_t features = 0, protocol = 0;
    int ret = u64_get(connection, GET_FEATURES, &features);

    if (ret == 0 && (features & needed) != needed) {
        return DROVER_EVERSION;
    }
    ret = ret < 0 ? ret : u64_get(connection, GET_PROTOCOL_FEATURES, &protocol);
    if (ret == 0 && (protocol & wanted_protocol) != wanted_protocol) {
        return DROVER_EVERSION;
    }
    ret = ret < 0 ? ret : u64_set(connection, SET_PROTOCOL_FEATURES, wanted_protocol);
    connection->size = 0;
    ret = ret < 0 ? ret : order(connection, SET_OWNER, NULL, 0);
    if (ret == 0) {
        features &= known;
        memcpy(connection->payload, &features, sizeof(features));
        connection->size = sizeof(features);
        ret = order(connection, SET_FEATURES, NULL, 0);
    }
    *ret_features = features;
    return ret;
}

static uint32_t read_u32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

/* Offsets as in virtio 1.2, 5.2.4; see virtio_block.c. */
static int disk_ask(struct connection *connection, uint64_t features,
                    struct vhost_user_disk *ret_disk)
{
    uint32_t start[3] = {0, CONFIG_SIZE, 0};
    const uint8_t *config = connection->payload + CONFIG_START;
    int ret;

    memset(connection->payload, 0, CONFIG_START + CONFIG_SIZE);
    memcpy(connection->payload, start, sizeof(start));
    connection->size = CONFIG_START + CONFIG_SIZE;
    ret = message_send(connection, GET_CONFIG, 0, NULL, 0);
    ret =
        ret < 0 ? ret : reply_receive(connection, GET_CONFIG, CONFIG_START + CONFIG_SIZE);
    if (ret < 0) {
        return ret;
    }
    *ret_disk = (struct vhost_user_disk){
        .block_size = features & BLOCK_BLK_SIZE ? read_u32(config + 20) : 512,
        .discard_sectors_max = features & BLOCK_DISCARD ? read_u32(config + 36) : 0,
        .zeroes_sectors_max = features & BLOCK_WRITE_ZEROES ? read_u32(config + 48) : 0,
        .read_only = (features & BLOCK_RO) != 0,
    };
    memcpy(&ret_disk->capacity_sectors, config, sizeof(ret_disk->capacity_sectors));
    if (ret_disk->capacity_sectors == 0 || ret_disk->capacity_sectors > INT64_MAX / 512 ||
        ret_disk->block_size < 512 || ret_disk->block_size > 4096 ||
        (ret_disk->block_size & (ret_disk->block_size - 1)) != 0) {
        return DROVER_EMALFORMED;
    }
    return 0;
}

static int memory_set(struct connection *connection, const struct vhost_user_setup *setup)
{
    int fds[VHOST_USER_MEMORY_MAX];
    uint32_t count[2] = {setup->memory_count, 0};

    CHECK(setup->memory_count >= 1 && setup->memory_count <= VHOST_USER_MEMORY_MAX);
    memcpy(connection->payload, count, sizeof(count));
    for (unsigned i = 0; i < setup->memory_count; i++) {
        const struct vhost_user_memory *memory = &setup->memory[i];
        /* The third is our own address, for which any label will do: it need not know
         * where things are here. */
        uint64_t region[4] = {memory->address, memory->size_bytes, memory->address,
                              memory->offset};

        memcpy(connection->payload + sizeof(count) + i * sizeof(region), region,
               sizeof(region));
        fds[i] = memory->fd;
    }
    connection->size = (uint32_t)(sizeof(count) + setup->memory_count * 32u);
    return order(connection, SET_MEM_TABLE, fds, setup->memory_count);
}

static int ring_value_set(struct connection *connection, enum request request,
                          uint32_t value)
{
    uint32_t state[2] = {0, value};

    memcpy(connection->payload, state, sizeof(state));
    connection->size = sizeof(state);
    return order(connection, request, NULL, 0);
}

static int ring_fd_set(struct connection *connection, enum request request, int fd)
{
    uint64_t index = 0;

    memcpy(connection->payload, &index, sizeof(index));
    connection->size = sizeof(index);
    return order(connection, request, &fd, 1);
}

static int ring_start(struct connection *connection, const struct vhost_user_setup *setup)
{
    uint64_t addresses[5] = {0, setup->desc, setup->used, setup->avail, 0};
    int ret = ring_value_set(connection, SET_VRING_NUM, setup->ring_size);

    ret = ret < 0 ? ret : ring_value_set(connection, SET_VRING_BASE, 0);
    if (ret < 0) {
        return ret;
    }
    memcpy(connection->payload, addresses, sizeof(addresses));
    connection->size = sizeof(addresses);
    ret = order(connection, SET_VRING_ADDR, NULL, 0);
    ret = ret < 0 ? ret : ring_fd_set(connection, SET_VRING_CALL, setup->call_fd);
    ret = ret < 0 ? ret : ring_fd_set(connection, SET_VRING_KICK, setup->kick_fd);
    return ret < 0 ? ret : ring_value_set(connection, SET_VRING_ENABLE, 1);
}

int vhost_user_start(int fd, const struct vhost_user_setup *setup,
                     struct vhost_user_disk *ret_disk, struct error *err)
{
    struct connection connection = {.fd = fd,
                                    .deadline_ms = clock_now_ms() + VHOST_USER_WAIT_MS};
    struct vhost_user_disk disk = {0};
    uint64_t features = 0;
    int ret = features_agree(&connection, &features);

    ret = ret < 0 ? ret : disk_ask(&connection, features, &disk);
    ret = ret < 0 ? ret : memory_set(&connection, setup);
    ret = ret < 0 ? ret : ring_start(&connection, setup);
    if (ret < 0) {
        return error_set(err, ret, "the storage daemon broke off the handshake: %s",
                         err_text(ret));
    }
    *ret_disk = disk;
    return 0;
}
