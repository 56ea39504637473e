/* SPDX-License-Identifier: Apache-2.0 */
/* The VM of the fuzzers. */
#include "tests/fuzz/fuzz_vm.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/check.h"
#include "vmm/device.h"
#include "vmm/guest_ram.h"
#include "vmm/virtio/virtio_balloon.h"
#include "vmm/virtio/virtio_block.h"
#include "vmm/virtio/virtio_console.h"
#include "vmm/virtio/virtio_net.h"
#include "vmm/virtio/virtio_rng.h"

#define DISK_BYTES (1024 * 1024)

static void disk_add(struct vm *vm, bool read_only, bool direct)
{
    char path[] = "/var/tmp/fuzz-disk-XXXXXX";
    struct virtio_block_config config = {
        .path = path, .read_only = read_only, .direct = direct};
    int fd = mkstemp(path);

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

static void make(struct fuzz_vm *fuzz)
{
    struct virtio_net_config net = {.tap = "fuzz0"};
    struct virtio_console_config console = {0};

    fuzz->vm = fake_vm_create(DRIVER_MEMORY_BYTES);
    fuzz->vm->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(guest_ram_track_dirty(fuzz->vm->ram, true) == 0);
    disk_add(fuzz->vm, false, true);
    disk_add(fuzz->vm, true, false);
    CHECK(virtio_rng_create(fuzz->vm, NULL) == 0);
    CHECK(virtio_console_create(fuzz->vm, &console, NULL, NULL) == 0);
    if (tap_make()) {
        CHECK(virtio_net_create(fuzz->vm, &net, NULL) == 0);
    }
    CHECK(virtio_balloon_create(fuzz->vm, NULL) == 0);
    for (struct device *device = vm_devices(fuzz->vm); device != NULL;
         device = device->next) {
        fuzz->devices[fuzz->count++] = device;
    }
    fake_vm_run_ms(fuzz->vm, 1);
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
