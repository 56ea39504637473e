/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that starts a jailed VMM, stays root, and outlives it: forwards signals,
 * answers what the VMM may ask (broker.h), passes on how it ended. It never looks at what
 * comes from a guest. If it dies, the VMM is killed by the kernel.
 *
 * One thread. What is made before launcher_split() is in both processes: keep it small.
 */
#ifndef DROVER_VMM_JAIL_LAUNCHER_H
#define DROVER_VMM_JAIL_LAUNCHER_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "vmm/jail/broker_list.h"
#include "vmm/jail/jail_world.h"

/* An exit status of the VMM that stands for SIGABRT: as process 1 of its namespace it
 * can't die of that. */
#define LAUNCHER_STATUS_ABORTED 134

struct launcher {
    const char *name; /* of the VM, for messages; borrowed */
    bool clustered;   /* run by an agent */
    pid_t vmm_pid;
    int broker_fd;
    int signal_fd;
    struct jail_world world; /* until the VMM has it */
    int world_result;        /* or why there is none */
    struct error world_error;
    struct broker_list list; /* set .storage before launcher_split() */
};

/*
 * Forks the VMM into a pid namespace of its own. In the VMM `*ret_is_vmm` is true and
 * `*ret_broker_fd` is its end of the socket pair; `launcher` is of no use there.
 */
int launcher_split(struct launcher *launcher, bool *ret_is_vmm, int *ret_broker_fd,
                   struct error *err);
/* Instead of launcher_run(): kills the VMM. */
void launcher_give_up(struct launcher *launcher);
/* Until the VMM is gone; the process's exit status. Dies of the VMM's signal, if that is
 * what ended it. */
int launcher_run(struct launcher *launcher);

#endif
