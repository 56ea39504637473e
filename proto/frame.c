/* SPDX-License-Identifier: Apache-2.0 */
/* Framing of messages on a byte stream. */
#include "proto/frame.h"

#include <zlib.h>

#include "base/buffer.h"
#include "base/err.h"

#define FRAME_MAGIC 0x44525652u /* "DRVR" */

static uint32_t read_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint16_t read_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t checksum(const void *payload, size_t size)
{
    return (uint32_t)crc32_z(crc32_z(0, NULL, 0), payload, size);
}

int frame_encode(struct buffer *out, enum frame_kind kind, const void *payload,
                 size_t size, size_t limit_bytes)
{
    if (size > limit_bytes || size > UINT32_MAX) {
        return DROVER_ELIMIT;
    }
    int rv = buffer_reserve(out, FRAME_HEADER_SIZE + size);
    if (rv != 0) {
        return rv;
    }
    /* Can't fail: the room is there. */
    (void)buffer_append_u32(out, FRAME_MAGIC);
    (void)buffer_append_u16(out, FRAME_VERSION);
    (void)buffer_append_u16(out, (uint16_t)kind);
    (void)buffer_append_u32(out, (uint32_t)size);
    (void)buffer_append_u32(out, size == 0 ? 0 : checksum(payload, size));
    (void)buffer_append(out, payload, size);
    return 0;
}

int frame_decode(const struct buffer *in, enum frame_kind kind, size_t limit_bytes,
                 const uint8_t **ret_payload, size_t *ret_size, size_t *ret_frame_size)
{
    if (in->size < FRAME_HEADER_SIZE) {
        return 0;
    }
    const uint8_t *header = in->data;
    if (read_u32(header) != FRAME_MAGIC) {
        return DROVER_EMALFORMED;
    }
    if (read_u16(header + 4) != FRAME_VERSION) {
        return DROVER_EVERSION;
    }
    if (read_u16(header + 6) != (uint16_t)kind) {
        return DROVER_EMALFORMED;
    }
    size_t size = read_u32(header + 8);
    if (size > limit_bytes) {
        return DROVER_ELIMIT;
    }
    if (in->size - FRAME_HEADER_SIZE < size) {
        return 0;
    }
    const uint8_t *payload = header + FRAME_HEADER_SIZE;
    if (read_u32(header + 12) != (size == 0 ? 0 : checksum(payload, size))) {
        return DROVER_EMALFORMED;
    }
    *ret_payload = payload;
    *ret_size = size;
    *ret_frame_size = FRAME_HEADER_SIZE + size;
    return 1;
}
