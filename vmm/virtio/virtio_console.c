/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-console device (virtio 1.2, 5.3) with its one port: queue 0 to the guest,
 * queue 1 from it. */
#include "vmm/virtio/virtio_console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/virtio/virtio_state.h"
#include "vmm/vm.h"

#define CLASS_CODE        0x078000u
#define QUEUE_SIZE        64
#define INPUT_SIZE        4096u
#define PIECE_SIZE        4096u
#define OUTPUT_CHAIN_MAX  (64u * 1024u) /* what a request holds beyond that is dropped */
#define OUTPUT_RUN_CHAINS 64            /* then other devices get their turn */

enum { QUEUE_RECEIVE = 0, QUEUE_TRANSMIT = 1 };

struct virtio_console {
    struct virtio_device virtio;
    struct virtio_console_config config;
    /* Of the next two, besides the device's: the main thread adds at the end with this one
     * alone, as the other may be held while a page of the guest's is missing. All else is
     * done with both. Taken after it, and shortly. */
    pthread_mutex_t input_lock;
    uint8_t input[INPUT_SIZE]; /* typed, not yet taken: input_count bytes */
    size_t input_count;
    struct virtqueue_chain chain;
};

static struct virtio_console *from_virtio(struct virtio_device *virtio)
{
    return (struct virtio_console *)virtio;
}

static void output(struct virtio_console *console)
{
    const struct virtqueue *ring = &console->virtio.queues[QUEUE_TRANSMIT].ring;
    uint64_t size = console->chain.readable_bytes;
    uint8_t piece[PIECE_SIZE];

    if (size > OUTPUT_CHAIN_MAX) {
        size = OUTPUT_CHAIN_MAX;
    }
    for (uint64_t done = 0; done < size;) {
        size_t next = size - done < PIECE_SIZE ? (size_t)(size - done) : PIECE_SIZE;
        int ret = virtqueue_chain_read(ring, &console->chain, done, piece, next);

        CHECK(ret == 0); /* inside the chain */
        if (console->config.output != NULL) {
            console->config.output(console->config.owner, piece, next);
        }
        done += next;
    }
}

static void transmit_run(struct virtio_console *console)
{
    struct virtio_device *virtio = &console->virtio;
    struct virtqueue *ring = &virtio->queues[QUEUE_TRANSMIT].ring;

    for (unsigned i = 0; i < OUTPUT_RUN_CHAINS; i++) {
        int ret;

        if (!virtio_io_allowed(virtio)) {
            break;
        }
        virtqueue_notify_enable(ring);
        ret = virtqueue_pop(ring, &console->chain);
        if (ret < 0) {
            virtio_broken(virtio, ring->broken);
            return;
        }
        if (ret == 0) {
            break;
        }
        output(console);
        virtqueue_push(ring, console->chain.head, 0);
    }
    virtio_queue_signal(virtio, QUEUE_TRANSMIT);
    if (virtio_running(virtio) && virtqueue_pending(ring)) {
        virtio_queue_kick(virtio, QUEUE_TRANSMIT);
    }
}

static size_t input_pending(struct virtio_console *console)
{
    size_t count;

    pthread_mutex_lock(&console->input_lock);
    count = console->input_count;
    pthread_mutex_unlock(&console->input_lock);
    return count;
}

/* The oldest, as far as there are so many. */
static void input_forget(struct virtio_console *console, size_t size)
{
    pthread_mutex_lock(&console->input_lock);
    size = size < console->input_count ? size : console->input_count;
    console->input_count -= size;
    memmove(console->input, console->input + size, console->input_count);
    pthread_mutex_unlock(&console->input_lock);
}

static void receive_run(struct virtio_console *console)
{
    struct virtio_device *virtio = &console->virtio;
    struct virtqueue *ring = &virtio->queues[QUEUE_RECEIVE].ring;
    bool taken = false;

    virtqueue_notify_enable(ring);
    for (unsigned i = 0; i < QUEUE_SIZE && input_pending(console) > 0; i++) {
        int ret = virtqueue_pop(ring, &console->chain);
        size_t size;

        if (ret < 0) {
            virtio_broken(virtio, ring->broken);
            return;
        }
        if (ret == 0) {
            break;
        }
        size = input_pending(console);
        if (size > console->chain.writable_bytes) {
            size = (size_t)console->chain.writable_bytes;
        }
        /* Without the input's lock: what is there stays where it is. */
        ret = virtqueue_chain_write(ring, &console->chain, 0, console->input, size);
        CHECK(ret == 0); /* inside the chain */
        virtqueue_push(ring, console->chain.head, (uint32_t)size);
        input_forget(console, size);
        taken = taken || size > 0;
    }
    virtio_queue_signal(virtio, QUEUE_RECEIVE);
    if (taken && console->config.input_room != NULL) {
        console->config.input_room(console->config.owner);
    }
}

static void queue_run(struct virtio_device *virtio, unsigned queue_index)
{
    if (queue_index == QUEUE_TRANSMIT) {
        transmit_run(from_virtio(virtio));
    } else {
        receive_run(from_virtio(virtio));
    }
}

static void reset(struct virtio_device *virtio)
{
    input_forget(from_virtio(virtio), INPUT_SIZE);
}

static const struct virtio_ops virtio_console_ops = {
    .type = VIRTIO_TYPE_CONSOLE,
    .class_code = CLASS_CODE,
    .queue_count = 2,
    .queue_size = QUEUE_SIZE,
    .queue_run = queue_run,
    .reset = reset,
};

size_t virtio_console_input(struct device *device, const uint8_t *data, size_t size)
{
    struct virtio_console *console = (struct virtio_console *)device;
    size_t room;

    pthread_mutex_lock(&console->input_lock);
    room = INPUT_SIZE - console->input_count;
    if (size > room) {
        size = room;
    }
    if (size > 0) {
        memcpy(console->input + console->input_count, data, size);
        console->input_count += size;
    }
    pthread_mutex_unlock(&console->input_lock);
    virtio_queue_kick(&console->virtio, QUEUE_RECEIVE);
    return size;
}

/* ---- state ---------------------------------------------------------------- */

static int save(struct device *device, struct buffer *out)
{
    struct virtio_console *console = (struct virtio_console *)device;
    Drover__VirtioConsoleState message = DROVER__VIRTIO_CONSOLE_STATE__INIT;

    message.input.data = console->input;
    message.input.len = input_pending(console); /* what comes later is not moved */
    return virtio_state_save(&console->virtio, &message.base, &message.virtio, out);
}

static int message_load(struct virtio_device *virtio, const ProtobufCMessage *base,
                        struct error *err)
{
    struct virtio_console *console = (struct virtio_console *)virtio;
    const Drover__VirtioConsoleState *message = (const Drover__VirtioConsoleState *)base;
    int ret;

    if (message->input.len > INPUT_SIZE) {
        return virtio_state_malformed(virtio, err, "its input is too long");
    }
    ret = virtio_state_load(virtio, message->virtio, NULL, err);
    if (ret < 0) {
        return ret;
    }
    pthread_mutex_lock(&console->input_lock);
    console->input_count = message->input.len;
    if (message->input.len > 0) {
        memcpy(console->input, message->input.data, message->input.len);
    }
    pthread_mutex_unlock(&console->input_lock);
    return 0;
}

static int load(struct device *device, uint32_t version, const uint8_t *payload,
                size_t size, struct error *err)
{
    return virtio_state_unpack((struct virtio_device *)device, version,
                               &drover__virtio_console_state__descriptor,
                               (struct state_payload){payload, size}, message_load, err);
}

static void console_free(struct device *device)
{
    struct virtio_console *console = (struct virtio_console *)device;

    virtio_done(&console->virtio);
    pthread_mutex_destroy(&console->input_lock);
    free(console);
}

static const struct device_ops console_device_ops = {
    .name = "virtio-console",
    .version = VIRTIO_STATE_VERSION,
    .io_stop = virtio_io_stop,
    .io_drained = virtio_io_drained,
    .io_start = virtio_io_start,
    .save = save,
    .load = load,
    .reset = virtio_machine_reset,
    .free = console_free,
};

int virtio_console_create(struct vm *vm, const struct virtio_console_config *config,
                          struct device **ret_device, struct error *err)
{
    struct virtio_console *console = calloc(1, sizeof(*console));
    int ret;

    if (console == NULL) {
        return error_set(err, -ENOMEM, "no memory for the console");
    }
    console->config = *config;
    pthread_mutex_init(&console->input_lock, NULL);
    console->virtio.ops = &virtio_console_ops;
    console->virtio.device.ops = &console_device_ops;
    ret = virtio_init(&console->virtio, vm, 0, err);
    if (ret < 0) {
        console_free(&console->virtio.device);
        return ret;
    }
    if (ret_device != NULL) {
        *ret_device = &console->virtio.device;
    }
    return 0;
}
