/* SPDX-License-Identifier: Apache-2.0 */
/* The common part of a virtio device's saved state. */
#include "vmm/virtio/virtio_state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/bus/pci.h"
#include "vmm/state.h"

int virtio_state_fill(struct virtio_device *virtio, struct virtio_state *state)
{
    Drover__VirtioState *message = &state->message;
    int ret;

    memset(state, 0, sizeof(*state));
    drover__virtio_state__init(message);
    ret = pci_function_save(virtio->pci.function, &state->pci);
    if (ret < 0) {
        return ret;
    }
    message->type = virtio->ops->type;
    message->offered_features = virtio->features;
    message->driver_features = virtio->driver_features;
    message->status = virtio->status;
    message->device_feature_select = virtio->device_feature_select;
    message->driver_feature_select = virtio->driver_feature_select;
    message->queue_select = virtio->queue_select;
    message->config_generation = virtio->config_generation;
    message->config_vector = virtio->config_vector;
    message->isr = virtio->isr;
    message->pci.data = state->pci.data;
    message->pci.len = state->pci.size;
    message->config_window.data = virtio->pci.window;
    message->config_window.len = VIRTIO_PCI_WINDOW_SIZE;
    message->n_queues = virtio->queue_count;
    message->queues = state->queue_pointers;
    for (unsigned i = 0; i < virtio->queue_count; i++) {
        const struct virtqueue *ring = &virtio->queues[i].ring;
        Drover__VirtqueueState *queue = &state->queues[i];

        drover__virtqueue_state__init(queue);
        queue->ready = ring->ready;
        queue->size = ring->size;
        queue->desc_gpa = ring->desc_gpa;
        queue->avail_gpa = ring->avail_gpa;
        queue->used_gpa = ring->used_gpa;
        queue->next_avail = ring->next_avail;
        queue->next_used = ring->next_used;
        queue->signalled_used = ring->signalled_used;
        queue->signalled_valid = ring->signalled_valid;
        queue->msix_vector = virtio->queues[i].vector;
        state->queue_pointers[i] = queue;
    }
    return 0;
}

void virtio_state_done(struct virtio_state *state)
{
    buffer_done(&state->pci);
}

int virtio_state_version_judge(const struct virtio_device *virtio, uint32_t version,
                               struct error *err)
{
    if (version == VIRTIO_STATE_VERSION) {
        return 0;
    }
    return error_set(
        err, DROVER_EVERSION,
        "the state of %s %u has version %" PRIu32
        ", this drover-vmm reads version %d: use the same release on both hosts",
        virtio->device.ops->name, virtio->device.instance, version, VIRTIO_STATE_VERSION);
}

int virtio_state_malformed(const struct virtio_device *virtio, struct error *err,
                           const char *what)
{
    return error_set(err, DROVER_EMALFORMED, "the state of %s %u is malformed: %s",
                     virtio->device.ops->name, virtio->device.instance, what);
}

static bool vector_valid(const struct virtio_device *virtio, uint32_t vector)
{
    return vector == VIRTIO_NO_VECTOR || vector <= virtio->queue_count;
}

static const char *queue_judge(const struct virtio_device *virtio,
                               const Drover__VirtioState *message, unsigned index,
                               uint16_t taken_count)
{
    const Drover__VirtqueueState *queue = message->queues[index];
    bool broken = (message->status & VIRTIO_STATUS_NEEDS_RESET) != 0;

    if (queue->size > UINT16_MAX || queue->next_avail > UINT16_MAX ||
        queue->next_used > UINT16_MAX || queue->signalled_used > UINT16_MAX ||
        !vector_valid(virtio, queue->msix_vector)) {
        return "a number of a queue is out of range";
    }
    if (queue->ready && !(message->status & VIRTIO_STATUS_FEATURES_OK)) {
        return "a queue is ready before the features are";
    }
    if (!broken && (uint16_t)(queue->next_avail - queue->next_used) != taken_count) {
        return "requests of a queue are in flight";
    }
    if (taken_count > 0 && (!queue->ready || taken_count > queue->size)) {
        return "more requests are in flight than the queue has";
    }
    return NULL;
}

static const char *message_judge(const struct virtio_device *virtio,
                                 const Drover__VirtioState *message,
                                 const uint16_t *taken_counts)
{
    const uint32_t known = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                           VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK |
                           VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED;

    if (message == NULL) {
        return "it has no common part";
    }
    if (message->type != virtio->ops->type) {
        return "it is of another type of device";
    }
    if (message->n_queues != virtio->queue_count) {
        return "it has another number of queues";
    }
    if ((message->status & ~known) != 0 || message->queue_select > UINT16_MAX ||
        message->config_generation > UINT8_MAX || message->isr > 3 ||
        !vector_valid(virtio, message->config_vector) ||
        message->config_window.len != VIRTIO_PCI_WINDOW_SIZE) {
        return "a register is out of range";
    }
    if ((message->status & VIRTIO_STATUS_DRIVER_OK) &&
        !(message->status & VIRTIO_STATUS_FEATURES_OK)) {
        return "its status makes no sense";
    }
    if ((message->status & VIRTIO_STATUS_FEATURES_OK) &&
        !(message->driver_features & VIRTIO_FEATURE_VERSION_1)) {
        return "its features make no sense";
    }
    for (unsigned i = 0; i < message->n_queues; i++) {
        const char *wrong =
            queue_judge(virtio, message, i, taken_counts != NULL ? taken_counts[i] : 0);

        if (wrong != NULL) {
            return wrong;
        }
    }
    return NULL;
}

static int queue_load(struct virtio_device *virtio, unsigned index,
                      const Drover__VirtqueueState *from)
{
    struct virtio_queue *queue = &virtio->queues[index];
    struct virtqueue *ring = &queue->ring;

    virtqueue_reset(ring);
    ring->size = (uint16_t)from->size;
    ring->desc_gpa = from->desc_gpa;
    ring->avail_gpa = from->avail_gpa;
    ring->used_gpa = from->used_gpa;
    queue->vector = (uint16_t)from->msix_vector;
    if (from->ready &&
        virtqueue_enable(ring, virtio_feature(virtio, VIRTIO_FEATURE_EVENT_IDX),
                         virtio_feature(virtio, VIRTIO_FEATURE_INDIRECT)) < 0) {
        return DROVER_EMALFORMED;
    }
    ring->next_avail = (uint16_t)from->next_avail;
    ring->next_used = (uint16_t)from->next_used;
    ring->signalled_used = (uint16_t)from->signalled_used;
    ring->signalled_valid = from->signalled_valid;
    return 0;
}

int virtio_state_load(struct virtio_device *virtio, const Drover__VirtioState *message,
                      const uint16_t *taken_counts, struct error *err)
{
    const char *wrong = message_judge(virtio, message, taken_counts);
    uint64_t missing;
    int ret;

    if (wrong != NULL) {
        return virtio_state_malformed(virtio, err, wrong);
    }
    missing = message->status & VIRTIO_STATUS_FEATURES_OK
                  ? message->driver_features & ~virtio->features
                  : 0;
    if (missing != 0) {
        return error_set(err, DROVER_EVERSION,
                         "the guest uses features 0x%" PRIx64
                         " of %s %u, which this host does not offer",
                         missing, virtio->device.ops->name, virtio->device.instance);
    }
    if (message->pci.len > UINT32_MAX) {
        return virtio_state_malformed(virtio, err, "its PCI part is too long");
    }
    ret = pci_function_load(virtio->pci.function, message->pci.data,
                            (uint32_t)message->pci.len, err);
    if (ret < 0) {
        return ret;
    }
    virtio->driver_features = message->driver_features;
    for (unsigned i = 0; i < message->n_queues; i++) {
        if (queue_load(virtio, i, message->queues[i]) < 0) {
            /* Neither what was there nor what came: nothing of either may run. */
            virtio_reset(virtio);
            return virtio_state_malformed(virtio, err, "a queue is not in memory");
        }
    }
    virtio->status = (uint8_t)message->status;
    virtio->device_feature_select = message->device_feature_select;
    virtio->driver_feature_select = message->driver_feature_select;
    virtio->queue_select = (uint16_t)message->queue_select;
    virtio->config_generation = (uint8_t)message->config_generation;
    virtio->config_vector = (uint16_t)message->config_vector;
    virtio->isr = (uint8_t)message->isr;
    virtio->resetting = false;
    memcpy(virtio->pci.window, message->config_window.data, VIRTIO_PCI_WINDOW_SIZE);
    if ((virtio->status & VIRTIO_STATUS_DRIVER_OK) && virtio->ops->driver_ready != NULL) {
        virtio->ops->driver_ready(virtio);
    }
    return 0;
}

/* ---- whole sections ------------------------------------------------------- */

int virtio_state_save(struct virtio_device *virtio, ProtobufCMessage *message,
                      Drover__VirtioState **common, struct buffer *out)
{
    struct virtio_state state;
    int ret;

    pthread_mutex_lock(&virtio->lock);
    ret = virtio_state_fill(virtio, &state);
    if (ret == 0) {
        *common = &state.message;
        ret = state_pack(message, out);
        *common = NULL;
    }
    virtio_state_done(&state);
    pthread_mutex_unlock(&virtio->lock);
    return ret;
}

int virtio_state_unpack(struct virtio_device *virtio, uint32_t version,
                        const ProtobufCMessageDescriptor *descriptor,
                        struct state_payload payload, virtio_state_loader loader,
                        struct error *err)
{
    ProtobufCMessage *message;
    int ret = virtio_state_version_judge(virtio, version, err);

    if (ret < 0) {
        return ret;
    }
    message = protobuf_c_message_unpack(descriptor, NULL, payload.size, payload.data);
    if (message == NULL) {
        return virtio_state_malformed(virtio, err, "it can't be decoded");
    }
    pthread_mutex_lock(&virtio->lock);
    ret = loader(virtio, message, err);
    pthread_mutex_unlock(&virtio->lock);
    protobuf_c_message_free_unpacked(message, NULL);
    return ret;
}
