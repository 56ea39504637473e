/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two ends of an RDMA link say to each other below the byte stream: each message
 * fills one receive buffer of the peer. All of it is hostile input. Pure, any thread.
 */
#ifndef DROVER_MIGRATION_TRANSPORT_RDMA_WIRE_H
#define DROVER_MIGRATION_TRANSPORT_RDMA_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDMA_BUFFER_BYTES 32768u /* one message, with its header */
#define RDMA_BUFFERS      32u    /* that an end receives into */
#define RDMA_HEADER_SIZE  8u
#define RDMA_PAYLOAD_MAX  (RDMA_BUFFER_BYTES - RDMA_HEADER_SIZE)
#define RDMA_HELLO_SIZE   48u
#define RDMA_HELLO_LEAST  16u /* by a build that knows no keys */
#define RDMA_KEY_TEXT     32u /* characters */
#define RDMA_KEY_SIZE     26u
/* Guest memory is registered, and its keys are asked for, in pieces of this size. */
#define RDMA_CHUNK_BYTES  (2u * 1024 * 1024)

enum rdma_message {
    RDMA_DATA = 1,   /* bytes of the stream */
    RDMA_CREDIT = 2, /* nothing but the credits of the header */
    RDMA_ASK = 3,    /* source: where may I place this chunk? */
    RDMA_KEY = 4,    /* target: there, with this key; or nowhere */
};

struct rdma_header {
    enum rdma_message type;
    uint16_t credits; /* buffers that are free again since the last message */
    uint32_t size;    /* of what follows */
};

/* Of ASK all but `granted`, `address` and `key`. */
struct rdma_key {
    uint16_t region;
    bool granted;
    uint32_t chunk; /* its number in the region */
    uint64_t address;
    uint32_t key;
};

/* What both ends say while they connect. */
struct rdma_hello {
    uint16_t version;
    uint16_t buffers;
    uint32_t buffer_bytes;
    char key[RDMA_KEY_TEXT + 1]; /* "": none */
};

void rdma_header_encode(uint8_t out[RDMA_HEADER_SIZE], const struct rdma_header *header);
/* `size`: of the whole message as it came. DROVER_EMALFORMED. */
int rdma_header_decode(const uint8_t *message, size_t size,
                       struct rdma_header *ret_header);
void rdma_key_encode(uint8_t out[RDMA_KEY_SIZE], const struct rdma_key *key);
int rdma_key_decode(const uint8_t *payload, size_t size, struct rdma_key *ret_key);
/* `key` (at most RDMA_KEY_TEXT; "": none): that this end was told by whom it connects to. */
void rdma_hello_encode(uint8_t out[RDMA_HELLO_SIZE], const char *key);
/* Of a peer that this end can talk to; else DROVER_EMALFORMED or DROVER_EVERSION. What
 * connection managers add at the end is ignored. */
int rdma_hello_decode(const uint8_t *data, size_t size, struct rdma_hello *ret_hello);

/*
 * The right to send: each message takes a credit, and the peer gives it back when its
 * buffer is free again. The last one is kept for messages that give credits back, so that
 * the two ends can't lock each other out.
 */
struct rdma_credits {
    uint16_t there; /* messages that the peer can take */
    uint16_t owed;  /* buffers that are free again here, and not told yet */
};

bool rdma_credits_may_send(const struct rdma_credits *credits, enum rdma_message type);
/* Whether it is time to say so without anything else to say. */
bool rdma_credits_must_tell(const struct rdma_credits *credits);
/* A message leaves: what its header tells. */
uint16_t rdma_credits_send(struct rdma_credits *credits);
/* The same for what has no header, and so tells nothing. */
void rdma_credits_spend(struct rdma_credits *credits);
/* Credits of a header that came: DROVER_EMALFORMED when they are more than can be. */
int rdma_credits_take(struct rdma_credits *credits, uint16_t given);

#endif
