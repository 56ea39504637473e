/* SPDX-License-Identifier: Apache-2.0 */
/* The filter of the launcher, by its calls. Why: docs/jail.md. */
#include "vmm/jail/seccomp_generate.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* It opens, connects and removes by name, kills, waits, and starts nothing. What is in
 * neither list is answered with EPERM: it outlives what a library tries without need. */
static const struct call launcher_calls[] = {
    /* what it waits for, and answers */
    {CALL(poll), 0},
    {CALL(ppoll), 0},
    {CALL(read), 0},
    {CALL(pread64), 0},
    {CALL(write), 0},
    {CALL(writev), 0},
    {CALL(recvmsg), 0},
    {CALL(recvfrom), 0},
    {CALL(close), 0},
    {CALL(fcntl), 0},
    {CALL(lseek), 0},
    /* files by name: images, lock files, sockets; the groups of its limits */
    {CALL(open), 0},
    {CALL(openat), 0},
    {CALL(stat), 0},
    {CALL(lstat), 0},
    {CALL(fstat), 0},
    {CALL(newfstatat), 0},
    {CALL(statfs), 0},
    {CALL(access), 0},
    {CALL(faccessat2), 0},
    {CALL(getcwd), 0},
    {CALL(unlink), 0},
    {CALL(unlinkat), 0},
    {CALL(fsync), 0},
    {CALL(fdatasync), 0},
    {CALL(fadvise64), 0},
    /* unix sockets; routes of taps */
    {CALL(connect), 0},
    /* processes */
    {CALL(kill), 0},
    {CALL(wait4), 0},
    {CALL(getpid), 0},
    {CALL(gettid), 0},
    {CALL(geteuid), 0},
    {CALL(tgkill), 0},
    {CALL(exit), 0},
    {CALL(exit_group), 0},
    {CALL(prlimit64), 0},
    {CALL(setrlimit), 0},
    {CALL(rt_sigaction), 0},
    {CALL(rt_sigprocmask), 0},
    {CALL(rt_sigreturn), 0},
    {CALL(restart_syscall), 0},
    /* memory and time */
    {CALL(brk), 0},
    {CALL(munmap), 0},
    {CALL(mremap), 0},
    {CALL(madvise), 0},
    {CALL(futex), 0},
    {CALL(getrandom), 0},
    {CALL(nanosleep), 0},
    {CALL(clock_nanosleep), 0},
    {CALL(clock_gettime), 0},
    {CALL(gettimeofday), 0},
    {CALL(time), 0},
};

static void launcher_rules(scmp_filter_ctx filter)
{
    for (unsigned i = 0; i < sizeof(launcher_calls) / sizeof(launcher_calls[0]); i++) {
        seccomp_generate_check(seccomp_rule_add_array(filter, SCMP_ACT_ALLOW,
                                                      launcher_calls[i].number, 0, NULL),
                               launcher_calls[i].name);
    }
    seccomp_generate_deadly(filter);
    seccomp_generate_check(
        seccomp_rule_add_array(filter, SCMP_ACT_KILL_PROCESS, SCMP_SYS(execve), 0, NULL),
        "execve");
    seccomp_generate_check(seccomp_rule_add_array(filter, SCMP_ACT_KILL_PROCESS,
                                                  SCMP_SYS(execveat), 0, NULL),
                           "execveat");
    seccomp_generate_allow_if(filter, SCMP_SYS(mmap),
                              SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    seccomp_generate_allow_if(filter, SCMP_SYS(mprotect),
                              SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    seccomp_generate_allow_if(filter, SCMP_SYS(socket), SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
    seccomp_generate_allow_if(filter, SCMP_SYS(socket),
                              SCMP_A0_32(SCMP_CMP_EQ, AF_NETLINK));
    seccomp_generate_allow_if(filter, SCMP_SYS(sendto),
                              SCMP_A3_32(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
    seccomp_generate_allow_if(filter, SCMP_SYS(sendmsg),
                              SCMP_A2_32(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
    seccomp_generate_allow_if(filter, SCMP_SYS(ioctl),
                              SCMP_A1_32(SCMP_CMP_EQ, 0x8933)); /* SIOCGIFINDEX */
    seccomp_generate_allow_if(filter, SCMP_SYS(ioctl),
                              SCMP_A1_32(SCMP_CMP_EQ, 0x5401)); /* TCGETS */
}

scmp_filter_ctx seccomp_generate_launcher(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    seccomp_generate_check(filter == NULL ? -ENOMEM : 0, "init");
    seccomp_generate_check(
        seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
        "bad architectures");
    seccomp_generate_check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2),
                           "binary tree");
    launcher_rules(filter);
    return filter;
}
