/* SPDX-License-Identifier: Apache-2.0 */
/* The filter of storage daemons: all but what is listed. Why: docs/jail.md. */
#include "vmm/jail/seccomp_generate.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <sys/socket.h>

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

void seccomp_generate_deadly(scmp_filter_ctx filter)
{
    for (unsigned i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++) {
        seccomp_generate_check(seccomp_rule_add_array(filter, SCMP_ACT_KILL_PROCESS,
                                                      deadly[i].number, 0, NULL),
                               deadly[i].name);
    }
}

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
    seccomp_generate_check(seccomp_rule_add_array(filter,
                                                  SCMP_ACT_ERRNO((unsigned)reason),
                                                  number, count, conditions),
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
    seccomp_generate_deadly(filter);
    for (unsigned i = 0; i < sizeof(denied) / sizeof(denied[0]); i++) {
        deny_if(filter, denied[i].number, (int)denied[i].sets, NULL, 0);
    }
    deny_if(filter, SCMP_SYS(clone), EPERM, &process, 1);
    deny_if(filter, SCMP_SYS(ioctl), EPERM, &type, 1);
    deny_if(filter, SCMP_SYS(ioctl), EPERM, &paste, 1);
    sockets_deny(filter, network);
    /* Whoever started it lets it become its program, and then answers no more. */
    seccomp_generate_check(
        seccomp_rule_add_array(filter, SCMP_ACT_NOTIFY, SCMP_SYS(execve), 0, NULL),
        "execve");
    deny_if(filter, SCMP_SYS(execveat), EPERM, NULL, 0);
}

scmp_filter_ctx seccomp_generate_storage(bool network)
{
    /* Whatever the kernel of the machine that builds can do. */
    (void)seccomp_api_set(5);
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    seccomp_generate_check(filter == NULL ? -ENOMEM : 0, "init");
    seccomp_generate_check(
        seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
        "bad architectures");
    seccomp_generate_check(seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2),
                           "binary tree");
    storage_rules(filter, network);
    return filter;
}
