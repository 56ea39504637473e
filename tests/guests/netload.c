/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads a network path, for tests/bench/net.py and the lab: one program for both ends,
 * static, in a guest and on a host.
 *
 *   netload serve                     TCP ports 7000 (takes), 7001 (gives), 7002 (echo);
 *                                     the same on AF_VSOCK where the guest has it
 *   netload give|take|echo WHERE SECONDS [STREAMS]
 *                                     WHERE: ADDRESS, vsock:CID, or unix:PATH (a VMM's)
 *
 * A client prints one number: bytes a second that the taking end has counted, or round
 * trips of one byte a second.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT_TAKE  7000
#define PORT_GIVE  7001
#define PORT_ECHO  7002
#define PIECE      65536
#define STREAMS    64
#define CONNECT_MS 30000

static double now_s(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    (void)fprintf(stderr, "netload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void no_delay(int fd)
{
    int one = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* TCP only */
}

/* ---- the server ----------------------------------------------------------- */

/* Counts up to the other side's end, then tells it. */
static void serve_take(int fd)
{
    static char piece[PIECE];
    uint64_t count = 0;
    ssize_t got;

    while ((got = read(fd, piece, sizeof(piece))) > 0) {
        count += (uint64_t)got;
    }
    (void)!write(fd, &count, sizeof(count));
}

static void serve_give(int fd)
{
    static char piece[PIECE];

    while (write(fd, piece, sizeof(piece)) > 0) {
    }
}

static void serve_echo(int fd)
{
    char piece[64];
    ssize_t got;

    while ((got = read(fd, piece, sizeof(piece))) > 0) {
        if (write(fd, piece, (size_t)got) != got) {
            break;
        }
    }
}

static void serve(int listener, int port)
{
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd < 0) {
            continue;
        }
        if (fork() == 0) {
            (void)close(listener);
            no_delay(fd);
            if (port == PORT_TAKE) {
                serve_take(fd);
            } else if (port == PORT_GIVE) {
                serve_give(fd);
            } else {
                serve_echo(fd);
            }
            exit(0);
        }
        (void)close(fd);
    }
}

static int listen_tcp(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port)};
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, 16) < 0) {
        fail("listen");
    }
    return fd;
}

static int listen_vsock(int port)
{
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_port = (unsigned)port, .svm_cid = VMADDR_CID_ANY};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, 16) < 0) {
        return -1;
    }
    return fd;
}

static void serve_all(void)
{
    (void)signal(SIGCHLD, SIG_IGN);
    for (int port = PORT_TAKE; port <= PORT_ECHO; port++) {
        int vsock = listen_vsock(port);
        int tcp = listen_tcp(port);

        if (vsock >= 0 && fork() == 0) {
            serve(vsock, port);
        }
        if (port == PORT_ECHO) {
            (void)puts("netload: serving");
            (void)fflush(stdout);
            serve(tcp, port);
        }
        if (fork() == 0) {
            serve(tcp, port);
        }
    }
}

/* ---- a client ------------------------------------------------------------- */

static int connect_unix(const char *path, int port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char line[64];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int length = snprintf(line, sizeof(line), "CONNECT %d\n", port);
    size_t at = 0;

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        write(fd, line, (size_t)length) != length) {
        return -1;
    }
    do {
        if (at == sizeof(line) || read(fd, line + at, 1) != 1) {
            errno = ECONNREFUSED;
            return -1;
        }
    } while (line[at++] != '\n');
    return strncmp(line, "OK ", 3) == 0 ? fd : -1;
}

static int connect_once(const char *where, int port)
{
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_port = (unsigned)port};
    int fd;

    if (strncmp(where, "unix:", 5) == 0) {
        return connect_unix(where + 5, port);
    }
    if (strncmp(where, "vsock:", 6) == 0) {
        vm.svm_cid = (unsigned)atoi(where + 6);
        fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
        return fd >= 0 && connect(fd, (struct sockaddr *)&vm, sizeof(vm)) == 0 ? fd : -1;
    }
    if (inet_pton(AF_INET, where, &tcp.sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&tcp, sizeof(tcp)) < 0) {
        (void)close(fd);
        return -1;
    }
    no_delay(fd);
    return fd;
}

static int connect_to(const char *where, int port)
{
    double end = now_s() + CONNECT_MS / 1000.0;
    int fd = connect_once(where, port);

    while (fd < 0 && now_s() < end) {
        (void)usleep(200000);
        fd = connect_once(where, port);
    }
    if (fd < 0) {
        fail(where);
    }
    return fd;
}

static double give(const char *where, double seconds)
{
    static char piece[PIECE];
    int fd = connect_to(where, PORT_TAKE);
    double begin = now_s();
    uint64_t count = 0;

    while (now_s() - begin < seconds) {
        if (write(fd, piece, sizeof(piece)) < 0) {
            fail("write");
        }
    }
    (void)shutdown(fd, SHUT_WR);
    if (recv(fd, &count, sizeof(count), MSG_WAITALL) != sizeof(count)) {
        fail("the count");
    }
    return (double)count / (now_s() - begin);
}

static double take(const char *where, double seconds)
{
    static char piece[PIECE];
    int fd = connect_to(where, PORT_GIVE);
    double begin = now_s();
    double count = 0;

    while (now_s() - begin < seconds) {
        ssize_t got = read(fd, piece, sizeof(piece));

        if (got <= 0) {
            fail("read");
        }
        count += (double)got;
    }
    return count / (now_s() - begin);
}

static double echo(const char *where, double seconds)
{
    int fd = connect_to(where, PORT_ECHO);
    double begin = now_s();
    uint64_t count = 0;
    char byte = 'x';

    while (now_s() - begin < seconds) {
        if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) {
            fail("echo");
        }
        count++;
    }
    return (double)count / (now_s() - begin);
}

static double run(const char *kind, const char *where, double seconds)
{
    if (strcmp(kind, "give") == 0) {
        return give(where, seconds);
    }
    return strcmp(kind, "take") == 0 ? take(where, seconds) : echo(where, seconds);
}

/* Several at once: the sum. */
static double run_many(const char *kind, const char *where, double seconds, int streams)
{
    double sum = 0;
    double *rates = mmap(NULL, STREAMS * sizeof(double), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (rates == MAP_FAILED) {
        fail("memory");
    }
    for (int i = 0; i < streams; i++) {
        if (fork() == 0) {
            rates[i] = run(kind, where, seconds);
            exit(0);
        }
    }
    for (int i = 0; i < streams; i++) {
        int status = 0;

        if (wait(&status) < 0 || status != 0) {
            exit(1);
        }
    }
    for (int i = 0; i < streams; i++) {
        sum += rates[i];
    }
    return sum;
}

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && strcmp(argv[1], "serve") == 0) {
        serve_all();
    }
    if (argc < 4 || argc > 5 ||
        (argc == 5 && (atoi(argv[4]) < 1 || atoi(argv[4]) > STREAMS))) {
        (void)fprintf(stderr,
                      "usage: netload serve | give|take|echo WHERE SECONDS [STREAMS]\n");
        return 2;
    }
    (void)printf("%.0f\n", argc == 5
                               ? run_many(argv[1], argv[2], atof(argv[3]), atoi(argv[4]))
                               : run(argv[1], argv[2], atof(argv[3])));
    return 0;
}
