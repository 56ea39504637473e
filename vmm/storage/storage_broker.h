/* SPDX-License-Identifier: Apache-2.0 */
/* struct storage_ops for a VMM: each operation is an order to whoever keeps the daemons,
 * over the broker. */
#ifndef DROVER_VMM_STORAGE_STORAGE_BROKER_H
#define DROVER_VMM_STORAGE_STORAGE_BROKER_H

#include "vmm/storage/storage.h"

struct broker;
struct storage_broker;

/* `broker` is borrowed. NULL: no memory. */
struct storage_broker *storage_broker_create(struct broker *broker);
void storage_broker_free(struct storage_broker *storage); /* NULL is fine */
/* The next disk, in the order of storage_keeper_add(). Before the jail. */
int storage_broker_add(struct storage_broker *storage, const char *path,
                       unsigned *ret_index, struct error *err);
/* Their owner is the struct storage_broker. */
const struct storage_ops *storage_broker_ops(void);

#endif
