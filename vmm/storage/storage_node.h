/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in the words of the storage daemon's control protocol (blockdev-add). Pure. */
#ifndef DROVER_VMM_STORAGE_STORAGE_NODE_H
#define DROVER_VMM_STORAGE_STORAGE_NODE_H

#include <jansson.h>

#include "vmm/storage/storage.h"

#define STORAGE_NODE_NAME "disk"
#define STORAGE_KEY_NAME  "key"

/* The caller frees. DROVER_EBADINPUT for an address that makes no sense. `direct`: around
 * the host's page cache; `locking`: by the daemon. */
int storage_node_build(const struct storage_disk *disk, bool direct, bool locking,
                       json_t **ret_node, struct error *err);

#endif
