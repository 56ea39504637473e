/* SPDX-License-Identifier: Apache-2.0 */
/* The VM of the fuzzers. */
#include "tests/fuzz/fuzz_vm.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/device.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/virtio/net_tap.h"
#include "vmm/virtio/virtio_balloon.h"
#include "vmm/virtio/virtio_block.h"
#include "vmm/virtio/virtio_console.h"
#include "vmm/virtio/virtio_net.h"
#include "vmm/virtio/virtio_rng.h"

#define DISK_BYTES   (1024 * 1024)
#define MEMORY_BYTES (4 * DRIVER_MEMORY_BYTES) /* enough to give the balloon some */

static int disk_add_in(struct fuzz_vm *fuzz, struct virtio_block_config config,
                       char *path)
{
    int fd = mkstemp(path);
    int ret;

    config.path = path;
    CHECK(fd >= 0 && ftruncate(fd, DISK_BYTES) == 0);
    ret = virtio_block_create(fuzz->vm, &config, NULL);
    (void)unlink(path);
    if (ret < 0) {
        (void)close(fd);
        return ret;
    }
    fuzz->disk_fds[fuzz->disk_count++] = fd;
    return 0;
}

/* In memory, but where that can't be read directly (before Linux 6.6). */
static void disk_add(struct fuzz_vm *fuzz, struct virtio_block_config config)
{
    char memory[] = "/dev/shm/fuzz-disk-XXXXXX";
    char disk[] = "/var/tmp/fuzz-disk-XXXXXX";

    CHECK(disk_add_in(fuzz, config, memory) == 0 || disk_add_in(fuzz, config, disk) == 0);
}

/* A NIC whose tap is a pair of sockets: one packet is one datagram. Needs no rights, and
 * what comes out at the other end is the fuzzer's. */
static void net_add(struct fuzz_vm *fuzz)
{
    struct net_tap tap;
    struct virtio_net_config net = {.tap = "fuzz0", .mtu = 1500, .opened = &tap};
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    net_tap_init(&tap);
    (void)snprintf(tap.name, sizeof(tap.name), "fuzz0");
    tap.fds[tap.count++] = pair[0];
    CHECK(virtio_net_create(fuzz->vm, &net, NULL) == 0);
    fuzz->link_fd = pair[1];
}

static void console_output(void *owner, const uint8_t *data, size_t size)
{
    CHECK(data != NULL);
    ((struct fuzz_vm *)owner)->output_size += size;
}

static void console_room(void *owner)
{
    CHECK(owner != NULL);
}

static void make(struct fuzz_vm *fuzz)
{
    struct virtio_console_config console = {
        .output = console_output, .input_room = console_room, .owner = fuzz};
    struct virtio_block_config limited = {
        .queues = 2, .requests_per_s = 1000, .bytes_per_s = 4 << 20};

    fuzz->vm = fake_vm_create(MEMORY_BYTES);
    fuzz->vm->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(guest_ram_track_dirty(fuzz->vm->ram, true) == 0);
    disk_add(fuzz, (struct virtio_block_config){.direct = true});
    disk_add(fuzz, (struct virtio_block_config){.read_only = true});
    CHECK(virtio_rng_create(fuzz->vm, NULL) == 0);
    CHECK(virtio_console_create(fuzz->vm, &console, &fuzz->console, NULL) == 0);
    net_add(fuzz);
    CHECK(virtio_balloon_create(fuzz->vm, NULL) == 0);
    disk_add(fuzz, limited);
    for (struct device *device = vm_devices(fuzz->vm); device != NULL;
         device = device->next) {
        fuzz->devices[fuzz->count++] = device;
    }
    fake_vm_run_ms(fuzz->vm, 1);
    fuzz_state_keep(&fuzz->state, fuzz->vm);
}

/* Somebody on the host cuts a disk's file off. */
static void disk_cut(struct fuzz_vm *fuzz, unsigned index, off_t size)
{
    unsigned disk = 0;

    for (unsigned i = 0; i < index; i++) {
        disk += strcmp(fuzz->devices[i]->ops->name, "virtio-blk") == 0;
    }
    CHECK(disk < fuzz->disk_count && ftruncate(fuzz->disk_fds[disk], size) == 0);
    fuzz->disks_cut = true;
}

static void disks_mend(struct fuzz_vm *fuzz)
{
    for (unsigned i = 0; i < fuzz->disk_count && fuzz->disks_cut; i++) {
        CHECK(ftruncate(fuzz->disk_fds[i], DISK_BYTES) == 0);
    }
    fuzz->disks_cut = false;
}

/* What the guest has sent, so that there is room for more. */
static void link_empty(const struct fuzz_vm *fuzz)
{
    uint8_t packet[2048];

    while (recv(fuzz->link_fd, packet, sizeof(packet), MSG_DONTWAIT | MSG_TRUNC) >= 0) {
    }
}

void fuzz_vm_host_event(struct fuzz_vm *fuzz, unsigned index, const uint8_t *data,
                        size_t size)
{
    const char *name = fuzz->devices[index]->ops->name;
    uint8_t packet[12 + 1514] = {0};

    if (strcmp(name, "virtio-console") == 0) {
        (void)virtio_console_input(fuzz->console, data, size);
    } else if (strcmp(name, "virtio-balloon") == 0) {
        struct virtio_balloon_status status;
        struct error err = {0};
        (void)virtio_balloon_order(
            fuzz->vm, size > 0 ? (uint64_t)data[0] << 17 : MEMORY_BYTES, &err);
        CHECK(virtio_balloon_status(fuzz->vm, &status));
    } else if (strcmp(name, "virtio-net") == 0) {
        memset(packet + 12, 0xff, 6); /* to all, unless the input says else */
        memcpy(packet + 12, data, size);
        (void)!send(fuzz->link_fd, packet, 72 + size * 20, 0); /* may be full */
    } else if (strcmp(name, "virtio-blk") == 0) {
        disk_cut(fuzz, index, size > 0 ? (off_t)data[0] * 4096 : 0);
    }
}

static bool drained(void *owner)
{
    struct device *device = owner;

    return device->ops->io_drained(device);
}

void fuzz_vm_quiet(struct fuzz_vm *fuzz, unsigned index)
{
    struct device *device = fuzz->devices[index];

    device->ops->io_stop(device);
    if (!drained(device)) {
        CHECK(fake_vm_run(fuzz->vm, drained, device));
    }
}

static struct fuzz_vm fuzz;

/* Devices are released too. */
static void end(void)
{
    fuzz_vm_fresh();
    fake_vm_free(fuzz.vm);
    fuzz_state_done(&fuzz.state);
}

struct fuzz_vm *fuzz_vm_fresh(void)
{
    if (fuzz.vm == NULL) {
        make(&fuzz);
        CHECK(atexit(end) == 0);
    }
    disks_mend(&fuzz);
    link_empty(&fuzz);
    fuzz.vm->io_allowed = true;
    for (unsigned i = 0; i < fuzz.count; i++) {
        fuzz_vm_quiet(&fuzz, i);
        fuzz.devices[i]->ops->reset(fuzz.devices[i]);
    }
    fuzz_state_restore(&fuzz.state);
    for (unsigned i = 0; i < fuzz.count; i++) {
        fuzz.devices[i]->ops->io_start(fuzz.devices[i]);
        driver_init(&fuzz.drivers[i], fuzz.vm, i + 1);
    }
    return &fuzz;
}
