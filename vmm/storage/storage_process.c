/* SPDX-License-Identifier: Apache-2.0 */
/* qemu-storage-daemon as a process. */
#include "vmm/storage/storage_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "vmm/storage/storage.h"
#include "vmm/storage/storage_chain.h"
#include "vmm/storage/storage_jail.h"
#include "vmm/storage/storage_starter.h"

/* In the program. */
#define QMP_FD  STORAGE_JAIL_TALK_FD
#define LOCK_FD STORAGE_JAIL_LOCK_FD
#define FREE_FD 5 /* from here on nothing of ours is open */

static const char *const arguments[] = {"qemu-storage-daemon", "--chardev",
                                        "socket,id=qmp,fd=3",  "--monitor",
                                        "chardev=qmp",         NULL};

static bool on_network(const struct storage_disk *disk)
{
    return strncmp(disk->path, "nbd://", 6) == 0;
}

/*
 * Without a jail. A hostile image may take the daemon over: of a root's rights it keeps
 * the one to files, and it has no network unless its disk is on one.
 */
static void rights_drop(const struct storage_disk *disk)
{
    int spaces = CLONE_NEWIPC | CLONE_NEWUTS;

    if (!on_network(disk)) {
        spaces |= CLONE_NEWNET;
    }
    /* Fails where the VMM is no root: there is nothing to drop. */
    (void)unshare(spaces);
    for (int right = 0; right <= CAP_LAST_CAP; right++) {
        if (right != CAP_DAC_OVERRIDE) {
            (void)prctl(PR_CAPBSET_DROP, right);
        }
    }
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* In the child of a process with threads: nothing but system calls. */
static _Noreturn void program_become(const struct storage_disk *disk, int qmp_fd,
                                     pid_t parent)
{
    static const char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    sigset_t none;
    int qmp_high = fcntl(qmp_fd, F_DUPFD, 64);
    int lock_high = disk->lock_fd > 0 ? fcntl(disk->lock_fd, F_DUPFD, 64) : -1;

    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent ||
        dup2(qmp_high, QMP_FD) < 0) {
        _exit(126);
    }
    (void)close(LOCK_FD);
    if (lock_high >= 0 && dup2(lock_high, LOCK_FD) < 0) {
        _exit(126);
    }
    (void)close_range(FREE_FD, ~0u, 0);
    rights_drop(disk);
    (void)execve(STORAGE_PROGRAM, (char *const *)arguments,
                 (char *const *)environment); /* it only reads them */
    _exit(127);
}

static int start_free(const struct storage_disk *disk,
                      struct storage_process *ret_process, struct error *err)
{
    int sockets[2];
    pid_t parent = getpid();

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0) {
        return error_set(err, -errno, "no socket for the storage daemon: %s",
                         err_text(-errno));
    }
    pid_t pid = fork();
    if (pid == 0) {
        program_become(disk, sockets[1], parent);
    }
    int ret = pid < 0 ? -errno : 0;
    (void)close(sockets[1]); /* the daemon's */
    if (ret < 0) {
        (void)close(sockets[0]); /* nobody's */
        return error_set(err, ret, "can't start a process: %s", err_text(ret));
    }
    *ret_process =
        (struct storage_process){.pid = pid, .talk_fd = sockets[0], .folder_fd = -1};
    return 0;
}

static struct storage_jail jail_of(const struct storage_disk *disk)
{
    return (struct storage_jail){
        .program = STORAGE_PROGRAM,
        .arguments = (char *const *)arguments, /* it only reads them */
        .uid = disk->jail_uid,
        .lock_fd = disk->lock_fd,
        .seccomp = disk->seccomp,
    };
}

int storage_process_starter(const struct storage_disk *disk,
                            struct storage_starter **ret_starter, struct error *err)
{
    const struct storage_jail common = jail_of(disk);
    return storage_starter_create(&common, ret_starter, err);
}

static int start_jailed(const struct storage_disk *disk,
                        const struct storage_chain *files,
                        struct storage_process *ret_process, struct error *err)
{
    struct storage_jail jail = jail_of(disk);
    struct storage_jailed jailed;
    /* A server of files knows root, and no user that is made up here. */
    jail.uid = files->networked ? 0 : jail.uid;
    jail.network = on_network(disk);
    jail.files = files;
    int ret = disk->starter != NULL
                  ? storage_starter_start(disk->starter, &jail, &jailed, err)
                  : storage_jail_start(&jail, false, &jailed, err);

    if (ret == 0) {
        *ret_process = (struct storage_process){
            .pid = jailed.pid, .talk_fd = jailed.talk_fd, .folder_fd = jailed.folder_fd};
    }
    return ret;
}

int storage_process_start(const struct storage_disk *disk,
                          const struct storage_chain *files,
                          struct storage_process *ret_process, struct error *err)
{
    if (access(STORAGE_PROGRAM, X_OK) < 0) {
        return error_set(err, -errno,
                         "disk %s needs " STORAGE_PROGRAM
                         ": install the package qemu-system-common "
                         "(Debian 12) or qemu-utils",
                         disk->path);
    }
    return disk->jailed ? start_jailed(disk, files, ret_process, err)
                        : start_free(disk, ret_process, err);
}
