/* SPDX-License-Identifier: Apache-2.0 */
/* The storage daemon's control protocol (QMP), blocking, with deadlines. What the daemon
 * says is hostile input. */
#ifndef DROVER_VMM_STORAGE_STORAGE_QMP_H
#define DROVER_VMM_STORAGE_STORAGE_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define STORAGE_QMP_LINE_MAX 16384u
#define STORAGE_QMP_LINES    256 /* that are read for one answer */

/* Embedded; private. */
struct storage_qmp {
    int fd;
    bool export_gone; /* BLOCK_EXPORT_DELETED was seen */
    size_t size;
    char line[STORAGE_QMP_LINE_MAX];
};

/* Takes `fd`. Waits for the daemon's greeting. */
int storage_qmp_open(struct storage_qmp *qmp, int fd, uint64_t deadline_ms);
void storage_qmp_close(struct storage_qmp *qmp);
/*
 * Gives an order and waits for its end; takes `arguments`. DROVER_EWRONGSTATE when the
 * daemon refused, with its words in `ret_reason`; else it can't be talked to any more:
 * DROVER_ETIMEDOUT2, DROVER_ECLOSED, DROVER_EMALFORMED.
 */
int storage_qmp_order(struct storage_qmp *qmp, const char *name, json_t *arguments,
                      uint64_t deadline_ms, char ret_reason[ERROR_TEXT_SIZE]);
/* Waits for the end of the export. */
int storage_qmp_export_gone(struct storage_qmp *qmp, uint64_t deadline_ms);

#endif
