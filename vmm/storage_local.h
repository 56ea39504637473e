/* SPDX-License-Identifier: Apache-2.0 */
/* Storage daemons as children of the VMM itself: struct storage_ops without a launcher.
 * Each disk's operations are called on one thread, which lives as long as its daemon. */
#ifndef DROVER_VMM_STORAGE_LOCAL_H
#define DROVER_VMM_STORAGE_LOCAL_H

#include "vmm/storage.h"

struct storage_local;

struct storage_local *storage_local_create(void); /* NULL: no memory */
void storage_local_free(struct storage_local *local);
extern const struct storage_ops storage_local_ops;
/* `disk` is copied, its strings are borrowed. */
int storage_local_add(struct storage_local *local, const struct storage_disk *disk,
                      unsigned *ret_index, struct error *err);

#endif
