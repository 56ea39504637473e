/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can a VMM that a guest has taken over still reach? usage: jail_probe [off|launcher]
 *
 * Enters the jail of drover-vmm by the product's own code, with the same filters, once
 * for each thing to try, and prints a line for each: "refused NAME: why", "killed NAME"
 * or "REACHED NAME". "off" leaves the filters out, to show what namespaces, user and
 * capabilities hold back by themselves. "launcher" tries the same as the launcher, which
 * has nothing but its filter.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "vmm/host/ring.h"
#include "vmm/jail/broker.h"
#include "vmm/jail/jail.h"
#include "vmm/jail/launcher.h"

#define REACHED 42
#define REFUSED 43
#define BROKEN  44
#define WHY     "why: "

/* Outside the jail, what the attempts aim at. */
static struct {
    pid_t pid;
    int tcp_listener; /* handed in, as of a VM that waits for a move */
    int disk;         /* handed in */
    struct sockaddr_in tcp;
    struct sockaddr_un path, abstract;
    struct io_uring ring;
    struct broker *broker;
    unsigned allowed;
} world;

/* 0 or more: it worked. */
typedef long (*attempt_function)(void);

static long at_open_file(void) { return open("/etc/passwd", O_RDONLY); }
static long at_open_above(void) { return open("../../../../etc/passwd", O_RDONLY); }
static long at_open_proc(void) { return open("/proc/self/status", O_RDONLY); }
static long at_open_device(void) { return open("/dev/kvm", O_RDWR); }
static long at_create_file(void) { return open("/made", O_CREAT | O_RDWR, 0600); }
static long at_make_folder(void) { return mkdir("/made", 0700); }
static long at_make_device(void) { return mknod("/sda", S_IFBLK | 0600, makedev(8, 0)); }
static long at_mount(void) { return mount("none", "/", "tmpfs", 0, NULL); }
static long at_mount_proc(void) { return mount("proc", "/", "proc", 0, NULL); }
static long at_chroot(void) { return chroot("."); }
static long at_become_root(void) { return setuid(0); }
static long at_become_root_group(void) { return setgid(0); }
static long at_groups(void) { return setgroups(0, NULL); }
static long at_new_user_namespace(void) { return unshare(CLONE_NEWUSER); }
static long at_new_mount_namespace(void) { return unshare(CLONE_NEWNS); }
static long at_signal_outside(void) { return kill(world.pid, 0); }
static long at_signal_all(void) { return kill(-1, 0); }
static long at_trace_outside(void) { return ptrace(PTRACE_ATTACH, world.pid, NULL, NULL); }
static long at_syslog(void) { return klogctl(10, NULL, 0); }
static long at_reboot(void) { return syscall(SYS_reboot, 0xfee1dead, 672274793, 0, NULL); }
static long at_host_name(void) { return sethostname("taken", 5); }
static long at_module(void) { return syscall(SYS_init_module, "", 0, ""); }
static long at_port_rights(void) { return syscall(SYS_iopl, 3); }
static long at_handle(void) { return syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, 0); }
static long at_priority(void) { return setpriority(PRIO_PROCESS, 0, -10); }
static long at_run_program(void) { return execl("/bin/true", "true", NULL); }

static long at_read_memory_outside(void)
{
    char byte;
    struct iovec to = {&byte, 1};
    struct iovec from = {&world, 1};
    return syscall(SYS_process_vm_readv, world.pid, &to, 1, &from, 1, 0);
}

static long at_clock(void)
{
    const struct timespec then = {.tv_sec = 1};
    return clock_settime(CLOCK_REALTIME, &then);
}

static long at_more_files(void)
{
    const struct rlimit more = {1 << 20, 1 << 20};
    return setrlimit(RLIMIT_NOFILE, &more);
}

static long at_real_time(void)
{
    const struct sched_param first = {.sched_priority = 1};
    return sched_setscheduler(0, SCHED_FIFO, &first);
}

static long at_bpf(void)
{
    union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY,
                                 .key_size = 4,
                                 .value_size = 4,
                                 .max_entries = 1};
    return syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes));
}

static long at_perf(void)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE,
                                         .size = sizeof(attributes)};
    return syscall(SYS_perf_event_open, &attributes, -1, 0, -1, 0);
}

/* A ring of its own, and by it what open() refuses. */
static long at_ring(void)
{
    struct io_uring_params parameters = {0};
    long ring = syscall(SYS_io_uring_setup, 4, &parameters);
    if (ring < 0) {
        return ring;
    }
    size_t size = parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned);
    char *queue = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, (int)ring,
                       IORING_OFF_SQ_RING);
    struct io_uring_sqe *entry =
        mmap(NULL, 4 * sizeof(*entry), PROT_READ | PROT_WRITE, MAP_SHARED, (int)ring,
             IORING_OFF_SQES);
    char *done = mmap(NULL, parameters.cq_off.cqes + 8 * sizeof(struct io_uring_cqe),
                      PROT_READ | PROT_WRITE, MAP_SHARED, (int)ring, IORING_OFF_CQ_RING);
    if (queue == MAP_FAILED || entry == MAP_FAILED || done == MAP_FAILED) {
        return -1;
    }
    memset(entry, 0, sizeof(*entry));
    entry->opcode = IORING_OP_OPENAT;
    entry->fd = AT_FDCWD;
    entry->addr = (uintptr_t) "/etc/passwd";
    *(unsigned *)(queue + parameters.sq_off.array) = 0;
    __atomic_store_n((unsigned *)(queue + parameters.sq_off.tail), 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1) {
        return -1;
    }
    struct io_uring_cqe *result = (struct io_uring_cqe *)(done + parameters.cq_off.cqes);
    errno = result->res < 0 ? -result->res : 0;
    return result->res < 0 ? -1 : 0;
}

/* By the ring of its disk, which was made before the jail. */
static long own_ring(struct io_uring_sqe *entry)
{
    struct io_uring_sqe *next = io_uring_get_sqe(&world.ring);
    struct io_uring_cqe *done = NULL;
    *next = *entry;
    if (io_uring_submit_and_wait(&world.ring, 1) < 0 ||
        io_uring_peek_cqe(&world.ring, &done) < 0) {
        return -1;
    }
    errno = done->res < 0 ? -done->res : 0;
    return done->res < 0 ? -1 : done->res;
}

static long at_own_ring(void)
{
    struct io_uring_sqe entry = {.opcode = IORING_OP_WRITE,
                                 .fd = world.disk,
                                 .addr = (uintptr_t) "x",
                                 .len = 1};
    return own_ring(&entry);
}

static long at_own_ring_open(void)
{
    struct io_uring_sqe entry = {
        .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t) "/"};
    return own_ring(&entry);
}

static long at_own_ring_connect(void)
{
    static const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    struct io_uring_sqe entry = {.opcode = IORING_OP_CONNECT,
                                 .fd = world.tcp_listener,
                                 .addr = (uintptr_t)&nobody,
                                 .off = sizeof(nobody)};
    return own_ring(&entry);
}

static long at_own_ring_socket(void)
{
    struct io_uring_sqe entry = {
        .opcode = IORING_OP_SOCKET, .fd = AF_INET, .off = SOCK_STREAM};
    return own_ring(&entry);
}

static long at_key(void)
{
    return syscall(SYS_add_key, "user", "taken", "x", 1, KEY_SPEC_USER_KEYRING);
}

static long at_shared_memory(void)
{
    return shmget(0x64726f76, 1, 0); /* made outside, by main() */
}

static long at_tcp(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0 ? -1
                  : connect(fd, (struct sockaddr *)&world.tcp, sizeof(world.tcp));
}

static long at_unix_path(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return fd < 0 ? -1
                  : connect(fd, (struct sockaddr *)&world.path, sizeof(world.path));
}

static long at_unix_abstract(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return fd < 0 ? -1
                  : connect(fd, (struct sockaddr *)&world.abstract,
                            sizeof(sa_family_t) + 12);
}

/* The listening socket belongs to the host's network: it must not become a way out. */
static long at_listener_connect(void)
{
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    (void)connect(world.tcp_listener, &nobody, sizeof(nobody));
    return connect(world.tcp_listener, (struct sockaddr *)&world.tcp, sizeof(world.tcp));
}

static long at_listener_fastopen(void)
{
    (void)shutdown(world.tcp_listener, SHUT_RD);
    return sendto(world.tcp_listener, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&world.tcp,
                  sizeof(world.tcp));
}

static long at_code(void)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? -1 : 0;
}

static long at_process(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    return pid;
}

static long at_terminal_input(void) { return ioctl(0, TIOCSTI, "x"); }

static long at_broker_unknown(void)
{
    int fd = -1;
    return broker_open(world.broker, 77, 0, &fd, NULL) < 0 ? -1 : 0;
}

static long at_broker_more(void)
{
    unsigned id = 0;
    return broker_allow(world.broker, BROKER_UNIX_SOCKET, "/run/any", &id) < 0 ? -1 : 0;
}

/* What must work, or the rest shows nothing. */
static long at_own_disk(void)
{
    char byte = 'x';
    return pwrite(world.disk, &byte, 1, 0) == 1 && pread(world.disk, &byte, 1, 0) == 1
               ? 0
               : -1;
}

static void *nothing(void *argument) { return argument; }

static long at_own_thread(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, nothing, NULL) == 0 &&
                   pthread_join(thread, NULL) == 0
               ? 0
               : -1;
}

static long at_own_socket_by_broker(void)
{
    int fd = -1;
    return broker_open(world.broker, world.allowed, 0, &fd, NULL);
}

static const struct attempt {
    const char *name;
    attempt_function run;
} attempts[] = {
    {"own-disk", at_own_disk},
    {"own-thread", at_own_thread},
    {"own-ring", at_own_ring},
    {"own-socket-by-broker", at_own_socket_by_broker},
    {"open-file", at_open_file},
    {"open-above-root", at_open_above},
    {"open-proc", at_open_proc},
    {"open-device", at_open_device},
    {"create-file", at_create_file},
    {"make-folder", at_make_folder},
    {"make-device", at_make_device},
    {"mount", at_mount},
    {"mount-proc", at_mount_proc},
    {"chroot", at_chroot},
    {"become-root", at_become_root},
    {"become-root-group", at_become_root_group},
    {"groups", at_groups},
    {"user-namespace", at_new_user_namespace},
    {"mount-namespace", at_new_mount_namespace},
    {"signal-outside", at_signal_outside},
    {"signal-all", at_signal_all},
    {"trace-outside", at_trace_outside},
    {"read-memory-outside", at_read_memory_outside},
    {"kernel-log", at_syslog},
    {"reboot", at_reboot},
    {"host-name", at_host_name},
    {"kernel-module", at_module},
    {"port-rights", at_port_rights},
    {"open-by-handle", at_handle},
    {"priority", at_priority},
    {"real-time", at_real_time},
    {"clock", at_clock},
    {"more-files", at_more_files},
    {"run-program", at_run_program},
    {"new-process", at_process},
    {"bpf", at_bpf},
    {"perf", at_perf},
    {"io-uring-open", at_ring},
    {"own-ring-opens", at_own_ring_open},
    {"own-ring-connects", at_own_ring_connect},
    {"own-ring-makes-sockets", at_own_ring_socket},
    {"keyring", at_key},
    {"shared-memory", at_shared_memory},
    {"tcp", at_tcp},
    {"unix-socket", at_unix_path},
    {"unix-socket-abstract", at_unix_abstract},
    {"listener-connects", at_listener_connect},
    {"listener-fast-open", at_listener_fastopen},
    {"memory-as-code", at_code},
    {"terminal-input", at_terminal_input},
    {"broker-unknown", at_broker_unknown},
    {"broker-more", at_broker_more},
};

/* ---- the jail, once for each ------------------------------------------------------- */

static void jailed(const struct attempt *attempt, int broker_fd, enum seccomp_mode mode)
{
    struct error err = {0};
    struct jail_config config = {.memory_bytes = 1 << 20, .seccomp = mode};
    if (broker_create(broker_fd, &config.broker) < 0 ||
        broker_allow(config.broker, BROKER_UNIX_SOCKET, world.path.sun_path,
                     &world.allowed) < 0 ||
        ring_open(&world.ring, 4) < 0 || ring_seal(&world.ring) < 0) {
        _exit(BROKEN);
    }
    world.broker = config.broker;
    if (jail_enter(&config, &err) < 0) {
        (void)fprintf(stderr, "jail_probe: %s\n", err.text);
        _exit(BROKEN);
    }
    errno = 0;
    if (attempt->run() >= 0) {
        _exit(REACHED);
    }
    (void)dprintf(1, WHY "%s\n", strerror(errno));
    _exit(REFUSED);
}

/* What waitpid() says of a launcher that tried. */
static int try_as_launcher(const struct attempt *attempt)
{
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (seccomp_enter(SECCOMP_KILL, SECCOMP_ROLE_LAUNCHER) < 0) {
            _exit(BROKEN);
        }
        errno = 0;
        _exit(attempt->run() >= 0 ? REACHED : REFUSED);
    }
    int status = 0;
    return waitpid(pid, &status, 0) == pid ? status : -1;
}

/* What waitpid() says of a launcher whose VMM tried. */
static int try(const struct attempt *attempt, enum seccomp_mode mode)
{
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct launcher launcher = {.name = "probe"};
        bool is_vmm = false;
        int broker_fd = -1;
        struct error err = {0};
        if (launcher_split(&launcher, &is_vmm, &broker_fd, &err) < 0) {
            (void)fprintf(stderr, "jail_probe: %s\n", err.text);
            _exit(BROKEN);
        }
        if (is_vmm) {
            jailed(attempt, broker_fd, mode);
        }
        _exit(launcher_run(&launcher));
    }
    int status = 0;
    return waitpid(pid, &status, 0) == pid ? status : -1;
}

static void listener_make(int domain, const void *address, socklen_t size, int *ret_fd)
{
    *ret_fd = socket(domain, SOCK_STREAM, 0);
    if (*ret_fd < 0 || bind(*ret_fd, address, size) < 0 || listen(*ret_fd, 8) < 0) {
        perror("jail_probe: listen");
        exit(BROKEN);
    }
}

static void world_make(const char *folder)
{
    int fd = -1;
    socklen_t size = sizeof(world.tcp);
    world.pid = getpid();
    world.tcp = (struct sockaddr_in){.sin_family = AF_INET,
                                     .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    listener_make(AF_INET, &world.tcp, size, &world.tcp_listener);
    listener_make(AF_INET, &world.tcp, size, &fd);
    (void)getsockname(fd, (struct sockaddr *)&world.tcp, &size);
    world.path.sun_family = world.abstract.sun_family = AF_UNIX;
    (void)snprintf(world.path.sun_path, sizeof(world.path.sun_path), "%s/socket", folder);
    listener_make(AF_UNIX, &world.path, sizeof(world.path), &fd);
    (void)snprintf(world.abstract.sun_path + 1, 12, "p%010d", (int)getpid());
    listener_make(AF_UNIX, &world.abstract, sizeof(sa_family_t) + 12, &fd);
    char disk[128];
    (void)snprintf(disk, sizeof(disk), "%s/disk", folder);
    world.disk = open(disk, O_RDWR | O_CREAT, 0600);
    (void)shmget(0x64726f76, 4096, IPC_CREAT | 0666); /* removed by main() */
}

int main(int argc, char **argv)
{
    char folder[] = "/tmp/jail-probe-XXXXXX";
    char path[64];
    bool off = argc > 1 && strcmp(argv[1], "off") == 0;
    bool launcher = argc > 1 && strcmp(argv[1], "launcher") == 0;
    if (geteuid() != 0 || mkdtemp(folder) == NULL) {
        (void)fputs("jail_probe: needs root\n", stderr);
        return 77;
    }
    world_make(folder);
    for (unsigned i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
        if (launcher && (strncmp(attempts[i].name, "own-", 4) == 0 ||
                         strncmp(attempts[i].name, "broker-", 7) == 0 ||
                         attempts[i].run == at_create_file)) {
            continue; /* the VMM's; what it may do, and would leave behind */
        }
        int status = launcher ? try_as_launcher(&attempts[i])
                              : try(&attempts[i], off ? SECCOMP_OFF : SECCOMP_KILL);
        const char *what = "BROKEN";
        if (WIFSIGNALED(status)) {
            what = WTERMSIG(status) == SIGSYS || WTERMSIG(status) == SIGKILL ? "killed"
                                                                             : "BROKEN";
        } else if (WEXITSTATUS(status) == REACHED) {
            what = "REACHED";
        } else if (WEXITSTATUS(status) == REFUSED) {
            what = "refused";
        }
        (void)printf("%s %s\n", what, attempts[i].name);
    }
    (void)shmctl(shmget(0x64726f76, 0, 0), IPC_RMID, NULL);
    (void)snprintf(path, sizeof(path), "%s/socket", folder);
    (void)unlink(path);
    (void)snprintf(path, sizeof(path), "%s/disk", folder);
    (void)unlink(path);
    return rmdir(folder) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
