/* SPDX-License-Identifier: Apache-2.0 */
/* Listening unix sockets: for their owner only (mode 0600), in place of a stale one,
 * never of one that answers. */
#ifndef DROVER_VMM_HOST_UNIX_SOCKET_H
#define DROVER_VMM_HOST_UNIX_SOCKET_H

struct error;

/* A listening, non-blocking descriptor, or an error with one line. */
int unix_socket_listen(const char *path, int *ret_fd, struct error *err);
/* A connected, blocking descriptor. */
int unix_socket_connect(const char *path, int *ret_fd, struct error *err);

#endif
