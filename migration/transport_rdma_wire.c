/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of an RDMA link, and the credits that bound them. */
#include "migration/transport_rdma_wire.h"

#include <assert.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"

#define MAGIC   UINT32_C(0x64727264) /* "drrd" */
#define VERSION 1u
#define KEEP    1u /* credits that only CREDIT and KEY may take */

static_assert(RDMA_BUFFERS >= 8, "messages of both kinds flow");
static_assert(RDMA_KEY_SIZE <= RDMA_PAYLOAD_MAX, "a key fits");

static void put(uint8_t *at, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        at[i] = (uint8_t)(value >> (8 * (size - 1 - i)));
    }
}

static uint64_t get(const uint8_t *at, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

/*
 *      0      1     2         4      8
 *      +------+-----+---------+------+---------
 *      | type |  0  | credits | size | payload
 *      +------+-----+---------+------+---------
 */
void rdma_header_encode(uint8_t out[RDMA_HEADER_SIZE], const struct rdma_header *header)
{
    CHECK(header->size <= RDMA_PAYLOAD_MAX);
    put(out, (uint64_t)header->type, 1);
    put(out + 1, 0, 1);
    put(out + 2, header->credits, 2);
    put(out + 4, header->size, 4);
}

int rdma_header_decode(const uint8_t *message, size_t size,
                       struct rdma_header *ret_header)
{
    if (size < RDMA_HEADER_SIZE || size > RDMA_BUFFER_BYTES || message[1] != 0) {
        return DROVER_EMALFORMED;
    }
    struct rdma_header header = {
        .type = (enum rdma_message)message[0],
        .credits = (uint16_t)get(message + 2, 2),
        .size = (uint32_t)get(message + 4, 4),
    };
    bool fits = header.size == size - RDMA_HEADER_SIZE;
    bool known = (header.type == RDMA_DATA && header.size > 0) ||
                 (header.type == RDMA_CREDIT && header.size == 0) ||
                 (header.type == RDMA_ASK && header.size == RDMA_KEY_SIZE) ||
                 (header.type == RDMA_KEY && header.size == RDMA_KEY_SIZE);
    if (!fits || !known || header.credits > RDMA_BUFFERS) {
        return DROVER_EMALFORMED;
    }
    *ret_header = header;
    return 0;
}

/*
 *      0        2         6         14    18           26
 *      +--------+---------+---------+-----+------------+
 *      | region | granted | chunk   | key | address    |
 *      |        | (u32)   | (u64)   |     |            |
 *      +--------+---------+---------+-----+------------+
 */
void rdma_key_encode(uint8_t out[RDMA_KEY_SIZE], const struct rdma_key *key)
{
    put(out, key->region, 2);
    put(out + 2, key->granted ? 1 : 0, 4);
    put(out + 6, key->chunk, 8);
    put(out + 14, key->key, 4);
    put(out + 18, key->address, 8);
}

int rdma_key_decode(const uint8_t *payload, size_t size, struct rdma_key *ret_key)
{
    if (size != RDMA_KEY_SIZE) {
        return DROVER_EMALFORMED;
    }
    uint64_t granted = get(payload + 2, 4);
    uint64_t chunk = get(payload + 6, 8);
    if (granted > 1 || chunk > UINT32_MAX) {
        return DROVER_EMALFORMED;
    }
    *ret_key = (struct rdma_key){
        .region = (uint16_t)get(payload, 2),
        .granted = granted == 1,
        .chunk = (uint32_t)chunk,
        .key = (uint32_t)get(payload + 14, 4),
        .address = get(payload + 18, 8),
    };
    return 0;
}

/*
 *      0       4         6         8              12         16         48
 *      +-------+---------+---------+--------------+----------+----------+
 *      | magic | version | buffers | buffer bytes | 0        | key or 0 |
 *      +-------+---------+---------+--------------+----------+----------+
 */
void rdma_hello_encode(uint8_t out[RDMA_HELLO_SIZE], const char *key)
{
    CHECK(strlen(key) <= RDMA_KEY_TEXT);
    memset(out, 0, RDMA_HELLO_SIZE);
    memcpy(out + RDMA_HELLO_LEAST, key, strlen(key));
    put(out, MAGIC, 4);
    put(out + 4, VERSION, 2);
    put(out + 6, RDMA_BUFFERS, 2);
    put(out + 8, RDMA_BUFFER_BYTES, 4);
    put(out + 12, 0, 4);
}

int rdma_hello_decode(const uint8_t *data, size_t size, struct rdma_hello *ret_hello)
{
    if (size < RDMA_HELLO_LEAST || get(data, 4) != MAGIC) {
        return DROVER_EMALFORMED;
    }
    struct rdma_hello hello = {
        .version = (uint16_t)get(data + 4, 2),
        .buffers = (uint16_t)get(data + 6, 2),
        .buffer_bytes = (uint32_t)get(data + 8, 4),
    };
    /* Version 1 has these sizes; one that has others will say what they mean. */
    if (hello.version != VERSION || hello.buffers != RDMA_BUFFERS ||
        hello.buffer_bytes != RDMA_BUFFER_BYTES) {
        return DROVER_EVERSION;
    }
    if (size >= RDMA_HELLO_SIZE) {
        memcpy(hello.key, data + RDMA_HELLO_LEAST, RDMA_KEY_TEXT); /* a NUL is behind it */
    }
    *ret_hello = hello;
    return 0;
}

bool rdma_credits_may_send(const struct rdma_credits *credits, enum rdma_message type)
{
    bool small = type == RDMA_CREDIT || type == RDMA_KEY;
    return credits->there > (small ? 0 : KEEP);
}

bool rdma_credits_must_tell(const struct rdma_credits *credits)
{
    return credits->owed >= RDMA_BUFFERS / 2;
}

uint16_t rdma_credits_send(struct rdma_credits *credits)
{
    CHECK(credits->there > 0);
    uint16_t told = credits->owed;
    credits->there--;
    credits->owed = 0;
    return told;
}

void rdma_credits_spend(struct rdma_credits *credits)
{
    CHECK(credits->there > 0);
    credits->there--;
}

int rdma_credits_take(struct rdma_credits *credits, uint16_t given)
{
    if (given > RDMA_BUFFERS - credits->there) {
        return DROVER_EMALFORMED;
    }
    credits->there = (uint16_t)(credits->there + given);
    return 0;
}
