/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls that each kind of thread may make. The filters are made at build time
 * by seccomp_generate.c, with libseccomp; here they are only handed to the kernel.
 */
#ifndef DROVER_VMM_JAIL_SECCOMP_H
#define DROVER_VMM_JAIL_SECCOMP_H

enum seccomp_mode {
    SECCOMP_OFF,
    SECCOMP_KILL, /* what is not allowed kills the process */
    SECCOMP_LOG,  /* ... passes, with a line in the kernel's log */
};

/* A thread's filters add up: MAIN holds for all that it starts, and a role only takes
 * from it. */
enum seccomp_role {
    SECCOMP_ROLE_MAIN,
    SECCOMP_ROLE_IO,
    SECCOMP_ROLE_VCPU,
    SECCOMP_ROLE_MOVE, /* migration, snapshots: sockets and files, no new threads */
    /* The same of a VM with --rdma. */
    SECCOMP_ROLE_MAIN_RDMA,
    SECCOMP_ROLE_MOVE_RDMA,
    /* Of a program that knows nothing of it: all but what a list forbids. */
    SECCOMP_ROLE_STORAGE,
    SECCOMP_ROLE_STORAGE_NETWORK, /* of a disk on a server */
    SECCOMP_ROLE_LAUNCHER,        /* once all is started */
    SECCOMP_ROLES,
};

/* For the calling thread, and those that it will start. -errno. */
int seccomp_enter(enum seccomp_mode mode, enum seccomp_role role);
/*
 * The same with a descriptor on which the kernel asks about calls that the filter leaves
 * to another process; -1 with SECCOMP_OFF.
 */
int seccomp_enter_notified(enum seccomp_mode mode, enum seccomp_role role,
                           int *ret_listener);

#endif
