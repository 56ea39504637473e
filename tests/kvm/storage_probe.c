/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can a storage daemon that an image or a VMM has taken over still reach? usage:
 * storage_probe [off|network|backing FILE]
 *
 * Starts itself in the jail of storage daemons by the product's own code, once for each
 * thing to try, and prints a line for each: "refused NAME: why", "killed NAME" or
 * "REACHED NAME". "off" leaves the filter out, "network" is the jail of a disk on a
 * server.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
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
#include <sys/mount.h>
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
#include "vmm/jail/jail.h"
#include "vmm/storage/storage_jail.h"

#define SHARED_KEY    0x64726f77
#define OUTSIDE_MAX   20
#define SKIPPED       77
#define ABSTRACT_SIZE 12

/* What the attempts aim at; told to the jailed program by its arguments. */
static struct {
    const char *program;
    char image[64], backing[64], other[64], socket[64];
    pid_t pid;
    uint16_t port;
} world;

/* 0 or more: it worked. */
typedef long (*attempt_function)(void);

static long at_image(void)
{
    int fd = open(world.image, O_RDWR);
    return fd < 0 ? -1 : write(fd, "x", 1);
}

static long at_folder_full(void)
{
    static const char data[4096];
    int fd = open(STORAGE_JAIL_FOLDER "/made", O_CREAT | O_RDWR, 0600);
    for (int i = 0; i < 64; i++) {
        if (write(fd, data, sizeof(data)) != (ssize_t)sizeof(data)) {
            return -1;
        }
    }
    return 0;
}

static int unix_address(const char *path, struct sockaddr_un *ret_address)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)strncpy(ret_address->sun_path, path, sizeof(ret_address->sun_path) - 1);
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

static long at_own_socket(void)
{
    struct sockaddr_un address;
    int fd = unix_address(STORAGE_JAIL_FOLDER "/socket", &address);
    return fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof(address));
}

static long at_unix_path(void)
{
    struct sockaddr_un address;
    int fd = unix_address(world.socket, &address);
    return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&address, sizeof(address));
}

static void abstract_name(char *ret_name, pid_t pid)
{
    (void)snprintf(ret_name, ABSTRACT_SIZE, "s%010d", (int)pid);
}

static long at_unix_abstract(void)
{
    struct sockaddr_un address;
    int fd = unix_address("", &address);
    abstract_name(address.sun_path + 1, world.pid);
    return fd < 0 ? -1
                  : connect(fd, (struct sockaddr *)&address,
                            sizeof(sa_family_t) + ABSTRACT_SIZE);
}

static long at_tcp(void)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = world.port,
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd < 0 ? -1 : connect(fd, (const struct sockaddr *)&address, sizeof(address));
}

static void *nothing(void *argument)
{
    return argument;
}

static long at_thread(void)
{
    pthread_t thread;
    return pthread_create(&thread, NULL, nothing, NULL) == 0 &&
                   pthread_join(thread, NULL) == 0
               ? 0
               : -1;
}

static long at_new_process(void)
{
    long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        _exit(0);
    }
    return pid;
}

static long at_run_program(void)
{
    char *const arguments[] = {(char *)world.program, NULL};
    return execve(world.program, arguments, NULL);
}

static long at_run_by_descriptor(void)
{
    char *const arguments[] = {(char *)world.program, NULL};
    return syscall(SYS_execveat, open(world.program, O_PATH), "", arguments, NULL,
                   AT_EMPTY_PATH);
}

static long at_read_memory_outside(void)
{
    char byte;
    struct iovec to = {&byte, 1};
    struct iovec from = {&world, 1};
    return syscall(SYS_process_vm_readv, world.pid, &to, 1, &from, 1, 0);
}

static long at_bpf(void)
{
    union bpf_attr attributes = {
        .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes));
}

static long at_perf(void)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE,
                                         .size = sizeof(attributes)};
    return syscall(SYS_perf_event_open, &attributes, -1, 0, -1, 0);
}

static long at_ring(void)
{
    struct io_uring_params parameters = {0};
    return syscall(SYS_io_uring_setup, 4, &parameters);
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

static long at_key(void)
{
    return syscall(SYS_add_key, "user", "taken", "x", 1, KEY_SPEC_USER_KEYRING);
}

static long at_module(void)
{
    return syscall(SYS_init_module, "", 0, "");
}
static long at_reboot(void)
{
    return syscall(SYS_reboot, 0xfee1dead, 672274793, 0, 0);
}
static long at_handle(void)
{
    return syscall(SYS_open_by_handle_at, AT_FDCWD, NULL, 0);
}
static long at_backing(void)
{
    return open(world.backing, O_RDONLY);
}
static long at_backing_write(void)
{
    return open(world.backing, O_RDWR);
}
static long at_backing_remove(void)
{
    return unlink(world.backing);
}
static long at_program_write(void)
{
    return open(world.program, O_RDWR);
}
static long at_file_beside(void)
{
    return open(world.other, O_RDONLY);
}
static long at_passwords(void)
{
    return open("/etc/shadow", O_RDONLY);
}
static long at_above(void)
{
    return open("../../../../etc/passwd", O_RDONLY);
}
static long at_proc(void)
{
    return open("/proc/self/status", O_RDONLY);
}
static long at_proc_above(void)
{
    return open("/proc/1/root/etc/passwd", O_RDONLY);
}
static long at_sys(void)
{
    return open("/sys/kernel/notes", O_RDONLY);
}
static long at_device(void)
{
    return open("/dev/kvm", O_RDWR);
}
static long at_disk(void)
{
    return open("/dev/sda", O_RDONLY);
}
static long at_create(void)
{
    return open("/made", O_CREAT | O_RDWR, 0600);
}
static long at_make_folder(void)
{
    return mkdir("/usr/made", 0700);
}
static long at_mount(void)
{
    return mount("none", "/", "tmpfs", 0, NULL);
}
static long at_mount_proc(void)
{
    return mount("proc", "/drover", "proc", 0, NULL);
}
static long at_chroot(void)
{
    return chroot(".");
}
static long at_root(void)
{
    return setuid(0);
}
static long at_root_group(void)
{
    return setgid(0);
}
static long at_user_namespace(void)
{
    return unshare(CLONE_NEWUSER);
}
static long at_mount_namespace(void)
{
    return unshare(CLONE_NEWNS);
}
static long at_signal(void)
{
    return kill(world.pid, 0);
}
static long at_signal_all(void)
{
    return kill(-1, 0);
}
static long at_trace(void)
{
    return ptrace(PTRACE_ATTACH, world.pid, NULL, NULL);
}
static long at_syslog(void)
{
    return klogctl(10, NULL, 0);
}
static long at_host_name(void)
{
    return sethostname("taken", 5);
}
static long at_ports(void)
{
    return syscall(SYS_iopl, 3);
}
static long at_priority(void)
{
    return setpriority(PRIO_PROCESS, 0, -10);
}
static long at_shared_memory(void)
{
    return shmget(SHARED_KEY, 1, 0);
}
static long at_packet(void)
{
    return socket(AF_PACKET, SOCK_RAW, 0);
}
static long at_raw(void)
{
    return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}
static long at_vsock(void)
{
    return socket(AF_VSOCK, SOCK_STREAM, 0);
}
static long at_alg(void)
{
    return socket(AF_ALG, SOCK_SEQPACKET, 0);
}
static long at_netlink(void)
{
    return socket(AF_NETLINK, SOCK_RAW, 0);
}

static long at_make_device(void)
{
    return mknod(STORAGE_JAIL_FOLDER "/sda", S_IFBLK | 0600, makedev(8, 0));
}

static const struct attempt {
    const char *name;
    attempt_function run;
} attempts[] = {
    {"own-image", at_image},
    {"own-backing", at_backing},
    {"own-socket", at_own_socket},
    {"own-thread", at_thread},
    {"backing-write", at_backing_write},
    {"backing-remove", at_backing_remove},
    {"program-write", at_program_write},
    {"file-beside", at_file_beside},
    {"folder-full", at_folder_full},
    {"passwords", at_passwords},
    {"above", at_above},
    {"proc", at_proc},
    {"proc-above", at_proc_above},
    {"sys", at_sys},
    {"device", at_device},
    {"disk", at_disk},
    {"create", at_create},
    {"make-folder", at_make_folder},
    {"make-device", at_make_device},
    {"mount", at_mount},
    {"mount-proc", at_mount_proc},
    {"chroot", at_chroot},
    {"root", at_root},
    {"root-group", at_root_group},
    {"user-namespace", at_user_namespace},
    {"mount-namespace", at_mount_namespace},
    {"new-process", at_new_process},
    {"run-program", at_run_program},
    {"run-by-descriptor", at_run_by_descriptor},
    {"signal", at_signal},
    {"signal-all", at_signal_all},
    {"trace", at_trace},
    {"memory-outside", at_read_memory_outside},
    {"module", at_module},
    {"reboot", at_reboot},
    {"handle", at_handle},
    {"bpf", at_bpf},
    {"perf", at_perf},
    {"ring", at_ring},
    {"key", at_key},
    {"clock", at_clock},
    {"syslog", at_syslog},
    {"host-name", at_host_name},
    {"ports", at_ports},
    {"priority", at_priority},
    {"real-time", at_real_time},
    {"more-files", at_more_files},
    {"shared-memory", at_shared_memory},
    {"tcp", at_tcp},
    {"unix-path", at_unix_path},
    {"unix-abstract", at_unix_abstract},
    {"packet", at_packet},
    {"raw", at_raw},
    {"vsock", at_vsock},
    {"alg", at_alg},
    {"netlink", at_netlink},
};
#define ATTEMPTS (sizeof(attempts) / sizeof(attempts[0]))

/* ---- in the jail ---------------------------------------------------------------- */

/* PROGRAM NUMBER FOLDER PID PORT BACKING */
static void world_name(const char *folder)
{
    (void)snprintf(world.image, sizeof(world.image), "%s/image", folder);
    (void)snprintf(world.backing, sizeof(world.backing), "%s/backing", folder);
    (void)snprintf(world.other, sizeof(world.other), "%s/other", folder);
    (void)snprintf(world.socket, sizeof(world.socket), "%s/socket", folder);
}

static int jailed_main(char **argv)
{
    unsigned long number = strtoul(argv[1], NULL, 10);
    world.program = argv[0];
    world_name(argv[2]);
    world.pid = (pid_t)strtol(argv[3], NULL, 10);
    world.port = (uint16_t)strtoul(argv[4], NULL, 10);
    (void)snprintf(world.backing, sizeof(world.backing), "%s", argv[5]);
    errno = 0;
    bool reached = number < ATTEMPTS && attempts[number].run() >= 0;
    int why = reached ? 0 : errno;
    return write(STORAGE_JAIL_TALK_FD, &why, sizeof(why)) == sizeof(why) ? 0 : 1;
}

/* ---- outside -------------------------------------------------------------------- */

static void try(unsigned number, const char *folder, const struct storage_chain *files,
                const char *mode)
{
    char words[3][OUTSIDE_MAX];
    struct storage_jailed jailed;
    struct error err = {0};
    int why = -1;
    int status = 0;
    (void)snprintf(words[0], OUTSIDE_MAX, "%u", number);
    (void)snprintf(words[1], OUTSIDE_MAX, "%d", (int)getpid());
    (void)snprintf(words[2], OUTSIDE_MAX, "%u", world.port);
    char *const arguments[] = {
        (char *)world.program, words[0], (char *)folder, words[1], words[2],
        world.backing,         NULL};
    const struct storage_jail jail = {
        .program = world.program,
        .arguments = arguments,
        .uid = JAIL_UID_BASE + (uid_t)getpid(),
        .network = strcmp(mode, "network") == 0,
        .seccomp = strcmp(mode, "off") == 0 ? SECCOMP_OFF : SECCOMP_KILL,
        .files = files,
    };
    if (storage_jail_start(&jail, false, &jailed, &err) < 0) {
        (void)printf("BROKEN %s: %s\n", attempts[number].name, err.text);
        return;
    }
    ssize_t got = read(jailed.talk_fd, &why, sizeof(why));
    (void)waitpid(jailed.pid, &status, 0);
    (void)close(jailed.talk_fd);
    (void)close(jailed.folder_fd);
    if (got == (ssize_t)sizeof(why)) {
        (void)printf("%s %s%s%s\n", why == 0 ? "REACHED" : "refused",
                     attempts[number].name, why == 0 ? "" : " ",
                     why == 0 ? "" : strerror(why));
    } else {
        bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
        bool ran = WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED; /* this, anew */
        (void)printf("%s %s\n",
                     killed ? "killed"
                     : ran  ? "REACHED"
                            : "BROKEN",
                     attempts[number].name);
    }
}

static void listener_make(int domain, const void *address, socklen_t size, int *ret_fd)
{
    *ret_fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*ret_fd < 0 || bind(*ret_fd, address, size) < 0 || listen(*ret_fd, 64) < 0) {
        perror("storage_probe: listen");
        exit(EXIT_FAILURE);
    }
}

/* Of root alone: what the one capability is for. */
static void file_make(const char *path)
{
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 || close(fd) < 0) {
        perror(path);
        exit(EXIT_FAILURE);
    }
}

static void world_make(const char *folder)
{
    struct sockaddr_in tcp = {.sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t size = sizeof(tcp);
    int fd = -1;
    world_name(folder);
    file_make(world.image);
    file_make(world.backing);
    file_make(world.other);
    (void)strcpy(address.sun_path, world.socket);
    listener_make(AF_UNIX, &address, sizeof(address), &fd);
    memset(address.sun_path, 0, sizeof(address.sun_path));
    abstract_name(address.sun_path + 1, getpid());
    listener_make(AF_UNIX, &address, sizeof(sa_family_t) + ABSTRACT_SIZE, &fd);
    listener_make(AF_INET, &tcp, size, &fd);
    (void)getsockname(fd, (struct sockaddr *)&tcp, &size);
    world.port = tcp.sin_port;
    (void)shmget(SHARED_KEY, 4096, IPC_CREAT | 0666); /* removed by main() */
}

int main(int argc, char **argv)
{
    char folder[] = "/tmp/storage-probe-XXXXXX";
    const char *mode = argc > 1 ? argv[1] : "";
    if (argc == 6) {
        return jailed_main(argv);
    }
    world.program = realpath("/proc/self/exe", NULL);
    if (geteuid() != 0 || JAIL_SANITIZED || world.program == NULL ||
        mkdtemp(folder) == NULL) {
        (void)fputs("storage_probe: needs root, and a build without sanitizers\n",
                    stderr);
        return SKIPPED;
    }
    world_make(folder);
    bool device = strcmp(mode, "backing") == 0 && argc == 3;
    if (device) {
        (void)unlink(world.backing);
        (void)snprintf(world.backing, sizeof(world.backing), "%s", argv[2]);
    }
    const struct storage_chain files = {
        .count = 2,
        .files = {{.path = world.image, .writable = true}, {.path = world.backing}},
    };
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        bool own = strncmp(attempts[i].name, "own-", 4) == 0;
        if (device && !own && attempts[i].run != at_backing_write) {
            continue;
        }
        (void)fflush(stdout);
        try(i, folder, &files, mode);
    }
    (void)shmctl(shmget(SHARED_KEY, 0, 0), IPC_RMID, NULL);
    (void)unlink(world.image);
    if (!device) {
        (void)unlink(world.backing);
    }
    (void)unlink(world.other);
    (void)unlink(world.socket);
    return rmdir(folder) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
