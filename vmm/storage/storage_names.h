/* SPDX-License-Identifier: Apache-2.0 */
/* The names of other files that the beginning of an image holds. Pure; what it reads is
 * hostile. */
#ifndef DROVER_VMM_STORAGE_NAMES_H
#define DROVER_VMM_STORAGE_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/storage/storage.h"

/* Of an image's beginning; QEMU keeps what is wanted here in the first cluster. */
#define STORAGE_NAMES_BYTES 65536u
#define STORAGE_NAMES_MAX   32
#define STORAGE_NAME_SIZE   1024

struct storage_name {
    char text[STORAGE_NAME_SIZE]; /* as it stands there */
    enum storage_format format;   /* NONE: not said, the file's beginning tells */
    bool backing;                 /* read only; else a part of the image itself */
};

struct storage_names {
    unsigned count; /* more than there is room for are left out */
    struct storage_name names[STORAGE_NAMES_MAX];
};

void storage_names_read(const uint8_t *data, size_t size, enum storage_format format,
                        struct storage_names *ret_names);
/*
 * The path that the daemon opens for such a name in the image `image` (an absolute path).
 * False for what is no file: a server's address, a driver with options of its own.
 */
bool storage_name_resolve(const char *image, const char *name, char *ret_path,
                          size_t room);

#endif
