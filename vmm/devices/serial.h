/* SPDX-License-Identifier: Apache-2.0 */
/* COM1, a 16550A (National Semiconductor PC16550D): registers, FIFOs, interrupt 4. Where
 * its bytes go is the caller's. */
#ifndef DROVER_VMM_DEVICES_SERIAL_H
#define DROVER_VMM_DEVICES_SERIAL_H

#include <stddef.h>
#include <stdint.h>

struct error;
struct serial;
struct vm;

struct serial_config {
    /* What the guest sent. On a vCPU thread: must not wait. */
    void (*output)(void *owner, const uint8_t *data, size_t size);
    /* The guest has read: there is room for input again. On a vCPU thread: must not wait.
     * May be NULL. */
    void (*input_room)(void *owner);
    void *owner; /* borrowed for the VM's life */
};

/* Adds it to the VM, which owns it. */
int serial_create(struct vm *vm, const struct serial_config *config,
                  struct serial **ret_serial, struct error *err);
/* Types for the guest; any thread. Returns how many bytes were taken. */
size_t serial_input(struct serial *serial, const uint8_t *data, size_t size);

#endif
