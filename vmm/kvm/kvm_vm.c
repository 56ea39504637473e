/* SPDX-License-Identifier: Apache-2.0 */
/* The VM's descriptors, memory slots, interrupt lines, and the dirty log. */
#include "vmm/kvm/kvm.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/vm_internal.h"

#define ROM_SLOTS 8
static_assert(ROM_SLOTS >= GUEST_RAM_REGIONS_MAX, "slots of their own");

/* What this program can't do without. */
static const struct {
    int capability;
    const char *name;
} needed[] = {
    {KVM_CAP_IRQCHIP, "in-kernel irqchip"},
    {KVM_CAP_PIT2, "in-kernel PIT"},
    {KVM_CAP_USER_MEMORY, "user memory"},
    {KVM_CAP_READONLY_MEM, "read-only memory"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_SIGNAL_MSI, "MSI"},
    {KVM_CAP_EXT_CPUID, "CPUID"},
    {KVM_CAP_SET_TSS_ADDR, "TSS address"},
    {KVM_CAP_MP_STATE, "MP state"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
    {KVM_CAP_XSAVE, "XSAVE state"},
    {KVM_CAP_XCRS, "XCR state"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_ADJUST_CLOCK, "clock adjustment"},
    {KVM_CAP_PIT_STATE2, "PIT state"},
};

static int kvm_open(int *ret_fd, struct error *err)
{
    CLEANUP(cleanup_fd) int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return error_set(
            err, DROVER_ENOKVM,
            "cannot open /dev/kvm: %s; switch virtualization on in the firmware, "
            "load kvm-intel or kvm-amd, and run as root or in group kvm",
            err_text(errno));
    }
    if (ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        return error_set(err, DROVER_ENOKVM,
                         "/dev/kvm does not speak API version %d: is it a KVM device?",
                         KVM_API_VERSION);
    }
    for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if (ioctl(fd, KVM_CHECK_EXTENSION, needed[i].capability) <= 0) {
            return error_set(err, DROVER_ENOKVM,
                             "KVM on this host lacks %s: a newer kernel is needed",
                             needed[i].name);
        }
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

static int step_failed(struct error *err, const char *what)
{
    int result = -errno;
    return error_set(err, DROVER_ENOKVM, "KVM refused %s: %s", what, err_text(result));
}

static int chips_make(struct vm *vm, struct error *err)
{
    if (ioctl(vm->fd, KVM_SET_TSS_ADDR, (unsigned long)LAYOUT_KVM_TSS) < 0) {
        return step_failed(err, "the TSS address");
    }
    uint64_t identity_map = LAYOUT_KVM_IDENTITY_MAP;
    if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0) {
        return step_failed(err, "the identity map's address");
    }
    if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0) {
        return step_failed(err, "an irqchip");
    }
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0) {
        return step_failed(err, "a PIT");
    }
    /* Optional: protects pages again only as they are fetched, so that a fetch of a part
     * costs a part. */
    struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                                 .args = {KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE}};
    vm->dirty_log_manual = ioctl(vm->fd, KVM_ENABLE_CAP, &cap) == 0;
    int run_size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < (int)sizeof(struct kvm_run)) {
        return step_failed(err, "the vCPU's mapping");
    }
    vm->vcpu_run_size = run_size;
    return 0;
}

/* The slots' numbers are the regions'. */
static int slots_set(struct vm *vm, uint32_t flags)
{
    for (unsigned i = 0; i < guest_ram_region_count(vm->ram); i++) {
        const struct guest_ram_region *region = guest_ram_region(vm->ram, i);
        struct kvm_userspace_memory_region slot = {
            .slot = i,
            .flags = flags,
            .guest_phys_addr = region->gpa,
            .memory_size = region->size_bytes,
            .userspace_addr = (uintptr_t)region->host,
        };
        if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0) {
            return -errno;
        }
    }
    return 0;
}

int kvm_vm_open(struct vm *vm, struct error *err)
{
    int result = kvm_open(&vm->kvm_fd, err);
    if (result == 0) {
        vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
        result = vm->fd < 0 ? step_failed(err, "to make a VM") : 0;
    }
    if (result < 0) {
        return result;
    }
    /* Before the chips: they leave KVM with a grace period to wait out (7 ms), which a
     * change of slots waits for, and nothing else here does. */
    result = slots_set(vm, 0);
    if (result < 0) {
        return error_set(err, DROVER_ENOKVM, "KVM refused the guest's memory: %s",
                         err_text(result));
    }
    return chips_make(vm, err);
}

/* Behind the regions' slots. */
int kvm_rom_set(struct vm *vm, enum kvm_rom rom, uint64_t gpa, const void *memory,
                uint64_t size)
{
    struct kvm_userspace_memory_region slot = {
        .slot = ROM_SLOTS + (uint32_t)rom,
        .flags = KVM_MEM_READONLY,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = (uintptr_t)memory,
    };
    return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0 ? -errno : 0;
}

void kvm_vm_close(struct vm *vm)
{
    kvm_irqfds_free(vm);
    cleanup_fd(&vm->fd);
    cleanup_fd(&vm->kvm_fd);
    vm->fd = -1;
    vm->kvm_fd = -1;
}

void vm_irq_set(struct vm *vm, unsigned irq, bool level)
{
    struct kvm_irq_level line = {.irq = irq, .level = level ? 1 : 0};
    CHECK(ioctl(vm->fd, KVM_IRQ_LINE, &line) == 0);
}

void vm_msi_send(struct vm *vm, uint64_t address, uint32_t data)
{
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address,
        .address_hi = (uint32_t)(address >> 32),
        .data = data,
    };
    /* 0: nobody takes it; errors: the guest wrote nonsense into its table. Both are its
     * own affair. */
    (void)ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

int vm_kvm_fd(struct vm *vm)
{
    return vm->fd;
}

static int devices_log(struct vm *vm, bool on)
{
    int result = 0;
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->dirty_log != NULL) {
            int ret = device->ops->dirty_log(device, on);
            result = result < 0 ? result : ret;
        }
    }
    return result;
}

int vm_dirty_log_start(struct vm *vm)
{
    int result = guest_ram_track_dirty(vm->ram, true);
    if (result == 0) {
        result = slots_set(vm, KVM_MEM_LOG_DIRTY_PAGES);
    }
    result = result < 0 ? result : devices_log(vm, true);
    vm->dirty_logging = result == 0;
    return result;
}

int vm_dirty_log_stop(struct vm *vm)
{
    vm->dirty_logging = false;
    int result = guest_ram_track_dirty(vm->ram, false);
    int slots = slots_set(vm, 0);
    int devices = devices_log(vm, false);
    result = result < 0 ? result : slots;
    return result < 0 ? result : devices;
}

/*
 * KVM_GET_DIRTY_LOG gives a whole slot. Without manual protection it also clears all of
 * it, so what lies outside of the caller's range is kept in the device bitmap, from where
 * a later fetch takes it.
 */
static int log_get(struct vm *vm, unsigned slot, uint64_t *whole)
{
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = whole};
    return ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

static void keep_outside(struct vm *vm, const struct guest_ram_region *region,
                         const uint64_t *whole, uint64_t first_page, uint64_t page_count)
{
    uint64_t pages = region->size_bytes / GUEST_PAGE_SIZE;
    for (uint64_t word = 0; word < (pages + 63) / 64; word++) {
        bool inside =
            word >= first_page / 64 && word < (first_page + page_count + 63) / 64;
        for (uint64_t bits = inside ? 0 : whole[word]; bits != 0; bits &= bits - 1) {
            uint64_t page = word * 64 + (unsigned)__builtin_ctzll(bits);
            guest_ram_mark_dirty(vm->ram, region->gpa + page * GUEST_PAGE_SIZE, 1);
        }
    }
}

static int log_clear(struct vm *vm, unsigned slot, const uint64_t *bitmap,
                     uint64_t first_page, uint64_t page_count)
{
    struct kvm_clear_dirty_log clear = {
        .slot = slot,
        .first_page = first_page,
        .num_pages = (uint32_t)page_count,
        .dirty_bitmap = (void *)bitmap, /* only read */
    };
    return ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0 ? -errno : 0;
}

int vm_dirty_log_fetch(struct vm *vm, unsigned region_index, uint64_t *bitmap,
                       uint64_t first_page, uint64_t page_count)
{
    const struct guest_ram_region *region = guest_ram_region(vm->ram, region_index);
    uint64_t pages = region->size_bytes / GUEST_PAGE_SIZE;
    CHECK(vm->dirty_logging);
    CHECK(first_page % 64 == 0 && page_count <= UINT32_MAX);
    CHECK(first_page + page_count <= pages);
    CHECK(page_count % 64 == 0 || first_page + page_count == pages);
    CLEANUP(cleanup_free) uint64_t *whole = calloc((pages + 63) / 64, sizeof(uint64_t));
    if (whole == NULL) {
        return -ENOMEM;
    }
    int result = log_get(vm, region_index, whole);
    if (result < 0) {
        return result;
    }
    if (vm->dirty_log_manual) {
        result =
            log_clear(vm, region_index, &whole[first_page / 64], first_page, page_count);
        if (result < 0) {
            return result;
        }
    } else {
        keep_outside(vm, region, whole, first_page, page_count);
    }
    for (uint64_t word = 0; word < (page_count + 63) / 64; word++) {
        bitmap[word] |= whole[first_page / 64 + word];
    }
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->dirty_sync != NULL) {
            device->ops->dirty_sync(device, region->gpa + first_page * GUEST_PAGE_SIZE,
                                    page_count * GUEST_PAGE_SIZE);
        }
    }
    guest_ram_fetch_dirty_range(vm->ram, region_index, bitmap, first_page, page_count);
    return 0;
}

int vm_dirty_log_peek(struct vm *vm, unsigned region_index, uint64_t *bitmap)
{
    const struct guest_ram_region *region = guest_ram_region(vm->ram, region_index);
    uint64_t words = (region->size_bytes / GUEST_PAGE_SIZE + 63) / 64;
    CHECK(vm->dirty_logging);
    CLEANUP(cleanup_free) uint64_t *whole = calloc(words, sizeof(uint64_t));
    if (whole == NULL) {
        return -ENOMEM;
    }
    int result = log_get(vm, region_index, whole);
    if (result < 0) {
        return result;
    }
    if (!vm->dirty_log_manual) {
        keep_outside(vm, region, whole, 0, 0);
    }
    for (uint64_t word = 0; word < words; word++) {
        bitmap[word] |= whole[word];
    }
    for (struct device *device = vm->devices; device != NULL; device = device->next) {
        if (device->ops->dirty_sync != NULL) {
            device->ops->dirty_sync(device, region->gpa, region->size_bytes);
        }
    }
    guest_ram_peek_dirty(vm->ram, region_index, bitmap);
    return 0;
}

int vm_dirty_log_forget(struct vm *vm, unsigned region_index, const uint64_t *bitmap,
                        uint64_t first_page, uint64_t page_count)
{
    int result = vm->dirty_log_manual
                     ? log_clear(vm, region_index, bitmap, first_page, page_count)
                     : 0;
    guest_ram_forget_dirty(vm->ram, region_index, bitmap, first_page, page_count);
    return result;
}
