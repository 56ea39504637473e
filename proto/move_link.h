/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection over which a guest moves. A VMM in its jail connects to nobody: whoever
 * orders the move connects, and sends the socket with the order (unix_files.h;
 * ControlRequest.descriptors says how many go with it). Any thread.
 */
#ifndef DROVER_PROTO_MOVE_LINK_H
#define DROVER_PROTO_MOVE_LINK_H

#include <stdbool.h>

struct error;

/*
 * A socket that is connecting, or connected, to "tcp:HOST:PORT"; the VMM learns how it
 * went. `numeric`: returns at once; names are not resolved, which could take seconds.
 * Else each address of a name is tried in turn until one answers.
 */
int move_link_open(const char *uri, bool numeric, int *ret_fd, struct error *err);

#endif
