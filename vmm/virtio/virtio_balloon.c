/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio-balloon device (virtio 1.2, 5.5). Pages in the balloon, and pages that the
 * guest reports as free, are given back to the host at once; the guest may take them
 * again at any time, without asking, and finds zeros. So nothing needs to be known of
 * single pages, and nothing of them is saved: a page that was given back is a hole in the
 * guest's memory, which a move does not send.
 */
#include "vmm/virtio/virtio_balloon.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "vmm/host/event_loop.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/state.h"
#include "vmm/virtio/balloon_numbers.h"
#include "vmm/virtio/virtio_state.h"
#include "vmm/vm.h"

#define CLASS_CODE 0x00ff00u
#define QUEUE_SIZE 128
#define MIB        (UINT64_C(1) << 20)

#define FEATURE_STATS          VIRTIO_FEATURE(1)
#define FEATURE_DEFLATE_ON_OOM VIRTIO_FEATURE(2)
#define FEATURE_REPORTING      VIRTIO_FEATURE(5)

/*
 * The hint queue (3) belongs to a feature that is not offered. Most drivers number their
 * queues without gaps, so that the reporting queue is 3 for them; to the letter it is 4.
 */
enum {
    QUEUE_INFLATE,
    QUEUE_DEFLATE,
    QUEUE_STATS,
    QUEUE_REPORT_3,
    QUEUE_REPORT_4,
    QUEUES
};

/* Configuration: two little-endian words. */
#define CONFIG_SIZE       8u
#define CONFIG_ACTUAL     4u
#define REQUEST_PAGES_MAX 16384u /* of one request; drivers use 256 or 1024 */
#define PIECE_PAGES       256u
#define RUN_PAGES         4096u /* before others get their turn */
#define RUN_REPORTS       32u
#define STAT_SIZE         10u /* tag (u16), value (u64) */
#define STATS_MAX         32u
#define STATS_PERIOD_NS   (10 * NS_PER_S)
#define ORDER_BYTES_MIN   (16 * MIB)

struct virtio_balloon {
    struct virtio_device virtio;
    struct balloon_numbers numbers;
    bool stats_timed;           /* the timer is set */
    struct event_source *timer; /* I/O loop */
    struct virtqueue_chain chain;
};

static struct virtio_balloon *from_virtio(struct virtio_device *virtio)
{
    return (struct virtio_balloon *)virtio;
}

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
           (uint32_t)at[3] << 24;
}

static uint64_t get_u64(const uint8_t *at)
{
    return get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

/* ---- inflating --------------------------------------------------------------------- */

/* Gives back `count` pages whose numbers are at `numbers`; neighbours together. */
static int pages_give_back(struct guest_ram *ram, const uint8_t *numbers, unsigned count)
{
    for (unsigned i = 0; i < count;) {
        uint64_t first = get_u32(numbers + 4 * i);
        uint64_t end = first + 1;
        for (i++; i < count; i++) {
            uint64_t next = get_u32(numbers + 4 * i);
            if (next == end) {
                end++;
            } else if (next + 1 == first) {
                first--;
            } else {
                break;
            }
        }
        int result = guest_ram_discard(ram, first * GUEST_PAGE_SIZE,
                                       (end - first) * GUEST_PAGE_SIZE);
        if (result == -EFAULT) {
            return DROVER_EGUEST;
        }
        /* Others: the host can't take the page, and it stays. */
    }
    return 0;
}

/* How many pages the request had; 0 with *ret_wrong set when it makes no sense. */
static unsigned inflate(struct virtio_balloon *balloon, struct virtqueue *ring,
                        const char **ret_wrong)
{
    struct guest_ram *ram = vm_ram(balloon->virtio.vm);
    uint8_t numbers[4 * PIECE_PAGES];
    uint64_t count = balloon->chain.readable_bytes / 4;
    if (count > REQUEST_PAGES_MAX) {
        *ret_wrong = "a request for the balloon is too long";
        return 0;
    }
    for (uint64_t done = 0; done < count;) {
        unsigned piece = (unsigned)(count - done);
        piece = piece > PIECE_PAGES ? PIECE_PAGES : piece;
        if (virtqueue_chain_read(ring, &balloon->chain, 4 * done, numbers, 4 * piece) <
                0 ||
            pages_give_back(ram, numbers, piece) < 0) {
            *ret_wrong = "a page for the balloon is no memory";
            return 0;
        }
        done += piece;
    }
    return (unsigned)count;
}

/* ---- free pages -------------------------------------------------------------------- */

/* The parts of the chain that the device might write are the free pages. */
static void report(struct virtio_balloon *balloon)
{
    struct guest_ram *ram = vm_ram(balloon->virtio.vm);
    const struct virtqueue_chain *chain = &balloon->chain;
    if (guest_ram_is_reserved(ram)) {
        return;
    }
    for (unsigned i = 0; i < chain->writable_count; i++) {
        const struct virtqueue_segment *segment =
            &chain->segments[chain->readable_count + i];
        uint64_t start = (segment->gpa + GUEST_PAGE_SIZE - 1) / GUEST_PAGE_SIZE;
        uint64_t end = (segment->gpa + segment->size) / GUEST_PAGE_SIZE;
        if (start >= end) {
            continue;
        }
        uint64_t size = (end - start) * GUEST_PAGE_SIZE;
        if (guest_ram_discard(ram, start * GUEST_PAGE_SIZE, size) == 0) {
            balloon_numbers_reported(&balloon->numbers, size);
        }
    }
}

/* ---- queues ------------------------------------------------------------------------ */

/* Serves one request; how much of the turn it took, or 0 with *ret_wrong set. */
static unsigned request_serve(struct virtio_balloon *balloon, unsigned queue_index,
                              const char **ret_wrong)
{
    struct virtqueue *ring = &balloon->virtio.queues[queue_index].ring;
    switch (queue_index) {
    case QUEUE_INFLATE:
        return inflate(balloon, ring, ret_wrong) + 1;
    case QUEUE_DEFLATE:
        return 1; /* a page comes back when it is touched */
    default:
        report(balloon);
        return RUN_PAGES / RUN_REPORTS;
    }
}

static void requests_run(struct virtio_device *virtio, unsigned queue_index)
{
    struct virtio_balloon *balloon = from_virtio(virtio);
    struct virtqueue *ring = &virtio->queues[queue_index].ring;
    virtqueue_notify_enable(ring);
    for (unsigned turn = 0; turn < RUN_PAGES;) {
        const char *wrong = NULL;
        int result = virtqueue_pop(ring, &balloon->chain);
        if (result < 0) {
            virtio_broken(virtio, ring->broken);
            return;
        }
        if (result == 0) {
            virtio_queue_signal(virtio, queue_index);
            return;
        }
        turn += request_serve(balloon, queue_index, &wrong);
        virtqueue_push(ring, balloon->chain.head, 0);
        if (wrong != NULL) {
            virtio_broken(virtio, wrong);
            return;
        }
        virtqueue_notify_enable(ring);
    }
    virtio_queue_signal(virtio, queue_index);
    virtio_queue_kick(virtio, queue_index);
}

/* ---- statistics -------------------------------------------------------------------- */

static void stats_take(struct virtio_balloon *balloon, struct virtqueue *ring)
{
    uint8_t entry[STAT_SIZE];
    uint32_t known = 0;
    uint64_t stats[VIRTIO_BALLOON_STATS] = {0};
    uint64_t count = balloon->chain.readable_bytes / STAT_SIZE;
    count = count > STATS_MAX ? STATS_MAX : count;
    for (uint64_t i = 0; i < count; i++) {
        if (virtqueue_chain_read(ring, &balloon->chain, i * STAT_SIZE, entry, STAT_SIZE) <
            0) {
            break;
        }
        unsigned tag = entry[0] | (unsigned)entry[1] << 8;
        if (tag < VIRTIO_BALLOON_STATS) {
            stats[tag] = get_u64(entry + 2);
            known |= UINT32_C(1) << tag;
        }
    }
    balloon_numbers_stats(&balloon->numbers, known, stats);
}

/*
 * The guest leaves one filled buffer in the queue, where it stays (so that no request is
 * ever in flight); giving it back asks for a newer one.
 */
static void stats_run(struct virtio_device *virtio)
{
    struct virtio_balloon *balloon = from_virtio(virtio);
    struct virtqueue *ring = &virtio->queues[QUEUE_STATS].ring;
    if (!balloon->stats_timed) {
        balloon->stats_timed = true;
        (void)event_loop_timer_set(balloon->timer, clock_now_ns() + STATS_PERIOD_NS);
    }
    bool wanted = balloon_numbers_want(&balloon->numbers, false);
    int result = virtqueue_pop(ring, &balloon->chain);
    if (result < 0) {
        virtio_broken(virtio, ring->broken);
    } else if (result == 1 && wanted) {
        virtqueue_push(ring, balloon->chain.head, 0);
        virtqueue_notify_enable(ring);
        virtio_queue_signal(virtio, QUEUE_STATS);
        if (virtqueue_pending(ring)) {
            virtio_queue_kick(virtio, QUEUE_STATS);
        }
    } else if (result == 1) {
        stats_take(balloon, ring);
        virtqueue_unpop(ring, 1);
    } else {
        virtqueue_notify_enable(ring);
    }
}

/* I/O loop. A guest whose driver is gone, or that stands, is not asked again until it
 * runs. */
static void stats_due(void *owner)
{
    struct virtio_device *virtio = owner;
    struct virtio_balloon *balloon = from_virtio(virtio);
    pthread_mutex_lock(&virtio->lock);
    balloon->stats_timed = false;
    (void)balloon_numbers_want(&balloon->numbers, virtio_running(virtio));
    if (virtio_running(virtio)) {
        virtio_queue_kick(virtio, QUEUE_STATS);
    }
    pthread_mutex_unlock(&virtio->lock);
}

/* ---- the device -------------------------------------------------------------------- */

static void queue_run(struct virtio_device *virtio, unsigned queue_index)
{
    if (!virtio->queues[queue_index].ring.ready) {
        return;
    }
    if (queue_index == QUEUE_STATS) {
        stats_run(virtio);
    } else {
        requests_run(virtio, queue_index);
    }
}

static void config_read(struct virtio_device *virtio, unsigned offset, uint8_t *data,
                        unsigned size)
{
    uint32_t target = 0;
    uint32_t actual = 0;
    uint8_t config[CONFIG_SIZE];
    balloon_numbers_pages(&from_virtio(virtio)->numbers, &target, &actual);
    put_u32(config, target);
    put_u32(config + CONFIG_ACTUAL, actual);
    for (unsigned i = 0; i < size && offset + i < CONFIG_SIZE; i++) {
        data[i] = config[offset + i];
    }
}

static void config_write(struct virtio_device *virtio, unsigned offset,
                         const uint8_t *data, unsigned size)
{
    struct virtio_balloon *balloon = from_virtio(virtio);
    if (offset == CONFIG_ACTUAL && size == 4) {
        balloon_numbers_actual_set(&balloon->numbers, get_u32(data));
    }
}

static void driver_ready(struct virtio_device *virtio)
{
    balloon_numbers_driver(&from_virtio(virtio)->numbers);
}

static void reset(struct virtio_device *virtio)
{
    balloon_numbers_forget(&from_virtio(virtio)->numbers);
}

static int attach(struct virtio_device *virtio)
{
    return event_loop_timer_create(vm_io_loop(virtio->vm), stats_due, virtio,
                                   &from_virtio(virtio)->timer);
}

static const struct virtio_ops virtio_balloon_ops = {
    .type = VIRTIO_TYPE_BALLOON,
    .class_code = CLASS_CODE,
    .queue_count = QUEUES,
    .queue_size = QUEUE_SIZE,
    .queue_run = queue_run,
    .config_read = config_read,
    .config_write = config_write,
    .driver_ready = driver_ready,
    .reset = reset,
    .attach = attach,
};

static int save(struct device *device, struct buffer *out)
{
    struct virtio_device *virtio = (struct virtio_device *)device;
    Drover__VirtioBalloonState message = DROVER__VIRTIO_BALLOON_STATE__INIT;
    balloon_numbers_pages(&from_virtio(virtio)->numbers, &message.target_pages,
                          &message.actual_pages);
    return virtio_state_save(virtio, &message.base, &message.virtio, out);
}

static int message_load(struct virtio_device *virtio, const ProtobufCMessage *base,
                        struct error *err)
{
    const Drover__VirtioBalloonState *message = (const Drover__VirtioBalloonState *)base;
    struct virtio_balloon *balloon = from_virtio(virtio);
    if (message->target_pages > guest_ram_size(vm_ram(virtio->vm)) / GUEST_PAGE_SIZE) {
        return virtio_state_malformed(virtio, err, "it has more pages than the guest");
    }
    balloon_numbers_forget(&balloon->numbers);
    int result = virtio_state_load(virtio, message->virtio, NULL, err);
    if (result == 0) {
        balloon_numbers_target_set(&balloon->numbers, message->target_pages);
        balloon_numbers_actual_set(&balloon->numbers, message->actual_pages);
    }
    return result;
}

static int load(struct device *device, uint32_t version, const uint8_t *payload,
                size_t size, struct error *err)
{
    return virtio_state_unpack((struct virtio_device *)device, version,
                               &drover__virtio_balloon_state__descriptor,
                               (struct state_payload){payload, size}, message_load, err);
}

static void balloon_free(struct device *device)
{
    struct virtio_balloon *balloon = (struct virtio_balloon *)device;
    event_loop_remove(balloon->timer);
    virtio_done(&balloon->virtio);
    balloon_numbers_done(&balloon->numbers);
    free(balloon);
}

static const struct device_ops balloon_device_ops = {
    .name = "virtio-balloon",
    .version = VIRTIO_STATE_VERSION,
    .io_stop = virtio_io_stop,
    .io_drained = virtio_io_drained,
    .io_start = virtio_io_start,
    .save = save,
    .load = load,
    .reset = virtio_machine_reset,
    .free = balloon_free,
};

int virtio_balloon_create(struct vm *vm, struct error *err)
{
    struct virtio_balloon *balloon = calloc(1, sizeof(*balloon));
    if (balloon == NULL) {
        return error_set(err, -ENOMEM, "no memory for the balloon");
    }
    balloon_numbers_init(&balloon->numbers);
    balloon->virtio.ops = &virtio_balloon_ops;
    balloon->virtio.device.ops = &balloon_device_ops;
    int result =
        virtio_init(&balloon->virtio, vm,
                    FEATURE_STATS | FEATURE_DEFLATE_ON_OOM | FEATURE_REPORTING, err);
    if (result < 0) {
        balloon_free(&balloon->virtio.device);
    }
    return result;
}

/* ---- orders ------------------------------------------------------------------------ */

static struct virtio_balloon *balloon_find(struct vm *vm)
{
    struct device *device = vm_devices(vm);
    while (device != NULL && device->ops != &balloon_device_ops) {
        device = device->next;
    }
    return (struct virtio_balloon *)device;
}

/* I/O loop. */
static void target_changed(void *owner)
{
    struct virtio_device *virtio = owner;
    pthread_mutex_lock(&virtio->lock);
    virtio_config_changed(virtio);
    pthread_mutex_unlock(&virtio->lock);
}

int virtio_balloon_order(struct vm *vm, uint64_t memory_bytes, struct error *err)
{
    struct virtio_balloon *balloon = balloon_find(vm);
    struct guest_ram *ram = vm_ram(vm);
    uint64_t whole = guest_ram_size(ram);
    uint64_t least = whole < ORDER_BYTES_MIN ? whole : ORDER_BYTES_MIN;
    if (balloon == NULL) {
        return error_set(err, DROVER_EWRONGSTATE, "this VM has no balloon");
    }
    if (memory_bytes > whole || memory_bytes < least) {
        return error_set(err, DROVER_EBADINPUT,
                         "balloon %" PRIu64 "M: the VM was started with %" PRIu64
                         "M; give from %" PRIu64 "M up to that",
                         memory_bytes / MIB, whole / MIB, least / MIB);
    }
    if (!guest_ram_can_discard(ram) && memory_bytes < whole) {
        return error_set(
            err, DROVER_EWRONGSTATE,
            "this VM's memory can't be given back: it is huge pages (start it without "
            "--huge-pages), or still comes from a snapshot (try again soon)");
    }
    balloon_numbers_target_set(&balloon->numbers,
                               (uint32_t)((whole - memory_bytes) / GUEST_PAGE_SIZE));
    int result = event_loop_post(vm_io_loop(vm), target_changed, balloon);
    return result < 0 ? error_set(err, result, "the guest is not told: %s", err_text(result))
                      : 0;
}

bool virtio_balloon_status(struct vm *vm, struct virtio_balloon_status *ret_status)
{
    struct virtio_balloon *balloon = balloon_find(vm);
    if (balloon == NULL) {
        return false;
    }
    if (balloon_numbers_status(&balloon->numbers, guest_ram_size(vm_ram(vm)),
                               ret_status)) {
        virtio_queue_kick(&balloon->virtio, QUEUE_STATS); /* no harm while it stands */
    }
    return true;
}
