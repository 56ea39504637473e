/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that grow. */
#include "base/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"

#define FIRST_CAPACITY 256

void buffer_init(struct buffer *buffer, size_t limit_bytes)
{
    *buffer = (struct buffer){.limit_bytes = limit_bytes};
}

void buffer_done(struct buffer *buffer)
{
    if (buffer == NULL) {
        return;
    }
    free(buffer->data);
    *buffer = (struct buffer){.limit_bytes = buffer->limit_bytes};
}

int buffer_reserve(struct buffer *buffer, size_t more_bytes)
{
    size_t wanted;
    if (__builtin_add_overflow(buffer->size, more_bytes, &wanted)) {
        return DROVER_ELIMIT;
    }
    if (buffer->limit_bytes != 0 && wanted > buffer->limit_bytes) {
        return DROVER_ELIMIT;
    }
    if (wanted <= buffer->capacity) {
        return 0;
    }
    size_t capacity =
        buffer->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : buffer->capacity;
    while (capacity < wanted) {
        if (__builtin_mul_overflow(capacity, (size_t)2, &capacity)) {
            return DROVER_ELIMIT;
        }
    }
    uint8_t *data = realloc(buffer->data, capacity);
    if (data == NULL) {
        return -ENOMEM;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return 0;
}

int buffer_append(struct buffer *buffer, const void *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    int rv = buffer_reserve(buffer, size);
    if (rv != 0) {
        return rv;
    }
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return 0;
}

static int append_big_endian(struct buffer *buffer, uint64_t value, unsigned bytes)
{
    uint8_t wire[8];
    for (unsigned i = 0; i < bytes; i++) {
        wire[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
    return buffer_append(buffer, wire, bytes);
}

int buffer_append_u16(struct buffer *buffer, uint16_t value)
{
    return append_big_endian(buffer, value, 2);
}

int buffer_append_u32(struct buffer *buffer, uint32_t value)
{
    return append_big_endian(buffer, value, 4);
}

int buffer_append_u64(struct buffer *buffer, uint64_t value)
{
    return append_big_endian(buffer, value, 8);
}

void buffer_consume(struct buffer *buffer, size_t size)
{
    CHECK(size <= buffer->size);
    if (size == 0) {
        return;
    }
    memmove(buffer->data, buffer->data + size, buffer->size - size);
    buffer->size -= size;
}

uint8_t *buffer_take(struct buffer *buffer, size_t *ret_size)
{
    uint8_t *data = buffer->data;
    *ret_size = buffer->size;
    *buffer = (struct buffer){.limit_bytes = buffer->limit_bytes};
    return data;
}
