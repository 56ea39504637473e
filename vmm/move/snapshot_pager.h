/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Brings a snapshot's memory into the guest's: lazily, page by page as it is touched
 * (userfaultfd) and in the background by several threads; or all of it before the guest
 * runs, where pages can't be waited for (memory that is there already, or that other
 * processes share). Each page's checksum is looked at before anybody sees the page. A page
 * that is damaged or can't be read ends this process at once: without it the guest can't
 * go on, and whoever waits for it must not get something else.
 */
#ifndef DROVER_VMM_MOVE_SNAPSHOT_PAGER_H
#define DROVER_VMM_MOVE_SNAPSHOT_PAGER_H

#include <stdbool.h>

#include "migration/snapshot_map.h"

struct error;
struct guest_ram;
struct log;
struct snapshot_pager;

struct snapshot_pager_config {
    struct guest_ram *ram; /* borrowed, as log and name */
    const struct log *log;
    const char *name; /* of the VM, for logs */
    int uffd;         /* from snapshot_pager_uffd(), or -1; borrowed */
    int memory_fd;    /* borrowed */
    const struct snapshot_map *map;
    unsigned threads; /* in the background; it takes fewer if that is too many */
    /* First thing on each thread. May be NULL. */
    void (*begun)(void *owner);
    void *owner;
};

/* A userfaultfd that also serves the kernel's own accesses, or -1. Needs privileges:
 * before the jail. */
int snapshot_pager_uffd(void);
/* On return the guest may run. One line in `err`: then its memory is not to be used. */
int snapshot_pager_start(const struct snapshot_pager_config *config,
                         struct snapshot_pager **ret_pager, struct error *err);
/* Pages still come as they are touched. */
bool snapshot_pager_is_lazy(const struct snapshot_pager *pager);
/* Stops; memory that has not come never will. After the vCPUs and all I/O. NULL is fine.
 */
void snapshot_pager_free(struct snapshot_pager *pager);

#endif
