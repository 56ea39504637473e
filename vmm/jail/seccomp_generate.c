/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Build tool: prints vmm/jail/seccomp_filters.h, the filters of seccomp.h as arrays. So
 * the VMM neither carries libseccomp nor spends time and memory on it. Why each call is
 * there: docs/jail.md.
 */
#include <errno.h>
#include <linux/filter.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

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

static void check(int result, const char *what)
{
    if (result != 0) {
        (void)fprintf(stderr, "seccomp_generate: %s: %s\n", what, strerror(-result));
        exit(EXIT_FAILURE);
    }
}

static void allow_if(scmp_filter_ctx filter, int number, struct scmp_arg_cmp condition)
{
    check(seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, 1, &condition),
          "conditional rule");
}

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
            allow_if(filter, SCMP_SYS(ioctl),
                     SCMP_A1_32(SCMP_CMP_MASKED_EQ, ioctls[i].mask, ioctls[i].value));
        }
    }
    check(seccomp_syscall_priority(filter, SCMP_SYS(ioctl), 255), "priority");
}

static void arguments_add(scmp_filter_ctx filter, unsigned set)
{
    /* No memory becomes code. */
    allow_if(filter, SCMP_SYS(mmap), SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    allow_if(filter, SCMP_SYS(mprotect), SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* fstat() of some C libraries; with a path it is refused below. */
    allow_if(filter, SCMP_SYS(newfstatat),
             SCMP_A3_32(SCMP_CMP_MASKED_EQ, 0x1000, 0x1000)); /* AT_EMPTY_PATH */
    struct scmp_arg_cmp with_path = SCMP_A3_32(SCMP_CMP_MASKED_EQ, 0x1000, 0);
    check(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOENT), SCMP_SYS(newfstatat), 1,
                                 &with_path),
          "newfstatat");
    /* Its own threads: it is process 1 of its namespace. */
    allow_if(filter, SCMP_SYS(tgkill), SCMP_A0_32(SCMP_CMP_EQ, 1));
    /* Names of threads. */
    allow_if(filter, SCMP_SYS(prctl), SCMP_A0_32(SCMP_CMP_EQ, 15)); /* PR_SET_NAME */
    /* Limits are read, not set. */
    allow_if(filter, SCMP_SYS(prlimit64), SCMP_A2_64(SCMP_CMP_EQ, 0));
    if ((set & SET_TALK) != 0) {
        /* A socket that was handed in stays connected to whom it was. */
        allow_if(filter, SCMP_SYS(sendto),
                 SCMP_A3_32(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
        allow_if(filter, SCMP_SYS(sendmsg),
                 SCMP_A2_32(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
    }
    if ((set & (SET_MAIN | SET_MOVE)) != 0) {
        /* Threads, not processes; what clone3 hides in memory can't be judged, and the C
         * library then takes clone. */
        const uint64_t thread = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
        const uint64_t spaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
                                CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                CLONE_NEWNET;
        allow_if(filter, SCMP_SYS(clone),
                 SCMP_A0_64(SCMP_CMP_MASKED_EQ, thread | spaces, thread));
        check(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0,
                                     NULL),
              "clone3");
    }
}

static scmp_filter_ctx filter_make(unsigned set)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    check(filter == NULL ? -ENOMEM : 0, "init");
    check(seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
          "bad architectures");
    check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2), "binary tree");
    ioctls_add(filter, set);
    arguments_add(filter, set);
    for (unsigned i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if ((plain[i].sets & set) != 0) {
            check(
                seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, plain[i].number, 0, NULL),
                plain[i].name);
        }
    }
    for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        if ((refused[i].sets & set) != 0) {
            check(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOENT),
                                         refused[i].number, 0, NULL),
                  refused[i].name);
        }
    }
    return filter;
}

/* ---- a program that knows nothing of its filter ------------------------------------ */

/* What no storage daemon does; the lists of QEMU's own -sandbox, and what is like them.
 */
static const struct call deadly[] = {
    /* obsolete, and of a whole machine */
    {CALL(reboot), 0},
    {CALL(swapon), 0},
    {CALL(swapoff), 0},
    {CALL(syslog), 0},
    {CALL(kexec_load), 0},
    {CALL(kexec_file_load), 0},
    {CALL(init_module), 0},
    {CALL(finit_module), 0},
    {CALL(delete_module), 0},
    {CALL(acct), 0},
    {CALL(quotactl), 0},
    {CALL(quotactl_fd), 0},
    {CALL(settimeofday), 0},
    {CALL(clock_settime), 0},
    {CALL(adjtimex), 0},
    {CALL(clock_adjtime), 0},
    {CALL(iopl), 0},
    {CALL(ioperm), 0},
    {CALL(modify_ldt), 0},
    {CALL(sethostname), 0},
    {CALL(setdomainname), 0},
    {CALL(vhangup), 0},
    {CALL(uselib), 0},
    {CALL(ustat), 0},
    {CALL(sysfs), 0},
    {CALL(lookup_dcookie), 0},
    /* file systems and namespaces */
    {CALL(mount), 0},
    {CALL(umount2), 0},
    {CALL(pivot_root), 0},
    {CALL(chroot), 0},
    {CALL(open_tree), 0},
    {CALL(move_mount), 0},
    {CALL(fsopen), 0},
    {CALL(fsconfig), 0},
    {CALL(fsmount), 0},
    {CALL(fspick), 0},
    {CALL(mount_setattr), 0},
    {CALL(unshare), 0},
    {CALL(setns), 0},
    {CALL(name_to_handle_at), 0},
    {CALL(open_by_handle_at), 0},
    {CALL(fanotify_init), 0},
    /* other processes, and the kernel's inside */
    {CALL(ptrace), 0},
    {CALL(process_vm_readv), 0},
    {CALL(process_vm_writev), 0},
    {CALL(process_madvise), 0},
    {CALL(kcmp), 0},
    {CALL(pidfd_open), 0},
    {CALL(pidfd_getfd), 0},
    {CALL(pidfd_send_signal), 0},
    {CALL(bpf), 0},
    {CALL(perf_event_open), 0},
    {CALL(add_key), 0},
    {CALL(request_key), 0},
    {CALL(keyctl), 0},
    /* other users */
    {CALL(setuid), 0},
    {CALL(setgid), 0},
    {CALL(setreuid), 0},
    {CALL(setregid), 0},
    {CALL(setresuid), 0},
    {CALL(setresgid), 0},
    {CALL(setfsuid), 0},
    {CALL(setfsgid), 0},
    {CALL(setgroups), 0},
    {CALL(capset), 0},
};

/* What a library may try, and can do without. */
static const struct call denied[] = {
    {CALL(userfaultfd), EPERM}, /* vhost-user servers look whether it is there */
    {CALL(fork), EPERM},
    {CALL(vfork), EPERM},
    {CALL(clone3), ENOSYS},
    {CALL(setsid), EPERM},
    {CALL(setpgid), EPERM},
    {CALL(personality), EPERM},
    {CALL(setpriority), EPERM},
    {CALL(ioprio_set), EPERM},
    {CALL(sched_setparam), EPERM},
    {CALL(sched_setscheduler), EPERM},
    {CALL(sched_setattr), EPERM},
    {CALL(sched_setaffinity), EPERM},
    {CALL(mbind), EPERM},
    {CALL(set_mempolicy), EPERM},
    {CALL(migrate_pages), EPERM},
    {CALL(move_pages), EPERM},
    /* It opens and connects by itself, past this filter. */
    {CALL(io_uring_setup), ENOSYS},
    {CALL(io_uring_enter), ENOSYS},
    {CALL(io_uring_register), ENOSYS},
};

static void deny_if(scmp_filter_ctx filter, int number, int reason,
                    const struct scmp_arg_cmp *conditions, unsigned count)
{
    check(seccomp_rule_add_array(filter, SCMP_ACT_ERRNO((unsigned)reason), number, count,
                                 conditions),
          "denied if");
}

/* All families but those that are named here, in rising order. */
static void sockets_deny(scmp_filter_ctx filter, bool network)
{
    static const unsigned families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
    const unsigned count = network ? 4 : 1;
    unsigned family = AF_UNSPEC;
    for (unsigned i = 0; i < count; i++) {
        for (; family < families[i]; family++) {
            const struct scmp_arg_cmp other = SCMP_A0_32(SCMP_CMP_EQ, family);
            deny_if(filter, SCMP_SYS(socket), EAFNOSUPPORT, &other, 1);
        }
        family++;
    }
    const struct scmp_arg_cmp above = SCMP_A0_32(SCMP_CMP_GE, family);
    deny_if(filter, SCMP_SYS(socket), EAFNOSUPPORT, &above, 1);
}

static void storage_rules(scmp_filter_ctx filter, bool network)
{
    const struct scmp_arg_cmp process = SCMP_A0_64(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0);
    const struct scmp_arg_cmp type = SCMP_A1_32(SCMP_CMP_EQ, 0x5412);  /* TIOCSTI */
    const struct scmp_arg_cmp paste = SCMP_A1_32(SCMP_CMP_EQ, 0x541c); /* TIOCLINUX */
    for (unsigned i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++) {
        check(seccomp_rule_add_array(filter, SCMP_ACT_KILL_PROCESS, deadly[i].number, 0,
                                     NULL),
              deadly[i].name);
    }
    for (unsigned i = 0; i < sizeof(denied) / sizeof(denied[0]); i++) {
        deny_if(filter, denied[i].number, (int)denied[i].sets, NULL, 0);
    }
    deny_if(filter, SCMP_SYS(clone), EPERM, &process, 1);
    deny_if(filter, SCMP_SYS(ioctl), EPERM, &type, 1);
    deny_if(filter, SCMP_SYS(ioctl), EPERM, &paste, 1);
    sockets_deny(filter, network);
    /* Whoever started it lets it become its program, and then answers no more. */
    check(seccomp_rule_add_array(filter, SCMP_ACT_NOTIFY, SCMP_SYS(execve), 0, NULL),
          "execve");
    deny_if(filter, SCMP_SYS(execveat), EPERM, NULL, 0);
}

static scmp_filter_ctx storage_filter_make(bool network)
{
    /* Whatever the kernel of the machine that builds can do. */
    (void)seccomp_api_set(5);
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    check(filter == NULL ? -ENOMEM : 0, "init");
    check(seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
          "bad architectures");
    check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2), "binary tree");
    storage_rules(filter, network);
    return filter;
}

/* ---- the launcher -------------------------------------------------------------------
 */

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
        check(seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, launcher_calls[i].number, 0,
                                     NULL),
              launcher_calls[i].name);
    }
    for (unsigned i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++) {
        check(seccomp_rule_add_array(filter, SCMP_ACT_KILL_PROCESS, deadly[i].number, 0,
                                     NULL),
              deadly[i].name);
    }
    check(
        seccomp_rule_add_array(filter, SCMP_ACT_KILL_PROCESS, SCMP_SYS(execve), 0, NULL),
        "execve");
    check(seccomp_rule_add_array(filter, SCMP_ACT_KILL_PROCESS, SCMP_SYS(execveat), 0,
                                 NULL),
          "execveat");
    allow_if(filter, SCMP_SYS(mmap), SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    allow_if(filter, SCMP_SYS(mprotect), SCMP_A2_32(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    allow_if(filter, SCMP_SYS(socket), SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
    allow_if(filter, SCMP_SYS(socket), SCMP_A0_32(SCMP_CMP_EQ, AF_NETLINK));
    allow_if(filter, SCMP_SYS(sendto), SCMP_A3_32(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
    allow_if(filter, SCMP_SYS(sendmsg), SCMP_A2_32(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
    allow_if(filter, SCMP_SYS(ioctl), SCMP_A1_32(SCMP_CMP_EQ, 0x8933)); /* SIOCGIFINDEX */
    allow_if(filter, SCMP_SYS(ioctl), SCMP_A1_32(SCMP_CMP_EQ, 0x5401)); /* TCGETS */
}

static scmp_filter_ctx launcher_filter_make(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    check(filter == NULL ? -ENOMEM : 0, "init");
    check(seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
          "bad architectures");
    check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2), "binary tree");
    launcher_rules(filter);
    return filter;
}

/* libseccomp writes what it made to a descriptor only. */
static void print_filter(const char *name, scmp_filter_ctx filter)
{
    FILE *file = tmpfile();
    check(file == NULL ? -errno : 0, "temporary file");
    check(seccomp_export_bpf(filter, fileno(file)), "export");
    rewind(file);
    (void)printf("static const struct sock_filter seccomp_filter_%s[] = {\n", name);
    struct sock_filter step;
    while (fread(&step, sizeof(step), 1, file) == 1) {
        (void)printf("    {0x%02x, %u, %u, 0x%08x},\n", step.code, step.jt, step.jf,
                     step.k);
    }
    (void)printf("};\n");
    (void)fclose(file); /* only read */
    seccomp_release(filter);
}

static void print(const char *name, unsigned set)
{
    print_filter(name, filter_make(set));
}

int main(void)
{
    (void)printf("/* Made by vmm/seccomp_generate: do not edit. */\n");
    print("main", SET_ALL);
    print("io", SET_IO);
    print("vcpu", SET_VCPU);
    print("move", SET_MOVE);
    print("main_rdma", SET_ALL | SET_RDMA);
    print("move_rdma", SET_MOVE | SET_RDMA);
    print_filter("storage", storage_filter_make(false));
    print_filter("storage_network", storage_filter_make(true));
    print_filter("launcher", launcher_filter_make());
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
