/* SPDX-License-Identifier: Apache-2.0 */
/* The VM of the fuzzers. */
#include "tests/fuzz/fuzz_vm.h"

#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/device.h"
#include "vmm/guest_ram.h"
#include "vmm/virtio/virtio_balloon.h"
#include "vmm/virtio/virtio_block.h"
#include "vmm/virtio/virtio_console.h"
#include "vmm/virtio/virtio_net.h"
#include "vmm/virtio/virtio_rng.h"

#define DISK_BYTES (1024 * 1024)

static void disk_add(struct vm *vm, struct virtio_block_config config)
{
    char path[] = "/var/tmp/fuzz-disk-XXXXXX";
    int fd = mkstemp(path);

    config.path = path;
    CHECK(fd >= 0 && ftruncate(fd, DISK_BYTES) == 0);
    CHECK(virtio_block_create(vm, &config, NULL) == 0);
    (void)close(fd);
    (void)unlink(path);
}

static bool tap_make(void)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI, .ifr_name = "fuzz0"};
    int fd;

    if (unshare(CLONE_NEWNET) < 0) {
        return false;
    }
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0) {
        return false;
    }
    (void)close(fd);
    return true;
}

/* A socket on the tap's host side, which is set up for it; -1 if that can't be had. */
static int link_open(void)
{
    struct ifreq request = {.ifr_name = "fuzz0", .ifr_flags = IFF_UP};
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_ifindex = (int)if_nametoindex("fuzz0")};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return -1;
    }
    return fd;
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
    struct virtio_net_config net = {.tap = "fuzz0", .mtu = 1500};
    struct virtio_console_config console = {
        .output = console_output, .input_room = console_room, .owner = fuzz};
    struct virtio_block_config limited = {
        .queues = 2, .requests_per_s = 20000, .bytes_per_s = 64 << 20};

    fuzz->vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    fuzz->vm->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(guest_ram_track_dirty(fuzz->vm->ram, true) == 0);
    disk_add(fuzz->vm, (struct virtio_block_config){.direct = true});
    disk_add(fuzz->vm, (struct virtio_block_config){.read_only = true});
    CHECK(virtio_rng_create(fuzz->vm, NULL) == 0);
    CHECK(virtio_console_create(fuzz->vm, &console, &fuzz->console, NULL) == 0);
    fuzz->link_fd = -1;
    if (tap_make()) {
        CHECK(virtio_net_create(fuzz->vm, &net, NULL) == 0);
        fuzz->link_fd = link_open();
    }
    CHECK(virtio_balloon_create(fuzz->vm, NULL) == 0);
    disk_add(fuzz->vm, limited);
    for (struct device *device = vm_devices(fuzz->vm); device != NULL;
         device = device->next) {
        fuzz->devices[fuzz->count++] = device;
    }
    fake_vm_run_ms(fuzz->vm, 1);
}

void fuzz_vm_host_event(struct fuzz_vm *fuzz, unsigned index, const uint8_t *data,
                        size_t size)
{
    const char *name = fuzz->devices[index]->ops->name;
    uint8_t frame[1514] = {0};

    if (strcmp(name, "virtio-console") == 0) {
        (void)virtio_console_input(fuzz->console, data, size);
    } else if (strcmp(name, "virtio-balloon") == 0) {
        struct virtio_balloon_status status;
        struct error err = {0};
        (void)virtio_balloon_order(
            fuzz->vm, size > 0 ? (uint64_t)data[0] << 15 : DRIVER_MEMORY_BYTES, &err);
        CHECK(virtio_balloon_status(fuzz->vm, &status));
    } else if (strcmp(name, "virtio-net") == 0 && fuzz->link_fd >= 0) {
        memset(frame, 0xff, 6); /* to all, unless the input says else */
        memcpy(frame, data, size);
        (void)!send(fuzz->link_fd, frame, 60 + size * 20, 0); /* may be full */
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

struct fuzz_vm *fuzz_vm_fresh(void)
{
    static struct fuzz_vm fuzz;

    if (fuzz.vm == NULL) {
        make(&fuzz);
    }
    fuzz.vm->io_allowed = true;
    for (unsigned i = 0; i < fuzz.count; i++) {
        fuzz_vm_quiet(&fuzz, i);
        fuzz.devices[i]->ops->reset(fuzz.devices[i]);
        fuzz.devices[i]->ops->io_start(fuzz.devices[i]);
        driver_init(&fuzz.drivers[i], fuzz.vm, i + 1);
    }
    return &fuzz;
}
