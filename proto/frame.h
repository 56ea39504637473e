/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Framing of messages on a byte stream. All integers big endian.
 *
 *      0       4       6       8       12      16
 *      +-------+-------+-------+-------+-------+---------------
 *      | magic | vers. | kind  | size  | crc32 | payload ...
 *      +-------+-------+-------+-------+-------+---------------
 *      "DRVR"   1               bytes   of the payload (zlib's)
 *
 * Pure functions, any thread.
 */
#ifndef DROVER_PROTO_FRAME_H
#define DROVER_PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>

struct buffer;

#define FRAME_HEADER_SIZE 16
#define FRAME_VERSION     1

enum frame_kind {
    FRAME_KIND_CONTROL = 1,   /* ControlMessage */
    FRAME_KIND_PEER = 2,      /* PeerMessage */
    FRAME_KIND_MIGRATION = 3, /* migration/wire.h */
    FRAME_KIND_FILE = 4,      /* state on a disk */
};

/* Appends header and payload to `out`. 0, -ENOMEM or DROVER_ELIMIT (payload over
 * `limit_bytes`). */
int frame_encode(struct buffer *out, enum frame_kind kind, const void *payload,
                 size_t size, size_t limit_bytes);

/*
 * Looks at the front of `in`. Returns 1 with the payload (inside `in`, valid until it
 * changes) and the frame's whole size, which the caller consumes afterwards; 0 when more
 * bytes are needed; DROVER_EMALFORMED (magic, kind or checksum), DROVER_EVERSION or
 * DROVER_ELIMIT (announced size over `limit_bytes`): close the connection then.
 */
int frame_decode(const struct buffer *in, enum frame_kind kind, size_t limit_bytes,
                 const uint8_t **ret_payload, size_t *ret_size, size_t *ret_frame_size);

#endif
