/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest has changed in its flash, and the way of it into the file. For flash.c
 * only, under its lock. */
#ifndef DROVER_VMM_FIRMWARE_FLASH_STORE_H
#define DROVER_VMM_FIRMWARE_FLASH_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/firmware/flash.h"

/* Embedded in the flash; zeros at first. */
struct flash_store {
    struct vars_store *file; /* NULL: the variables end with this process */
    bool failure_logged;
    uint8_t dirty[FLASH_SIZE_MAX / FLASH_SECTOR_SIZE / 8]; /* a bit per sector */
};

/* Bytes were changed, or may have been. */
void flash_store_mark(struct flash_store *store, uint64_t offset, uint64_t size);
/*
 * Makes what was changed durable, but for what is left when a lease is over: that stays
 * marked, as does what could not be written (-errno; the first time, the log says so).
 * Only while the VM may do I/O.
 */
int flash_store_flush(struct flash_store *store, struct vm *vm, const uint8_t *variables,
                      uint64_t variables_bytes);

#endif
