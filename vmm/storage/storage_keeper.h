/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The storage daemons of a VM, on the side that may start them: the launcher, or the VMM
 * itself where it has no jail. The VMM orders by the broker (storage_broker.h); each
 * order is for one disk, named before the jail was closed, and says nothing but what to
 * do and until when.
 */
#ifndef DROVER_VMM_STORAGE_STORAGE_KEEPER_H
#define DROVER_VMM_STORAGE_STORAGE_KEEPER_H

#include "vmm/storage/storage.h"

struct storage_keeper;

enum storage_order {
    STORAGE_ORDER_START,
    STORAGE_ORDER_OPEN, /* gives the connection */
    STORAGE_ORDER_CLOSE,
    STORAGE_ORDER_KILL,
};

/* An order's number: the order, and the low bits of the deadline (CLOCK_BOOTTIME). */
uint32_t storage_order_encode(enum storage_order order, uint64_t deadline_ms);
uint64_t storage_order_deadline_ms(uint32_t number, uint64_t now_ms);

struct storage_keeper *storage_keeper_create(void); /* NULL: no memory */
/* Kills what is left. NULL is fine. */
void storage_keeper_free(struct storage_keeper *keeper);
/* The next disk; `disk` is copied, its strings are borrowed. */
void storage_keeper_add(struct storage_keeper *keeper, const struct storage_disk *disk);
/* Forks who starts the daemons of jailed disks, before the calling process gives up the
 * rights for that. After the last disk. */
int storage_keeper_split(struct storage_keeper *keeper, struct error *err);
/* A broker_storage_handler (broker_list.h). */
int storage_keeper_handle(void *keeper, unsigned index, const char *path, uint32_t number,
                          int *ret_fd, struct error *err);
/* Kills what is left: for the launcher's end. */
void storage_keeper_stop(void *keeper);

#endif
