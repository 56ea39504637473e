/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk against a back end that breaks the rules: it is replaced, and what it had
 * goes to the next one. The back end is a thread with the other end of the socket. */
#include "tests/unit/unit.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "tests/unit/block_driver.h"
#include "vmm/virtio/vhost_ring.h"
#include "vmm/virtio/virtio_block.h"

#define SECTORS  8192
#define FEATURES UINT64_C(0x175007e46) /* as qemu-storage-daemon says */

enum manner {
    MANNER_GOOD,     /* answers each request with success */
    MANNER_JUMP,     /* its used index jumps */
    MANNER_STRANGER, /* gives back what it never had */
    MANNER_NONSENSE, /* answers the handshake with nonsense */
    MANNER_LEAVE,    /* closes the connection with a request in its hands */
};

struct backend {
    struct block_driver *block;
    enum manner first; /* of the first connection; later ones are good */
    unsigned opened_count, killed_count;
    int fd, kick_fd, call_fd; /* its own */
    uint8_t *ring;
    uint16_t used;
    enum manner manner;
    pthread_t thread;
    bool runs;
};

/* ---- the back end's thread ------------------------------------------------ */

static void answer(struct backend *b, uint32_t request, const void *payload,
                   uint32_t size)
{
    uint32_t header[3] = {b->manner == MANNER_NONSENSE ? 99 : request, 5, size};

    (void)!write(b->fd, header, sizeof(header));
    (void)!write(b->fd, payload, size);
}

static void descriptors_take(struct backend *b, uint32_t request, const int *fds,
                             unsigned count)
{
    if (request == 5 && count > 0) {
        b->ring =
            mmap(NULL, VHOST_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
        assert_ptr_not_equal(b->ring, MAP_FAILED);
    }
    for (unsigned i = 0; i < count; i++) {
        if (request == 12) {
            b->kick_fd = fds[i];
        } else if (request == 13) {
            b->call_fd = fds[i];
        } else {
            (void)close(fds[i]);
        }
    }
}

static void message_answer(struct backend *b, const uint32_t header[3])
{
    const uint64_t features = FEATURES, protocol = 0x8f2b, done = 0;
    uint8_t config[72] = {0};
    const uint64_t sectors = SECTORS;
    const uint32_t start[3] = {0, 60, 0}, block_size = 512;

    if (header[0] == 1) {
        answer(b, 1, &features, 8);
    } else if (header[0] == 15) {
        answer(b, 15, &protocol, 8);
    } else if (header[0] == 24) {
        memcpy(config, start, sizeof(start));
        memcpy(config + 12, &sectors, 8);
        memcpy(config + 32, &block_size, 4);
        answer(b, 24, config, sizeof(config));
    } else if (header[1] & 8) {
        answer(b, header[0], &done, 8);
    }
}

/* False at the end of the connection. */
static bool message_serve(struct backend *b)
{
    uint32_t header[3];
    uint8_t payload[512];
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(8 * sizeof(int))];
    } control = {0};
    struct iovec vector = {.iov_base = header, .iov_len = sizeof(header)};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control)};
    struct cmsghdr *with;

    if (recvmsg(b->fd, &message, MSG_WAITALL) != sizeof(header) ||
        header[2] > sizeof(payload) ||
        (header[2] > 0 &&
         recv(b->fd, payload, header[2], MSG_WAITALL) != (ssize_t)header[2])) {
        return false;
    }
    with = CMSG_FIRSTHDR(&message);
    if (with != NULL) {
        int fds[8];
        size_t size = with->cmsg_len - CMSG_LEN(0);

        memcpy(fds, CMSG_DATA(with), size);
        descriptors_take(b, header[0], fds, (unsigned)(size / sizeof(int)));
    }
    message_answer(b, header);
    return true;
}

/* One request is in the ring at a time. */
static void request_serve(struct backend *b)
{
    uint8_t *used = b->ring + VHOST_RING_USED;
    uint16_t head, index = (uint16_t)(b->used + (b->manner == MANNER_JUMP ? 7 : 1));
    uint32_t element[2] = {0, 0};
    uint64_t one = 1;

    memcpy(&head, b->ring + VHOST_RING_AVAIL + 4 + 2 * (b->used % VHOST_RING_SIZE), 2);
    element[0] = b->manner == MANNER_STRANGER ? 77 : head;
    b->ring[VHOST_RING_SLOTS + head * 64 + 32] = 0;
    memcpy(used + 4 + 8 * (b->used % VHOST_RING_SIZE), element, sizeof(element));
    b->used++;
    __atomic_store_n((uint16_t *)(void *)(used + 2), index, __ATOMIC_RELEASE);
    assert_int_equal(write(b->call_fd, &one, sizeof(one)), sizeof(one));
}

static void *backend_run(void *argument)
{
    struct backend *b = argument;

    for (;;) {
        struct pollfd fds[2] = {{.fd = b->fd, .events = POLLIN},
                                {.fd = b->kick_fd, .events = POLLIN}};
        uint64_t count;

        assert_true(poll(fds, 2, -1) > 0);
        if (fds[0].revents != 0 && !message_serve(b)) {
            return NULL;
        }
        if (b->kick_fd >= 0 && (fds[1].revents & POLLIN) != 0 &&
            read(b->kick_fd, &count, sizeof(count)) == sizeof(count)) {
            uint16_t available;

            memcpy(&available, b->ring + VHOST_RING_AVAIL + 2, 2);
            if (b->manner == MANNER_LEAVE) {
                (void)shutdown(b->fd, SHUT_RDWR);
                return NULL;
            }
            if (available != b->used) {
                request_serve(b);
            }
        }
    }
}

/* ---- whoever keeps it ----------------------------------------------------- */

static int backend_open(void *owner, unsigned index, uint64_t deadline_ms, int *ret_fd,
                        struct error *err)
{
    struct backend *b = owner;
    int pair[2];

    (void)index;
    (void)deadline_ms;
    (void)err;
    assert_false(b->runs);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    b->manner = b->opened_count++ == 0 ? b->first : MANNER_GOOD;
    b->fd = pair[1];
    b->kick_fd = b->call_fd = -1;
    b->used = 0;
    b->runs = true;
    assert_int_equal(pthread_create(&b->thread, NULL, backend_run, b), 0);
    *ret_fd = pair[0];
    return 0;
}

static void backend_end(struct backend *b)
{
    if (!b->runs) {
        return;
    }
    (void)shutdown(b->fd, SHUT_RDWR);
    assert_int_equal(pthread_join(b->thread, NULL), 0);
    b->runs = false;
    (void)close(b->fd);
    if (b->kick_fd >= 0) {
        (void)close(b->kick_fd);
    }
    if (b->call_fd >= 0) {
        (void)close(b->call_fd);
    }
    if (b->ring != NULL) {
        (void)munmap(b->ring, VHOST_RING_BYTES);
        b->ring = NULL;
    }
}

static void backend_kill(void *owner, unsigned index)
{
    struct backend *b = owner;

    (void)index;
    b->killed_count++;
    backend_end(b);
}

static int backend_close(void *owner, unsigned index, uint64_t deadline_ms,
                         struct error *err)
{
    (void)index;
    (void)deadline_ms;
    (void)err;
    backend_end(owner);
    return 0;
}

static int backend_start(void *owner, unsigned index, struct error *err)
{
    (void)owner;
    (void)index;
    (void)err;
    return 0;
}

static const struct storage_ops ops = {.start = backend_start,
                                       .open = backend_open,
                                       .close = backend_close,
                                       .kill = backend_kill};

/* ---- tests ---------------------------------------------------------------- */

static int setup(void **state)
{
    struct backend *b = calloc(1, sizeof(*b));
    void *block = NULL;

    assert_int_equal(block_driver_setup(&block), 0);
    b->block = block;
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct backend *b = *state;
    void *block = b->block;

    fake_vm_free(b->block->vm);
    b->block->vm = NULL;
    assert_false(b->runs);
    assert_int_equal(block_driver_teardown(&block), 0);
    free(b);
    return 0;
}

static void add(struct backend *b, enum manner first)
{
    const struct virtio_block_config config = {
        .format = STORAGE_FORMAT_RAW, .storage = &ops, .storage_owner = b};

    b->first = first;
    block_driver_add_config(b->block, config, 1, BLOCK_DRIVER_F_FLUSH);
}

static void read_run(struct backend *b)
{
    (void)block_driver_request_run(b->block, BLOCK_DRIVER_IN, 0, BLOCK_DRIVER_PAYLOAD_GPA,
                                   512, BLOCK_DRIVER_OK);
}

static void assert_replaced(struct backend *b, enum manner first)
{
    add(b, first);
    read_run(b);
    assert_int_equal(b->opened_count, 2);
    assert_int_equal(b->killed_count, 1);
    assert_int_equal(fake_vm_logged(b->block->vm, "1 requests are sent again"), 1);
    read_run(b);
    assert_int_equal(b->opened_count, 2);
}

static void test_good_back_end_serves(void **state)
{
    struct backend *b = *state;

    add(b, MANNER_GOOD);
    read_run(b);
    read_run(b);
    assert_int_equal(b->opened_count, 1);
    assert_int_equal(b->killed_count, 0);
}

static void test_jumping_index_gets_it_replaced(void **state)
{
    assert_replaced(*state, MANNER_JUMP);
}

static void test_request_that_it_never_had_gets_it_replaced(void **state)
{
    assert_replaced(*state, MANNER_STRANGER);
}

static void test_lost_connection_gets_it_replaced(void **state)
{
    assert_replaced(*state, MANNER_LEAVE);
}

static void test_nonsense_in_the_handshake_is_an_error(void **state)
{
    struct backend *b = *state;
    const struct virtio_block_config config = {.path = b->block->path,
                                               .format = STORAGE_FORMAT_RAW,
                                               .storage = &ops,
                                               .storage_owner = b};
    struct error err = {0};

    b->first = MANNER_NONSENSE;
    assert_int_equal(virtio_block_create(b->block->vm, &config, &err), DROVER_EMALFORMED);
    assert_non_null(strstr(err.text, "broke off the handshake"));
    assert_int_equal(b->killed_count, 1);
}

int main(void)
{
    /* As drover-vmm does: a connection may be gone when something is sent. */
    assert_true(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_good_back_end_serves),
        TEST(test_jumping_index_gets_it_replaced),
        TEST(test_request_that_it_never_had_gets_it_replaced),
        TEST(test_lost_connection_gets_it_replaced),
        TEST(test_nonsense_in_the_handshake_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
