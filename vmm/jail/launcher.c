/* SPDX-License-Identifier: Apache-2.0 */
/* The root process beside a jailed VMM. */
#include "vmm/jail/launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/jail/broker_wire.h"

/* ---- the fork -------------------------------------------------------------------- */

/* Where the agent's own score would keep the kernel from taking a VM first. */
static void score_reset(void)
{
    CLEANUP(cleanup_fd) int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    char text[16] = "";
    if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && text[0] == '-') {
        (void)!pwrite(fd, "0", 1, 0); /* the agent does it too, a moment later */
    }
}

/* Children of this process are in the new namespace from then on; `*ret_own_fd` leads
 * back. */
static int pid_namespace_make(int *ret_own_fd)
{
    CLEANUP(cleanup_fd) int own = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    if (own < 0 || unshare(CLONE_NEWPID) < 0) {
        return -errno;
    }
    *ret_own_fd = take_fd(&own);
    return 0;
}

static int signals_take(struct launcher *launcher)
{
    sigset_t signals;
    CHECK(sigemptyset(&signals) == 0 && sigaddset(&signals, SIGTERM) == 0 &&
          sigaddset(&signals, SIGINT) == 0 && sigaddset(&signals, SIGHUP) == 0 &&
          sigaddset(&signals, SIGCHLD) == 0);
    CHECK(sigprocmask(SIG_BLOCK, &signals, NULL) == 0);
    launcher->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    return launcher->signal_fd < 0 ? -errno : 0;
}

static int hello_send(struct launcher *launcher)
{
    uint8_t hello[BROKER_HELLO_SIZE];
    broker_put32(hello, (uint32_t)launcher->vmm_pid);
    return broker_packet_send(launcher->broker_fd, hello, sizeof(hello), NULL);
}

int launcher_split(struct launcher *launcher, bool *ret_is_vmm, int *ret_broker_fd,
                   struct error *err)
{
    int pair[2];
    int own_fd = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set(err, -errno, "no socket pair: %s", err_text(-errno));
    }
    CLEANUP(cleanup_fd) int ours = pair[0];
    CLEANUP(cleanup_fd) int theirs = pair[1];
    if (launcher->clustered) {
        score_reset();
    }
    int result = pid_namespace_make(&own_fd);
    CLEANUP(cleanup_fd) int own = own_fd;
    if (result < 0) {
        return error_set(err, result,
                         "no pid namespace for the VM's jail: %s; give --no-jail where "
                         "namespaces can't be had",
                         err_text(result));
    }
    /* Blocked before the fork: none may come between. */
    result = signals_take(launcher);
    pid_t pid = result < 0 ? -1 : fork();
    if (pid < 0) {
        result = result < 0 ? result : -errno;
        return error_set(err, result, "cannot start the VMM: %s", err_text(result));
    }
    *ret_is_vmm = pid == 0;
    if (pid == 0) {
        cleanup_fd(&launcher->signal_fd);
        *ret_broker_fd = take_fd(&theirs);
        return 0;
    }
    launcher->vmm_pid = pid;
    launcher->broker_fd = take_fd(&ours);
    /* A VMM that does not read must not hold up its launcher. */
    CHECK(fcntl(launcher->broker_fd, F_SETFL, O_NONBLOCK) == 0);
    /* Children that serve the VM later belong to the host's namespace. */
    if (setns(own, CLONE_NEWPID) < 0 || hello_send(launcher) < 0) {
        (void)kill(pid, SIGKILL);
        return error_set(err, -EIO, "cannot start the VMM: it ended at once");
    }
    launcher->world_result = jail_world_make(&launcher->world, &launcher->world_error);
    if (launcher->world_result == -ENOTRECOVERABLE) {
        (void)kill(pid, SIGKILL);
        return error_set(err, -ENOTRECOVERABLE, "cannot start the VMM: %s",
                         launcher->world_error.text);
    }
    return 0; /* else the VMM is told of it when it asks */
}

/* ---- the VMM's requests ------------------------------------------------------------ */

/* The VMM is not what it was, or broken: what it asks for no VMM of ours asks. */
static void vmm_kill(struct launcher *launcher, const char *why)
{
    (void)fprintf(stderr, "drover-vmm: the VMM was killed: it %s vm=%s\n", why,
                  launcher->name);
    (void)kill(launcher->vmm_pid, SIGKILL);
    cleanup_fd(&launcher->broker_fd);
    launcher->broker_fd = -1;
}

/* With up to BROKER_FDS_MAX descriptors, which may be NULL. */
static void reply(struct launcher *launcher, int result, const struct error *err,
                  const int *fds)
{
    uint8_t packet[BROKER_REPLY_SIZE];
    const char *text = result >= 0            ? ""
                       : err->text[0] != '\0' ? err->text
                                              : err_text(result);
    size_t size = strnlen(text, sizeof(packet) - BROKER_REPLY_HEAD);
    broker_put32(packet, (uint32_t)result);
    memcpy(packet + BROKER_REPLY_HEAD, text, size);
    /* One that is gone is seen elsewhere. */
    if (broker_packet_send(launcher->broker_fd, packet, BROKER_REPLY_HEAD + size, fds) ==
        -EAGAIN) {
        vmm_kill(launcher, "does not read what its launcher answers");
    }
}

static void world_give(struct launcher *launcher)
{
    const int fds[BROKER_FDS_MAX] = {launcher->world.network_fd,
                                     launcher->world.mount_fd};
    reply(launcher, launcher->world_result, &launcher->world_error, fds);
    jail_world_done(&launcher->world);
}

static int allow(struct launcher *launcher, uint8_t *packet, size_t size)
{
    char path[BROKER_PATH_SIZE + 1];
    unsigned id = 0;
    memcpy(path, packet + BROKER_REQUEST_HEAD, size - BROKER_REQUEST_HEAD);
    path[size - BROKER_REQUEST_HEAD] = '\0';
    int result = broker_list_allow(&launcher->list, broker_get32(packet + 4), path, &id);
    return result < 0 ? result : (int)id;
}

static void request_serve(struct launcher *launcher)
{
    uint8_t packet[BROKER_REQUEST_SIZE];
    size_t size = 0;
    int result =
        broker_packet_recv(launcher->broker_fd, packet, sizeof(packet), &size, NULL);
    if (result == DROVER_ECLOSED) {
        cleanup_fd(&launcher->broker_fd); /* it ends */
        launcher->broker_fd = -1;
        return;
    }
    if (result < 0 || size < BROKER_REQUEST_HEAD) {
        vmm_kill(launcher, "sent its launcher a malformed message");
        return;
    }
    struct broker_list *list = &launcher->list;
    struct error err = {0};
    uint32_t number = broker_get32(packet + 4);
    switch (broker_get32(packet)) {
    case BROKER_ALLOW:
        if (!list->sealed) {
            reply(launcher, allow(launcher, packet, size), &err, NULL);
            return;
        }
        break;
    case BROKER_SEAL:
        if (!list->sealed) {
            list->sealed = true;
            world_give(launcher);
            return;
        }
        break;
    case BROKER_OPEN:
        if (number < list->count && list->entries[number]->kind != BROKER_REMOVE_AT_END &&
            list->entries[number]->kind != BROKER_TAP_AT_END) {
            int fd = -1;
            result = broker_list_open(list, number, broker_get32(packet + 8), &fd, &err);
            reply(launcher, result, &err, (const int[BROKER_FDS_MAX]){fd, -1});
            cleanup_fd(&fd);
            return;
        }
        break;
    default:
        break;
    }
    vmm_kill(launcher, "asked its launcher for what it may not have");
}

/* ---- signals and the end ----------------------------------------------------------- */

static void signals_forward(struct launcher *launcher)
{
    struct signalfd_siginfo info = {0};
    while (read(launcher->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        /* A terminal has told the VMM as well. */
        if (info.ssi_signo != SIGCHLD && info.ssi_code != SI_KERNEL) {
            (void)kill(launcher->vmm_pid, (int)info.ssi_signo); /* not reaped yet */
        }
    }
}

static int die_of(int signal_number)
{
    struct rlimit none = {0};
    sigset_t one;
    (void)setrlimit(RLIMIT_CORE, &none); /* it is not this process's failure */
    CHECK(signal(signal_number, SIG_DFL) != SIG_ERR || signal_number == SIGKILL);
    CHECK(sigemptyset(&one) == 0 && sigaddset(&one, signal_number) == 0);
    CHECK(sigprocmask(SIG_UNBLOCK, &one, NULL) == 0);
    (void)raise(signal_number);
    return EXIT_FAILURE;
}

static int end(struct launcher *launcher, int wait_status)
{
    broker_list_done(&launcher->list);
    if (WIFSIGNALED(wait_status)) {
        if (WTERMSIG(wait_status) == SIGSYS) {
            (void)fprintf(stderr,
                          "drover-vmm: the VMM was killed: it made a system call that "
                          "its jail forbids; the kernel's log names it, and --jail-log "
                          "lets it pass vm=%s\n",
                          launcher->name);
        }
        return die_of(WTERMSIG(wait_status));
    }
    int status = WEXITSTATUS(wait_status);
    return status == LAUNCHER_STATUS_ABORTED ? die_of(SIGABRT) : status;
}

void launcher_give_up(struct launcher *launcher)
{
    (void)kill(launcher->vmm_pid, SIGKILL);
    while (waitpid(launcher->vmm_pid, NULL, 0) < 0 && errno == EINTR) {
    }
    broker_list_done(&launcher->list);
}

int launcher_run(struct launcher *launcher)
{
    for (;;) {
        struct pollfd fds[2] = {{.fd = launcher->signal_fd, .events = POLLIN},
                                {.fd = launcher->broker_fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            (void)kill(launcher->vmm_pid, SIGKILL);
            return EXIT_FAILURE;
        }
        if (fds[1].revents != 0) {
            request_serve(launcher);
        }
        if (fds[0].revents != 0) {
            signals_forward(launcher);
        }
        int wait_status = 0;
        if (waitpid(launcher->vmm_pid, &wait_status, WNOHANG) == launcher->vmm_pid) {
            return end(launcher, wait_status);
        }
    }
}
