/* SPDX-License-Identifier: Apache-2.0 */
/* The list of what was allowed, and its execution with the rights of whoever calls: the
 * launcher, or the VMM itself when it is not jailed. One thread. */
#ifndef DROVER_VMM_JAIL_BROKER_LIST_H
#define DROVER_VMM_JAIL_BROKER_LIST_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/jail/broker.h"

struct error;

/* What BROKER_STORAGE entries mean; `index` counts them, from 0. */
typedef int (*broker_storage_handler)(void *owner, unsigned index, const char *path,
                                      uint32_t argument, int *ret_fd, struct error *err);

struct broker_entry {
    enum broker_kind kind;
    unsigned storage_index;
    char *path;
};

struct broker_list {
    bool sealed;
    unsigned count;
    struct broker_entry *entries[BROKER_ENTRIES_MAX];
    broker_storage_handler storage; /* NULL: none */
    void *storage_owner;
    void (*storage_stop)(void *owner); /* by broker_list_done(); NULL: nothing */
};

int broker_list_allow(struct broker_list *list, uint32_t kind, const char *path,
                      unsigned *ret_id);
int broker_list_open(struct broker_list *list, unsigned id, uint32_t argument,
                     int *ret_fd, struct error *err);
/* Removes what is to be removed at the end, and frees the entries. */
void broker_list_done(struct broker_list *list);

#endif
