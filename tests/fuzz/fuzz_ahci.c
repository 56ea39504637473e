/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the AHCI controller and its CD-ROM drives as a guest reaches them: registers,
 * command lists, command tables, PRDs and packets in memory, mixed with what the VM does
 * to a device: stop, start, deadline, reset, save, and load of a state that was tampered
 * with. Orders follow one another, one byte each and its arguments (see order_run()).
 * What must hold: no crash, and that the device can always be drained and reset.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_state.h"
#include "tests/unit/ahci_driver.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/devices/ahci.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

#define ORDERS_MAX   200
#define MEMORY_BYTES (4u << 20)
#define BLOCK        2048u
#define BLOCKS       300u
#define DVD_BLOCKS   400000u /* mostly a hole */
#define SPACE        (LAYOUT_ECAM_START + (31u << 15) + (2u << 12))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct target {
    struct vm *vm;
    struct device *device;
    struct ahci_driver driver;
    int image_fd;
    bool image_cut;
    struct fuzz_state state;
};

/* Returns the image's descriptor. */
static int image_make(char path[])
{
    uint8_t block[BLOCK] = {0};
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        memset(block, (int)i, sizeof(block));
        memcpy(block, "\001CD001\001", 7);
        memcpy(block + 80, &(uint32_t){BLOCKS}, 4); /* the volume's size */
        CHECK(write(fd, block, sizeof(block)) == (ssize_t)sizeof(block));
    }
    return fd;
}

static void dvd_make(char path[])
{
    int fd = image_make(path);

    CHECK(ftruncate(fd, (off_t)DVD_BLOCKS * BLOCK) == 0);
    (void)close(fd);
}

static struct target target;

static void end(void)
{
    fake_vm_free(target.vm);
    fuzz_state_done(&target.state);
}

static void make(struct target *target)
{
    char path[] = "/dev/shm/fuzz-cdrom-XXXXXX";
    char dvd[] = "/dev/shm/fuzz-dvd-XXXXXX";
    target->image_fd = image_make(path);
    dvd_make(dvd);
    const struct ahci_config config = {.cdrom_count = 2, .cdroms = {path, dvd}};
    target->vm = fake_vm_create(MEMORY_BYTES);
    target->vm->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(guest_ram_track_dirty(target->vm->ram, true) == 0);
    CHECK(ahci_create(target->vm, &config, NULL) == 0);
    target->device = vm_devices(target->vm);
    fuzz_state_keep(&target->state, target->vm);
    (void)unlink(path);
    (void)unlink(dvd);
    CHECK(atexit(end) == 0);
}

/* Somebody on the host cuts the image off: blocks that are there no more read as errors.
 */
static void image_cut(struct target *target, bool is_cut)
{
    if (target->image_cut != is_cut) {
        CHECK(ftruncate(target->image_fd, (is_cut ? 20 : BLOCKS) * BLOCK) == 0);
        target->image_cut = is_cut;
    }
}

static bool drained(void *owner)
{
    struct device *device = owner;
    return device->ops->io_drained(device);
}

static void quiet(struct target *target)
{
    target->device->ops->io_stop(target->device);
    if (!drained(target->device)) {
        CHECK(fake_vm_run(target->vm, drained, target->device));
    }
}

static void reset(struct target *target)
{
    quiet(target);
    target->device->ops->reset(target->device);
    fuzz_state_restore(&target->state); /* a tray stays open over a reset */
    target->device->ops->io_start(target->device);
    ahci_driver_init(&target->driver, target->vm);
}

static void memory_write(struct target *target, uint64_t gpa, const void *data,
                         size_t size)
{
    (void)guest_ram_write(target->vm->ram, gpa, data, size); /* outside: nothing */
}

/* A command that is mostly right: header, FIS, packet, up to four PRDs. */
static void command(struct target *target, struct input *input)
{
    static const uint8_t often[] = {0xa0, 0xa0, 0xa0, 0xa0, 0xa1, 0xec, 0xef, 0x08};
    static const uint8_t packets[] = {0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25,
                                      0x28, 0x43, 0x46, 0x4a, 0x51, 0x52, 0x5a,
                                      0xa8, 0xad, 0xbd, 0xbe, 0x28, 0x28};
    uint32_t shape = take(input, 2);
    unsigned slot = shape & 31;
    unsigned prds = shape >> 5 & 3;
    uint8_t fis[20] = {0x27, 0x80, often[shape >> 7 & 7], 1};
    uint8_t packet[12];
    for (unsigned i = 0; i < sizeof(packet); i++) {
        packet[i] = (uint8_t)take(input, 1);
    }
    packet[0] = (shape & 0x8000) != 0 ? packet[0] : packets[packet[0] % sizeof(packets)];
    if ((packet[0] == 0x28 || packet[0] == 0xa8) && (packet[11] & 1) == 0) {
        packet[2] = packet[3] = packet[4] = 0; /* a read of what the image has */
        packet[6] = packet[7] = 0;
        packet[8] = packet[0] == 0x28 ? packet[8] : 0;
    }
    fis[1] = (shape & 0x0400) != 0 ? 0 : 0x80;
    fis[15] = (shape & 0x0800) != 0 ? 4 : 0;
    fis[3] = (uint8_t)(shape >> 12);
    uint64_t table = AHCI_DRIVER_TABLE_GPA + 0x400u * slot;
    uint32_t header[8] = {prds << 16 | 5, 0, (uint32_t)table};
    memory_write(target, AHCI_DRIVER_LIST_GPA + 32u * slot, header, sizeof(header));
    memory_write(target, table, fis, sizeof(fis));
    memory_write(target, table + 0x40, packet, sizeof(packet));
    for (unsigned i = 0; i < prds; i++) {
        uint32_t prd[4] = {AHCI_DRIVER_DATA_GPA + (take(input, 2) << 5), 0, 0,
                           take(input, 3)};
        memory_write(target, table + 0x80 + 16u * i, prd, sizeof(prd));
    }
    ahci_driver_port_set(&target->driver, 0x38, 1u << slot);
}

static void memory(struct target *target, struct input *input)
{
    uint64_t gpa = AHCI_DRIVER_LIST_GPA + take(input, 2) % 0xb000;
    uint32_t value = take(input, 4);
    memory_write(target, gpa, &value, sizeof(value));
}

static void registers_access(struct target *target, struct input *input, uint64_t base)
{
    uint8_t kind = (uint8_t)take(input, 1);
    unsigned size = 1u << (kind & 3);
    uint64_t offset = take(input, 2) % 0x1000;
    uint64_t value = take(input, 4) | (uint64_t)take(input, 1) << 32;
    if (base == SPACE) {
        size = size > 4 ? 4 : size;
        offset = offset % 0x100 & ~(uint64_t)(size - 1);
    }
    if ((kind & 4) != 0) {
        bus_write(target->vm->memory, base + offset, (const uint8_t *)&value, size);
    } else {
        bus_read(target->vm->memory, base + offset, (uint8_t *)&value, size);
    }
}

static void save_and_load(struct target *target, struct input *input)
{
    const struct device_ops *ops = target->device->ops;
    struct buffer saved;
    struct error err = {0};
    unsigned changes = take(input, 1) % 8;
    quiet(target);
    buffer_init(&saved, 0);
    CHECK(ops->save(target->device, &saved) == 0);
    CHECK(ops->load(target->device, 1, saved.data, saved.size, &err) == 0);
    for (unsigned i = 0; i < changes; i++) {
        saved.data[take(input, 2) % saved.size] = (uint8_t)take(input, 1);
        if (ops->load(target->device, 1, saved.data, saved.size, &err) < 0) {
            CHECK(err.text[0] != '\0');
        }
    }
    buffer_done(&saved);
    ops->io_start(target->device);
}

static void order_run(struct target *target, struct input *input)
{
    const struct device_ops *ops = target->device->ops;
    struct ahci_driver *driver = &target->driver;
    uint8_t order = (uint8_t)take(input, 1);
    switch (order % 13) {
    case 0:
        driver->port = take(input, 1) % 3;
        break;
    case 1:
        ahci_driver_start(driver);
        break;
    case 2:
    case 3:
    case 4:
        command(target, input);
        break;
    case 5:
        memory(target, input);
        break;
    case 6:
        registers_access(target, input, driver->bar);
        break;
    case 7:
        registers_access(target, input, SPACE);
        break;
    case 8:
        ahci_driver_port_set(driver, take(input, 1) % 0x80 & ~3u, take(input, 4));
        break;
    case 9:
        image_cut(target, order >= 240);
        for (unsigned i = 0; i < 4; i++) { /* one thing leads to the next */
            fake_vm_run_ms(target->vm, drained(target->device) ? 0 : 1);
        }
        break;
    case 10:
        if ((take(input, 1) & 1) != 0) {
            ops->io_stop(target->device);
        } else {
            ops->io_start(target->device);
        }
        break;
    case 11:
        target->vm->io_allowed = (take(input, 1) & 1) != 0;
        break;
    default:
        save_and_load(target, input);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    if (target.vm == NULL) {
        make(&target);
    }
    target.vm->io_allowed = true;
    image_cut(&target, false);
    reset(&target);
    for (unsigned i = 0; i < ORDERS_MAX && input.size > 0; i++) {
        order_run(&target, &input);
    }
    target.vm->io_allowed = true;
    fake_vm_run_ms(target.vm, 1);
    reset(&target);
    return 0;
}
