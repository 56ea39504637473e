/* SPDX-License-Identifier: Apache-2.0 */
/* The start of a guest that has arrived, whether its memory is all here or not. */
#ifndef DROVER_MIGRATION_TARGET_START_H
#define DROVER_MIGRATION_TARGET_START_H

#include <stdint.h>

struct migration_guest;
struct status_board;
struct wire_done;
struct wire_go;

/* Upon the go, which was received then: starts it, and tells the figures. */
void target_guest_start(struct migration_guest *guest, struct status_board *board,
                        const struct wire_go *go, uint64_t received_ns,
                        struct wire_done *ret_done);

#endif
