/* SPDX-License-Identifier: Apache-2.0 */
/* Giving up root's rights. */
#ifndef DROVER_VMM_RIGHTS_H
#define DROVER_VMM_RIGHTS_H

#include <sys/types.h>

/*
 * Another user, no groups, and of all capabilities the one to files, whoever's they are
 * (CAP_DAC_OVERRIDE): also in the program that is started next. -errno.
 */
int rights_keep_files(uid_t uid, gid_t gid);

#endif
