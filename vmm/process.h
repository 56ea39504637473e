/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What drover-vmm is as processes: launcher and jailed VMM, or one alone (docs/jail.md).
 * The order: process_init(), process_split(), in the VMM all is opened,
 * process_confine(), threads, the guest, process_done().
 */
#ifndef DROVER_VMM_PROCESS_H
#define DROVER_VMM_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "vmm/jail/seccomp.h"

struct broker;
struct cgroup;
struct error;
struct log;
struct options;

/* Whoever starts the VMM of a cluster hands it a locked file as descriptor 3. */
#define PROCESS_LOCK_FD 3

struct process {
    const struct options *options; /* borrowed, as the next */
    const struct log *log;
    bool jailed;
    bool has_lock; /* by descriptor PROCESS_LOCK_FD */
    uid_t uid;     /* of --user; 0: one of the VM's own */
    gid_t gid;
    struct cgroup *cgroup; /* NULL: no limits are wanted, or they are the launcher's */
    struct broker *broker; /* after process_split() */
    struct storage_keeper *keeper; /* NULL: no disk needs a daemon, or it is the
                                      launcher's */
};

/* Before anything is opened: closes what a careless caller left open. */
int process_init(const struct options *options, const struct log *log,
                 struct process *ret_process, struct error *err);
/*
 * Returns in the VMM, with its broker. The launcher returns too, when the VMM is gone:
 * `*ret_is_vmm` is false, `*ret_status` the exit status that is left to give.
 */
int process_split(struct process *process, bool *ret_is_vmm, int *ret_status,
                  struct error *err);
enum seccomp_mode process_seccomp(const struct process *process);
/*
 * Into the jail, if there is one. No thread was started yet. `settle` (may be NULL) is
 * called in any case: jail.h.
 */
int process_confine(struct process *process, int (*settle)(void *owner, struct error *err),
                    void *owner, struct error *err);
/* Out of its cgroup, which is removed; frees nothing that another thread may use: for an
 * end that waits for no thread. */
void process_leave(struct process *process);
/* Frees all, once no other thread is left. */
void process_done(struct process *process);

#endif
