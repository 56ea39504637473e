/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and judging of the kernel and initrd; what both boot protocols share. */
#include "vmm/boot/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/limits.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/boot_internal.h"
#include "vmm/bus/pci.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/vm.h"

#define E820_USABLE   1
#define E820_RESERVED 2

static int file_open(const char *path, const char *option, struct boot_file *ret_file,
                     struct error *err)
{
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0) {
        int result = -errno;
        return error_set(err, result, "cannot open %s: %s; give a readable file with %s",
                         path, err_text(result), option);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(err, DROVER_EBADINPUT, "%s is not a file; give one with %s",
                         path, option);
    }
    if (status.st_size == 0) {
        return error_set(err, DROVER_EBADINPUT, "%s is empty; give another file with %s",
                         path, option);
    }
    *ret_file = (struct boot_file){
        .path = path, .fd = take_fd(&fd), .size = (uint64_t)status.st_size};
    return 0;
}

static int header_read(struct boot *boot, struct error *err)
{
    ssize_t got = pread(boot->kernel.fd, boot->header, sizeof(boot->header), 0);
    if (got < 0) {
        int result = -errno;
        return error_set(err, result, "cannot read %s: %s", boot->kernel.path,
                         err_text(result));
    }
    if (memcmp(boot->header, "\177ELF", 4) == 0) {
        boot->kind = BOOT_KIND_PVH;
        return boot_pvh_judge(boot, err);
    }
    if (boot_get16(boot->header + 0x1fe) == 0xaa55 &&
        memcmp(boot->header + 0x202, "HdrS", 4) == 0) {
        boot->kind = BOOT_KIND_BZIMAGE;
        return boot_bzimage_judge(boot, err);
    }
    return error_set(
        err, DROVER_EBADINPUT,
        "%s is no kernel that can be booted: give a Linux bzImage or an ELF file "
        "with a PVH entry",
        boot->kernel.path);
}

static void boot_close_scope(struct boot **boot)
{
    boot_close(*boot);
}

int boot_open(const char *kernel, const char *initrd, const char *cmdline,
              uint64_t ram_bytes, struct boot **ret_boot, struct error *err)
{
    CHECK(kernel != NULL);
    CLEANUP(boot_close_scope) struct boot *boot = calloc(1, sizeof(*boot));
    if (boot == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    boot->kernel.fd = -1;
    boot->initrd.fd = -1;
    boot->cmdline = cmdline != NULL ? cmdline : "";
    if (strlen(boot->cmdline) >= LIMIT_CMDLINE_SIZE) {
        return error_set(
            err, DROVER_EBADINPUT,
            "the kernel command line has %zu characters: at most %d are possible",
            strlen(boot->cmdline), LIMIT_CMDLINE_SIZE - 1);
    }
    int result = file_open(kernel, "--kernel", &boot->kernel, err);
    if (result == 0 && initrd != NULL) {
        result = file_open(initrd, "--initrd", &boot->initrd, err);
    }
    if (result == 0 && boot->kernel.size + boot->initrd.size >= ram_bytes) {
        result =
            error_set(err, DROVER_EBADINPUT,
                      "kernel and initrd (%" PRIu64 " bytes) do not fit into %" PRIu64
                      " bytes of memory: give more with --memory",
                      boot->kernel.size + boot->initrd.size, ram_bytes);
    }
    if (result == 0) {
        result = header_read(boot, err);
    }
    if (result == 0) {
        *ret_boot = TAKE(boot);
    }
    return result;
}

void boot_close(struct boot *boot)
{
    if (boot == NULL) {
        return;
    }
    cleanup_fd(&boot->kernel.fd);
    cleanup_fd(&boot->initrd.fd);
    free(boot);
}

unsigned boot_e820_make(const struct guest_ram *ram, struct boot_e820 map[BOOT_E820_MAX])
{
    const struct guest_ram_region *low = guest_ram_region(ram, 0);
    unsigned count = 0;
    map[count++] = (struct boot_e820){0, LAYOUT_EBDA, E820_USABLE};
    map[count++] = (struct boot_e820){LAYOUT_EBDA, 0xa0000 - LAYOUT_EBDA, E820_RESERVED};
    map[count++] = (struct boot_e820){LAYOUT_ACPI_RSDP,
                                      LAYOUT_ACPI_END - LAYOUT_ACPI_RSDP, E820_RESERVED};
    map[count++] = (struct boot_e820){LAYOUT_HIGH_MEMORY,
                                      low->size_bytes - LAYOUT_HIGH_MEMORY, E820_USABLE};
    map[count++] = (struct boot_e820){LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE, E820_RESERVED};
    if (guest_ram_region_count(ram) > 1) {
        const struct guest_ram_region *high = guest_ram_region(ram, 1);
        map[count++] = (struct boot_e820){high->gpa, high->size_bytes, E820_USABLE};
    }
    CHECK(count <= BOOT_E820_MAX);
    return count;
}

int boot_file_load(const struct boot_file *file, uint64_t offset, uint64_t size,
                   struct guest_ram *ram, uint64_t gpa, struct error *err)
{
    uint8_t *to = guest_ram_pointer(ram, gpa, size);
    if (to == NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s does not fit: it wants %" PRIu64 " bytes at 0x%" PRIx64
                         "; give more with --memory",
                         file->path, size, gpa);
    }
    for (uint64_t done = 0; done < size;) {
        ssize_t got = pread(file->fd, to + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            int result = -errno;
            return error_set(err, result, "cannot read %s: %s", file->path,
                             err_text(result));
        }
        if (got == 0) {
            return error_set(err, DROVER_EBADINPUT,
                             "%s is truncated: it ends at byte %" PRIu64
                             "; copy it again",
                             file->path, offset + done);
        }
        done += (uint64_t)got;
    }
    guest_ram_mark_dirty(ram, gpa, size);
    return 0;
}

int boot_initrd_load(const struct boot *boot, struct guest_ram *ram, uint64_t floor,
                     uint64_t limit, uint64_t *ret_gpa, struct error *err)
{
    CHECK(boot->initrd.fd >= 0);
    uint64_t end = guest_ram_region(ram, 0)->size_bytes;
    end = end < limit ? end : limit;
    uint64_t size = boot->initrd.size;
    uint64_t gpa = size <= end ? (end - size) & ~(uint64_t)(GUEST_PAGE_SIZE - 1) : 0;
    if (gpa < floor) {
        return error_set(err, DROVER_EBADINPUT,
                         "initrd %s (%" PRIu64
                         " bytes) does not fit behind the kernel, which "
                         "needs memory up to 0x%" PRIx64 ": give more with --memory",
                         boot->initrd.path, size, floor);
    }
    int result = boot_file_load(&boot->initrd, 0, size, ram, gpa, err);
    if (result == 0) {
        *ret_gpa = gpa;
    }
    return result;
}

int boot_load(struct boot *boot, struct vm *vm, struct kvm_boot_entry *ret_entry,
              struct error *err)
{
    struct guest_ram *ram = vm_ram(vm);
    int result = guest_ram_write(ram, LAYOUT_BOOT_CMDLINE, boot->cmdline,
                                 strlen(boot->cmdline) + 1);
    CHECK(result == 0); /* at least 1 MiB of memory is there */
    struct acpi_machine machine;
    acpi_machine_describe(ram, vm_config(vm)->cpus, vm_config(vm)->machine,
                          pci_bus_ecam(vm_pci(vm)), &machine);
    result = acpi_tables_write(&machine, ram);
    if (result < 0) {
        return error_set(err, result, "cannot write the ACPI tables: %s",
                         err_text(result));
    }
    switch (boot->kind) {
    case BOOT_KIND_BZIMAGE:
        return boot_bzimage_load(boot, ram, ret_entry, err);
    case BOOT_KIND_PVH:
        return boot_pvh_load(boot, ram, ret_entry, err);
    }
    return DROVER_EBADINPUT;
}
