/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections over which a guest moves. A VMM in its jail connects to nobody: whoever
 * orders the move connects, and sends the sockets with the order (unix_files.h;
 * ControlRequest.descriptors says how many go with it). Any thread.
 */
#ifndef DROVER_PROTO_MOVE_LINK_H
#define DROVER_PROTO_MOVE_LINK_H

#include <stdbool.h>

struct error;
struct unix_files;

#define MOVE_LINK_URI_SIZE 192u

/* Streams of a move for which nobody asked for another number. */
#define MOVE_LINK_STREAMS 2u

/*
 * A socket that is connecting, or connected, to "tcp:HOST:PORT", or, for want of
 * something better, "rdma:HOST:PORT"; the VMM learns how it
 * went. `numeric`: returns at once; names are not resolved, which could take seconds.
 * Else each address of a name is tried in turn until one answers.
 */
int move_link_open(const char *uri, bool numeric, int *ret_fd, struct error *err);
/* "rdma:HOST:PORT" with the number of its host, which a jail needs to connect; others as
 * they are. */
int move_link_number(const char *uri, char ret_uri[MOVE_LINK_URI_SIZE],
                     struct error *err);
/* `count` of them (0: MOVE_LINK_STREAMS; at most UNIX_FILES_MAX), or none. */
int move_links_open(const char *uri, bool numeric, unsigned count,
                    struct unix_files *ret_files, struct error *err);

#endif
