/* SPDX-License-Identifier: Apache-2.0 */
/* Packets with descriptors. */
#include "vmm/broker_wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"

union control {
    char space[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

int broker_packet_send(int fd, const uint8_t *data, size_t size, int passed_fd)
{
    union control control = {0};
    struct iovec part = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed_fd >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof(control.space);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &passed_fd, sizeof(int));
    }
    for (;;) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent >= 0) {
            return 0;
        }
        if (errno != EINTR) {
            return errno == EPIPE || errno == ECONNRESET ? DROVER_ECLOSED : -errno;
        }
    }
}

static int passed_fd_get(struct msghdr *message)
{
    int fd = -1;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
            header->cmsg_len == CMSG_LEN(sizeof(int))) {
            memcpy(&fd, CMSG_DATA(header), sizeof(int));
        }
    }
    return fd;
}

int broker_packet_recv(int fd, uint8_t *data, size_t room, size_t *ret_size, int *ret_fd)
{
    union control control = {0};
    struct iovec part = {.iov_base = data, .iov_len = room};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t got = 0;
    if (ret_fd != NULL) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof(control.space);
    }
    do {
        got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return errno == ECONNRESET ? DROVER_ECLOSED : -errno;
    }
    int passed = ret_fd != NULL ? passed_fd_get(&message) : -1;
    if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || got == 0) {
        if (passed >= 0) {
            (void)close(passed); /* nobody's */
        }
        return got == 0 ? DROVER_ECLOSED : DROVER_EMALFORMED;
    }
    *ret_size = (size_t)got;
    if (ret_fd != NULL) {
        *ret_fd = passed;
    }
    return 0;
}
