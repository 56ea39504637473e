/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jail of a storage daemon (docs/jail.md): a process that starts a program which
 * knows nothing of it, with a user, namespaces and a root of its own, one capability, and
 * a filter of system calls that lets it be started and start nothing itself.
 */
#ifndef DROVER_VMM_STORAGE_JAIL_H
#define DROVER_VMM_STORAGE_JAIL_H

#include <stdbool.h>
#include <sys/types.h>

#include "vmm/jail/seccomp.h"
#include "vmm/storage/storage_chain.h"

struct error;

/* In the program. */
#define STORAGE_JAIL_TALK_FD 3
#define STORAGE_JAIL_LOCK_FD 4
/* The only folder that it can write to: small, in memory, gone with it. */
#define STORAGE_JAIL_FOLDER "/drover"

struct storage_jail {
    const char *program;
    char *const *arguments;
    uid_t uid;    /* and group */
    bool network; /* the host's; else one of its own, with nothing in it */
    int lock_fd;  /* > 0: stays open in it */
    enum seccomp_mode seccomp;
    const struct storage_chain *files;
};

struct storage_jailed {
    pid_t pid;     /* a child of who called, or of its parent: `sibling` */
    int talk_fd;   /* a socket; the program has the other end */
    int folder_fd; /* STORAGE_JAIL_FOLDER */
};

/*
 * By root with one thread. The program is started when this returns. It dies with the
 * process whose child it is. `sibling`: it is a child of the caller's parent.
 */
int storage_jail_start(const struct storage_jail *jail, bool sibling,
                       struct storage_jailed *ret_jailed, struct error *err);

#endif
