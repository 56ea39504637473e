/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flash chip. Reading it is reading memory: KVM maps both parts read-only. A write
 * to the variables' part comes here, as a command of Intel's set:
 *
 *      ARRAY --0x70--> STATUS   --0x90--> ID
 *        |  --0x10, 0x40--> PROGRAM --(data)--> STATUS
 *        |  --0x20--> ERASE --0xd0--> STATUS
 *        '--0x50: the status is cleared
 *      0xff, or what it does not know: back to ARRAY
 *
 * Outside of ARRAY, the part is not mapped: reads come here too, and give the status. Back
 * in ARRAY it is mapped again only after some reads: OVMF writes byte by byte, each with
 * a way there and back, and changing the mapping costs.
 *
 * What was changed is written by the I/O loop soon after (FLUSH_DELAY_NS), and before the
 * VM stands still for whatever reason but a lease that is over: then it stays marked, and
 * is written when the VM goes on.
 */
#include "vmm/firmware/flash.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/firmware/flash_store.h"
#include "vmm/firmware/vars_store.h"
#include "vmm/host/event_loop.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define COMMAND_PROGRAM       0x10
#define COMMAND_PROGRAM_ELSE  0x40
#define COMMAND_ERASE         0x20
#define COMMAND_ERASE_CONFIRM 0xd0
#define COMMAND_STATUS_CLEAR  0x50
#define COMMAND_STATUS        0x70
#define COMMAND_ID            0x90
#define STATUS_READY          0x80
#define STATUS_SEQUENCE_ERROR 0x30
#define STATUS_PROGRAM_ERROR  0x10
#define ID_MAKER              0x89 /* Intel */
#define ID_DEVICE             0x18
#define READS_TO_MAP          16 /* in a row, before the part is mapped again */
#define FLUSH_DELAY_NS        (10 * NS_PER_MS)

enum flash_mode {
    FLASH_ARRAY,
    FLASH_STATUS,
    FLASH_ID,
    FLASH_PROGRAM, /* a byte to program comes next */
    FLASH_ERASE,   /* the confirmation comes next */
    FLASH_MODES,
};

struct flash {
    struct device device;
    struct vm *vm;
    uint8_t *code; /* the image, mapped read-only */
    uint64_t code_bytes;
    uint32_t code_crc32;
    uint64_t variables_gpa;
    uint64_t variables_bytes;
    struct event_source *flush_timer; /* on the I/O loop; NULL: no store */
    pthread_mutex_t lock;             /* of all below */
    struct flash_store store;
    uint8_t *variables;
    enum flash_mode mode;
    uint8_t status;
    bool mapped;    /* the variables' part, for the guest to read */
    unsigned reads; /* in a row, while it could be mapped */
    bool flush_due; /* the timer is set */
    atomic_bool running; /* since io_start: a guest that never ran here owns no file here */
    bool stop_due;       /* main's: io_stop has not had the lock yet */
};

static void lock(struct flash *flash)
{
    CHECK(pthread_mutex_lock(&flash->lock) == 0);
}

static void unlock(struct flash *flash)
{
    CHECK(pthread_mutex_unlock(&flash->lock) == 0);
}

/* Under lock, and only while the VM may do I/O. Makes what was changed durable. */
static void flush(struct flash *flash)
{
    if (flash_store_flush(&flash->store, flash->vm, flash->variables,
                          flash->variables_bytes) < 0) {
        flash->status |= STATUS_PROGRAM_ERROR;
    }
}

/* On the I/O loop. */
static void flush_timer_over(void *owner)
{
    struct flash *flash = owner;
    lock(flash);
    flash->flush_due = false;
    if (vm_io_allowed(flash->vm)) {
        flush(flash);
    }
    unlock(flash);
}

/* Under lock. */
static void flush_soon(struct flash *flash)
{
    if (flash->flush_timer != NULL && !flash->flush_due) {
        flash->flush_due = event_loop_timer_set(flash->flush_timer,
                                                clock_now_ns() + FLUSH_DELAY_NS) == 0;
    }
}

static void map(struct flash *flash, bool wanted)
{
    if (flash->variables_bytes == 0 || flash->mapped == wanted) {
        return;
    }
    int result = kvm_rom_set(flash->vm, KVM_ROM_VARIABLES, flash->variables_gpa,
                             flash->variables, wanted ? flash->variables_bytes : 0);
    if (result < 0) {
        vm_end(flash->vm, true, "KVM refused the mapping of the flash");
        return;
    }
    flash->mapped = wanted;
}

static void mode_set(struct flash *flash, enum flash_mode mode)
{
    flash->mode = mode;
    flash->reads = 0;
    if (mode != FLASH_ARRAY) {
        map(flash, false);
    }
}

static void program(struct flash *flash, uint64_t offset, const uint8_t *data,
                    unsigned size)
{
    memcpy(flash->variables + offset, data, size);
    flash_store_mark(&flash->store, offset, size);
    flush_soon(flash);
    flash->status |= STATUS_READY;
    mode_set(flash, FLASH_STATUS);
}

static void erase(struct flash *flash, uint64_t offset, uint8_t confirmation)
{
    if (confirmation != COMMAND_ERASE_CONFIRM) {
        flash->status |= STATUS_READY | STATUS_SEQUENCE_ERROR;
        mode_set(flash, FLASH_ARRAY);
        return;
    }
    memset(flash->variables + offset / FLASH_SECTOR_SIZE * FLASH_SECTOR_SIZE, 0xff,
           FLASH_SECTOR_SIZE);
    flash_store_mark(&flash->store, offset, 1);
    flush_soon(flash);
    flash->status |= STATUS_READY;
    mode_set(flash, FLASH_STATUS);
}

static void command(struct flash *flash, uint8_t value)
{
    switch (value) {
    case COMMAND_PROGRAM:
    case COMMAND_PROGRAM_ELSE:
        mode_set(flash, FLASH_PROGRAM);
        return;
    case COMMAND_ERASE:
        mode_set(flash, FLASH_ERASE);
        return;
    case COMMAND_STATUS:
        mode_set(flash, FLASH_STATUS);
        return;
    case COMMAND_ID:
        mode_set(flash, FLASH_ID);
        return;
    case COMMAND_STATUS_CLEAR:
        flash->status = 0;
        mode_set(flash, FLASH_ARRAY);
        return;
    default: /* 0xff, and what it does not know */
        mode_set(flash, FLASH_ARRAY);
        return;
    }
}

static void flash_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct flash *flash = owner;
    lock(flash);
    switch (flash->mode) {
    case FLASH_PROGRAM:
        program(flash, offset, data, size);
        break;
    case FLASH_ERASE:
        erase(flash, offset, data[0]);
        break;
    default:
        command(flash, data[0]);
        break;
    }
    unlock(flash);
}

static void flash_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct flash *flash = owner;
    lock(flash);
    switch (flash->mode) {
    case FLASH_ARRAY:
        memcpy(data, flash->variables + offset, size);
        flash->reads++;
        if (flash->reads >= READS_TO_MAP) {
            map(flash, true);
        }
        break;
    case FLASH_ID:
        memset(data, 0, size);
        data[0] = offset % 2 == 0 ? ID_MAKER : ID_DEVICE;
        break;
    default:
        memset(data, flash->status, size);
        break;
    }
    unlock(flash);
}

static const struct bus_ops flash_bus_ops = {.read = flash_read, .write = flash_write};

void flash_code_read(const struct flash *flash, uint64_t offset, void *data, size_t size)
{
    CHECK(offset <= flash->code_bytes && size <= flash->code_bytes - offset);
    memcpy(data, flash->code + offset, size);
}

uint64_t flash_code_size(const struct flash *flash)
{
    return flash->code_bytes;
}

/* Main does not wait for the lock: a vCPU may hold it for as long as another waits for a
 * page of memory (KVM changes no mapping meanwhile). */
static bool flash_io_drained(struct device *device)
{
    struct flash *flash = (struct flash *)device;
    if (!flash->stop_due || pthread_mutex_trylock(&flash->lock) != 0) {
        return !flash->stop_due;
    }
    if (atomic_exchange(&flash->running, false)) {
        flush(flash);
    }
    flash->stop_due = false;
    unlock(flash);
    return true;
}

/*
 * Main thread. While it flushes, the VM's I/O is not drained; a lease that is over forbids
 * it. A vCPU that is not out yet may still write: that waits for io_start.
 */
static void flash_io_stop(struct device *device)
{
    ((struct flash *)device)->stop_due = true;
    (void)flash_io_drained(device); /* or later */
}

/* What could not be written before, or has just arrived. */
static void flash_io_start(struct device *device)
{
    struct flash *flash = (struct flash *)device;
    flash->stop_due = false;
    atomic_store(&flash->running, true);
    if (flash->flush_timer != NULL) {
        (void)event_loop_timer_set(flash->flush_timer, clock_now_ns() + FLUSH_DELAY_NS);
    }
}

static void flash_reset(struct device *device)
{
    struct flash *flash = (struct flash *)device;
    lock(flash);
    flash->status = 0;
    mode_set(flash, FLASH_ARRAY);
    map(flash, true);
    unlock(flash);
}

static int flash_save(struct device *device, struct buffer *out)
{
    struct flash *flash = (struct flash *)device;
    Drover__FlashState state = DROVER__FLASH_STATE__INIT;
    lock(flash);
    state.code_bytes = (uint32_t)flash->code_bytes;
    state.code_crc32 = flash->code_crc32;
    state.variables =
        (ProtobufCBinaryData){.len = flash->variables_bytes, .data = flash->variables};
    state.mode = flash->mode;
    state.status = flash->status;
    int result = state_pack(&state.base, out);
    unlock(flash);
    return result;
}

static int state_judge(const struct flash *flash, const Drover__FlashState *state,
                       struct error *err)
{
    if (state->code_bytes != flash->code_bytes ||
        state->variables.len != flash->variables_bytes) {
        return error_set(err, DROVER_EBADINPUT,
                         "the guest has firmware of %u bytes with %zu bytes of variables, "
                         "this VM has %" PRIu64 " and %" PRIu64
                         ": give the same --firmware",
                         state->code_bytes, state->variables.len, flash->code_bytes,
                         flash->variables_bytes);
    }
    if (state->mode >= FLASH_MODES || state->status > UINT8_MAX) {
        return error_set(err, DROVER_EMALFORMED, "the saved flash is malformed");
    }
    if (state->code_crc32 != flash->code_crc32) {
        /* Systems that have booted don't come back to it before they are reset. */
        log_notice(vm_log(flash->vm),
                   "the firmware here is another version than where the guest comes "
                   "from: its next reset boots this one vm=%s",
                   vm_config(flash->vm)->name);
    }
    return 0;
}

static int flash_load(struct device *device, uint32_t version, const uint8_t *payload,
                      size_t size, struct error *err)
{
    struct flash *flash = (struct flash *)device;
    (void)version; /* 1 is the first */
    Drover__FlashState *state = drover__flash_state__unpack(NULL, size, payload);
    if (state == NULL) {
        return error_set(err, DROVER_EMALFORMED, "the saved flash is malformed");
    }
    int result = state_judge(flash, state, err);
    if (result == 0) {
        lock(flash);
        if (flash->variables_bytes > 0) {
            memcpy(flash->variables, state->variables.data, flash->variables_bytes);
        }
        /* The file here may be older; it is written when the guest goes on here. */
        flash_store_mark(&flash->store, 0, flash->variables_bytes);
        flash->status = (uint8_t)state->status;
        flash->mode = (enum flash_mode)state->mode;
        map(flash, flash->mode == FLASH_ARRAY);
        unlock(flash);
    }
    drover__flash_state__free_unpacked(state, NULL);
    return result;
}

static void flash_done(struct flash *flash)
{
    if (flash->code != NULL) {
        (void)munmap(flash->code, flash->code_bytes); /* fails only if not mapped */
    }
    if (flash->variables != NULL) {
        (void)munmap(flash->variables, flash->variables_bytes);
    }
    event_loop_remove(flash->flush_timer);
    vars_store_close(flash->store.file);
    (void)pthread_mutex_destroy(&flash->lock); /* nobody uses it any more */
    free(flash);
}

static void flash_free(struct device *device)
{
    struct flash *flash = (struct flash *)device;
    if (flash->variables_bytes > 0) {
        bus_remove(vm_memory_bus(flash->vm), flash->variables_gpa);
        (void)kvm_rom_set(flash->vm, KVM_ROM_VARIABLES, flash->variables_gpa, NULL, 0);
    }
    (void)kvm_rom_set(flash->vm, KVM_ROM_CODE, LAYOUT_FLASH_END - flash->code_bytes, NULL,
                      0);
    vm_flash_set(flash->vm, NULL);
    flash_done(flash);
}

static const struct device_ops flash_device_ops = {
    .name = "flash",
    .version = 1,
    .io_stop = flash_io_stop,
    .io_drained = flash_io_drained,
    .io_start = flash_io_start,
    .save = flash_save,
    .load = flash_load,
    .reset = flash_reset,
    .free = flash_free,
};

static int variables_init(struct flash *flash, const struct flash_config *config)
{
    if (config->variables_bytes == 0) {
        return 0;
    }
    void *memory = mmap(NULL, config->variables_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return -errno;
    }
    flash->variables = memory;
    flash->variables_bytes = config->variables_bytes;
    flash->variables_gpa =
        LAYOUT_FLASH_END - config->code_bytes - config->variables_bytes;
    memcpy(flash->variables, config->variables, config->variables_bytes);
    return 0;
}

/* The image's pages are the host's page cache: any number of VMs share them. */
static int code_init(struct flash *flash, const struct flash_config *config)
{
    void *memory =
        mmap(NULL, config->code_bytes, PROT_READ, MAP_PRIVATE, config->code_fd, 0);
    if (memory == MAP_FAILED) {
        return -errno;
    }
    flash->code = memory;
    flash->code_bytes = config->code_bytes;
    flash->code_crc32 = (uint32_t)crc32(0, flash->code, (uInt)flash->code_bytes);
    return 0;
}

static int guest_map(struct flash *flash)
{
    int result = kvm_rom_set(flash->vm, KVM_ROM_CODE, LAYOUT_FLASH_END - flash->code_bytes,
                             flash->code, flash->code_bytes);
    if (result < 0 || flash->variables_bytes == 0) {
        return result;
    }
    result = kvm_rom_set(flash->vm, KVM_ROM_VARIABLES, flash->variables_gpa,
                         flash->variables, flash->variables_bytes);
    flash->mapped = result == 0;
    return result < 0 ? result
                      : bus_add(vm_memory_bus(flash->vm), flash->variables_gpa,
                                flash->variables_bytes, &flash_bus_ops, flash);
}

int flash_create(struct vm *vm, const struct flash_config *config,
                 struct flash **ret_flash, struct error *err)
{
    CHECK(config->code_bytes + config->variables_bytes <= FLASH_SIZE_MAX);
    struct flash *flash = calloc(1, sizeof(*flash));
    if (flash == NULL) {
        vars_store_close(config->store);
        return error_set(err, -ENOMEM, "out of memory");
    }
    CHECK(pthread_mutex_init(&flash->lock, NULL) == 0);
    flash->device.ops = &flash_device_ops;
    flash->vm = vm;
    flash->store.file = config->store;
    int result = code_init(flash, config);
    result = result < 0 ? result : variables_init(flash, config);
    if (result == 0 && flash->store.file != NULL) {
        result = event_loop_timer_create(vm_io_loop(vm), flush_timer_over, flash,
                                         &flash->flush_timer);
    }
    result = result < 0 ? result : guest_map(flash);
    if (result < 0) {
        flash_done(flash);
        return error_set(err, result, "cannot map the firmware: %s", err_text(result));
    }
    vm_flash_set(vm, flash);
    vm_device_add(vm, &flash->device);
    *ret_flash = flash;
    return 0;
}

int flash_lock(struct vm *vm, struct error *err)
{
    struct flash *flash = vm_flash(vm);
    return flash != NULL && flash->store.file != NULL ? vars_store_lock(flash->store.file, err) : 0;
}

int flash_unlock(struct vm *vm, struct error *err)
{
    struct flash *flash = vm_flash(vm);
    return flash != NULL && flash->store.file != NULL ? vars_store_unlock(flash->store.file, err) : 0;
}
