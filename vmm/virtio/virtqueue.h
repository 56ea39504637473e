/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One split virtqueue (virtio 1.2, 2.7), the device's side: indirect descriptors, event
 * index. The ring lies in guest memory and is hostile: what makes no sense gives
 * DROVER_EGUEST with a reason, and the caller marks its device broken. No allocation. The
 * caller's lock guards a queue.
 */
#ifndef DROVER_VMM_VIRTIO_VIRTQUEUE_H
#define DROVER_VMM_VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct guest_ram;

#define VIRTQUEUE_SIZE_MAX 256
#define VIRTQUEUE_SEGMENTS_MAX                                                           \
    256 /* of one chain: a chain is never longer than its queue */

struct virtqueue_segment {
    uint64_t gpa;
    uint32_t size;
};

/* Bytes of a part of a request. */
struct virtqueue_range {
    uint64_t offset;
    uint64_t size;
};

/* One request: what the device may read comes first, then what it may write. All ranges
 * are guest memory. */
struct virtqueue_chain {
    uint16_t head;
    uint16_t readable_count; /* segments */
    uint16_t writable_count;
    uint64_t readable_bytes;
    uint64_t writable_bytes;
    struct virtqueue_segment segments[VIRTQUEUE_SEGMENTS_MAX];
};

/* Embedded by its device; all private but `ready`, `size`, `broken`. */
struct virtqueue {
    struct guest_ram *ram;
    bool ready;
    uint16_t size;
    uint16_t size_max;
    uint64_t desc_gpa, avail_gpa, used_gpa;
    bool event_index; /* VIRTIO_F_EVENT_IDX */
    bool indirect;    /* VIRTIO_F_INDIRECT_DESC */
    uint16_t next_avail;
    uint16_t next_used;
    uint16_t
        signalled_used; /* next_used when the guest was last asked for an interrupt */
    bool signalled_valid;
    const char *broken; /* NULL, or what the guest did wrong */
    uint8_t *desc, *avail,
        *used; /* checked when it became ready; guest memory never moves */
};

void virtqueue_init(struct virtqueue *queue, struct guest_ram *ram, uint16_t size_max);
/* Back to power-on state. */
void virtqueue_reset(struct virtqueue *queue);
/* Checks size and addresses, and makes the queue ready. DROVER_EGUEST. */
int virtqueue_enable(struct virtqueue *queue, bool event_index, bool indirect);

/*
 * Takes the next request: 1, 0 when there is none, DROVER_EGUEST when the ring is broken
 * (queue->broken says how, and from then on there is never a next one).
 */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *ret_chain);
/* Reads the chain of a request again that was taken before a migration. 0 or
 * DROVER_EGUEST. */
int virtqueue_chain_load(struct virtqueue *queue, uint16_t head,
                         struct virtqueue_chain *ret_chain);
/* Puts back the `count` requests that were taken last; none of them may have been given
 * back. */
void virtqueue_unpop(struct virtqueue *queue, uint16_t count);
/* True if there is a next request (or a broken ring to be found). */
bool virtqueue_pending(struct virtqueue *queue);
/* Gives a request back, `written_bytes` of its writable part having been written from the
 * start. */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t written_bytes);
/* The same for several at once, which the guest must see together: fill number 0, 1, ...
 * then publish all `count`. */
void virtqueue_fill(struct virtqueue *queue, uint16_t ahead, uint16_t head,
                    uint32_t written_bytes);
void virtqueue_publish(struct virtqueue *queue, uint16_t count);
/* True if the guest wants an interrupt for what was given back since the last time. */
bool virtqueue_interrupt_wanted(struct virtqueue *queue);
/* Asks the guest to notify, or tries to spare it that. After asking, look at the ring
 * once more. */
void virtqueue_notify_enable(struct virtqueue *queue);
void virtqueue_notify_disable(struct virtqueue *queue);

/* Copies from the readable part, `offset` bytes into it; -EFAULT (nothing copied) if it
 * is shorter. */
int virtqueue_chain_read(const struct virtqueue *queue,
                         const struct virtqueue_chain *chain, uint64_t offset, void *data,
                         size_t size);
/* Copies to the writable part, and marks it dirty. */
int virtqueue_chain_write(const struct virtqueue *queue,
                          const struct virtqueue_chain *chain, uint64_t offset,
                          const void *data, size_t size);
/*
 * Describes `size` bytes at `offset` of a part for direct I/O, with at most
 * VIRTQUEUE_SEGMENTS_MAX vectors, whose number it returns; -EFAULT if the part is
 * shorter.
 */
int virtqueue_chain_vectors(const struct virtqueue *queue,
                            const struct virtqueue_chain *chain, bool writable,
                            uint64_t offset, uint64_t size,
                            struct iovec ret_vectors[VIRTQUEUE_SEGMENTS_MAX]);
/*
 * The same in guest addresses: at most `most` segments, fewer than `size` bytes then, whose
 * number is in `ret_bytes`. The part is long enough.
 */
unsigned virtqueue_chain_segments(const struct virtqueue_chain *chain, bool writable,
                                  struct virtqueue_range range, unsigned most,
                                  struct virtqueue_segment *ret_segments,
                                  size_t *ret_bytes);
/* After direct I/O into `size` bytes at `offset` of the writable part; what lies beyond
 * it is ignored. */
void virtqueue_chain_mark_dirty(const struct virtqueue *queue,
                                const struct virtqueue_chain *chain, uint64_t offset,
                                uint64_t size);

#endif
