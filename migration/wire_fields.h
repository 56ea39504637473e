/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing and reading a message's fields, for the files that know the messages' layouts
 * (wire*.c).
 */
#ifndef DROVER_MIGRATION_WIRE_FIELDS_H
#define DROVER_MIGRATION_WIRE_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/err.h"
#include "migration/wire.h"
#include "proto/frame.h"

/* ---- writing: the first error sticks ----------------------------------------------- */

struct writer {
    struct buffer payload;
    int rv;
};

static inline void put_u16(struct writer *writer, uint16_t value)
{
    writer->rv =
        writer->rv != 0 ? writer->rv : buffer_append_u16(&writer->payload, value);
}

static inline void put_u32(struct writer *writer, uint32_t value)
{
    writer->rv =
        writer->rv != 0 ? writer->rv : buffer_append_u32(&writer->payload, value);
}

static inline void put_u64(struct writer *writer, uint64_t value)
{
    writer->rv =
        writer->rv != 0 ? writer->rv : buffer_append_u64(&writer->payload, value);
}

static inline void put_bytes(struct writer *writer, const void *data, size_t size)
{
    writer->rv =
        writer->rv != 0 ? writer->rv : buffer_append(&writer->payload, data, size);
}

static inline struct writer writer_open(enum wire_type type)
{
    struct writer writer = {0};
    put_u16(&writer, (uint16_t)type);
    return writer;
}

static inline int writer_close(struct writer *writer, struct buffer *out)
{
    int rv = writer->rv;
    if (rv == 0) {
        rv = frame_encode(out, FRAME_KIND_MIGRATION, writer->payload.data,
                          writer->payload.size, WIRE_PAYLOAD_BYTES_MAX);
    }
    buffer_done(&writer->payload);
    return rv;
}

/* ---- reading: reads past the end give zeros, and `bad` ----------------------------- */

struct reader {
    const uint8_t *at;
    size_t left;
    bool bad;
};

static inline const uint8_t *take_bytes(struct reader *reader, size_t size)
{
    if (reader->bad || reader->left < size) {
        reader->bad = true;
        return NULL;
    }
    const uint8_t *taken = reader->at;
    reader->at += size;
    reader->left -= size;
    return taken;
}

static inline uint64_t take_integer(struct reader *reader, size_t size)
{
    const uint8_t *bytes = take_bytes(reader, size);
    uint64_t value = 0;
    for (size_t i = 0; bytes != NULL && i < size; i++) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static inline uint16_t take_u16(struct reader *reader)
{
    return (uint16_t)take_integer(reader, 2);
}

static inline uint32_t take_u32(struct reader *reader)
{
    return (uint32_t)take_integer(reader, 4);
}

static inline uint64_t take_u64(struct reader *reader)
{
    return take_integer(reader, 8);
}

static inline struct reader reader_open(const uint8_t *payload, size_t size)
{
    struct reader reader = {.at = payload, .left = size};
    (void)take_u16(&reader); /* the type, which the caller has looked at */
    return reader;
}

static inline int reader_close(const struct reader *reader)
{
    return reader->bad || reader->left != 0 ? DROVER_EMALFORMED : 0;
}

#endif
