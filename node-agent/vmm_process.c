/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that outlive droverd. */
#include "node-agent/vmm_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "node-agent/vmm_folder.h"

/* glibc 2.36 has these; the numbers are the kernel's for all architectures. */
static int pidfd_of(int pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    return fd < 0 ? -errno : fd;
}

static int set_actions(posix_spawn_file_actions_t *actions, int lock_fd, int log_fd)
{
    /* dup2 clears close-on-exec. The log goes first: descriptor 3 may be the log's. */
    int rv = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
    rv = rv != 0 ? rv : posix_spawn_file_actions_adddup2(actions, log_fd, 1);
    rv = rv != 0 ? rv : posix_spawn_file_actions_adddup2(actions, log_fd, 2);
    if (rv == 0 && lock_fd >= 0) {
        rv = posix_spawn_file_actions_adddup2(actions, lock_fd, VMM_PROCESS_LOCK_FD);
    }
    int first_free = lock_fd >= 0 ? VMM_PROCESS_LOCK_FD + 1 : VMM_PROCESS_LOCK_FD;
    return rv != 0 ? rv : posix_spawn_file_actions_addclosefrom_np(actions, first_free);
}

static int set_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none;
    sigset_t all;
    (void)sigemptyset(&none); /* neither can fail */
    (void)sigfillset(&all);
    int rv = posix_spawnattr_setflags(
        attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    rv = rv != 0 ? rv : posix_spawnattr_setsigmask(attributes, &none);
    return rv != 0 ? rv : posix_spawnattr_setsigdefault(attributes, &all);
}

static int spawn(char *const argv[], int lock_fd, int log_fd, int *ret_pid)
{
    extern char **environ;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    pid_t pid = 0;
    int rv = posix_spawn_file_actions_init(&actions);
    if (rv != 0) {
        return -rv;
    }
    rv = posix_spawnattr_init(&attributes);
    if (rv != 0) {
        (void)posix_spawn_file_actions_destroy(&actions);
        return -rv;
    }
    rv = set_actions(&actions, lock_fd, log_fd);
    rv = rv != 0 ? rv : set_attributes(&attributes);
    rv = rv != 0 ? rv : posix_spawnp(&pid, argv[0], &actions, &attributes, argv, environ);
    (void)posix_spawnattr_destroy(&attributes); /* neither can fail */
    (void)posix_spawn_file_actions_destroy(&actions);
    if (rv == 0) {
        *ret_pid = pid;
    }
    return -rv;
}

int vmm_process_spawn(char *const argv[], int lock_fd, const char *log_path, int *ret_pid,
                      int *ret_pidfd, struct error *err)
{
    int pid = 0;
    /* Neither may be one of the descriptors that the child's own take the place of. */
    CLEANUP(cleanup_fd)
    int low = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    CLEANUP(cleanup_fd) int log_fd = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, 10);
    if (log_fd < 0) {
        return error_set(err, -errno, "can't write %s: %s", log_path, strerror(errno));
    }
    int rv = spawn(argv, lock_fd, log_fd, &pid);
    if (rv == -ENOENT || rv == -EACCES) {
        return error_set(
            err, rv,
            "can't run %s: %s: install it, or set its path in droverd's settings",
            argv[0], strerror(-rv));
    }
    if (rv != 0) {
        return error_set(err, rv, "can't run %s: %s", argv[0], strerror(-rv));
    }
    int pidfd = pidfd_of(pid); /* our child, not reaped yet: the pid is its own */
    if (pidfd < 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return error_set(err, pidfd, "can't watch %s: %s", argv[0], strerror(-pidfd));
    }
    *ret_pid = pid;
    *ret_pidfd = pidfd;
    return 0;
}

void vmm_process_spare(int pid, const char *oom_score_adj)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
    CLEANUP(cleanup_fd) int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, oom_score_adj, strlen(oom_score_adj)) < 0) {
        return; /* without the right to, it keeps droverd's own */
    }
}

int vmm_process_adopt(int pid, uint64_t start_ticks)
{
    if (pid <= 0 || start_ticks == 0) {
        return -ESRCH;
    }
    CLEANUP(cleanup_fd) int pidfd = pidfd_of(pid);
    if (pidfd < 0) {
        return pidfd;
    }
    /* Looked at after the open: the process that the pidfd names has this start, or is
     * gone. */
    if (vmm_folder_start_ticks(pid) != start_ticks) {
        return -ESRCH;
    }
    return take_fd(&pidfd);
}

void vmm_process_kill(int pidfd)
{
    (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

void vmm_process_reap(int pidfd, char *ret_text, size_t size)
{
    siginfo_t info = {0};
    ret_text[0] = '\0';
    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) {
        return; /* not our child, or init's by now */
    }
    if (info.si_code == CLD_EXITED) {
        (void)snprintf(ret_text, size, "ended with status %d", info.si_status);
    } else {
        (void)snprintf(ret_text, size, "was killed by signal %d (%s)", info.si_status,
                       strsignal(info.si_status));
    }
}
