/* SPDX-License-Identifier: Apache-2.0 */
/* Namespaces, root, limits, user: in this order, each while the rights for it last. */
#include "vmm/jail/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/jail/broker.h"
#include "vmm/jail/jail_world.h"
#include "vmm/jail/launcher.h"

#define FILES_MAX      4096
#define POLL_MAX       256 /* divides it */
#define THREADS_MAX    1024
#define FILE_SLACK     (UINT64_C(1) << 30) /* logs, a snapshot's own part */
#define CAPABILITY_MAX 63                  /* what the kernel's masks can hold */
/* Pinned beyond guest memory: the buffers of a move's links, and how the kernel counts. */
#define PINNED_SLACK (UINT64_C(64) << 20)
int jail_user_find(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct error *err)
{
    char *rest = NULL;
    errno = 0;
    unsigned long number = strtoul(user, &rest, 10);
    if (user[0] >= '0' && user[0] <= '9' && *rest == '\0') {
        if (errno != 0 || number == 0 || number >= UINT32_MAX) {
            return error_set(err, DROVER_EBADINPUT,
                             "--user %s: give a number from 1 to 4294967294, or a name",
                             user);
        }
        *ret_uid = (uid_t)number;
        *ret_gid = (gid_t)number;
        return 0;
    }
    const struct passwd *entry = getpwnam(user);
    if (entry == NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "--user %s: this host knows no such user: make it with "
                         "'useradd --system %s', or leave the option out",
                         user, user);
    }
    if (entry->pw_uid == 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "--user %s is root: name another, or leave the option out",
                         user);
    }
    *ret_uid = entry->pw_uid;
    *ret_gid = entry->pw_gid;
    return 0;
}

static int step_failed(const char *what, struct error *err)
{
    int result = -errno;
    return error_set(err, result,
                     "cannot enter the VM's jail: %s: %s; give --no-jail where "
                     "namespaces can't be had",
                     what, err_text(result));
}

/* The launcher's list is sealed with that, and gives the world. */
static int namespaces_enter(struct broker *broker, bool settles, struct error *err)
{
    CLEANUP(jail_world_done)
    struct jail_world world = {.network_fd = -1, .mount_fd = -1};
    struct error why = {0};
    int result = broker_seal(broker, &world, &why);
    if (result < 0) {
        return error_set(err, result, "cannot enter the VM's jail: %s", why.text);
    }
    result = settles ? jail_world_enter_network(&world) : jail_world_enter(&world);
    if (result < 0 || unshare(CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0) {
        return step_failed("namespaces", err);
    }
    return sethostname("vm", 2) < 0 ? step_failed("host name", err) : 0;
}

/*
 * When the VM's user still has something to open: a process that stays root waits for
 * that, and then takes the host's files away from the one that waits for it, whose mount
 * namespace it shares.
 */
struct root_changer {
    pid_t pid;
    int go_fd;
};

static void changer_main(int wait_fd)
{
    char word;
    bool ordered = read(wait_fd, &word, 1) == 1;
    _exit(ordered && jail_world_empty() == 0 ? 0 : 1);
}

static int changer_start(struct root_changer *ret_changer, struct error *err)
{
    int pair[2];
    /* Who stands at the old root is moved to the new one with it. */
    if (chdir("/") < 0 || pipe2(pair, O_CLOEXEC) < 0) {
        return step_failed("empty root", err);
    }
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(pair[1]); /* so that the other's end is seen */
        changer_main(pair[0]);
    }
    (void)close(pair[0]); /* only the child's */
    if (pid < 0) {
        (void)close(pair[1]); /* nobody reads it */
        return step_failed("empty root", err);
    }
    *ret_changer = (struct root_changer){.pid = pid, .go_fd = pair[1]};
    return 0;
}

static int changer_finish(struct root_changer *changer, bool go, struct error *err)
{
    int status = -1;
    struct stat root;
    bool told = !go || write(changer->go_fd, "g", 1) == 1;
    (void)close(changer->go_fd); /* without a word it ends too */
    while (waitpid(changer->pid, &status, 0) < 0 && errno == EINTR) {
    }
    bool empty = told && status == 0 && chdir("/") == 0;
    /* Whoever says so: nothing of the host's may be in sight. */
    empty = empty && (JAIL_SANITIZED ||
                      (stat("/dev", &root) < 0 && stat("/proc", &root) < 0));
    if (go && !empty) {
        errno = EPERM;
        return step_failed("empty root", err);
    }
    return 0;
}

static bool limit_set(int resource, uint64_t value)
{
    struct rlimit limit = {.rlim_cur = value, .rlim_max = value};
    return setrlimit((unsigned)resource, &limit) == 0;
}

static uint64_t file_bytes_of(int fd)
{
    struct stat status;
    bool is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    return is_file ? (uint64_t)status.st_size : 0;
}

/*
 * Of the files that are open, the largest. Few of the numbers are in use: poll() tells
 * which, many at a time. Each new descriptor takes the lowest number that is free, and
 * all were closed at the start: above a part without any there are none.
 */
static uint64_t largest_file_bytes(void)
{
    struct pollfd fds[POLL_MAX];
    uint64_t largest = 0;
    for (int first = 0; first < FILES_MAX; first += POLL_MAX) {
        for (int i = 0; i < POLL_MAX; i++) {
            fds[i] = (struct pollfd){.fd = first + i};
        }
        int told = poll(fds, POLL_MAX, 0);
        bool any = false;
        for (int i = 0; i < POLL_MAX; i++) {
            bool open = told < 0 || (fds[i].revents & POLLNVAL) == 0;
            uint64_t bytes = open ? file_bytes_of(first + i) : 0;
            largest = bytes > largest ? bytes : largest;
            any = any || open;
        }
        if (!any) {
            break;
        }
    }
    return largest;
}

static int limits_set(const struct jail_config *config, struct error *err)
{
    uint64_t file_bytes = largest_file_bytes();
    if (file_bytes < config->memory_bytes) {
        file_bytes = config->memory_bytes;
    }
    /* A write past the end of all files fails; the signal would kill. */
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    if (!limit_set(RLIMIT_CORE, 0) || !limit_set(RLIMIT_NOFILE, FILES_MAX) ||
        !limit_set(RLIMIT_NPROC, THREADS_MAX) ||
        !limit_set(RLIMIT_FSIZE, file_bytes + FILE_SLACK) ||
        !limit_set(RLIMIT_MSGQUEUE, 0)) {
        return step_failed("limits", err);
    }
    /* Who may not raise it does with less: what can't be pinned goes over the connection. */
    if (config->rdma && !limit_set(RLIMIT_MEMLOCK, config->memory_bytes + PINNED_SLACK) &&
        errno != EPERM) {
        return step_failed("limits", err);
    }
    return 0;
}

static int capabilities_drop(struct error *err)
{
    for (unsigned long capability = 0; capability <= CAPABILITY_MAX; capability++) {
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
            if (errno == EINVAL && capability > 0) {
                break; /* this kernel has none of that number, nor above */
            }
            return step_failed("capabilities", err); /* EPERM: it may not be dropped */
        }
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECUREBITS,
              SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED |
                  SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                  SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
              0, 0, 0) < 0) {
        return step_failed("capabilities", err);
    }
    return 0;
}

static int user_change(const struct jail_config *config, struct error *err)
{
    uid_t uid = config->uid;
    gid_t gid = config->gid;
    if (uid == 0) {
        uid = JAIL_UID_BASE + (uid_t)broker_host_pid(config->broker);
        gid = uid;
    }
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
        setresuid(uid, uid, uid) < 0) {
        return step_failed("user", err);
    }
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    const struct __user_cap_data_struct none[2] = {0};
    if (syscall(SYS_capset, &header, none) < 0) {
        return step_failed("capabilities", err);
    }
    return 0;
}

static bool launcher_gone(const struct broker *broker)
{
    struct pollfd pair = {.fd = broker_fd(broker)};
    return poll(&pair, 1, 0) > 0 && (pair.revents & POLLHUP) != 0;
}

/* After the change of user, which forgets such things. */
static int process_mark(const struct jail_config *config, struct error *err)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_DUMPABLE, JAIL_SANITIZED ? 1 : 0, 0, 0, 0) < 0) {
        return step_failed("process", err);
    }
    /* It may have died before there was a signal to tell of it. */
    return launcher_gone(config->broker)
               ? error_set(err, DROVER_ECLOSED, "the launcher of this VM was killed")
               : 0;
}

/* Process 1 of a namespace is spared the signals that it has no handler for, also its
 * own. */
static void aborted(int signal_number)
{
    (void)signal_number;
    _exit(LAUNCHER_STATUS_ABORTED);
}

static int rights_drop(const struct jail_config *config, struct error *err)
{
    int result = limits_set(config, err);
    result = result < 0 ? result : capabilities_drop(err);
    return result < 0 ? result : user_change(config, err);
}

static int settle(const struct jail_config *config, struct error *err)
{
    struct root_changer changer = {.pid = -1, .go_fd = -1};
    int result = changer_start(&changer, err);
    if (result < 0) {
        return result;
    }
    result = rights_drop(config, err);
    result = result < 0 ? result : config->settle(config->settle_owner, err);
    struct error unheard = {0};
    int changed = changer_finish(&changer, result == 0, result < 0 ? &unheard : err);
    return result < 0 ? result : changed;
}

int jail_enter(const struct jail_config *config, struct error *err)
{
    CHECK(signal(SIGABRT, aborted) != SIG_ERR);
    bool settles = config->settle != NULL;
    int result = namespaces_enter(config->broker, settles, err);
    if (result == 0) {
        result = settles ? settle(config, err) : rights_drop(config, err);
    }
    result = result < 0 ? result : process_mark(config, err);
    if (result == 0) {
        result = seccomp_enter(config->seccomp,
                               config->rdma ? SECCOMP_ROLE_MAIN_RDMA : SECCOMP_ROLE_MAIN);
        if (result < 0) {
            (void)error_set(err, result, "cannot enter the VM's jail: seccomp: %s",
                            err_text(result));
        }
    }
    return result;
}
