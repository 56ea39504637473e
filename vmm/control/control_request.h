/* SPDX-License-Identifier: Apache-2.0 */
/* An order as a person types it, judged and made into a message. Pure. */
#ifndef DROVER_VMM_CONTROL_CONTROL_REQUEST_H
#define DROVER_VMM_CONTROL_CONTROL_REQUEST_H

#include "proto/control.pb-c.h"
#include "proto/move_link.h"
#include "proto/unix_files.h"

struct error;

/* An order, and all that its message may point to; strings are those of argv. */
struct control_request {
    Drover__ControlRequest message;
    Drover__ControlMigrate migrate;
    Drover__ControlMigrateLinks links;
    Drover__ControlSnapshot snapshot;
    Drover__ControlBalloon balloon;
    Drover__ControlMigrateLimit limit;
    char uri[MOVE_LINK_URI_SIZE]; /* for who opens what goes with it, as the next */
    struct unix_files files;
};

/* What `drover-vmm control --help` prints. */
const char *control_request_help(void);
/* Fills `request` with the order's word and its arguments. It points to itself: it may
 * not be copied. DROVER_EBADINPUT with one line. */
int control_request_parse(int count, char **words, struct control_request *request,
                          struct error *err);

#endif
