/* SPDX-License-Identifier: Apache-2.0 */
/* Filters for threads. */
#include "vmm/jail/seccomp.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "vmm/jail/seccomp_filters.h" /* made by seccomp_generate */

#define FILTER_MAX 1024

static const struct {
    const struct sock_filter *code;
    unsigned size;
} filters[SECCOMP_ROLES] = {
    [SECCOMP_ROLE_MAIN] = {seccomp_filter_main,
                           sizeof(seccomp_filter_main) / sizeof(struct sock_filter)},
    [SECCOMP_ROLE_IO] = {seccomp_filter_io,
                         sizeof(seccomp_filter_io) / sizeof(struct sock_filter)},
    [SECCOMP_ROLE_VCPU] = {seccomp_filter_vcpu,
                           sizeof(seccomp_filter_vcpu) / sizeof(struct sock_filter)},
    [SECCOMP_ROLE_MOVE] = {seccomp_filter_move,
                           sizeof(seccomp_filter_move) / sizeof(struct sock_filter)},
    [SECCOMP_ROLE_MAIN_RDMA] = {seccomp_filter_main_rdma,
                                sizeof(seccomp_filter_main_rdma) /
                                    sizeof(struct sock_filter)},
    [SECCOMP_ROLE_LAUNCHER] = {seccomp_filter_launcher, sizeof(seccomp_filter_launcher) /
                                                            sizeof(struct sock_filter)},
    [SECCOMP_ROLE_STORAGE] = {seccomp_filter_storage, sizeof(seccomp_filter_storage) /
                                                          sizeof(struct sock_filter)},
    [SECCOMP_ROLE_STORAGE_NETWORK] = {seccomp_filter_storage_network,
                                      sizeof(seccomp_filter_storage_network) /
                                          sizeof(struct sock_filter)},
    [SECCOMP_ROLE_MOVE_RDMA] = {seccomp_filter_move_rdma,
                                sizeof(seccomp_filter_move_rdma) /
                                    sizeof(struct sock_filter)},
};

/* Kills become log lines. */
static void kills_soften(struct sock_filter *code, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        if (code[i].code == (BPF_RET | BPF_K) && code[i].k == SECCOMP_RET_KILL_PROCESS) {
            code[i].k = SECCOMP_RET_LOG;
        }
    }
}

/* The run time of a sanitizer makes system calls of its own, in all threads. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

/* 0 or a descriptor. */
static int enter(enum seccomp_mode mode, enum seccomp_role role, unsigned flags)
{
    struct sock_filter code[FILTER_MAX];
    CHECK(role < SECCOMP_ROLES && filters[role].size <= FILTER_MAX);
    struct sock_fprog program = {.len = (unsigned short)filters[role].size,
                                 .filter = (struct sock_filter *)filters[role].code};
    if (mode == SECCOMP_LOG) {
        memcpy(code, filters[role].code, filters[role].size * sizeof(code[0]));
        kills_soften(code, filters[role].size);
        program.filter = code;
    }
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    return result < 0 ? -errno : (int)result;
}

int seccomp_enter(enum seccomp_mode mode, enum seccomp_role role)
{
    return mode == SECCOMP_OFF || (SANITIZED && mode == SECCOMP_KILL)
               ? 0
               : enter(mode, role, 0);
}

int seccomp_enter_notified(enum seccomp_mode mode, enum seccomp_role role,
                           int *ret_listener)
{
    int result =
        mode == SECCOMP_OFF ? -1 : enter(mode, role, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if (mode != SECCOMP_OFF && result < 0) {
        return result;
    }
    *ret_listener = result;
    return 0;
}
