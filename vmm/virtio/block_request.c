/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of virtio-blk (virtio 1.2, 5.2.6): judged when they begin, answered when they
 * end. */
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/virtio/block_io.h"
#include "vmm/vm.h"

/* Header: 0 type u32 | 4 reserved u32 | 8 sector u64. Discard and zeroes: 0 sector u64 |
 * 8 sectors u32 | 12 flags u32. */
#define HEADER_SIZE BLOCK_HEADER_SIZE
#define RANGE_SIZE  16

enum {
    TYPE_IN = 0,
    TYPE_OUT = 1,
    TYPE_FLUSH = 4,
    TYPE_GET_ID = 8,
    TYPE_DISCARD = 11,
    TYPE_WRITE_ZEROES = 13,
    RANGE_UNMAP = 1,
};

/* ---- lists and buffers ---------------------------------------------------- */

void block_list_add(struct block_list *list, struct block_request *request)
{
    request->next = NULL;
    if (list->last != NULL) {
        list->last->next = request;
    } else {
        list->first = request;
    }
    list->last = request;
}

struct block_request *block_list_take(struct block_list *list)
{
    struct block_request *request = list->first;

    if (request != NULL) {
        list->first = request->next;
        if (list->first == NULL) {
            list->last = NULL;
        }
        request->next = NULL;
    }
    return request;
}

struct block_request *block_request_take(struct virtio_block *block)
{
    struct block_request *request = block->free;

    if (request != NULL) {
        block->free = request->next;
        request->next = NULL;
    } else if (block->request_begun < block->request_count) {
        request = &block->requests[block->request_begun++];
    }
    return request;
}

void block_request_put(struct virtio_block *block, struct block_request *request)
{
    request->next = block->free;
    block->free = request;
}

/* ---- ending a request ----------------------------------------------------- */

/* The request's memory is free again; the guest is told unless it has given the device
 * up. */
void block_request_end(struct virtio_block *block, struct block_request *request,
                       enum block_status status)
{
    struct virtqueue *ring = block_ring(block, request);
    const struct virtqueue_chain *chain = &request->chain;
    uint64_t data_bytes = chain->writable_bytes - 1;
    uint64_t written = request->kind == BLOCK_READ ? request->done : 0;
    uint8_t byte = (uint8_t)status;

    block->engine->release(block, request);
    if (!block->virtio.resetting && !(block->virtio.status & VIRTIO_STATUS_NEEDS_RESET)) {
        int ret = virtqueue_chain_write(ring, chain, data_bytes, &byte, 1);

        CHECK(ret == 0); /* that there is a status byte was judged first of all */
        if (written == data_bytes) {
            written++;
        }
        virtqueue_push(ring, chain->head, (uint32_t)written);
    }
    block_request_put(block, request);
}

/* ---- beginning a request -------------------------------------------------- */

static bool range_valid(const struct virtio_block *block, uint64_t sector, uint64_t size)
{
    uint64_t capacity = block->disk.size_bytes / BLOCK_SECTOR_SIZE;
    uint32_t align = block->disk.direct ? block->disk.offset_align : BLOCK_SECTOR_SIZE;

    return size % align == 0 && sector <= capacity &&
           size / BLOCK_SECTOR_SIZE <= capacity - sector &&
           sector * BLOCK_SECTOR_SIZE % align == 0;
}

static void transfer_begin(struct virtio_block *block, struct block_request *request,
                           uint64_t sector)
{
    if (!range_valid(block, sector, request->size)) {
        block_request_end(block, request, BLOCK_STATUS_IOERR);
        return;
    }
    request->offset = sector * BLOCK_SECTOR_SIZE;
    if (request->size == 0) {
        block_request_end(block, request, BLOCK_STATUS_OK);
        return;
    }
    block_list_add(&block->pending, request);
}

static void range_begin(struct virtio_block *block, struct block_request *request,
                        bool discard)
{
    uint8_t range[RANGE_SIZE];
    uint64_t sector;
    uint32_t count, flags;

    if (request->chain.readable_bytes != HEADER_SIZE + RANGE_SIZE ||
        virtqueue_chain_read(block_ring(block, request), &request->chain, HEADER_SIZE,
                             range, RANGE_SIZE) < 0) {
        block_request_end(block, request, BLOCK_STATUS_IOERR);
        return;
    }
    memcpy(&sector, range, 8);
    memcpy(&count, range + 8, 4);
    memcpy(&flags, range + 12, 4);
    if ((flags & ~(uint32_t)RANGE_UNMAP) != 0 || (discard && flags != 0)) {
        block_request_end(block, request, BLOCK_STATUS_UNSUPP);
        return;
    }
    request->kind = discard ? BLOCK_DISCARD : BLOCK_ZEROES;
    request->unmap = (flags & RANGE_UNMAP) != 0;
    request->size =
        count <= BLOCK_RANGE_SECTORS ? (uint64_t)count * BLOCK_SECTOR_SIZE : UINT64_MAX;
    transfer_begin(block, request, sector);
}

static void id_write(struct virtio_block *block, struct block_request *request)
{
    uint64_t room = request->chain.writable_bytes - 1;
    size_t size = room < BLOCK_ID_SIZE ? (size_t)room : BLOCK_ID_SIZE;
    int ret = virtqueue_chain_write(block_ring(block, request), &request->chain, 0,
                                    block->serial, size);

    CHECK(ret == 0); /* fits */
    request->done = size;
    block_request_end(block, request, BLOCK_STATUS_OK);
}

void block_request_begin(struct virtio_block *block, struct block_request *request)
{
    const struct virtqueue_chain *chain = &request->chain;
    uint8_t header[HEADER_SIZE];
    uint32_t type;
    uint64_t sector;

    request->kind = BLOCK_READ;
    request->done = request->size = request->offset = 0;
    request->retries = 0;
    request->flushing = request->charged = false;
    request->bounce = NULL;
    if (chain->writable_bytes < 1 ||
        virtqueue_chain_read(block_ring(block, request), chain, 0, header, HEADER_SIZE) <
            0) {
        virtio_broken(&block->virtio, "a request has no header or no status byte");
        block_request_put(block, request);
        return;
    }
    memcpy(&type, header, 4);
    memcpy(&sector, header + 8, 8);
    if (block->disk.read_only &&
        (type == TYPE_OUT || type == TYPE_DISCARD || type == TYPE_WRITE_ZEROES)) {
        block_request_end(block, request, BLOCK_STATUS_IOERR);
        return;
    }
    switch (type) {
    case TYPE_IN:
        request->size = chain->writable_bytes - 1;
        transfer_begin(block, request, sector);
        break;
    case TYPE_OUT:
        request->kind = BLOCK_WRITE;
        request->size = chain->readable_bytes - HEADER_SIZE;
        transfer_begin(block, request, sector);
        break;
    case TYPE_FLUSH:
        request->kind = BLOCK_FLUSH;
        block_list_add(&block->pending, request);
        break;
    case TYPE_GET_ID:
        id_write(block, request);
        break;
    case TYPE_DISCARD:
    case TYPE_WRITE_ZEROES:
        range_begin(block, request, type == TYPE_DISCARD);
        break;
    default:
        block_request_end(block, request, BLOCK_STATUS_UNSUPP);
        break;
    }
}
