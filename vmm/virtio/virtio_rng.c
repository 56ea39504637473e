/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-rng device (virtio 1.2, 5.4). A guest gets a budget of bytes that is filled
 * up again by a timer. */
#include "vmm/virtio/virtio_rng.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/id.h"
#include "vmm/host/event_loop.h"
#include "vmm/virtio/virtio_state.h"
#include "vmm/vm.h"

#define CLASS_CODE    0x00ff00u
#define QUEUE_SIZE    8
#define PIECE_SIZE    4096u
#define PERIOD_MS     100
#define BUDGET_BYTES  (128u * 1024u) /* a period: 1.3 MB/s */
#define REQUEST_BYTES (64u * 1024u)  /* a guest that gives more gets this much */

struct virtio_rng {
    struct virtio_device virtio;
    uint64_t period_start_ms;
    uint32_t budget;
    struct event_source *timer; /* I/O loop */
    struct virtqueue_chain chain;
};

static struct virtio_rng *from_virtio(struct virtio_device *virtio)
{
    return (struct virtio_rng *)virtio;
}

static void budget_renew(struct virtio_rng *rng)
{
    uint64_t now_ms = clock_now_ms();

    if (now_ms - rng->period_start_ms >= PERIOD_MS) {
        rng->period_start_ms = now_ms;
        rng->budget = BUDGET_BYTES;
    }
}

/* Fills the request as far as the budget goes; at least a byte. 0 if the kernel has none
 * to give. */
static uint32_t request_fill(struct virtio_rng *rng)
{
    uint8_t piece[PIECE_SIZE];
    uint64_t size = rng->chain.writable_bytes;
    uint32_t done = 0;

    if (size > rng->budget) {
        size = rng->budget;
    }
    if (size > REQUEST_BYTES) {
        size = REQUEST_BYTES;
    }
    while (done < size) {
        size_t next = size - done < PIECE_SIZE ? (size_t)(size - done) : PIECE_SIZE;

        if (id_random_bytes(piece, next) < 0 ||
            virtqueue_chain_write(&rng->virtio.queues[0].ring, &rng->chain, done, piece,
                                  next) < 0) {
            break;
        }
        done += (uint32_t)next;
    }
    explicit_bzero(piece, sizeof(piece));
    rng->budget -= done;
    return done;
}

static void queue_run(struct virtio_device *virtio, unsigned queue_index)
{
    struct virtio_rng *rng = from_virtio(virtio);
    struct virtqueue *ring = &virtio->queues[queue_index].ring;

    virtqueue_notify_enable(ring);
    budget_renew(rng);
    while (rng->budget > 0) {
        int ret = virtqueue_pop(ring, &rng->chain);

        if (ret < 0) {
            virtio_broken(virtio, ring->broken);
            return;
        }
        if (ret == 0) {
            virtio_queue_signal(virtio, queue_index);
            return;
        }
        virtqueue_push(ring, rng->chain.head, request_fill(rng));
        /* Requests without room cost something too: a guest must not keep this thread
         * busy with them. */
        rng->budget -= rng->budget < 64 ? rng->budget : 64;
        virtqueue_notify_enable(ring);
    }
    virtio_queue_signal(virtio, queue_index);
    (void)event_loop_timer_set(rng->timer,
                               (rng->period_start_ms + PERIOD_MS) * NS_PER_MS);
}

static void period_over(void *owner)
{
    virtio_queue_kick(owner, 0);
}

static int attach(struct virtio_device *virtio)
{
    return event_loop_timer_create(vm_io_loop(virtio->vm), period_over, virtio,
                                   &from_virtio(virtio)->timer);
}

static const struct virtio_ops virtio_rng_ops = {
    .type = VIRTIO_TYPE_RNG,
    .class_code = CLASS_CODE,
    .queue_count = 1,
    .queue_size = QUEUE_SIZE,
    .queue_run = queue_run,
    .attach = attach,
};

static int save(struct device *device, struct buffer *out)
{
    struct virtio_device *virtio = (struct virtio_device *)device;
    Drover__VirtioRngState message = DROVER__VIRTIO_RNG_STATE__INIT;

    return virtio_state_save(virtio, &message.base, &message.virtio, out);
}

static int message_load(struct virtio_device *virtio, const ProtobufCMessage *base,
                        struct error *err)
{
    const Drover__VirtioRngState *message = (const Drover__VirtioRngState *)base;

    return virtio_state_load(virtio, message->virtio, NULL, err);
}

static int load(struct device *device, uint32_t version, const uint8_t *payload,
                size_t size, struct error *err)
{
    return virtio_state_unpack((struct virtio_device *)device, version,
                               &drover__virtio_rng_state__descriptor,
                               (struct state_payload){payload, size}, message_load, err);
}

static void rng_free(struct device *device)
{
    struct virtio_rng *rng = (struct virtio_rng *)device;

    event_loop_remove(rng->timer);
    virtio_done(&rng->virtio);
    free(rng);
}

static const struct device_ops rng_device_ops = {
    .name = "virtio-rng",
    .version = VIRTIO_STATE_VERSION,
    .io_stop = virtio_io_stop,
    .io_drained = virtio_io_drained,
    .io_start = virtio_io_start,
    .save = save,
    .load = load,
    .reset = virtio_machine_reset,
    .free = rng_free,
};

int virtio_rng_create(struct vm *vm, struct error *err)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    int ret;

    if (rng == NULL) {
        return error_set(err, -ENOMEM, "no memory for the random number device");
    }
    rng->virtio.ops = &virtio_rng_ops;
    rng->virtio.device.ops = &rng_device_ops;
    ret = virtio_init(&rng->virtio, vm, 0, err);
    if (ret < 0) {
        rng_free(&rng->virtio.device);
    }
    return ret;
}
