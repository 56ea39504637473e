/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jail of a VMM (docs/jail.md): entered once by the only thread, after all that has a
 * name was opened and before anything that a guest or a peer made is looked at.
 */
#ifndef DROVER_VMM_JAIL_JAIL_H
#define DROVER_VMM_JAIL_JAIL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/jail/seccomp.h"

struct broker;
struct error;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* Its run time reads /proc and looks at other threads at the end. */
#define JAIL_SANITIZED true
#else
#define JAIL_SANITIZED false
#endif

/* User and group of a VM that was given none: this plus the VMM's pid, which no other
 * process of the host has. systemd leaves the range from here to 2^31 to nobody. */
#define JAIL_UID_BASE 0x70000000u

struct jail_config {
    struct broker *broker; /* of a launcher; sealed */
    uid_t uid;             /* 0: one of its own */
    gid_t gid;
    uint64_t memory_bytes; /* no file becomes much larger than this and what is open */
    enum seccomp_mode seccomp;
    bool rdma; /* guest memory may be pinned, and the filters let its devices be used */
    /*
     * Called as the VM's user, in its namespaces, before the host's files are out of
     * sight: for devices that must be opened by who uses them. NULL: nothing is to be
     * done.
     */
    int (*settle)(void *owner, struct error *err);
    void *settle_owner;
};

/* The user that --user names, as a name or a number. DROVER_EBADINPUT. */
int jail_user_find(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct error *err);
/* There is no way back: after an error the process must end. */
int jail_enter(const struct jail_config *config, struct error *err);

#endif
