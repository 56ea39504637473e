/* SPDX-License-Identifier: Apache-2.0 */
/* The value of --disk, judged. Pure. */
#ifndef DROVER_VMM_OPTIONS_OPTIONS_DISK_H
#define DROVER_VMM_OPTIONS_OPTIONS_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "vmm/storage/storage.h"

struct error;

#define OPTIONS_DISK_KEY_SIZE    256
#define OPTIONS_DISK_SERIAL_SIZE 21 /* with the final NUL */
#define OPTIONS_DISK_QUEUES_MAX  16
#define OPTIONS_DISK_BOOT_MAX    100

struct options_disk {
    char path[LIMIT_PATH_SIZE]; /* or an nbd:// address */
    enum storage_format format;
    bool read_only;
    bool direct;
    char serial[OPTIONS_DISK_SERIAL_SIZE]; /* "": one is made up */
    unsigned queues;
    uint64_t requests_per_s; /* 0: no limit, as the next */
    uint64_t bytes_per_s;
    unsigned boot;                   /* place in the firmware's boot order; 0: none */
    char key[OPTIONS_DISK_KEY_SIZE]; /* file; "": none */
};

/* DROVER_EBADINPUT with one line. */
int options_disk_parse(const char *text, struct options_disk *ret_disk,
                       struct error *err);

#endif
