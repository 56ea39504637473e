/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file that holds a VM's UEFI variables: made from the firmware's template when it is
 * missing, locked against other VMMs like a disk, written durably.
 */
#ifndef DROVER_VMM_FIRMWARE_VARS_STORE_H
#define DROVER_VMM_FIRMWARE_VARS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct broker;
struct error;
struct vars_store;

/*
 * Reads a store or a template, and judges what it is; `option` names it in errors. The
 * caller frees. -ENOENT when there is no such file.
 */
int vars_file_read(const char *path, const char *option, uint8_t **ret_data,
                   uint64_t *ret_size, struct error *err);

/*
 * Opens `path`, a file or block device, which becomes a copy of `initial` if it is missing
 * (a device: zeros at its beginning); `path` is borrowed for the store's life. Takes the lock unless `unlocked` (an incoming guest).
 */
int vars_store_open(const char *path, const uint8_t *initial, uint64_t size,
                    bool unlocked, struct vars_store **ret_store, struct error *err);
/* What it holds; the caller frees. */
int vars_store_read(struct vars_store *store, uint64_t size, uint8_t **ret_data,
                    struct error *err);
void vars_store_close(struct vars_store *store);
int vars_store_lock(struct vars_store *store, struct error *err);
/* As block_disk_broker_set(). */
int vars_store_broker_set(struct vars_store *store, struct broker *broker,
                          struct error *err);
int vars_store_unlock(struct vars_store *store, struct error *err);
/* `data` is aligned to a page, `offset` and `size` to flash sectors. Not durable before
 * vars_store_sync(). -errno. */
int vars_store_write(struct vars_store *store, uint64_t offset, const uint8_t *data,
                     size_t size);
int vars_store_sync(struct vars_store *store);
const char *vars_store_path(const struct vars_store *store);

#endif
