/* SPDX-License-Identifier: Apache-2.0 */
/* Save and load of what the virtio devices have in common (proto/virtio_state.proto). I/O
 * is drained. */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_STATE_H
#define DROVER_VMM_VIRTIO_VIRTIO_STATE_H

#include "base/buffer.h"
#include "proto/virtio_state.pb-c.h"
#include "vmm/virtio/virtio.h"

struct error;

#define VIRTIO_STATE_VERSION 1

struct state_payload {
    const uint8_t *data;
    size_t size;
};

/* Memory of a message that is being filled. */
struct virtio_state {
    Drover__VirtioState message;
    Drover__VirtqueueState queues[VIRTIO_QUEUES_MAX];
    Drover__VirtqueueState *queue_pointers[VIRTIO_QUEUES_MAX];
    struct buffer pci;
};

/*
 * The whole of a device's save: fills the common part, which `message` refers to by
 * `common` (a field of it), and packs. The device's own fields are filled in already.
 */
int virtio_state_save(struct virtio_device *virtio, ProtobufCMessage *message,
                      Drover__VirtioState **common, struct buffer *out);
/* Judges and takes over a decoded section, common part (virtio_state_load()) included.
 * The lock is held. */
typedef int (*virtio_state_loader)(struct virtio_device *virtio,
                                   const ProtobufCMessage *message, struct error *err);
/* The whole of a device's load: judges the version, decodes, calls `loader`. */
int virtio_state_unpack(struct virtio_device *virtio, uint32_t version,
                        const ProtobufCMessageDescriptor *descriptor,
                        struct state_payload payload, virtio_state_loader loader,
                        struct error *err);

/* `state` keeps pointers into itself and into `virtio` until virtio_state_done(). */
int virtio_state_fill(struct virtio_device *virtio, struct virtio_state *state);
void virtio_state_done(struct virtio_state *state);

/*
 * Judges all of `message` (NULL: malformed), then takes it over. `taken_counts` (NULL:
 * zeros) has for each queue how many requests were taken and not given back. What is
 * refused for its registers changes nothing; for queues that guest memory does not hold,
 * the device is reset.
 */
int virtio_state_load(struct virtio_device *virtio, const Drover__VirtioState *message,
                      const uint16_t *taken_counts, struct error *err);
/* DROVER_EVERSION unless `version` is ours; for the start of each load. */
int virtio_state_version_judge(const struct virtio_device *virtio, uint32_t version,
                               struct error *err);
/* Fills `err`: the section is malformed, because of `what`. */
int virtio_state_malformed(const struct virtio_device *virtio, struct error *err,
                           const char *what);

#endif
