/* SPDX-License-Identifier: Apache-2.0 */
/* The value of --vsock, judged. Pure. */
#ifndef DROVER_VMM_OPTIONS_OPTIONS_VSOCK_H
#define DROVER_VMM_OPTIONS_OPTIONS_VSOCK_H

#include <stdint.h>

struct error;

#define OPTIONS_VSOCK_PATH_SIZE 97 /* a unix socket's, less "_4294967295" */

struct options_vsock {
    uint32_t cid; /* 0: no vsock */
    char path[OPTIONS_VSOCK_PATH_SIZE];
};

/* DROVER_EBADINPUT with one line. */
int options_vsock_parse(const char *text, struct options_vsock *ret_vsock,
                        struct error *err);

#endif
