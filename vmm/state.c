/* SPDX-License-Identifier: Apache-2.0 */
/* Packing of state messages. */
#include "vmm/state.h"

#include "base/buffer.h"
#include "base/check.h"

int state_pack(const ProtobufCMessage *message, struct buffer *out)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size == 0) {
        return 0; /* all fields have their defaults */
    }
    int result = buffer_reserve(out, size);
    if (result < 0) {
        return result;
    }
    size_t packed = protobuf_c_message_pack(message, out->data + out->size);
    CHECK(packed == size);
    out->size += size;
    return 0;
}
