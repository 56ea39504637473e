/* SPDX-License-Identifier: Apache-2.0 */
/* Access to the memory that a request of a virtqueue describes. */
#include "base/check.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/virtqueue.h"

#include <errno.h>
#include <string.h>

struct part {
    const struct virtqueue_segment *segments;
    unsigned count;
    uint64_t bytes;
};

static struct part chain_part(const struct virtqueue_chain *chain, bool writable)
{
    if (writable) {
        return (struct part){.segments = chain->segments + chain->readable_count,
                             .count = chain->writable_count,
                             .bytes = chain->writable_bytes};
    }
    return (struct part){.segments = chain->segments,
                         .count = chain->readable_count,
                         .bytes = chain->readable_bytes};
}

int virtqueue_chain_vectors(const struct virtqueue *queue,
                            const struct virtqueue_chain *chain, bool writable,
                            uint64_t offset, uint64_t size,
                            struct iovec ret_vectors[VIRTQUEUE_SEGMENTS_MAX])
{
    struct part part = chain_part(chain, writable);
    int count = 0;

    if (offset > part.bytes || size > part.bytes - offset) {
        return -EFAULT;
    }
    for (unsigned i = 0; i < part.count && size > 0; i++) {
        const struct virtqueue_segment *segment = &part.segments[i];
        uint64_t piece;
        void *at;

        if (offset >= segment->size) {
            offset -= segment->size;
            continue;
        }
        piece = segment->size - offset;
        if (piece > size) {
            piece = size;
        }
        at = guest_ram_pointer(queue->ram, segment->gpa + offset, piece);
        CHECK(at !=
              NULL); /* was checked when the chain was taken, and memory does not move */
        ret_vectors[count++] = (struct iovec){.iov_base = at, .iov_len = piece};
        size -= piece;
        offset = 0;
    }
    CHECK(size == 0);
    return count;
}

unsigned virtqueue_chain_segments(const struct virtqueue_chain *chain, bool writable,
                                  struct virtqueue_range range, unsigned most,
                                  struct virtqueue_segment *ret_segments,
                                  size_t *ret_bytes)
{
    struct part part = chain_part(chain, writable);
    uint64_t offset = range.offset, left = range.size;
    unsigned count = 0;

    CHECK(offset <= part.bytes && left <= part.bytes - offset);
    for (unsigned i = 0; i < part.count && left > 0 && count < most; i++) {
        const struct virtqueue_segment *segment = &part.segments[i];
        uint64_t piece;

        if (offset >= segment->size) {
            offset -= segment->size;
            continue;
        }
        piece = segment->size - offset;
        if (piece > left) {
            piece = left;
        }
        ret_segments[count++] = (struct virtqueue_segment){
            .gpa = segment->gpa + offset, .size = (uint32_t)piece};
        left -= piece;
        offset = 0;
    }
    *ret_bytes = range.size - left;
    return count;
}

int virtqueue_chain_read(const struct virtqueue *queue,
                         const struct virtqueue_chain *chain, uint64_t offset, void *data,
                         size_t size)
{
    struct iovec vectors[VIRTQUEUE_SEGMENTS_MAX];
    int count = virtqueue_chain_vectors(queue, chain, false, offset, size, vectors);
    uint8_t *to = data;

    for (int i = 0; i < count; i++) {
        memcpy(to, vectors[i].iov_base, vectors[i].iov_len);
        to += vectors[i].iov_len;
    }
    return count < 0 ? count : 0;
}

int virtqueue_chain_write(const struct virtqueue *queue,
                          const struct virtqueue_chain *chain, uint64_t offset,
                          const void *data, size_t size)
{
    struct part part = chain_part(chain, true);
    const uint8_t *from = data;

    if (offset > part.bytes || size > part.bytes - offset) {
        return -EFAULT;
    }
    for (unsigned i = 0; i < part.count && size > 0; i++) {
        const struct virtqueue_segment *segment = &part.segments[i];
        uint64_t piece;
        int ret;

        if (offset >= segment->size) {
            offset -= segment->size;
            continue;
        }
        piece = segment->size - offset;
        if (piece > size) {
            piece = size;
        }
        ret = guest_ram_write(queue->ram, segment->gpa + offset, from, piece);
        CHECK(ret == 0); /* as above */
        from += piece;
        size -= piece;
        offset = 0;
    }
    CHECK(size == 0);
    return 0;
}

void virtqueue_chain_mark_dirty(const struct virtqueue *queue,
                                const struct virtqueue_chain *chain, uint64_t offset,
                                uint64_t size)
{
    struct part part = chain_part(chain, true);

    for (unsigned i = 0; i < part.count && size > 0; i++) {
        const struct virtqueue_segment *segment = &part.segments[i];
        uint64_t piece;

        if (offset >= segment->size) {
            offset -= segment->size;
            continue;
        }
        piece = segment->size - offset;
        if (piece > size) {
            piece = size;
        }
        guest_ram_mark_dirty(queue->ram, segment->gpa + offset, piece);
        size -= piece;
        offset = 0;
    }
}
