/* SPDX-License-Identifier: Apache-2.0 */
/* Filters of the VMM's threads: nothing but what is listed. Why each call is there:
 * docs/jail.md. */
#include "vmm/jail/seccomp_generate.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* Without a look at the arguments. */
static const struct call plain[] = {
    /* descriptors that are open */
    {CALL(read), SET_ALL},
    {CALL(write), SET_ALL},
    {CALL(readv), SET_ALL},
    {CALL(writev), SET_ALL},
    {CALL(pread64), SET_ALL},
    {CALL(pwrite64), SET_ALL},
    {CALL(preadv), SET_ALL},
    {CALL(pwritev), SET_ALL},
    {CALL(preadv2), SET_ALL},
    {CALL(pwritev2), SET_ALL},
    {CALL(lseek), SET_ALL},
    {CALL(fstat), SET_ALL},
    {CALL(fsync), SET_ALL},
    {CALL(fdatasync), SET_ALL},
    {CALL(sync_file_range), SET_ALL},
    {CALL(fallocate), SET_ALL},
    {CALL(fadvise64), SET_ALL},
    {CALL(ftruncate), SET_MAIN | SET_MOVE},
    {CALL(close), SET_ALL},
    {CALL(dup), SET_TALK},
    {CALL(fcntl), SET_TALK},
    /* sockets that are open */
    {CALL(recvfrom), SET_TALK},
    {CALL(recvmsg), SET_TALK},
    {CALL(accept4), SET_TALK},
    {CALL(getsockname), SET_TALK},
    {CALL(getpeername), SET_TALK},
    {CALL(getsockopt), SET_TALK},
    {CALL(setsockopt), SET_TALK},
    {CALL(shutdown), SET_TALK},
    /* waiting */
    {CALL(epoll_wait), SET_ALL},
    {CALL(epoll_pwait), SET_ALL},
    {CALL(epoll_ctl), SET_ALL},
    {CALL(epoll_create1), SET_MAIN},
    {CALL(poll), SET_ALL},
    {CALL(ppoll), SET_ALL},
    {CALL(eventfd2), SET_TALK},
    {CALL(timerfd_create), SET_MAIN | SET_IO},
    {CALL(timerfd_settime), SET_ALL},
    {CALL(futex), SET_ALL},
    {CALL(nanosleep), SET_ALL},
    {CALL(clock_nanosleep), SET_ALL},
    {CALL(clock_gettime), SET_ALL},
    {CALL(clock_getres), SET_ALL},
    {CALL(gettimeofday), SET_ALL},
    {CALL(time), SET_ALL},
    {CALL(restart_syscall), SET_ALL},
    {CALL(sched_yield), SET_ALL},
    {CALL(io_uring_enter), SET_MAIN | SET_IO},
    /* the deadline of a vCPU: its own timer, which main sets and deletes; and the timer
     * that throttles it */
    {CALL(timer_create), SET_MAIN | SET_VCPU},
    {CALL(timer_settime), SET_ALL},
    {CALL(timer_delete), SET_MAIN | SET_VCPU},
    /* memory */
    {CALL(munmap), SET_ALL},
    {CALL(mremap), SET_ALL},
    {CALL(madvise), SET_ALL},
    {CALL(brk), SET_ALL},
    {CALL(mincore), SET_MAIN | SET_MOVE},
    {CALL(getrandom), SET_ALL},
    /* threads */
    {CALL(rt_sigreturn), SET_ALL},
    {CALL(rt_sigprocmask), SET_ALL},
    {CALL(rt_sigaction), SET_MAIN | SET_IO | SET_VCPU | SET_MOVE},
    {CALL(gettid), SET_ALL},
    {CALL(getpid), SET_ALL},
    {CALL(exit), SET_ALL},
    {CALL(exit_group), SET_ALL},
    {CALL(set_robust_list), SET_MAIN | SET_MOVE},
    {CALL(rseq), SET_MAIN | SET_MOVE},
    {CALL(sigaltstack), SET_MAIN | SET_MOVE},
    {CALL(sched_getaffinity), SET_MAIN | SET_MOVE},
    {CALL(sched_setaffinity), SET_MAIN},
    {CALL(seccomp), SET_MAIN | SET_MOVE}, /* a storage thread that a move starts */
};

/* What a library may try without need: it is told that there is no such thing. */
static const struct call refused[] = {
    {CALL(open), SET_ALL},
    {CALL(openat), SET_ALL},
    {CALL(stat), SET_ALL},
    {CALL(lstat), SET_ALL},
    {CALL(statx), SET_ALL},
    {CALL(access), SET_ALL},
    {CALL(faccessat), SET_ALL},
    {CALL(faccessat2), SET_ALL},
    {CALL(readlink), SET_ALL},
    {CALL(readlinkat), SET_ALL},
    {CALL(unlink), SET_ALL},
    {CALL(unlinkat), SET_ALL},
    {CALL(statfs), SET_ALL},
    /* The RDMA libraries look for devices and services that were not there before. */
    {CALL(socket), SET_RDMA},
};

/* Devices that were handed in: KVM, a tap's offloads, vhost, userfaultfd, a terminal. */
static void ioctls_add(scmp_filter_ctx filter, unsigned set)
{
    static const struct {
        uint32_t mask, value;
        unsigned sets;
    } ioctls[] = {
        {0xff00, 0xae00, SET_ALL},                              /* KVM_* */
        {0xff00, 0xaf00, SET_ALL},                              /* VHOST_* */
        {0xff00, 0xaa00, SET_MAIN | SET_MOVE},                  /* UFFDIO_* */
        {0xffffffff, 0xc0181b01, SET_RDMA},                     /* RDMA_VERBS_IOCTL */
        {0xffffffff, 0x400454d0, SET_ALL},                      /* TUNSETOFFLOAD */
        {0xffffffff, 0x400454d1, SET_MAIN | SET_IO | SET_VCPU}, /* TUNSETTXFILTER */
        {0xffffffff, 0x400454d8, SET_MAIN | SET_IO},            /* TUNSETVNETHDRSZ */
        {0xffffffff, 0x400454d9, SET_MAIN | SET_IO | SET_VCPU}, /* TUNSETQUEUE */
        {0xffffffff, 0x5401, SET_MAIN},                         /* TCGETS */
        {0xffffffff, 0x5402, SET_MAIN},                         /* TCSETS */
        {0xffffffff, 0x5421, SET_MAIN | SET_IO | SET_MOVE},     /* FIONBIO */
        {0xffffffff, 0x541b, SET_MAIN | SET_IO | SET_MOVE},     /* FIONREAD */
    };
    for (unsigned i = 0; i < sizeof(ioctls) / sizeof(ioctls[0]); i++) {
        if ((ioctls[i].sets & set) != 0) {
            seccomp_generate_allow_if(
                filter, SCMP_SYS(ioctl),
                SCMP_A1_32(SCMP_CMP_MASKED_EQ, ioctls[i].mask, ioctls[i].value));
        }
    }
    seccomp_generate_check(seccomp_syscall_priority(filter, SCMP_SYS(ioctl), 255),
                           "priority");
}

static void arguments_add(scmp_filter_ctx filter, unsigned set)
{
    /* No memory becomes code. */
    seccomp_generate_allow_if(filter, SCMP_SYS(mmap),
                              SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    seccomp_generate_allow_if(filter, SCMP_SYS(mprotect),
                              SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* fstat() of some C libraries; with a path it is refused below. */
    seccomp_generate_allow_if(
        filter, SCMP_SYS(newfstatat),
        SCMP_A3_32(SCMP_CMP_MASKED_EQ, 0x1000, 0x1000)); /* AT_EMPTY_PATH */
    struct scmp_arg_cmp with_path = SCMP_A3_32(SCMP_CMP_MASKED_EQ, 0x1000, 0);
    seccomp_generate_check(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOENT),
                                                  SCMP_SYS(newfstatat), 1, &with_path),
                           "newfstatat");
    /* Its own threads: it is process 1 of its namespace. */
    seccomp_generate_allow_if(filter, SCMP_SYS(tgkill), SCMP_A0_32(SCMP_CMP_EQ, 1));
    /* Names of threads. */
    seccomp_generate_allow_if(filter, SCMP_SYS(prctl),
                              SCMP_A0_32(SCMP_CMP_EQ, 15)); /* PR_SET_NAME */
    /* Limits are read, not set. */
    seccomp_generate_allow_if(filter, SCMP_SYS(prlimit64), SCMP_A2_64(SCMP_CMP_EQ, 0));
    if ((set & SET_TALK) != 0) {
        /* A socket that was handed in stays connected to whom it was. */
        seccomp_generate_allow_if(filter, SCMP_SYS(sendto),
                                  SCMP_A3_32(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
        seccomp_generate_allow_if(filter, SCMP_SYS(sendmsg),
                                  SCMP_A2_32(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
    }
    if ((set & (SET_MAIN | SET_MOVE)) != 0) {
        /* Threads, not processes; what clone3 hides in memory can't be judged, and the C
         * library then takes clone. */
        const uint64_t thread = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
        const uint64_t spaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
                                CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                CLONE_NEWNET;
        seccomp_generate_allow_if(
            filter, SCMP_SYS(clone),
            SCMP_A0_64(SCMP_CMP_MASKED_EQ, thread | spaces, thread));
        seccomp_generate_check(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOSYS),
                                                      SCMP_SYS(clone3), 0, NULL),
                               "clone3");
    }
}

scmp_filter_ctx seccomp_generate_vmm(unsigned set)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    seccomp_generate_check(filter == NULL ? -ENOMEM : 0, "init");
    seccomp_generate_check(
        seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
        "bad architectures");
    seccomp_generate_check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2),
                           "binary tree");
    ioctls_add(filter, set);
    arguments_add(filter, set);
    for (unsigned i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if ((plain[i].sets & set) != 0) {
            seccomp_generate_check(
                seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, plain[i].number, 0, NULL),
                plain[i].name);
        }
    }
    for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        if ((refused[i].sets & set) != 0) {
            seccomp_generate_check(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOENT),
                                                          refused[i].number, 0, NULL),
                                   refused[i].name);
        }
    }
    return filter;
}
