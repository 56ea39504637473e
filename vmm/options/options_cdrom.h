/* SPDX-License-Identifier: Apache-2.0 */
/* The option of CD-ROM drives, judged. Pure. */
#ifndef DROVER_VMM_OPTIONS_OPTIONS_CDROM_H
#define DROVER_VMM_OPTIONS_OPTIONS_CDROM_H

#include "base/limits.h"

struct error;
struct options;

#define OPTIONS_KEY_CDROM  700 /* of getopt_long() */
#define OPTIONS_CDROMS_MAX 4   /* the controller's ports */
#define OPTIONS_BOOT_MAX   99  /* places in the boot order */

struct options_cdrom {
    char path[LIMIT_PATH_SIZE];
    unsigned boot; /* place in the boot order, 0: not given */
};

/* FILE[,boot=N]: one drive more. DROVER_EBADINPUT with one line. */
int options_cdrom_parse(const char *text, struct options *options, struct error *err);

#endif
