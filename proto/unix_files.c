/* SPDX-License-Identifier: Apache-2.0 */
/* SCM_RIGHTS, both ways. */
#include "proto/unix_files.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

/* More than may be kept: so that what is too much is seen, and closed. */
#define RECEIVE_MAX 32

void unix_files_done(struct unix_files *files)
{
    for (unsigned i = 0; i < files->count; i++) {
        if (files->fds[i] >= 0) {
            (void)close(files->fds[i]); /* nobody is left to tell */
        }
    }
    files->count = 0;
}

int unix_files_take(struct unix_files *files, unsigned index)
{
    if (index >= files->count) {
        return -1;
    }
    int fd = files->fds[index];
    files->fds[index] = -1;
    return fd;
}

ssize_t unix_files_send(int fd, const void *data, size_t size,
                        const struct unix_files *files, int flags)
{
    CHECK(files->count <= UNIX_FILES_MAX);
    union {
        struct cmsghdr align;
        char data[CMSG_SPACE(sizeof(int) * UNIX_FILES_MAX)];
    } control = {0};
    struct iovec part = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (files->count > 0) {
        message.msg_control = control.data;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * files->count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * files->count);
        memcpy(CMSG_DATA(header), files->fds, sizeof(int) * files->count);
    }
    ssize_t sent = sendmsg(fd, &message, flags);
    return sent < 0 ? -errno : sent;
}

/* False when one of them did not fit. */
static bool files_keep(struct msghdr *message, struct unix_files *files)
{
    bool all = (message->msg_flags & MSG_CTRUNC) == 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd = -1;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
            if (files->count < UNIX_FILES_MAX) {
                files->fds[files->count++] = fd;
            } else {
                (void)close(fd); /* never ours to use */
                all = false;
            }
        }
    }
    return all;
}

ssize_t unix_files_receive(int fd, void *data, size_t size, struct unix_files *files,
                           int flags)
{
    union {
        struct cmsghdr align;
        char data[CMSG_SPACE(sizeof(int) * RECEIVE_MAX)];
    } control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.data,
                             .msg_controllen = sizeof(control.data)};
    ssize_t got = recvmsg(fd, &message, flags | MSG_CMSG_CLOEXEC);
    if (got < 0) {
        return -errno;
    }
    return files_keep(&message, files) ? got : -EMFILE;
}
