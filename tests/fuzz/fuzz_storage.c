/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of what a hostile storage daemon can say, and of the words for a disk. The first
 * byte chooses: a vhost-user back end's answers to the handshake; a used ring; the
 * control protocol's lines; a value of --disk, and the node that is made of it; a file's
 * beginning; the names of other files in it. What must hold: no crash, no endless
 * waiting, and that nothing comes back from the ring which was not in flight.
 * fuzz-sources: tests/unit/fake_vm.c
 */
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "vmm/options/options_disk.h"
#include "vmm/storage/storage_keeper.h"
#include "vmm/storage/storage_names.h"
#include "vmm/storage/storage_node.h"
#include "vmm/storage/storage_qmp.h"
#include "vmm/virtio/vhost_ring.h"
#include "vmm/virtio/vhost_user.h"
#include "vmm/virtio/virtqueue.h"

#define TEXT_MAX 1500

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A socket on which all has been said already, and nothing more will be. */
static int socket_saying(const uint8_t *data, size_t size, int *ret_other)
{
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    CHECK(size == 0 || send(pair[1], data, size, MSG_DONTWAIT) == (ssize_t)size);
    CHECK(shutdown(pair[1], SHUT_WR) == 0);
    *ret_other = pair[1];
    return pair[0];
}

static void handshake(const uint8_t *data, size_t size)
{
    int other;
    int fd = socket_saying(data, size, &other);
    int event = eventfd(0, EFD_CLOEXEC);
    const struct vhost_user_memory memory = {.size_bytes = 4096, .fd = event};
    const struct vhost_user_setup setup = {.memory = &memory,
                                           .memory_count = 1,
                                           .ring_size = VHOST_RING_SIZE,
                                           .kick_fd = event,
                                           .call_fd = event};
    struct vhost_user_disk disk = {0};
    struct error err = {0};

    if (vhost_user_start(fd, &setup, &disk, &err) == 0) {
        CHECK(disk.capacity_sectors > 0 && disk.block_size >= 512);
    }
    (void)close(event);
    (void)close(fd);
    (void)close(other);
}

static void ring(const uint8_t *data, size_t size)
{
    struct virtqueue_segment segment = {.gpa = 4096, .size = 512};
    struct vhost_ring_request request = {.segments = &segment, .segment_count = 1};
    struct vhost_ring ring;
    bool out[VHOST_RING_SIZE] = {false};

    CHECK(vhost_ring_init(&ring) == 0);
    vhost_ring_reset(&ring);
    while (size >= 4) {
        unsigned slot = data[0] % VHOST_RING_SIZE;
        uint8_t status;
        int ret = 0;

        if (!out[slot]) {
            out[slot] = true;
            request.has_range = (data[1] & 1) != 0;
            request.to_guest = (data[1] & 2) != 0;
            vhost_ring_add(&ring, slot, &request);
            vhost_ring_publish(&ring);
        }
        /* The daemon writes where it likes, here to where it hurts. */
        memcpy(ring.memory + VHOST_RING_USED + data[2] * 4, data, data[1] & 4 ? 4 : 2);
        ring.memory[VHOST_RING_USED + 2] = data[3];
        for (unsigned i = 0; i <= VHOST_RING_SIZE; i++) {
            unsigned back = VHOST_RING_SIZE;

            ret = vhost_ring_take(&ring, &back, &status);
            if (ret <= 0) {
                break;
            }
            CHECK(back < VHOST_RING_SIZE && out[back] && i < VHOST_RING_SIZE);
            out[back] = false;
        }
        if (ret < 0) {
            vhost_ring_reset(&ring);
            memset(out, 0, sizeof(out));
        }
        data += 4;
        size -= 4;
    }
    vhost_ring_done(&ring);
}

static void control(const uint8_t *data, size_t size)
{
    static struct storage_qmp qmp; /* large */
    uint64_t deadline_ms = clock_now_ms() + 1000;
    char reason[ERROR_TEXT_SIZE];
    int other;
    int fd = socket_saying(data, size, &other);

    if (storage_qmp_open(&qmp, fd, deadline_ms) == 0) {
        (void)storage_qmp_order(&qmp, "block-export-del", NULL, deadline_ms, reason);
        (void)storage_qmp_export_gone(&qmp, deadline_ms);
    }
    storage_qmp_close(&qmp);
    (void)close(other);
}

static void words(const uint8_t *data, size_t size)
{
    char text[TEXT_MAX];
    struct options_disk disk;
    struct error err = {0};
    json_t *node = NULL;

    size = size < sizeof(text) - 1 ? size : sizeof(text) - 1;
    memcpy(text, data, size);
    text[size] = '\0';
    if (options_disk_parse(text, &disk, &err) < 0) {
        CHECK(err.text[0] != '\0');
        return;
    }
    const struct storage_disk storage = {.path = disk.path,
                                         .format = disk.format,
                                         .key = disk.key[0] != '\0' ? disk.key : NULL,
                                         .read_only = disk.read_only,
                                         .direct = disk.direct};
    if (storage_needs_daemon(disk.path, disk.format) &&
        storage_node_build(&storage, disk.direct, true, &node, &err) == 0) {
        CHECK(json_is_object(node));
        json_decref(node);
    }
}

static void rest(const uint8_t *data, size_t size)
{
    uint64_t now_ms = 0;
    uint32_t number = 0;

    CHECK(storage_format_probe(data, (unsigned)size) < STORAGE_FORMAT_COUNT);
    if (size >= 12) {
        memcpy(&now_ms, data, 8);
        memcpy(&number, data + 8, 4);
        now_ms /= 2;
        CHECK(storage_order_deadline_ms(number, now_ms) >= now_ms);
        number &= 0x3fffff; /* more than an hour ahead */
        CHECK(storage_order_deadline_ms(
                  storage_order_encode(STORAGE_ORDER_OPEN, now_ms + number), now_ms) ==
              now_ms + number);
    }
}

static void names(const uint8_t *data, size_t size)
{
    static struct storage_names found; /* large */
    char path[256];

    if (size == 0) {
        return;
    }
    storage_names_read(data + 1, size - 1,
                       (data[0] & 1) != 0 ? STORAGE_FORMAT_QCOW2 : STORAGE_FORMAT_VMDK,
                       &found);
    CHECK(found.count <= STORAGE_NAMES_MAX);
    for (unsigned i = 0; i < found.count; i++) {
        CHECK(found.names[i].text[0] != '\0' &&
              found.names[i].format < STORAGE_FORMAT_COUNT);
        if (storage_name_resolve("/folder/image", found.names[i].text, path,
                                 sizeof(path))) {
            CHECK(path[0] == '/');
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parts[])(const uint8_t *data, size_t size) = {
        handshake, ring, control, words, rest, names};

    if (size > 0) {
        parts[data[0] % (sizeof(parts) / sizeof(parts[0]))](data + 1, size - 1);
    }
    return 0;
}
