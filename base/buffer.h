/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes that grow. The caller owns the struct; zeroed memory is an empty buffer. One
 * thread. Fails with -ENOMEM or DROVER_ELIMIT, and is then unchanged.
 */
#ifndef DROVER_BASE_BUFFER_H
#define DROVER_BASE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct buffer {
    uint8_t *data;
    size_t size;        /* bytes in use */
    size_t capacity;    /* private */
    size_t limit_bytes; /* 0: no limit but memory */
};

void buffer_init(struct buffer *buffer, size_t limit_bytes);
void buffer_done(struct buffer *buffer);
int buffer_reserve(struct buffer *buffer, size_t more_bytes);
int buffer_append(struct buffer *buffer, const void *data, size_t size);
int buffer_append_u16(struct buffer *buffer,
                      uint16_t value); /* big endian, as all wires */
int buffer_append_u32(struct buffer *buffer, uint32_t value);
int buffer_append_u64(struct buffer *buffer, uint64_t value);
/* Drops `size` bytes at the front (at most buffer->size). */
void buffer_consume(struct buffer *buffer, size_t size);
/* Hands the memory (may be NULL when empty) to the caller, who frees it; the buffer is
 * empty then. */
uint8_t *buffer_take(struct buffer *buffer, size_t *ret_size);

#endif
