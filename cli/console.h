/* SPDX-License-Identifier: Apache-2.0 */
/* A VM's serial console on this terminal, by WebSocket (libwebsockets). Blocking; one
 * thread. */
#ifndef DROVER_CLI_CONSOLE_H
#define DROVER_CLI_CONSOLE_H

#include <stdbool.h>

struct client_config;
struct error;

#define CONSOLE_ESCAPE 0x1d /* Ctrl-] */

#define CONSOLE_ALL_LINES 0xffffffffu

struct console_options {
    unsigned lines; /* of what the guest wrote before, at most */
    bool peer;      /* the URL is another host's, by the cluster's own record */
};

/*
 * Passes bytes between stdin, stdout and the console until Ctrl-], the VM's end, or (when
 * stdin is no terminal) its end and a second. The terminal is raw meanwhile
 * and is put back. 0, or what failed.
 */
int console_run(const struct client_config *config, const char *vm_name,
                const struct console_options *options, struct error *err);

#endif
