/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server that runs in the lab's guests: appends numbered records to its disk and says
 * so only when they are durable. The disk is read from outside to find records that were
 * lost, doubled or written by two copies of the guest at once.
 *
 * Disk: slots of 512 bytes, each one line of text, the rest zero.
 *   slot 0          "drover-records 1"
 *   2048...         records that clients asked for      R N BOOT COUNT MONO_NS UNIX_MS
 * TEXT 1048576...      heartbeats, ten a second            H N BOOT COUNT MONO_NS UNIX_MS
 * N is the slot's number in its area; COUNT counts the writes of this boot, over both
 * areas. A slot that is not empty is never overwritten: a second copy of the guest shows
 * as two BOOTs that take turns.
 *
 * Port 7000, a line each:  APPEND TEXT | LAST | LIST [FROM] | STATUS | STREAM | LOAD MIB
 * PAGES_PER_S | FILL MIB | CHECK | POWEROFF
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SLOT_SIZE = 512,
    LINE_SIZE = 512,
    PORT = 7000,
    HEARTBEAT_MS = 100,
    STREAM_MS = 10
};
#define MAGIC "drover-records 1\n"

struct area {
    char kind;
    uint64_t first, count; /* slots */
    uint64_t next;         /* number of the next record */
};

struct server {
    int disk;
    char boot[40];
    pthread_mutex_t lock; /* disk, areas, writes */
    uint64_t writes;
    struct area records, beats;
};

struct client {
    struct server *server;
    int fd;
};

static void die(const char *what)
{
    fprintf(stderr, "recordd: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t clock_ns(clockid_t id)
{
    struct timespec now;
    (void)clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_ms(long ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    (void)nanosleep(&time, NULL);
}

static char *slot_buffer(void)
{
    void *data = NULL;
    if (posix_memalign(&data, 4096, SLOT_SIZE) != 0) {
        die("memory");
    }
    return data;
}

static int slot_read(struct server *server, uint64_t slot, char *data)
{
    return pread(server->disk, data, SLOT_SIZE, (off_t)(slot * SLOT_SIZE)) == SLOT_SIZE
               ? 0
               : -EIO;
}

static int slot_write(struct server *server, uint64_t slot, const char *data)
{
    if (pwrite(server->disk, data, SLOT_SIZE, (off_t)(slot * SLOT_SIZE)) != SLOT_SIZE) {
        return -EIO;
    }
    return fdatasync(server->disk) == 0 ? 0 : -EIO;
}

/* Areas fill from their start without holes, so the end is found by halving. */
static void area_find_end(struct server *server, struct area *area, char *data)
{
    uint64_t low = 0, high = area->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (slot_read(server, area->first + middle, data) < 0) {
            die("disk");
        }
        if (data[0] != 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    area->next = low;
}

static void disk_open(struct server *server, const char *path)
{
    char *data = slot_buffer();
    server->disk = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (server->disk < 0 || slot_read(server, 0, data) < 0) {
        die(path);
    }
    if (data[0] == 0) {
        memset(data, 0, SLOT_SIZE);
        memcpy(data, MAGIC, sizeof(MAGIC));
        if (slot_write(server, 0, data) < 0) {
            die(path);
        }
    } else if (memcmp(data, MAGIC, sizeof(MAGIC) - 1) != 0) {
        fprintf(stderr, "recordd: %s holds something else: give an empty disk\n", path);
        exit(1);
    }
    uint64_t slots = (uint64_t)lseek(server->disk, 0, SEEK_END) / SLOT_SIZE;
    server->records = (struct area){.kind = 'R', .first = 2048, .count = 1048576 - 2048};
    server->beats =
        (struct area){.kind = 'H', .first = 1048576, .count = slots - 1048576};
    if (slots <= 1048576) {
        fprintf(stderr, "recordd: %s is too small: give 1 GiB\n", path);
        exit(1);
    }
    area_find_end(server, &server->records, data);
    area_find_end(server, &server->beats, data);
    free(data);
}

/* Returns when the record is durable, with its number. */
static int append(struct server *server, struct area *area, const char *text, char *data,
                  uint64_t *ret_number)
{
    (void)pthread_mutex_lock(&server->lock);
    int r = 0;
    /* Whoever else writes to this disk must not be overwritten: that is what we are here
     * to show. */
    do {
        r = area->next < area->count ? slot_read(server, area->first + area->next, data)
                                     : -ENOSPC;
    } while (r == 0 && data[0] != 0 && ++area->next);
    if (r == 0) {
        memset(data, 0, SLOT_SIZE);
        (void)snprintf(data, SLOT_SIZE, "%c %llu %s %llu %llu %llu %s\n", area->kind,
                       (unsigned long long)area->next, server->boot,
                       (unsigned long long)server->writes,
                       (unsigned long long)clock_ns(CLOCK_MONOTONIC),
                       (unsigned long long)(clock_ns(CLOCK_REALTIME) / 1000000u), text);
        r = slot_write(server, area->first + area->next, data);
    }
    if (r == 0) {
        *ret_number = area->next++;
        server->writes++;
    }
    (void)pthread_mutex_unlock(&server->lock);
    return r;
}

static void *heartbeat_run(void *arg)
{
    struct server *server = arg;
    char *data = slot_buffer();
    uint64_t number;
    for (;;) {
        if (append(server, &server->beats, "", data, &number) < 0) {
            fprintf(stderr, "recordd: heartbeat: cannot write\n");
        }
        sleep_ms(HEARTBEAT_MS);
    }
    return NULL;
}

static void power_off(void)
{
    sync();
    (void)reboot(RB_POWER_OFF);
}

/* The power button, as acpid would. */
static void *button_run(void *arg)
{
    int fd = open(arg, O_RDONLY | O_CLOEXEC);
    struct input_event event;
    while (fd >= 0 && read(fd, &event, sizeof(event)) == sizeof(event)) {
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
            fprintf(stderr, "recordd: power button\n");
            power_off();
        }
    }
    return NULL;
}

__attribute__((format(printf, 2, 3))) static int say(int fd, const char *format, ...)
{
    char line[LINE_SIZE * 2];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    return send(fd, line, (size_t)size, MSG_NOSIGNAL) == size ? 0 : -EIO;
}

static int do_append(struct client *client, const char *text)
{
    char *data = slot_buffer();
    uint64_t number = 0;
    int r = append(client->server, &client->server->records, text, data, &number);
    free(data);
    if (r < 0) {
        return say(client->fd, "ERROR %s\n", strerror(-r));
    }
    return say(client->fd, "OK %llu\n", (unsigned long long)number);
}

static int do_list(struct client *client, uint64_t from)
{
    struct server *server = client->server;
    char *data = slot_buffer();
    int r = 0;
    for (uint64_t n = from; r == 0 && n < server->records.next; n++) {
        (void)pthread_mutex_lock(&server->lock);
        r = slot_read(server, server->records.first + n, data);
        (void)pthread_mutex_unlock(&server->lock);
        r = r < 0 ? r : say(client->fd, "%.*s", SLOT_SIZE, data);
    }
    free(data);
    return r < 0 ? r : say(client->fd, "END\n");
}

static int do_status(struct client *client)
{
    struct server *server = client->server;
    struct if_nameindex *names = if_nameindex();
    int nics = 0, disks = 0;
    char path[] = "/sys/block/vda";
    for (struct if_nameindex *n = names; n && n->if_index != 0; n++) {
        nics += strcmp(n->if_name, "lo") != 0;
    }
    if_freenameindex(names);
    for (char letter = 'a'; letter <= 'p'; letter++) {
        path[sizeof(path) - 2] = letter;
        disks += access(path, F_OK) == 0;
    }
    return say(client->fd,
               "{\"boot\": \"%s\", \"uptime_ms\": %llu, \"cpus\": %ld, \"disks\": %d, "
               "\"nics\": %d, "
               "\"records\": %llu, \"heartbeats\": %llu}\n",
               server->boot, (unsigned long long)(clock_ns(CLOCK_BOOTTIME) / 1000000u),
               sysconf(_SC_NPROCESSORS_ONLN), disks, nics,
               (unsigned long long)server->records.next,
               (unsigned long long)server->beats.next);
}

/* Numbered lines with the guest's own clock, until the client goes. */
static int do_stream(struct client *client)
{
    int r = 0;
    for (uint64_t n = 0; r == 0; n++) {
        r = say(client->fd, "%llu %s %llu\n", (unsigned long long)n, client->server->boot,
                (unsigned long long)clock_ns(CLOCK_MONOTONIC));
        sleep_ms(STREAM_MS);
    }
    return r;
}

struct load {
    size_t pages, pages_per_s;
};

static void *load_run(void *arg)
{
    struct load load = *(struct load *)arg;
    free(arg);
    volatile char *memory = mmap(NULL, load.pages * 4096, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    for (size_t page = 0;; page = (page + 1) % load.pages) {
        memory[page * 4096 + page % 4096]++;
        if (page % (load.pages_per_s / 100 + 1) == 0) {
            sleep_ms(10);
        }
    }
    return NULL;
}

static int do_load(struct client *client, const char *text)
{
    unsigned long mib = 0, rate = 0;
    struct load *load = malloc(sizeof(*load));
    pthread_t thread;
    if (!load || sscanf(text, "%lu %lu", &mib, &rate) != 2 || mib == 0 ||
        mib > 1u << 20) {
        free(load);
        return say(client->fd, "ERROR LOAD MIB PAGES_PER_S\n");
    }
    *load = (struct load){.pages = mib << 8, .pages_per_s = rate};
    if (pthread_create(&thread, NULL, load_run, load) != 0) {
        return say(client->fd, "ERROR no thread\n");
    }
    return say(client->fd, "OK 0\n");
}

/* Memory that is held and known by heart: FILL 0 gives it back to the kernel. */
static uint64_t *held;
static size_t held_words;
static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t held_word(size_t index)
{
    return (index + 1) * 0x9e3779b97f4a7c15u;
}

static int do_fill(struct client *client, const char *text)
{
    size_t words = (size_t)strtoul(text, NULL, 10) << 17;
    int r = 0;
    (void)pthread_mutex_lock(&held_lock);
    if (held) {
        (void)munmap(held, held_words * 8);
    }
    held = NULL;
    held_words = words;
    if (words > 0) {
        held = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                    -1, 0);
        held = held == MAP_FAILED ? NULL : held;
        r = held ? 0 : -errno;
    }
    for (size_t i = 0; held && i < words; i++) {
        held[i] = held_word(i);
    }
    (void)pthread_mutex_unlock(&held_lock);
    return r < 0 ? say(client->fd, "ERROR %s\n", strerror(-r))
                 : say(client->fd, "OK 0\n");
}

/* How many pages of it are not as they were written. */
static int do_check(struct client *client)
{
    size_t wrong = 0;
    (void)pthread_mutex_lock(&held_lock);
    for (size_t page = 0; held && page < held_words / 512; page++) {
        bool good = true;
        for (size_t i = page * 512; i < (page + 1) * 512; i++) {
            good = good && held[i] == held_word(i);
        }
        wrong += !good;
    }
    (void)pthread_mutex_unlock(&held_lock);
    return say(client->fd, "OK %zu\n", wrong);
}

static int handle_line(struct client *client, char *line)
{
    line[strcspn(line, "\r\n")] = 0;
    char *text = strchr(line, ' ');
    text = text ? text + 1 : line + strlen(line);
    if (strncmp(line, "APPEND ", 7) == 0 && strlen(text) <= 256) {
        return do_append(client, text);
    }
    if (strncmp(line, "LIST", 4) == 0) {
        return do_list(client, strtoull(text, NULL, 10));
    }
    if (strcmp(line, "LAST") == 0) {
        uint64_t next = client->server->records.next;
        return say(client->fd, "OK %lld\n", (long long)next - 1);
    }
    if (strcmp(line, "STATUS") == 0) {
        return do_status(client);
    }
    if (strcmp(line, "STREAM") == 0) {
        return do_stream(client);
    }
    if (strncmp(line, "LOAD ", 5) == 0) {
        return do_load(client, text);
    }
    if (strncmp(line, "FILL ", 5) == 0) {
        return do_fill(client, text);
    }
    if (strcmp(line, "CHECK") == 0) {
        return do_check(client);
    }
    if (strcmp(line, "POWEROFF") == 0) {
        (void)say(client->fd, "OK 0\n");
        power_off();
    }
    return say(client->fd, "ERROR unknown command\n");
}

static void *client_run(void *arg)
{
    struct client *client = arg;
    char line[LINE_SIZE];
    FILE *in = fdopen(dup(client->fd), "r");
    while (in && fgets(line, sizeof(line), in) && handle_line(client, line) == 0) {
    }
    if (in) {
        (void)fclose(in);
    }
    (void)close(client->fd);
    free(client);
    return NULL;
}

static void serve(struct server *server)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int on = 1;
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, 16) < 0) {
        die("listen");
    }
    fprintf(stderr, "recordd: ready, %llu records\n",
            (unsigned long long)server->records.next);
    for (;;) {
        pthread_t thread;
        struct client *client = malloc(sizeof(*client));
        int fd = accept(listener, NULL, NULL);
        if (!client || fd < 0) {
            free(client);
            continue;
        }
        *client = (struct client){.server = server, .fd = fd};
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (pthread_create(&thread, NULL, client_run, client) == 0) {
            (void)pthread_detach(thread);
        }
    }
}

int main(int argc, char **argv)
{
    static struct server server = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t thread;
    if (argc != 2) {
        fprintf(stderr, "usage: recordd DISK\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f || fscanf(f, "%39s", server.boot) != 1) {
        die("boot id");
    }
    (void)fclose(f);
    disk_open(&server, argv[1]);
    for (int i = 0; i < 4; i++) {
        char *path = malloc(32);
        (void)snprintf(path, 32, "/dev/input/event%d", i);
        if (pthread_create(&thread, NULL, button_run, path) != 0) {
            die("thread");
        }
    }
    if (pthread_create(&thread, NULL, heartbeat_run, &server) != 0) {
        die("thread");
    }
    serve(&server);
    return 0;
}
