/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-console with one port (hvc0). Where its bytes go and come from is the caller's.
 */
#ifndef DROVER_VMM_VIRTIO_VIRTIO_CONSOLE_H
#define DROVER_VMM_VIRTIO_VIRTIO_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

struct device;
struct error;
struct vm;

struct virtio_console_config {
    /* What the guest wrote. On the I/O loop's thread; must not wait. NULL: dropped. */
    void (*output)(void *owner, const uint8_t *data, size_t size);
    /* The guest has taken input: there is room for more. As above. */
    void (*input_room)(void *owner);
    void *owner; /* borrowed for the device's life */
};

/* `ret_device` (may be NULL) is for virtio_console_input(); the VM owns it. */
int virtio_console_create(struct vm *vm, const struct virtio_console_config *config,
                          struct device **ret_device, struct error *err);
/* Types for the guest; any thread. Returns how many bytes were taken: the rest did not
 * fit. */
size_t virtio_console_input(struct device *device, const uint8_t *data, size_t size);

#endif
