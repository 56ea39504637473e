/* SPDX-License-Identifier: Apache-2.0 */
/* The storage daemon of the fuzzers. */
#include "tests/fuzz/fuzz_backend.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/virtio/vhost_ring.h"

#define ANSWERS_MAX  400
#define PAYLOAD_MAX  300
#define FDS_MAX      8
#define DISK_SECTORS 2048u
#define RING_CHANGED (VHOST_RING_SLOTS + 2 * 64) /* scribbles mostly go where it hurts   \
                                                  */

/* Of QEMU's docs/interop/vhost-user, what the front end says. */
enum {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_VRING_ENABLE = 18,
    GET_CONFIG = 24,
};

enum {
    FAIL_OPEN = 1,
    FAIL_CLOSE = 2,
    FAIL_START = 4,
    CUT_OFF = 8,
    HANG_UP = 16,
    READ_ONLY = 32,
    NO_RANGES = 64,
    SMALL_RANGES = 128,
};

struct fuzz_backend {
    pthread_mutex_t lock; /* of all: it is opened and killed on the disk's thread */
    uint8_t conduct[FUZZ_BACKEND_CONDUCT];
    int fd; /* its end of the connection; -1: none */
    uint8_t *ring;
    int call_fd, kick_fd;
    uint16_t seen, used;
};

static void lock(struct fuzz_backend *backend)
{
    CHECK(pthread_mutex_lock(&backend->lock) == 0);
}

static void unlock(struct fuzz_backend *backend)
{
    CHECK(pthread_mutex_unlock(&backend->lock) == 0);
}

static void fd_set_to(int *fd, int to)
{
    if (*fd >= 0) {
        (void)close(*fd);
    }
    *fd = to;
}

/* A process that is gone: all that it had is. */
static void end(struct fuzz_backend *backend)
{
    fd_set_to(&backend->fd, -1);
    fd_set_to(&backend->call_fd, -1);
    fd_set_to(&backend->kick_fd, -1);
    if (backend->ring != NULL) {
        CHECK(munmap(backend->ring, VHOST_RING_BYTES) == 0);
        backend->ring = NULL;
    }
    backend->seen = backend->used = 0;
}

/* ---- what it says --------------------------------------------------------- */

struct answers {
    uint8_t bytes[ANSWERS_MAX];
    size_t size;
};

static void answer_add(struct answers *answers, uint32_t request, const void *payload,
                       uint32_t size)
{
    uint32_t header[3] = {request, 5, size}; /* version 1, a reply */

    CHECK(answers->size + sizeof(header) + size <= sizeof(answers->bytes));
    memcpy(answers->bytes + answers->size, header, sizeof(header));
    memcpy(answers->bytes + answers->size + sizeof(header), payload, size);
    answers->size += sizeof(header) + size;
}

static void config_answer_add(struct answers *answers, const uint8_t *conduct)
{
    uint8_t config[72] = {0};
    uint64_t sectors = DISK_SECTORS + conduct[4];
    uint32_t words[] = {512, (conduct[0] & SMALL_RANGES) != 0 ? 8 : UINT32_MAX};
    uint32_t size = 60;

    memcpy(config + 4, &size, 4);
    memcpy(config + 12, &sectors, 8);
    memcpy(config + 12 + 20, &words[0], 4);
    memcpy(config + 12 + 36, &words[1], 4);
    memcpy(config + 12 + 48, &words[1], 4);
    answer_add(answers, GET_CONFIG, config, sizeof(config));
}

static void answers_make(struct answers *answers, const uint8_t *conduct)
{
    static const uint32_t done[] = {SET_MEM_TABLE,   SET_VRING_NUM,  SET_VRING_BASE,
                                    SET_VRING_ADDR,  SET_VRING_CALL, SET_VRING_KICK,
                                    SET_VRING_ENABLE};
    uint64_t features = UINT64_MAX, protocol = UINT64_MAX, ok = 0;
    unsigned at = conduct[1] | (unsigned)conduct[2] << 8;

    features &= (conduct[0] & READ_ONLY) != 0 ? UINT64_MAX : ~(UINT64_C(1) << 5);
    features &= (conduct[0] & NO_RANGES) != 0 ? ~(UINT64_C(3) << 13) : UINT64_MAX;
    answers->size = 0;
    answer_add(answers, GET_FEATURES, &features, sizeof(features));
    answer_add(answers, GET_PROTOCOL_FEATURES, &protocol, sizeof(protocol));
    answer_add(answers, SET_OWNER, &ok, sizeof(ok));
    answer_add(answers, SET_FEATURES, &ok, sizeof(ok));
    config_answer_add(answers, conduct);
    for (unsigned i = 0; i < sizeof(done) / sizeof(done[0]); i++) {
        answer_add(answers, done[i], &ok, sizeof(ok));
    }
    if ((conduct[0] & CUT_OFF) != 0) {
        answers->size = at % answers->size;
    } else if (conduct[2] != 0xff && (at != 0 || conduct[3] != 0)) {
        answers->bytes[at % answers->size] = conduct[3];
    }
}

/* ---- storage_ops ---------------------------------------------------------- */

static int failed(const char *what, struct error *err)
{
    return error_set(err, -EIO, "the fuzzer's daemon can't %s", what);
}

static int backend_start(void *owner, unsigned index, struct error *err)
{
    struct fuzz_backend *backend = owner;

    CHECK(index == 0);
    lock(backend);
    bool fails = (backend->conduct[0] & FAIL_START) != 0;
    unlock(backend);
    return fails ? failed("start", err) : 0;
}

static int backend_open(void *owner, unsigned index, uint64_t deadline_ms, int *ret_fd,
                        struct error *err)
{
    struct fuzz_backend *backend = owner;
    struct answers answers;
    int pair[2];

    CHECK(index == 0);
    (void)deadline_ms;
    lock(backend);
    end(backend);
    if ((backend->conduct[0] & FAIL_OPEN) != 0) {
        unlock(backend);
        return failed("open", err);
    }
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    answers_make(&answers, backend->conduct);
    CHECK(answers.size == 0 || send(pair[1], answers.bytes, answers.size, MSG_DONTWAIT) ==
                                   (ssize_t)answers.size);
    backend->fd = pair[1];
    /* One whose answers may not do says nothing more: nobody waits for it. */
    if ((backend->conduct[0] & (CUT_OFF | HANG_UP)) != 0) {
        CHECK(shutdown(backend->fd, SHUT_WR) == 0);
    }
    unlock(backend);
    *ret_fd = pair[0];
    return 0;
}

static int backend_close(void *owner, unsigned index, uint64_t deadline_ms,
                         struct error *err)
{
    struct fuzz_backend *backend = owner;

    CHECK(index == 0);
    (void)deadline_ms;
    lock(backend);
    bool fails = (backend->conduct[0] & FAIL_CLOSE) != 0;
    end(backend);
    unlock(backend);
    return fails ? failed("close", err) : 0;
}

static void backend_kill(void *owner, unsigned index)
{
    struct fuzz_backend *backend = owner;

    CHECK(index == 0);
    lock(backend);
    end(backend);
    unlock(backend);
}

const struct storage_ops fuzz_backend_ops = {.start = backend_start,
                                             .open = backend_open,
                                             .close = backend_close,
                                             .kill = backend_kill};

/* ---- what it hears -------------------------------------------------------- */

static void fds_take(struct fuzz_backend *backend, uint32_t request,
                     const struct msghdr *message)
{
    const struct cmsghdr *control = CMSG_FIRSTHDR(message);
    int fds[FDS_MAX];
    size_t count;

    if (control == NULL || control->cmsg_type != SCM_RIGHTS) {
        return;
    }
    count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    CHECK(count >= 1 && count <= FDS_MAX);
    memcpy(fds, CMSG_DATA(control), count * sizeof(int));
    if (request == SET_MEM_TABLE && backend->ring == NULL) {
        void *ring = mmap(NULL, VHOST_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
                          fds[0], 0); /* the ring's file comes first */

        CHECK(ring != MAP_FAILED);
        backend->ring = ring;
    } else if (request == SET_VRING_CALL) {
        fd_set_to(&backend->call_fd, dup(fds[0]));
    } else if (request == SET_VRING_KICK) {
        fd_set_to(&backend->kick_fd, dup(fds[0]));
    }
    for (size_t i = 0; i < count; i++) {
        (void)close(fds[i]);
    }
}

static bool message_take(struct fuzz_backend *backend)
{
    uint32_t header[3];
    uint8_t payload[PAYLOAD_MAX];
    struct iovec vector = {header, sizeof(header)};
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};

    if (backend->fd < 0 ||
        recvmsg(backend->fd, &message, MSG_DONTWAIT) != (ssize_t)sizeof(header)) {
        return false;
    }
    CHECK(header[2] <= sizeof(payload));
    CHECK(header[2] == 0 ||
          recv(backend->fd, payload, header[2], MSG_DONTWAIT) == (ssize_t)header[2]);
    fds_take(backend, header[0], &message);
    return true;
}

void fuzz_backend_look(struct fuzz_backend *backend)
{
    lock(backend);
    while (message_take(backend)) {
    }
    unlock(backend);
}

/* ---- what it does --------------------------------------------------------- */

static void call(struct fuzz_backend *backend)
{
    uint64_t one = 1;

    if (backend->call_fd >= 0) {
        (void)!write(backend->call_fd, &one, sizeof(one));
    }
}

/* Where a request's status byte is: its table's last descriptor. False: it is none. */
static bool status_find(const struct fuzz_backend *backend, uint16_t head,
                        uint8_t **ret_status)
{
    uint64_t address;
    uint32_t size;
    const uint8_t *desc =
        backend->ring + VHOST_RING_DESC + 16u * (head % VHOST_RING_SIZE);

    memcpy(&address, desc, 8);
    memcpy(&size, desc + 8, 4);
    address -= VHOST_RING_ADDRESS;
    if (size < 16 || address >= VHOST_RING_BYTES || size > VHOST_RING_BYTES - address) {
        return false; /* we have scribbled here */
    }
    memcpy(&address, backend->ring + address + size - 16, 8);
    address -= VHOST_RING_ADDRESS;
    if (address >= VHOST_RING_BYTES) {
        return false;
    }
    *ret_status = backend->ring + address;
    return true;
}

static void used_add(struct fuzz_backend *backend, uint32_t head)
{
    uint8_t *used = backend->ring + VHOST_RING_USED;
    uint32_t element[2] = {head, 1};

    memcpy(used + 4 + 8u * (backend->used % VHOST_RING_SIZE), element, sizeof(element));
    backend->used++;
    __atomic_store_n((uint16_t *)(void *)(used + 2), backend->used, __ATOMIC_RELEASE);
}

void fuzz_backend_serve(struct fuzz_backend *backend, unsigned count, uint8_t status)
{
    lock(backend);
    for (unsigned i = 0; i < count && backend->ring != NULL; i++) {
        const uint8_t *avail = backend->ring + VHOST_RING_AVAIL;
        uint8_t *at;
        uint16_t index, head;

        memcpy(&index, avail + 2, 2);
        if (index == backend->seen) {
            break;
        }
        memcpy(&head, avail + 4 + 2u * (backend->seen++ % VHOST_RING_SIZE), 2);
        if (status_find(backend, head, &at)) {
            *at = status;
        }
        used_add(backend, head);
    }
    call(backend);
    unlock(backend);
}

void fuzz_backend_hang_up(struct fuzz_backend *backend)
{
    lock(backend);
    end(backend);
    unlock(backend);
}

void fuzz_backend_scribble(struct fuzz_backend *backend, uint32_t offset, uint8_t value)
{
    lock(backend);
    if (backend->ring != NULL) {
        backend->ring[offset % RING_CHANGED] = value;
    }
    call(backend);
    unlock(backend);
}

void fuzz_backend_say(struct fuzz_backend *backend, uint8_t value)
{
    lock(backend);
    if (backend->fd >= 0) {
        (void)send(backend->fd, &value, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    unlock(backend);
}

void fuzz_backend_call(struct fuzz_backend *backend)
{
    lock(backend);
    call(backend);
    unlock(backend);
}

/* ---- making and releasing ------------------------------------------------- */

struct fuzz_backend *fuzz_backend_create(void)
{
    struct fuzz_backend *backend = calloc(1, sizeof(*backend));

    CHECK(backend != NULL && pthread_mutex_init(&backend->lock, NULL) == 0);
    backend->fd = backend->call_fd = backend->kick_fd = -1;
    return backend;
}

void fuzz_backend_free(struct fuzz_backend *backend)
{
    end(backend);
    CHECK(pthread_mutex_destroy(&backend->lock) == 0);
    free(backend);
}

void fuzz_backend_conduct_set(struct fuzz_backend *backend,
                              const uint8_t conduct[FUZZ_BACKEND_CONDUCT])
{
    lock(backend);
    memcpy(backend->conduct, conduct, sizeof(backend->conduct));
    unlock(backend);
}
