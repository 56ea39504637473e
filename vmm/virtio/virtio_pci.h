/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The modern virtio-pci transport (virtio 1.2, 4.1): registers in BAR 0, MSI-X in BAR 1.
 * There is no INTx: all drivers of today either use MSI-X or poll (SeaBIOS, OVMF).
 */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_PCI_H
#define DROVER_VMM_VIRTIO_VIRTIO_PCI_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct buffer;
struct error;
struct pci_function;
struct virtio_device;

#define VIRTIO_PCI_WINDOW_SIZE 16

/* Private to virtio_pci.c; embedded in struct virtio_device. */
struct virtio_pci {
    struct pci_function *function;
    unsigned window_offset; /* of the PCI configuration access capability */
    uint8_t window[VIRTIO_PCI_WINDOW_SIZE]; /* as the guest set it; guarded by the
                                               device's lock */
    pthread_mutex_t
        notify_lock; /* guards the next two; never taken around anything else of ours */
    uint64_t notify_base; /* where KVM listens for notifications, or 0 */
    bool notify_any_length;
};

int virtio_pci_init(struct virtio_device *virtio, struct error *err);
void virtio_pci_done(struct virtio_device *virtio);
/* Raises an MSI-X vector of the device; VIRTIO_NO_VECTOR and out of range are ignored. */
void virtio_pci_interrupt(struct virtio_device *virtio, uint16_t vector, uint8_t isr_bit);

#endif
