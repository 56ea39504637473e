/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the build tool seccomp_generate share. Not for others. */
#ifndef DROVER_VMM_JAIL_SECCOMP_GENERATE_H
#define DROVER_VMM_JAIL_SECCOMP_GENERATE_H

#include <seccomp.h>
#include <stdbool.h>

enum set {
    SET_MAIN = 1 << 0,
    SET_IO = 1 << 1,
    SET_VCPU = 1 << 2,
    SET_MOVE = 1 << 3,
    SET_RDMA = 1 << 4, /* of a VM with --rdma, beside MAIN or MOVE */
};
#define SET_ALL    (SET_MAIN | SET_IO | SET_VCPU | SET_MOVE)
#define SET_TALK   (SET_MAIN | SET_IO | SET_MOVE) /* sockets that were handed in */
#define CALL(name) SCMP_SYS(name), #name

struct call {
    int number;
    const char *name;
    unsigned sets; /* or the error that it is answered with */
};

/* Ends the build if `result` is an error. */
void seccomp_generate_check(int result, const char *what);
void seccomp_generate_allow_if(scmp_filter_ctx filter, int number,
                               struct scmp_arg_cmp condition);

/* seccomp_generate_vmm.c: threads of a VMM, as `set` says. The caller releases each. */
scmp_filter_ctx seccomp_generate_vmm(unsigned set);
/* seccomp_generate_storage.c: a program that knows nothing of its filter. */
scmp_filter_ctx seccomp_generate_storage(bool network);
/* What neither that program nor the launcher ever does kills it. */
void seccomp_generate_deadly(scmp_filter_ctx filter);
/* seccomp_generate_launcher.c */
scmp_filter_ctx seccomp_generate_launcher(void);

#endif
