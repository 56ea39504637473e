/* SPDX-License-Identifier: Apache-2.0 */
/* From root to a jailed program, in the order in which the rights for each step go. */
#include "vmm/storage/storage_jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/jail/broker_wire.h"
#include "vmm/jail/rights.h"
#include "vmm/storage/storage_root.h"

#define FREE_FD   5 /* in the program, nothing of ours is open from here on */
#define FILES_MAX 1024
#define START_MS  10000
/* What the child says before it becomes the program: step | errno. The descriptors are
 * with step 0: the folder's, and the filter's listener. */
#define WORD_SIZE 8

enum step {
    STEP_DONE,
    STEP_DESCRIPTORS,
    STEP_ROOT,
    STEP_RIGHTS,
    STEP_FILTER,
    STEP_PROGRAM,
};

static const char *const step_names[] = {
    [STEP_DONE] = "start",     [STEP_DESCRIPTORS] = "descriptors",
    [STEP_ROOT] = "its files", [STEP_RIGHTS] = "rights",
    [STEP_FILTER] = "seccomp", [STEP_PROGRAM] = "the program",
};

/* ---- the child ------------------------------------------------------------ */

static _Noreturn void child_fail(enum step step, int result)
{
    uint8_t word[WORD_SIZE];
    broker_put32(word, step);
    broker_put32(word + 4, (uint32_t)-result);
    (void)broker_packet_send(STORAGE_JAIL_TALK_FD, word, sizeof(word), NULL);
    _exit(126);
}

static bool descriptors_settle(const struct storage_jail *jail, int talk_fd)
{
    int talk_high = fcntl(talk_fd, F_DUPFD, 64);
    int lock_high = jail->lock_fd > 0 ? fcntl(jail->lock_fd, F_DUPFD, 64) : -1;
    (void)close(STORAGE_JAIL_LOCK_FD); /* whatever it is: it was copied if it is wanted */
    return talk_high >= 0 && dup2(talk_high, STORAGE_JAIL_TALK_FD) >= 0 &&
           (jail->lock_fd <= 0 ||
            (lock_high >= 0 && dup2(lock_high, STORAGE_JAIL_LOCK_FD) >= 0)) &&
           close_range(FREE_FD, ~0u, 0) == 0;
}

static bool limits_set(void)
{
    const struct rlimit none = {0, 0};
    const struct rlimit files = {FILES_MAX, FILES_MAX};
    return setrlimit(RLIMIT_CORE, &none) == 0 && setrlimit(RLIMIT_NOFILE, &files) == 0 &&
           setrlimit(RLIMIT_MSGQUEUE, &none) == 0;
}

/* Its parent has the only other end: no parent-death signal comes of one that died
 * before. */
static bool parent_stands(void)
{
    struct pollfd talk = {.fd = STORAGE_JAIL_TALK_FD};
    return poll(&talk, 1, 0) == 0;
}

/* After the change of user, which forgets the signal. */
static int rights_give_up(uid_t uid)
{
    int ret = !limits_set() || sethostname("storage", 7) < 0
                  ? -errno
                  : rights_keep_files(uid, uid);
    if (ret < 0) {
        return ret;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return -errno;
    }
    return parent_stands() ? 0 : DROVER_ECLOSED;
}

static void signals_reset(void)
{
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; number++) {
        (void)signal(number, SIG_DFL); /* some can't be set, nor were they */
    }
}

static _Noreturn void child_main(const struct storage_jail *jail, int talk_fd)
{
    static char path[] = "PATH=/usr/bin";
    char *const environment[] = {path, NULL};
    int fds[BROKER_FDS_MAX] = {-1, -1};
    uint8_t word[WORD_SIZE] = {0};
    signals_reset();
    if (!descriptors_settle(jail, talk_fd)) {
        child_fail(STEP_DESCRIPTORS, -errno);
    }
    int ret =
        storage_root_make(jail->program, jail->files, STORAGE_JAIL_FOLDER, jail->uid);
    if (ret < 0) {
        child_fail(STEP_ROOT, ret);
    }
    ret = rights_give_up(jail->uid);
    ret = ret < 0 ? ret : storage_root_guard(jail->files, STORAGE_JAIL_FOLDER);
    if (ret < 0) {
        child_fail(STEP_RIGHTS, ret);
    }
    fds[0] = open(STORAGE_JAIL_FOLDER, O_PATH | O_DIRECTORY | O_CLOEXEC);
    ret = fds[0] < 0 ? -errno
                     : seccomp_enter_notified(jail->seccomp,
                                              jail->network ? SECCOMP_ROLE_STORAGE_NETWORK
                                                            : SECCOMP_ROLE_STORAGE,
                                              &fds[1]);
    ret =
        ret < 0 ? ret : broker_packet_send(STORAGE_JAIL_TALK_FD, word, sizeof(word), fds);
    if (ret < 0) {
        child_fail(STEP_FILTER, ret);
    }
    (void)close(fds[0]);
    cleanup_fd(&fds[1]);
    (void)execve(jail->program, jail->arguments, environment);
    _exit(127); /* seen by the end of the conversation */
}

/* ---- who starts it -------------------------------------------------------- */

/* The one program that the filter ever lets it become: after that nobody listens, and
 * the kernel refuses. */
static int program_pass(int listener)
{
    struct pollfd asked = {.fd = listener, .events = POLLIN};
    struct seccomp_notif question = {0};
    struct seccomp_notif_resp answer = {0};
    int got = 0;
    do {
        got = poll(&asked, 1, START_MS);
    } while (got < 0 && errno == EINTR);
    if (got <= 0 || (asked.revents & POLLIN) == 0) {
        return got < 0 ? -errno : got == 0 ? DROVER_ETIMEDOUT2 : DROVER_ECLOSED;
    }
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question) < 0) {
        return -errno;
    }
    answer.id = question.id;
    answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0 ? -errno : 0;
}

/* Takes the child's word. `*ret_folder` is the caller's. */
static int child_await(int talk_fd, int *ret_folder, enum step *ret_step)
{
    uint8_t word[WORD_SIZE];
    size_t size = 0;
    int fds[BROKER_FDS_MAX] = {-1, -1};
    struct pollfd talk = {.fd = talk_fd, .events = POLLIN};
    int got = 0;
    do {
        got = poll(&talk, 1, START_MS);
    } while (got < 0 && errno == EINTR);
    int ret = got == 0 ? DROVER_ETIMEDOUT2
                       : broker_packet_recv(talk_fd, word, sizeof(word), &size, fds);
    if (ret == 0 && size != sizeof(word)) {
        ret = DROVER_EMALFORMED;
    }
    *ret_step = STEP_PROGRAM;
    if (ret == 0 && broker_get32(word) != STEP_DONE) {
        *ret_step = (enum step)broker_get32(word);
        ret = -(int)broker_get32(word + 4);
    }
    if (ret == 0 && fds[1] >= 0) {
        ret = program_pass(fds[1]);
    }
    cleanup_fd(&fds[1]);
    if (ret < 0) {
        cleanup_fd(&fds[0]);
        return ret;
    }
    *ret_folder = fds[0];
    return 0;
}

static pid_t child_clone(bool network, bool sibling)
{
    unsigned long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
                          CLONE_NEWCGROUP | SIGCHLD;
    flags |= network ? 0 : CLONE_NEWNET;
    flags |= sibling ? CLONE_PARENT : 0;
    return (pid_t)syscall(SYS_clone, flags, 0, 0, 0, 0);
}

int storage_jail_start(const struct storage_jail *jail, bool sibling,
                       struct storage_jailed *ret_jailed, struct error *err)
{
    int pair[2];
    enum step step = STEP_DESCRIPTORS;
    int folder = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set(err, -errno, "no socket for the storage daemon: %s",
                         err_text(-errno));
    }
    pid_t pid = child_clone(jail->network, sibling);
    if (pid == 0) {
        child_main(jail, pair[1]);
    }
    int ret = pid < 0 ? -errno : 0;
    (void)close(pair[1]); /* only the child's */
    ret = ret < 0 ? ret : child_await(pair[0], &folder, &step);
    if (ret < 0) {
        (void)close(pair[0]); /* nobody is heard any more */
        if (pid > 0) {
            (void)kill(pid, SIGKILL);
        }
        while (pid > 0 && !sibling && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
        *ret_jailed = (struct storage_jailed){
            .pid = pid > 0 && sibling ? pid : 0, .talk_fd = -1, .folder_fd = -1};
        return error_set(
            err, ret,
            "the storage daemon can't enter its jail: %s: %s; give "
            "--no-jail where namespaces can't be had",
            step < sizeof(step_names) / sizeof(step_names[0]) ? step_names[step] : "?",
            err_text(ret));
    }
    *ret_jailed =
        (struct storage_jailed){.pid = pid, .talk_fd = pair[0], .folder_fd = folder};
    return 0;
}
