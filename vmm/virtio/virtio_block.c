/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-blk device (virtio 1.2, 5.2): making it, its configuration, its state.
 * Requests: block_io.c. */
#include "vmm/virtio/virtio_block.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "vmm/host/event_loop.h"
#include "vmm/virtio/block_io.h"
#include "vmm/virtio/block_vhost.h"
#include "vmm/virtio/virtio_state.h"
#include "vmm/vm.h"

#define CLASS_CODE 0x010000u /* mass storage, SCSI: what drivers expect of virtio-blk */

static struct virtio_block *from_device(struct device *device)
{
    return (struct virtio_block *)device;
}

static struct virtio_block *from_virtio(struct virtio_device *virtio)
{
    return (struct virtio_block *)virtio;
}

/* ---- called by the common part -------------------------------------------- */

/*
 * Configuration (5.2.4): 0 capacity u64 | 8 size_max u32 | 12 seg_max u32 | 16 geometry |
 * 20 blk_size u32 | 24 topology 32 writeback u8 | 34 num_queues u16 | 36
 * max_discard_sectors u32 | 40 max_discard_seg u32 | 44 discard_alignment u32 48
 * max_write_zeroes_sectors u32 | 52 max_write_zeroes_seg u32 | 56 write_zeroes_may_unmap
 * u8
 */
enum { CONFIG_SIZE = 60 };

static void config_read(struct virtio_device *virtio, unsigned offset, uint8_t *data,
                        unsigned size)
{
    const struct virtio_block *block = from_virtio(virtio);
    uint8_t config[CONFIG_SIZE] = {0};
    uint64_t capacity = block->disk.size_bytes / BLOCK_SECTOR_SIZE;
    uint32_t words[] = {[0] = BLOCK_SEGMENTS_MAX,
                        [1] = block->disk.offset_align,
                        [2] = BLOCK_RANGE_SECTORS,
                        [3] = 1,
                        [4] = block->disk.offset_align / BLOCK_SECTOR_SIZE};

    memcpy(config, &capacity, 8);
    memcpy(config + 12, &words[0], 4);
    memcpy(config + 20, &words[1], 4);
    config[34] = (uint8_t)virtio->queue_count;
    memcpy(config + 36, &words[2], 4);
    memcpy(config + 40, &words[3], 4);
    memcpy(config + 44, &words[4], 4);
    memcpy(config + 48, &words[2], 4);
    memcpy(config + 52, &words[3], 4);
    config[56] = 1;
    if (offset < CONFIG_SIZE) {
        memcpy(data, config + offset,
               size < CONFIG_SIZE - offset ? size : CONFIG_SIZE - offset);
    }
}

static void queue_run(struct virtio_device *virtio, unsigned queue_index)
{
    block_io_run(from_virtio(virtio), queue_index);
}

static bool idle(struct virtio_device *virtio)
{
    struct virtio_block *block = from_virtio(virtio);

    return block->engine->idle(block);
}

static void forget(struct virtio_device *virtio)
{
    block_io_forget(from_virtio(virtio));
}

static int attach(struct virtio_device *virtio)
{
    return block_io_attach(from_virtio(virtio));
}

static const struct virtio_ops virtio_block_ops = {
    .type = VIRTIO_TYPE_BLOCK,
    .class_code = CLASS_CODE,
    .queue_count = 1,
    .queue_size = BLOCK_QUEUE_SIZE,
    .queue_run = queue_run,
    .config_read = config_read,
    .idle = idle,
    .reset = forget,
    .attach = attach,
};

/* ---- state ---------------------------------------------------------------- */

static int save(struct device *device, struct buffer *out)
{
    struct virtio_block *block = from_device(device);
    Drover__VirtioBlockState message = DROVER__VIRTIO_BLOCK_STATE__INIT;
    uint32_t heads[BLOCK_QUEUE_SIZE];

    message.capacity_sectors = block->disk.size_bytes / BLOCK_SECTOR_SIZE;
    message.block_size = block->disk.offset_align;
    message.read_only = block->disk.read_only;
    message.serial.data = block->serial;
    message.serial.len = BLOCK_ID_SIZE;
    message.n_taken_heads = block_io_taken(block, heads);
    message.taken_heads = heads;
    return virtio_state_save(&block->virtio, &message.base, &message.virtio, out);
}

static int disk_judge(const struct virtio_block *block,
                      const Drover__VirtioBlockState *message, struct error *err)
{
    const struct block_disk *disk = &block->disk;

    /* A daemon's disk is not open yet: the one that will be is compared then. */
    bool open = block->vhost == NULL || disk->size_bytes != 0;

    if (message->capacity_sectors == 0 ||
        message->capacity_sectors > INT64_MAX / BLOCK_SECTOR_SIZE) {
        return virtio_state_malformed(&block->virtio, err, "its size makes no sense");
    }
    if (open && message->capacity_sectors != disk->size_bytes / BLOCK_SECTOR_SIZE) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s has %" PRIu64 " sectors here, %" PRIu64
                         " where the guest comes from: is it the same disk?",
                         disk->path, disk->size_bytes / BLOCK_SECTOR_SIZE,
                         message->capacity_sectors);
    }
    if (message->block_size != disk->offset_align) {
        return error_set(err, DROVER_EBADINPUT,
                         "disk %s has blocks of %" PRIu32 " bytes here, %" PRIu32
                         " where the guest comes from: give ,direct on both or on none",
                         disk->path, disk->offset_align, message->block_size);
    }
    if (message->read_only != disk->read_only) {
        return error_set(
            err, DROVER_EBADINPUT,
            "disk %s is read-only on one side only: give ,ro on both or on none",
            disk->path);
    }
    if (message->serial.len > BLOCK_ID_SIZE ||
        message->n_taken_heads > BLOCK_QUEUE_SIZE) {
        return virtio_state_malformed(&block->virtio, err, "a field is too long");
    }
    for (size_t i = 0; i < message->n_taken_heads; i++) {
        if ((message->taken_heads[i] & 0xffff) >= BLOCK_QUEUE_SIZE ||
            message->taken_heads[i] >> 16 >= block->virtio.queue_count) {
            return virtio_state_malformed(&block->virtio, err,
                                          "a request is outside of the queue");
        }
    }
    return 0;
}

static int message_load(struct virtio_device *virtio, const ProtobufCMessage *base,
                        struct error *err)
{
    struct virtio_block *block = from_virtio(virtio);
    const Drover__VirtioBlockState *message = (const Drover__VirtioBlockState *)base;
    uint16_t taken_counts[VIRTIO_QUEUES_MAX] = {0};
    int ret = disk_judge(block, message, err);

    if (ret < 0) {
        return ret;
    }
    for (size_t i = 0; i < message->n_taken_heads; i++) {
        taken_counts[message->taken_heads[i] >> 16]++;
    }
    ret = virtio_state_load(&block->virtio, message->virtio, taken_counts, err);
    if (ret < 0) {
        return ret;
    }
    block_io_forget(block);
    block->disk.size_bytes = message->capacity_sectors * BLOCK_SECTOR_SIZE;
    for (size_t i = 0; i < message->n_taken_heads; i++) {
        block->taken_heads[i] = message->taken_heads[i];
    }
    block->taken_count = (unsigned)message->n_taken_heads;
    memset(block->serial, 0, BLOCK_ID_SIZE);
    if (message->serial.len > 0) {
        memcpy(block->serial, message->serial.data, message->serial.len);
    }
    return 0;
}

static int load(struct device *device, uint32_t version, const uint8_t *payload,
                size_t size, struct error *err)
{
    return virtio_state_unpack((struct virtio_device *)device, version,
                               &drover__virtio_block_state__descriptor,
                               (struct state_payload){payload, size}, message_load, err);
}

/* ---- making and releasing ------------------------------------------------- */

static void block_free(struct device *device)
{
    struct virtio_block *block = from_device(device);

    block_io_done(block);
    virtio_done(&block->virtio);
    block_disk_close(&block->disk);
    free(block->path);
    free(block);
}

static const struct device_ops block_device_ops = {
    .name = "virtio-blk",
    .version = VIRTIO_STATE_VERSION,
    .io_stop = virtio_io_stop,
    .io_drained = virtio_io_drained,
    .io_start = virtio_io_start,
    .save = save,
    .load = load,
    .reset = virtio_machine_reset,
    .free = block_free,
};

static void serial_set(struct virtio_block *block, const char *serial)
{
    char text[BLOCK_ID_SIZE + 1];

    if (serial == NULL) {
        (void)snprintf(text, sizeof(text), "drover-%" PRIu32,
                       block->virtio.device.instance);
        serial = text;
    }
    memcpy(block->serial, serial, strnlen(serial, BLOCK_ID_SIZE));
}

static uint32_t next_instance(struct vm *vm)
{
    uint32_t count = 0;

    for (const struct device *device = vm_devices(vm); device != NULL;
         device = device->next) {
        count += device->ops == &block_device_ops;
    }
    return count;
}

/* A disk that begins like an image of another format is most likely one. */
static int raw_judge(const struct virtio_block *block, struct error *err)
{
    enum storage_format format = block_disk_probe(block->path);

    if (format == STORAGE_FORMAT_RAW) {
        return 0;
    }
    return error_set(err, DROVER_EBADINPUT,
                     "disk %s is a %s image: add ,format=%s (or ,format=raw if the guest "
                     "itself wrote that)",
                     block->path, storage_format_name(format),
                     storage_format_name(format));
}

static int raw_start(struct virtio_block *block, const struct virtio_block_config *config,
                     struct error *err)
{
    int ret = config->format == STORAGE_FORMAT_NONE ? raw_judge(block, err) : 0;

    ret = ret < 0 ? ret
                  : block_disk_open(&block->disk, block->path, config->read_only,
                                    config->direct, err);
    ret = ret < 0 ? ret
                  : block_disk_broker_set(&block->disk, vm_broker(block->virtio.vm), err);
    if (ret == 0 && !config->unlocked) {
        ret = block_disk_lock(&block->disk, err);
    }
    ret = ret < 0 ? ret : block_uring_init(block, config->lock_fd, err);
    return ret < 0 ? ret : block_io_init(block, BLOCK_QUEUE_SIZE, err);
}

static int daemon_start(struct virtio_block *block,
                        const struct virtio_block_config *config, struct error *err)
{
    const struct block_vhost_config vhost = {
        .ops = config->storage,
        .owner = config->storage_owner,
        .index = config->storage_index,
        .caches = storage_format_caches(config->format),
        .later = config->unlocked,
    };
    int ret = block_io_init(block, VHOST_RING_SIZE, err);

    block->disk.path = block->path;
    block->disk.read_only = config->read_only;
    block->disk.offset_align = BLOCK_SECTOR_SIZE;
    block->disk.memory_align = 1;
    return ret < 0 ? ret : block_vhost_init(block, &vhost, err);
}

static int block_start(struct virtio_block *block, struct vm *vm,
                       const struct virtio_block_config *config, struct error *err)
{
    uint64_t features =
        BLOCK_FEATURE_SEG_MAX | BLOCK_FEATURE_BLK_SIZE | BLOCK_FEATURE_FLUSH;
    int ret;

    virtio_prepare(&block->virtio, vm);
    ret = config->storage != NULL ? daemon_start(block, config, err)
                                  : raw_start(block, config, err);
    if (ret < 0) {
        return ret;
    }
    features |= config->read_only ? BLOCK_FEATURE_RO
                                  : BLOCK_FEATURE_DISCARD | BLOCK_FEATURE_WRITE_ZEROES;
    features |= config->queues > 1 ? BLOCK_FEATURE_MQ : 0;
    if (config->storage == NULL && !block_disk_discards(&block->disk)) {
        features &= ~BLOCK_FEATURE_DISCARD;
    }
    block->virtio.queue_count = config->queues;
    rate_limit_init(&block->request_limit, config->requests_per_s, clock_now_ns());
    rate_limit_init(&block->byte_limit, config->bytes_per_s, clock_now_ns());
    serial_set(block, config->serial);
    return virtio_init(&block->virtio, vm, features, err);
}

int virtio_block_create(struct vm *vm, const struct virtio_block_config *config,
                        struct error *err)
{
    struct virtio_block *block = calloc(1, sizeof(*block));
    int ret;

    if (block == NULL) {
        return error_set(err, -ENOMEM, "no memory for disk %s", config->path);
    }
    block->disk.fd = block->disk.lock_fd = block->uring.done_fd = -1;
    block->virtio.ops = &virtio_block_ops;
    block->virtio.device.ops = &block_device_ops;
    block->virtio.device.instance = next_instance(vm);
    block->path = strdup(config->path);
    ret = block->path == NULL
              ? error_set(err, -ENOMEM, "no memory for disk %s", config->path)
              : block_start(block, vm, config, err);
    if (ret < 0) {
        block_free(&block->virtio.device);
    }
    return ret;
}

void virtio_block_trouble(struct device *devices, char *ret_text, size_t size)
{
    ret_text[0] = '\0';
    for (struct device *device = devices; device != NULL && ret_text[0] == '\0';
         device = device->next) {
        struct virtio_block *block = from_device(device);

        if (device->ops != &block_device_ops || block->vhost == NULL) {
            continue;
        }
        /* The main thread waits for no device: else what was told last. */
        if (pthread_mutex_trylock(&block->virtio.lock) == 0) {
            block->vhost->trouble_told = block->vhost->trouble;
            memcpy(block->vhost->why_told, block->vhost->why,
                   sizeof(block->vhost->why_told));
            pthread_mutex_unlock(&block->virtio.lock);
        }
        if (block->vhost->trouble_told) {
            (void)snprintf(ret_text, size, "disk %s: I/O stands: %s", block->disk.path,
                           block->vhost->why_told); /* cut is fine */
        }
    }
}

/* ---- locks ---------------------------------------------------------------- */

static int one_unlock(struct virtio_block *block, struct error *err)
{
    return block->vhost != NULL ? block_vhost_release(block, err)
                                : block_disk_unlock(&block->disk, err);
}

static int one_lock(struct virtio_block *block, struct error *err)
{
    return block->vhost != NULL ? block_vhost_claim(block, err)
                                : block_disk_lock(&block->disk, err);
}

int virtio_block_unlock(struct device *devices, struct error *err)
{
    for (struct device *device = devices; device != NULL; device = device->next) {
        if (device->ops == &block_device_ops) {
            int ret = one_unlock(from_device(device), err);

            if (ret < 0) {
                (void)virtio_block_lock(
                    devices, NULL); /* nobody else has been told to take them yet */
                return ret;
            }
        }
    }
    return 0;
}

int virtio_block_lock(struct device *devices, struct error *err)
{
    for (struct device *device = devices; device != NULL; device = device->next) {
        if (device->ops == &block_device_ops) {
            int ret = one_lock(from_device(device), err);

            if (ret < 0) {
                /* What was locked here was not written since: there is nothing to make
                 * stable. */
                (void)virtio_block_unlock(devices, NULL);
                return ret;
            }
        }
    }
    return 0;
}
