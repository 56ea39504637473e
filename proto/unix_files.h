/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes on a unix stream socket with open files beside them: how a control client hands a
 * jailed VMM what an order needs (a snapshot's files, a connection). Any thread.
 */
#ifndef DROVER_PROTO_UNIX_FILES_H
#define DROVER_PROTO_UNIX_FILES_H

#include <stddef.h>
#include <sys/types.h>

#define UNIX_FILES_MAX 8

/* Descriptors; who has the struct owns them. Zeroed: none. */
struct unix_files {
    unsigned count;
    int fds[UNIX_FILES_MAX];
};

/* Closes what is left. */
void unix_files_done(struct unix_files *files);
/* Hands over number `index`, which is -1 in `files` then; -1 if there is none. */
int unix_files_take(struct unix_files *files, unsigned index);
/* As send(): sends at least a byte, and all files with it. Borrows them. */
ssize_t unix_files_send(int fd, const void *data, size_t size,
                        const struct unix_files *files, int flags);
/*
 * As recv(). Files that come along are appended to `files`, close-on-exec; those that do
 * not fit are closed, and -EMFILE is returned. -errno.
 */
ssize_t unix_files_receive(int fd, void *data, size_t size, struct unix_files *files,
                           int flags);

#endif
