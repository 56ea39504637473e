/* SPDX-License-Identifier: Apache-2.0 */
/* The common configuration of the virtio-pci transport, for virtio_pci.c only. The
 * device's lock is held. */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_PCI_COMMON_H
#define DROVER_VMM_VIRTIO_VIRTIO_PCI_COMMON_H

#include <stdint.h>

struct virtio_device;

#define VIRTIO_PCI_COMMON_SIZE 56

/* Of MSI-X. */
unsigned virtio_pci_vector_count(const struct virtio_device *virtio);
/* All of its registers, as the guest reads them. */
void virtio_pci_common_encode(struct virtio_device *virtio,
                              uint8_t ret_common[VIRTIO_PCI_COMMON_SIZE]);
/* The guest writes 1, 2, 4 or 8 bytes, aligned, at any offset. */
void virtio_pci_common_write(struct virtio_device *virtio, unsigned offset,
                             uint64_t value, unsigned size);

#endif
