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

/* Memory of a message that is being filled. */
struct virtio_state {
    Drover__VirtioState message;
    Drover__VirtqueueState queues[VIRTIO_QUEUES_MAX];
    Drover__VirtqueueState *queue_pointers[VIRTIO_QUEUES_MAX];
    struct buffer pci;
};

/* `state` keeps pointers into itself and into `virtio` until virtio_state_done(). */
int virtio_state_fill(struct virtio_device *virtio, struct virtio_state *state);
void virtio_state_done(struct virtio_state *state);

/*
 * Judges all of `message` (NULL: malformed), then takes it over. `taken_counts` (NULL:
 * zeros) has for each queue how many requests were taken and not given back.
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
