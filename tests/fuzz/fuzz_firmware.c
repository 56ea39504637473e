/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of what firmware talks to: the configuration device by ports and DMA, and the
 * flash with its store of variables, mixed with stops, saves, loads and resets. With a
 * first byte of 0xff the rest is the saved section of a device, as a hostile peer sends
 * it. What must hold: no crash, and that what is saved can be loaded.
 * fuzz-sources: tests/fuzz/fuzz_clock.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/err.h"
#include "tests/fuzz/fuzz_clock.h"
#include "tests/fuzz/fuzz_state.h"
#include "tests/unit/fake_vm.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/firmware/flash.h"
#include "vmm/firmware/fw_cfg.h"
#include "vmm/firmware/vars_store.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

#define ORDERS_MAX      400
#define MEMORY_BYTES    (16u << 20)
#define CODE_BYTES      (64u << 10)
#define VARIABLES_BYTES (32u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t size;
};

static struct flash *flash_device;
static bool kvm_refuses; /* the next mapping */

void vm_flash_set(struct vm *vm, struct flash *flash)
{
    CHECK(vm != NULL);
    flash_device = flash;
}

struct flash *vm_flash(struct vm *vm)
{
    CHECK(vm != NULL);
    return flash_device;
}

int kvm_rom_set(struct vm *vm, enum kvm_rom rom, uint64_t gpa, const void *memory,
                uint64_t size)
{
    CHECK(vm != NULL && rom <= KVM_ROM_VARIABLES && gpa % GUEST_PAGE_SIZE == 0);
    CHECK(size % GUEST_PAGE_SIZE == 0 && (size == 0 || memory != NULL));
    return kvm_refuses ? -ENOMEM : 0;
}

static void refresh(void *owner, uint8_t *data, size_t size)
{
    CHECK(owner != NULL);
    memset(data, 0x5a, size);
}

static void flash_add(struct vm *vm)
{
    static const uint8_t variables[VARIABLES_BYTES];
    char path[] = "/dev/shm/fuzz-vars-XXXXXX";
    int fd = mkstemp(path);
    int code_fd = memfd_create("code", MFD_CLOEXEC);
    struct flash_config config = {.code_fd = code_fd,
                                  .code_bytes = CODE_BYTES,
                                  .variables_bytes = VARIABLES_BYTES,
                                  .variables = variables};
    struct flash *flash = NULL;

    CHECK(fd >= 0 && code_fd >= 0);
    CHECK(ftruncate(fd, VARIABLES_BYTES) == 0 && ftruncate(code_fd, CODE_BYTES) == 0);
    CHECK(vars_store_open(path, variables, VARIABLES_BYTES, true, &config.store, NULL) ==
          0);
    CHECK(unlink(path) == 0);
    CHECK(flash_create(vm, &config, &flash, NULL) == 0);
    CHECK(close(fd) == 0 && close(code_fd) == 0);
}

static struct vm *vm;
static struct fuzz_state state;

static void end(void)
{
    fake_vm_free(vm);
    fuzz_state_done(&state);
}

static struct vm *vm_fresh(void)
{
    if (vm == NULL) {
        struct fw_cfg *fw_cfg = NULL;
        static const uint8_t file[1000];

        vm = fake_vm_create(MEMORY_BYTES);
        vm->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        CHECK(fw_cfg_create(vm, &fw_cfg, NULL) == 0);
        CHECK(fw_cfg_item_add(fw_cfg, FW_CFG_CPUS, file, 2) == 0);
        CHECK(fw_cfg_file_add(fw_cfg, "etc/e820", file, 20) == 0);
        CHECK(fw_cfg_file_add(fw_cfg, "etc/acpi/tables", file, sizeof(file)) == 0);
        fw_cfg_file_refresh(fw_cfg, "etc/acpi/tables", refresh, vm);
        flash_add(vm);
        fuzz_state_keep(&state, vm);
        CHECK(atexit(end) == 0);
    }
    for (struct device *device = vm_devices(vm); device != NULL; device = device->next) {
        if (device->ops->reset != NULL) {
            device->ops->reset(device);
        }
    }
    kvm_refuses = false;
    fuzz_state_restore(&state);
    return vm;
}

static uint64_t take(struct input *input, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes && input->size > 0; i++) {
        value = value << 8 | *input->data++;
        input->size--;
    }
    return value;
}

static void access_do(struct bus *bus, uint64_t address, struct input *input)
{
    static const unsigned sizes[] = {1, 2, 4, 8};
    uint8_t order = (uint8_t)take(input, 1);
    unsigned size = sizes[order & 3];
    uint8_t data[8];

    if ((order & 4) != 0) {
        bus_read(bus, address, data, size);
        return;
    }
    uint64_t value = take(input, size);
    memcpy(data, &value, sizeof(data));
    bus_write(bus, address, data, size);
}

/* A DMA command somewhere in memory, and its start. */
static void dma_do(struct vm *vm, struct input *input)
{
    uint8_t command[16];
    uint8_t address[4] = {0, 0, (uint8_t)take(input, 1), 0xf0};

    for (unsigned i = 0; i < sizeof(command); i++) {
        command[i] = (uint8_t)take(input, 1);
    }
    if ((command[8] & 1) == 0) {
        memset(command + 8, 0, 4); /* else nearly all lie outside of memory */
        command[4] = command[5] = 0;
    }
    uint64_t gpa = (uint64_t)address[2] << 8 | address[3];
    CHECK(guest_ram_write(vm_ram(vm), gpa, command, sizeof(command)) == 0);
    bus_write(vm_port_bus(vm), LAYOUT_PORT_FW_CFG + 8, address, sizeof(address));
}

static void save_and_load(struct device *device)
{
    struct buffer saved = {0};
    struct error err = {0};

    if (device->ops->save != NULL) {
        CHECK(device->ops->save(device, &saved) == 0);
        CHECK(device->ops->load(device, device->ops->version, saved.data, saved.size,
                                &err) == 0);
    }
    buffer_done(&saved);
}

static struct device *device_pick(struct vm *vm, uint8_t which)
{
    struct device *device = vm_devices(vm);

    return which % 2 == 0 ? device : device->next;
}

static void order_do(struct vm *vm, struct input *input)
{
    uint8_t order = (uint8_t)take(input, 1);
    struct device *device = device_pick(vm, order >> 4);

    switch (order & 7) {
    case 0:
    case 1:
        access_do(vm_port_bus(vm), LAYOUT_PORT_FW_CFG + take(input, 1) % 12, input);
        break;
    case 2:
        dma_do(vm, input);
        break;
    case 3:
    case 4:
        access_do(vm_memory_bus(vm),
                  LAYOUT_FLASH_END - CODE_BYTES - VARIABLES_BYTES +
                      take(input, 2) % VARIABLES_BYTES,
                  input);
        break;
    case 5:
        save_and_load(device);
        break;
    case 6:
        if ((order & 0x80) != 0) { /* what was changed is written after a while */
            (void)flash_unlock(vm, NULL);
            fuzz_clock_skip_ms(1000);
            fake_vm_run_ms(vm, 0);
            (void)flash_lock(vm, NULL);
        }
        vm->io_allowed = (order & 8) == 0;
        if (device->ops->io_start != NULL) {
            vm->io_allowed ? device->ops->io_start(device) : device->ops->io_stop(device);
        }
        break;
    default:
        kvm_refuses = (order & 0xc0) == 0xc0;
        vm->config.ha = (order & 0xc0) == 0x80; /* and its lease is over */
        device->ops->reset(device);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vm *vm = vm_fresh();
    struct input input = {.data = data, .size = size};

    vm->io_allowed = true;
    vm->config.ha = kvm_refuses = false;
    if (size > 2 && data[0] == 0xff) {
        struct device *device = device_pick(vm, data[1]);
        struct error err = {0};

        if (device->ops->load(device, 1, data + 2, size - 2, &err) < 0) {
            CHECK(err.text[0] != '\0');
        }
        return 0;
    }
    for (unsigned i = 0; i < ORDERS_MAX && input.size > 0; i++) {
        order_do(vm, &input);
    }
    return 0;
}
