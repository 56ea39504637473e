/* SPDX-License-Identifier: Apache-2.0 */
/* Packets with descriptors. */
#include "vmm/jail/broker_wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"

union control {
    char space[CMSG_SPACE(BROKER_FDS_MAX * sizeof(int))];
    struct cmsghdr align;
};

int broker_packet_send(int fd, const uint8_t *data, size_t size, const int *fds)
{
    unsigned count = 0;
    while (fds != NULL && count < BROKER_FDS_MAX && fds[count] >= 0) {
        count++;
    }
    union control control = {0};
    struct iovec part = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, count * sizeof(int));
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

static void passed_fds_get(struct msghdr *message, int *ret_fds)
{
    for (int i = 0; i < BROKER_FDS_MAX; i++) {
        ret_fds[i] = -1;
    }
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
            header->cmsg_len <= CMSG_LEN(BROKER_FDS_MAX * sizeof(int))) {
            memcpy(ret_fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
        }
    }
}

int broker_packet_recv(int fd, uint8_t *data, size_t room, size_t *ret_size, int *ret_fds)
{
    int passed[BROKER_FDS_MAX];
    union control control = {0};
    struct iovec part = {.iov_base = data, .iov_len = room};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t got = 0;
    if (ret_fds != NULL) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof(control.space);
    }
    do {
        got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return errno == ECONNRESET ? DROVER_ECLOSED : -errno;
    }
    passed_fds_get(&message, passed);
    if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || got == 0) {
        for (unsigned i = 0; i < BROKER_FDS_MAX; i++) {
            cleanup_fd(&passed[i]); /* nobody's */
        }
        return got == 0 ? DROVER_ECLOSED : DROVER_EMALFORMED;
    }
    *ret_size = (size_t)got;
    if (ret_fds != NULL) {
        memcpy(ret_fds, passed, sizeof(passed));
    }
    return 0;
}
