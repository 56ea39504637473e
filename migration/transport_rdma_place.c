/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory straight into the peer's. The source asks for a chunk before its first
 * write there, and gets address and key; what it says afterwards on the same queue pair
 * arrives behind the writes. The target ends the right to write all at once, by its queue
 * pair (seal).
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "migration/transport_rdma_internal.h"
#include "migration/transport_rdma_memory.h"

int rdma_place_offer(struct transport_link *base, const struct transport_region *regions,
                     unsigned count, bool writable)
{
    struct rdma_link *link = (struct rdma_link *)base;
    CHECK(!link->offered && count <= TRANSPORT_REGIONS_MAX);
    int rv = rdma_memory_offer(link->memory, regions, count, writable);
    CHECK(writable == link->passive);
    for (unsigned i = 0; rv == 0 && !writable && i < count; i++) {
        uint64_t chunks =
            (regions[i].size_bytes + RDMA_CHUNK_BYTES - 1) / RDMA_CHUNK_BYTES;
        link->places[i] = calloc(chunks, sizeof(*link->places[i]));
        link->place_count[i] = (uint32_t)chunks;
        rv = link->places[i] == NULL ? -ENOMEM : 0;
    }
    /* A target that has nothing to offer says so to whoever asks. */
    link->offered = rv == 0 || writable;
    return rv;
}

void rdma_place_done(struct rdma_link *link)
{
    for (unsigned i = 0; i < TRANSPORT_REGIONS_MAX; i++) {
        free(link->places[i]);
        link->places[i] = NULL;
    }
}

/* ---- asking and answering ---------------------------------------------------------- */

static int ask_came(struct rdma_link *link, const struct rdma_key *key)
{
    /* It may come before this end is ready to answer. */
    if (!link->passive || link->ask_count == RDMA_BUFFERS) {
        return DROVER_EMALFORMED;
    }
    link->asks[(link->ask_first + link->ask_count++) % RDMA_BUFFERS] = *key;
    return 0;
}

static int key_came(struct rdma_link *link, const struct rdma_key *key)
{
    if (!link->offered || link->passive || key->region >= TRANSPORT_REGIONS_MAX ||
        key->chunk >= link->place_count[key->region] ||
        link->places[key->region][key->chunk].state != RDMA_PLACE_ASKED) {
        return DROVER_EMALFORMED;
    }
    link->places[key->region][key->chunk] = (struct rdma_place){
        .address = key->address,
        .key = key->key,
        .state = key->granted ? RDMA_PLACE_GRANTED : RDMA_PLACE_REFUSED,
    };
    return 0;
}

int rdma_place_message(struct rdma_link *link, const struct rdma_header *header,
                       const uint8_t *payload)
{
    struct rdma_key key;
    int rv = rdma_key_decode(payload, header->size, &key);
    if (rv != 0) {
        return rv;
    }
    return header->type == RDMA_ASK ? ask_came(link, &key) : key_came(link, &key);
}

static bool may_answer(const struct rdma_link *link)
{
    return rdma_credits_may_send(&link->credits, RDMA_KEY) &&
           link->send_busy_until[link->send_next] <= link->completed &&
           link->posted - link->completed < RDMA_SEND_DEPTH;
}

int rdma_place_answer(struct rdma_link *link)
{
    int rv = 0;
    while (rv == 0 && link->offered && link->ask_count > 0 && may_answer(link)) {
        struct rdma_key key = link->asks[link->ask_first];
        struct ibv_mr *mr = NULL;
        link->ask_first = (link->ask_first + 1) % RDMA_BUFFERS;
        link->ask_count--;
        /* What can't be registered comes by the stream. */
        key.granted = rdma_memory_chunk(link->memory, key.region, key.chunk, &mr) == 0;
        key.address = key.granted ? (uintptr_t)mr->addr : 0;
        key.key = key.granted ? mr->rkey : 0;
        rdma_key_encode(rdma_link_payload(link), &key);
        rv = rdma_link_post(link, RDMA_KEY, RDMA_KEY_SIZE);
    }
    return rv;
}

/* Until the place of a chunk is known. */
static int find_place(struct rdma_link *link, unsigned region, uint32_t chunk,
                      uint32_t idle_ms)
{
    struct rdma_place *place = &link->places[region][chunk];
    if (place->state == RDMA_PLACE_UNKNOWN) {
        const struct rdma_key ask = {.region = (uint16_t)region, .chunk = chunk};
        int rv = rdma_link_room(link, RDMA_ASK, idle_ms);
        if (rv != 0) {
            return rv;
        }
        rdma_key_encode(rdma_link_payload(link), &ask);
        rv = rdma_link_post(link, RDMA_ASK, RDMA_KEY_SIZE);
        if (rv != 0) {
            return rv;
        }
        place->state = RDMA_PLACE_ASKED;
    }
    uint64_t until_ms = clock_now_ms() + idle_ms;
    while (place->state == RDMA_PLACE_ASKED) {
        int rv = rdma_link_progress(link, until_ms);
        if (rv != 0) {
            return rv;
        }
    }
    return place->state == RDMA_PLACE_GRANTED ? 0 : DROVER_ENOTFOUND;
}

/* ---- writing ----------------------------------------------------------------------- */

struct batch {
    struct ibv_send_wr work[RDMA_BATCH];
    struct ibv_sge parts[RDMA_BATCH];
    unsigned count;
    uint64_t bytes;
};

static int batch_send(struct rdma_link *link, struct batch *batch, uint32_t idle_ms)
{
    uint64_t until_ms = clock_now_ms() + idle_ms;
    unsigned count = batch->count;
    if (count == 0) {
        return 0;
    }
    while (link->posted - link->completed + count > RDMA_SEND_DEPTH ||
           (link->written_posted != link->written_done &&
            link->written_posted - link->written_done + batch->bytes >
                RDMA_WRITES_BYTES)) {
        uint64_t before = link->completed;
        int rv = rdma_link_progress(link, until_ms);
        if (rv != 0) {
            return rv;
        }
        until_ms = link->completed != before ? clock_now_ms() + idle_ms : until_ms;
    }
    for (unsigned i = 0; i < count; i++) {
        batch->work[i].next = i + 1 < count ? &batch->work[i + 1] : NULL;
    }
    link->written_posted += batch->bytes;
    batch->count = 0;
    batch->bytes = 0;
    return rdma_link_post_chain(link, batch->work, count);
}

static void batch_add(struct batch *batch, const struct ibv_mr *mr,
                      const struct rdma_place *place, uint64_t offset, uint32_t size)
{
    unsigned at = batch->count++;
    batch->parts[at] = (struct ibv_sge){
        .addr = (uintptr_t)mr->addr + offset, .length = size, .lkey = mr->lkey};
    batch->work[at] = (struct ibv_send_wr){
        .sg_list = &batch->parts[at],
        .num_sge = 1,
        .opcode = IBV_WR_RDMA_WRITE,
        .wr.rdma = {.remote_addr = place->address + offset, .rkey = place->key},
    };
    batch->bytes += size;
}

static uint64_t bytes_of(const struct transport_piece *pieces, unsigned count)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        bytes += pieces[i].size;
    }
    return bytes;
}

int rdma_place_place(struct transport_link *base, unsigned region,
                     const struct transport_piece *pieces, unsigned count, bool ask,
                     uint32_t idle_ms)
{
    struct rdma_link *link = (struct rdma_link *)base;
    struct batch batch = {.count = 0};
    CHECK(link->offered && !link->passive && count > 0);
    uint32_t chunk = (uint32_t)(pieces[0].offset / RDMA_CHUNK_BYTES);
    uint64_t start = (uint64_t)chunk * RDMA_CHUNK_BYTES;
    CHECK(region < TRANSPORT_REGIONS_MAX && chunk < link->place_count[region]);
    /* A place backs all of a chunk, on both sides: not for a few pages. */
    if (link->places[region][chunk].state == RDMA_PLACE_UNKNOWN &&
        (!ask || bytes_of(pieces, count) < RDMA_CHUNK_BYTES / 8)) {
        return DROVER_ENOTFOUND;
    }
    struct ibv_mr *mr = NULL;
    int rv = rdma_memory_chunk(link->memory, region, chunk, &mr);
    if (rv != 0) {
        return DROVER_ENOTFOUND; /* this end's device can't: by the stream */
    }
    rv = find_place(link, region, chunk, idle_ms);
    for (unsigned i = 0; rv == 0 && i < count; i++) {
        uint64_t offset = pieces[i].offset - start;
        uint64_t left = pieces[i].size;
        CHECK(pieces[i].offset >= start && offset + left <= RDMA_CHUNK_BYTES);
        while (rv == 0 && left > 0) {
            uint32_t size =
                left < RDMA_WRITE_BYTES ? (uint32_t)left : RDMA_WRITE_BYTES;
            batch_add(&batch, mr, &link->places[region][chunk], offset, size);
            offset += size;
            left -= size;
            rv = batch.count == RDMA_BATCH ? batch_send(link, &batch, idle_ms) : 0;
        }
    }
    return rv != 0 ? rv : batch_send(link, &batch, idle_ms);
}

int rdma_place_mark(struct transport_link *base, uint32_t value, uint32_t idle_ms)
{
    struct rdma_link *link = (struct rdma_link *)base;
    int rv = rdma_link_room(link, RDMA_DATA, idle_ms);
    if (rv != 0) {
        return rv;
    }
    /* It takes one of the peer's buffers, and tells no credits. */
    rdma_credits_spend(&link->credits);
    struct ibv_send_wr work = {.opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
                               .imm_data = htobe32(value)};
    return rdma_link_post_chain(link, &work, 1);
}

uint32_t rdma_place_marked(struct transport_link *base)
{
    return ((struct rdma_link *)base)->marked;
}

void rdma_place_seal(struct transport_link *base)
{
    struct rdma_link *link = (struct rdma_link *)base;
    struct ibv_qp_attr attributes = {.qp_access_flags = 0};
    if (link->id->qp == NULL) {
        return;
    }
    /* Whoever has said goodbye could write on, until the queue pair is gone. */
    if (link->error != 0 ||
        link->library->verbs.modify_qp(link->id->qp, &attributes, IBV_QP_ACCESS_FLAGS) !=
            0) {
        (void)rdma_link_fail(link, DROVER_ECLOSED); /* stays in the link */
        link->library->manager.destroy_qp(link->id);
        link->id->qp = NULL;
    }
}
