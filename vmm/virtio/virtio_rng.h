/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-rng: the host kernel's random bytes, at a bounded rate. */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_RNG_H
#define DROVER_VMM_VIRTIO_VIRTIO_RNG_H

struct error;
struct vm;

int virtio_rng_create(struct vm *vm, struct error *err);

#endif
