/* SPDX-License-Identifier: Apache-2.0 */
/* Help for the devices' save: packs a protobuf message to the end of a buffer. Pure, any
 * thread. */
#ifndef DROVER_VMM_STATE_H
#define DROVER_VMM_STATE_H

#include <protobuf-c/protobuf-c.h>

struct buffer;

/* 0 or -ENOMEM. */
int state_pack(const ProtobufCMessage *message, struct buffer *out);

#endif
