/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The RDMA transport's own messages under hostile input: a link of either side is told
 * one message after the other, and its books must stay in order.
 *
 *     fuzz_migration_rdma [ITERATIONS [SEED]]     (or libFuzzer: tests/fuzz/run SECONDS fuzz_migration_rdma)
 *
 * fuzz-sources: migration/transport_rdma_wire.c migration/transport_rdma_place.c migration/transport_rdma_link.c migration/transport_rdma_memory.c migration/transport_rdma.c migration/transport_rdma_connect.c migration/transport_rdma_library.c migration/transport.c migration/transport_tcp.c migration/transport_handed.c
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "migration/transport_rdma_internal.h"

#define ITERATIONS  20000u
#define CHUNKS      5u
#define INPUT_BYTES 512u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A message of the input: its size in one byte, then itself. */
static int message_tell(struct rdma_link *link, const uint8_t *message, size_t size)
{
    struct rdma_header header;
    int rv = rdma_header_decode(message, size, &header);
    if (rv != 0) {
        return rv;
    }
    CHECK(header.size + RDMA_HEADER_SIZE == size && header.credits <= RDMA_BUFFERS);
    rv = rdma_credits_take(&link->credits, header.credits);
    if (rv == 0 && (header.type == RDMA_ASK || header.type == RDMA_KEY)) {
        rv = rdma_place_message(link, &header, message + RDMA_HEADER_SIZE);
    }
    return rv;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rdma_hello hello;
    (void)rdma_hello_decode(data, size, &hello); /* any answer will do, but a crash */
    if (size < 1) {
        return 0;
    }
    struct rdma_place places[CHUNKS] = {0};
    for (unsigned i = 0; i < CHUNKS; i++) {
        places[i].state = i % 2 == 0 ? RDMA_PLACE_ASKED : RDMA_PLACE_UNKNOWN;
    }
    struct rdma_link link = {.passive = (data[0] & 1) != 0, .offered = true};
    link.credits.there = data[0] >> 3;
    if (!link.passive) {
        link.places[1] = places;
        link.place_count[1] = CHUNKS;
    }
    size_t at = 1;
    for (int rv = 0; rv == 0 && at < size;) {
        size_t whole = data[at++];
        whole = whole < size - at ? whole : size - at;
        rv = message_tell(&link, data + at, whole);
        at += whole;
        CHECK(link.credits.there <= RDMA_BUFFERS && link.ask_count <= RDMA_BUFFERS);
    }
    for (unsigned i = 0; i < CHUNKS; i++) {
        /* What nobody asked about stays unknown. */
        CHECK((i % 2 == 1) == (places[i].state == RDMA_PLACE_UNKNOWN));
    }
    return 0;
}

#ifndef LIBFUZZER
#include "tests/fuzz/fuzz_replay.h"

static uint64_t random_state;

static uint32_t random_next(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

/* Messages that are nearly right. */
static size_t input_make(uint8_t *data)
{
    size_t at = 0;
    data[at++] = (uint8_t)random_next();
    while (at + 1 + RDMA_HEADER_SIZE + RDMA_KEY_SIZE < INPUT_BYTES) {
        struct rdma_header header = {.type = (enum rdma_message)(1 + random_next() % 4),
                                     .credits = (uint16_t)(random_next() % 4)};
        struct rdma_key key = {.region = (uint16_t)(random_next() % 3),
                               .granted = random_next() % 2 == 0,
                               .chunk = random_next() % (CHUNKS + 1)};
        header.size = header.type == RDMA_CREDIT ? 0 : RDMA_KEY_SIZE;
        data[at++] = (uint8_t)(RDMA_HEADER_SIZE + header.size);
        rdma_header_encode(data + at, &header);
        if (header.size != 0) {
            rdma_key_encode(data + at + RDMA_HEADER_SIZE, &key);
        }
        at += RDMA_HEADER_SIZE + header.size;
    }
    for (unsigned i = random_next() % 4; i > 0; i--) {
        data[random_next() % at] = (uint8_t)random_next();
    }
    return at;
}

int main(int argc, char **argv)
{
    uint8_t data[INPUT_BYTES];
    unsigned long iterations = argc > 1 ? strtoul(argv[1], NULL, 10) : ITERATIONS;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (unsigned long i = 0; i < iterations; i++) {
        random_state = seed + i;
        (void)LLVMFuzzerTestOneInput(data, input_make(data)); /* always 0 */
    }
    (void)printf("%lu inputs, seed %" PRIu64 ", %u of the corpus\n", iterations, seed,
                 fuzz_replay("fuzz_migration_rdma"));
    return 0;
}
#endif
