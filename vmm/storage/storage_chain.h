/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files that a disk's storage daemon has to open: the image, what it names (backing
 * files and theirs), its key; found once, before a daemon could have changed what the
 * image says.
 */
#ifndef DROVER_VMM_STORAGE_CHAIN_H
#define DROVER_VMM_STORAGE_CHAIN_H

#include <stdbool.h>

#include "vmm/storage/storage.h"

struct error;

#define STORAGE_CHAIN_MAX 64

struct storage_chain_file {
    char *path; /* absolute, as the daemon opens it */
    bool writable;
};

/* Zeroes are an empty one. */
struct storage_chain {
    bool networked; /* one is on a network file system */
    unsigned count;
    struct storage_chain_file files[STORAGE_CHAIN_MAX];
};

/* What is missing is left out: the daemon says so better. */
int storage_chain_find(const struct storage_disk *disk, struct storage_chain *ret_chain,
                       struct error *err);
void storage_chain_done(struct storage_chain *chain);
/* The caller frees; NULL: no memory. A name that is no path stays as it is. */
char *storage_path_whole(const char *path);

#endif
