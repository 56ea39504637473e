/* SPDX-License-Identifier: Apache-2.0 */
/* AML by hand: the few objects that the DSDT needs. */
#include "vmm/boot/aml.h"

#include <errno.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"

#define OP_ZERO       0x00
#define OP_ONE        0x01
#define OP_NAME       0x08
#define OP_BYTE       0x0a
#define OP_WORD       0x0b
#define OP_DWORD      0x0c
#define OP_STRING     0x0d
#define OP_QWORD      0x0e
#define OP_SCOPE      0x10
#define OP_BUFFER     0x11
#define OP_PACKAGE    0x12
#define OP_EXTENDED   0x5b
#define OP_EXT_DEVICE 0x82

/* A length in three bytes always: the first says so, and holds the low four bits. */
#define LENGTH_BYTES 3
#define LENGTH_MAX   0xfffffu

#define RESOURCE_IO       0x47
#define RESOURCE_IRQ      0x22
#define RESOURCE_MEMORY32 0x86
#define RESOURCE_WORD     0x88
#define RESOURCE_DWORD    0x87
#define RESOURCE_QWORD    0x8a
#define RESOURCE_END      0x79
#define WINDOW_MEMORY     0
#define WINDOW_IO         1
#define WINDOW_BUS        2
#define WINDOW_FIXED      0x0c /* minimum and maximum are fixed */

void aml_init(struct aml *aml, struct buffer *out)
{
    *aml = (struct aml){.out = out};
}

static void put(struct aml *aml, const void *data, size_t size)
{
    if (aml->error == 0) {
        aml->error = buffer_append(aml->out, data, size);
    }
}

/* Little endian, unlike our own wires. */
static void put_number(struct aml *aml, uint64_t value, unsigned bytes)
{
    uint8_t data[8];
    for (unsigned i = 0; i < bytes; i++) {
        data[i] = (uint8_t)(value >> (8 * i));
    }
    put(aml, data, bytes);
}

static void put_name(struct aml *aml, const char *name)
{
    CHECK(strlen(name) == 4);
    put(aml, name, 4);
}

static void block_begin(struct aml *aml)
{
    CHECK(aml->depth < AML_DEPTH_MAX);
    aml->length_at[aml->depth++] = aml->out->size;
    put_number(aml, 0, LENGTH_BYTES);
}

void aml_end(struct aml *aml)
{
    CHECK(aml->depth > 0);
    size_t at = aml->length_at[--aml->depth];
    if (aml->error != 0) {
        return;
    }
    size_t length = aml->out->size - at; /* counts itself */
    if (length > LENGTH_MAX) {
        aml->error = DROVER_ELIMIT;
        return;
    }
    aml->out->data[at] = (uint8_t)(2 << 6 | (length & 0xf));
    aml->out->data[at + 1] = (uint8_t)(length >> 4);
    aml->out->data[at + 2] = (uint8_t)(length >> 12);
}

void aml_scope_begin(struct aml *aml, const char *path)
{
    CHECK(path[0] == '\\');
    put_number(aml, OP_SCOPE, 1);
    block_begin(aml);
    put(aml, "\\", 1);
    put_name(aml, path + 1);
}

void aml_device_begin(struct aml *aml, const char *name)
{
    put_number(aml, OP_EXTENDED, 1);
    put_number(aml, OP_EXT_DEVICE, 1);
    block_begin(aml);
    put_name(aml, name);
}

void aml_package_begin(struct aml *aml, unsigned elements)
{
    CHECK(elements <= 255);
    put_number(aml, OP_PACKAGE, 1);
    block_begin(aml);
    put_number(aml, elements, 1);
}

void aml_name(struct aml *aml, const char *name)
{
    put_number(aml, OP_NAME, 1);
    put_name(aml, name);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        put_number(aml, value == 0 ? OP_ZERO : OP_ONE, 1);
    } else if (value <= UINT8_MAX) {
        put_number(aml, OP_BYTE, 1);
        put_number(aml, value, 1);
    } else if (value <= UINT16_MAX) {
        put_number(aml, OP_WORD, 1);
        put_number(aml, value, 2);
    } else if (value <= UINT32_MAX) {
        put_number(aml, OP_DWORD, 1);
        put_number(aml, value, 4);
    } else {
        put_number(aml, OP_QWORD, 1);
        put_number(aml, value, 8);
    }
}

static unsigned hex_digit(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

/* Three letters of five bits and four hex digits, big endian (ACPI 6.3 section 19.3.4).
 */
void aml_string(struct aml *aml, const char *text)
{
    put_number(aml, OP_STRING, 1);
    put(aml, text, strlen(text) + 1);
}

void aml_eisa_id(struct aml *aml, const char *id)
{
    CHECK(strlen(id) == 7);
    uint8_t data[4] = {
        (uint8_t)((id[0] - '@') << 2 | (id[1] - '@') >> 3),
        (uint8_t)((id[1] - '@') << 5 | (id[2] - '@')),
        (uint8_t)(hex_digit(id[3]) << 4 | hex_digit(id[4])),
        (uint8_t)(hex_digit(id[5]) << 4 | hex_digit(id[6])),
    };
    put_number(aml, OP_DWORD, 1);
    put(aml, data, sizeof(data));
}

/* Buffer(size) { bytes }: the size is a word, filled in at the end. */
void aml_resources_begin(struct aml *aml)
{
    aml_name(aml, "_CRS");
    put_number(aml, OP_BUFFER, 1);
    block_begin(aml);
    put_number(aml, OP_WORD, 1);
    aml->resource_at = aml->out->size;
    put_number(aml, 0, 2);
    aml->resource_start = aml->out->size;
}

void aml_resources_end(struct aml *aml)
{
    put_number(aml, RESOURCE_END, 1);
    put_number(aml, 0, 1); /* checksum 0: not checked */
    if (aml->error == 0) {
        size_t size = aml->out->size - aml->resource_start;
        aml->out->data[aml->resource_at] = (uint8_t)size;
        aml->out->data[aml->resource_at + 1] = (uint8_t)(size >> 8);
    }
    aml_end(aml);
}

void aml_resource_io(struct aml *aml, uint16_t port, uint8_t size)
{
    put_number(aml, RESOURCE_IO, 1);
    put_number(aml, 1, 1); /* decodes 16 bits */
    put_number(aml, port, 2);
    put_number(aml, port, 2);
    put_number(aml, 1, 1); /* alignment */
    put_number(aml, size, 1);
}

void aml_resource_irq(struct aml *aml, unsigned irq)
{
    CHECK(irq < 16);
    put_number(aml, RESOURCE_IRQ, 1);
    put_number(aml, UINT64_C(1) << irq, 2);
}

void aml_resource_memory(struct aml *aml, uint32_t start, uint32_t size)
{
    put_number(aml, RESOURCE_MEMORY32, 1);
    put_number(aml, 9, 2);
    put_number(aml, 1, 1); /* read-write */
    put_number(aml, start, 4);
    put_number(aml, size, 4);
}

static void window(struct aml *aml, unsigned kind, unsigned flags, unsigned bytes,
                   uint64_t first, uint64_t last)
{
    unsigned tag = bytes == 2   ? RESOURCE_WORD
                   : bytes == 4 ? RESOURCE_DWORD
                                : RESOURCE_QWORD;
    put_number(aml, tag, 1);
    put_number(aml, 3 + 5 * bytes, 2);
    put_number(aml, kind, 1);
    put_number(aml, WINDOW_FIXED, 1);
    put_number(aml, flags, 1);
    put_number(aml, 0, bytes); /* granularity */
    put_number(aml, first, bytes);
    put_number(aml, last, bytes);
    put_number(aml, 0, bytes); /* translation */
    put_number(aml, last - first + 1, bytes);
}

void aml_resource_bus_window(struct aml *aml, uint16_t first, uint16_t last)
{
    window(aml, WINDOW_BUS, 0, 2, first, last);
}

void aml_resource_io_window(struct aml *aml, uint16_t first, uint16_t last)
{
    window(aml, WINDOW_IO, 3, 2, first, last); /* the entire range */
}

void aml_resource_memory_window(struct aml *aml, uint32_t first, uint32_t last)
{
    window(aml, WINDOW_MEMORY, 1, 4, first, last); /* read-write, not cacheable */
}

void aml_resource_memory64_window(struct aml *aml, uint64_t first, uint64_t last)
{
    window(aml, WINDOW_MEMORY, 1, 8, first, last);
}
