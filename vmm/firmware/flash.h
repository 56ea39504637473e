/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The firmware's flash below 4 GiB: a read-only part with its code, and, for UEFI, the
 * store of its variables right below it, as a chip with Intel's command set. The store
 * is a file of the VM's own; its content is part of the saved state. What the guest has
 * written becomes durable some milliseconds later, and before the VM stands still.
 */
#ifndef DROVER_VMM_FIRMWARE_FLASH_H
#define DROVER_VMM_FIRMWARE_FLASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct flash;
struct vars_store;
struct vm;

#define FLASH_SECTOR_SIZE 4096u
#define FLASH_SIZE_MAX    (16u << 20) /* code and variables */

struct flash_config {
    int code_fd; /* of the image; borrowed for the call */
    uint64_t code_bytes;
    uint64_t variables_bytes; /* 0: none */
    const uint8_t *variables; /* copied: what the chip holds at first */
    struct vars_store *store; /* taken; NULL: the variables end with this process */
};

/* Adds the device to the VM, which owns it. Takes `config->store`, also on failure. */
int flash_create(struct vm *vm, const struct flash_config *config,
                 struct flash **ret_flash, struct error *err);
/* Copies from the code; `offset` counts from its start. */
void flash_code_read(const struct flash *flash, uint64_t offset, void *data, size_t size);
uint64_t flash_code_size(const struct flash *flash);

/*
 * The store's lock in a move, as virtio_block_lock() has it for disks; VMs without flash
 * have nothing to lock.
 */
int flash_lock(struct vm *vm, struct error *err);
int flash_unlock(struct vm *vm, struct error *err);

#endif
