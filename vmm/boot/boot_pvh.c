/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF64 with a PVH entry note (Xen, docs/misc/pvh.pandoc): entered in 32-bit protected
 * mode without paging, EBX points to hvm_start_info.
 *
 *   hvm_start_info   +0 magic, +4 version, +8 flags, +12 modules, +16 module list, +24
 * command line, +32 RSDP, +40 memory map, +48 entries of it module           +0 address,
 * +8 size, +16 command line, +24 reserved memory map entry +0 address, +8 size, +16 type,
 * +20 reserved
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/boot/boot_internal.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

#define NOTE_PHYS32_ENTRY   18
#define START_INFO_MAGIC    0x336ec578u
#define START_INFO_VERSION  1
#define MODULE_OFFSET       0x100
#define MEMORY_MAP_OFFSET   0x200
#define PROGRAM_HEADERS_MAX 32
#define PROGRAM_HEADER_SIZE 56
#define NOTES_BYTES_MAX     4096

/* Field by field: the file is not ours. */
struct program_header {
    uint32_t type;
    uint64_t offset;
    uint64_t paddr;
    uint64_t file_size;
    uint64_t memory_size;
};

static int malformed(const struct boot *boot, const char *what, struct error *err)
{
    return error_set(err, DROVER_EBADINPUT, "ELF file %s %s; build or copy it again",
                     boot->kernel.path, what);
}

static int read_at(const struct boot *boot, uint64_t offset, void *data, size_t size,
                   struct error *err)
{
    if (offset > boot->kernel.size || size > boot->kernel.size - offset) {
        return malformed(boot, "is truncated", err);
    }
    ssize_t got = pread(boot->kernel.fd, data, size, (off_t)offset);
    if (got < 0) {
        int result = -errno;
        return error_set(err, result, "cannot read %s: %s", boot->kernel.path,
                         err_text(result));
    }
    return (size_t)got == size ? 0 : malformed(boot, "is truncated", err);
}

static unsigned header_count(const struct boot *boot)
{
    return boot_get16(boot->header + offsetof(Elf64_Ehdr, e_phnum));
}

static int header_read(const struct boot *boot, unsigned index,
                       struct program_header *ret_header, struct error *err)
{
    uint8_t raw[PROGRAM_HEADER_SIZE];
    uint64_t start = boot_get64(boot->header + offsetof(Elf64_Ehdr, e_phoff));
    if (start > boot->kernel.size) {
        return malformed(boot, "is truncated", err);
    }
    int result = read_at(boot, start + (uint64_t)index * PROGRAM_HEADER_SIZE, raw,
                         sizeof(raw), err);
    if (result < 0) {
        return result;
    }
    *ret_header = (struct program_header){
        .type = boot_get32(raw),
        .offset = boot_get64(raw + 8),
        .paddr = boot_get64(raw + 24),
        .file_size = boot_get64(raw + 32),
        .memory_size = boot_get64(raw + 40),
    };
    return 0;
}

static uint32_t padded(uint32_t size)
{
    return (size + 3) & ~3u;
}

/* The PVH entry in one note segment; 0: not there. */
static uint32_t entry_in_notes(const uint8_t *notes, size_t size)
{
    size_t at = 0;
    while (size - at >= 12) {
        uint32_t name_size = boot_get32(notes + at);
        uint32_t data_size = boot_get32(notes + at + 4);
        uint32_t type = boot_get32(notes + at + 8);
        at += 12;
        if (name_size > NOTES_BYTES_MAX || data_size > NOTES_BYTES_MAX ||
            padded(name_size) + padded(data_size) > size - at) {
            return 0;
        }
        if (type == NOTE_PHYS32_ENTRY && name_size == 4 &&
            memcmp(notes + at, "Xen", 4) == 0 && data_size >= 4) {
            return boot_get32(notes + at + padded(name_size));
        }
        at += padded(name_size) + padded(data_size);
    }
    return 0;
}

static int entry_find(const struct boot *boot, uint32_t *ret_entry, struct error *err)
{
    for (unsigned i = 0; i < header_count(boot); i++) {
        struct program_header header;
        int result = header_read(boot, i, &header, err);
        if (result < 0) {
            return result;
        }
        if (header.type != PT_NOTE) {
            continue;
        }
        uint8_t notes[NOTES_BYTES_MAX];
        size_t size =
            header.file_size < sizeof(notes) ? (size_t)header.file_size : sizeof(notes);
        result = read_at(boot, header.offset, notes, size, err);
        if (result < 0) {
            return result;
        }
        uint32_t entry = entry_in_notes(notes, size);
        if (entry != 0) {
            *ret_entry = entry;
            return 0;
        }
    }
    return error_set(
        err, DROVER_EBADINPUT,
        "ELF file %s has no PVH entry note: give a bzImage, or a vmlinux built with "
        "CONFIG_PVH",
        boot->kernel.path);
}

int boot_pvh_judge(const struct boot *boot, struct error *err)
{
    const uint8_t *header = boot->header;
    if (boot->kernel.size < sizeof(Elf64_Ehdr)) {
        return malformed(boot, "is truncated", err);
    }
    if (header[EI_CLASS] != ELFCLASS64 || header[EI_DATA] != ELFDATA2LSB ||
        boot_get16(header + offsetof(Elf64_Ehdr, e_machine)) != EM_X86_64 ||
        boot_get16(header + offsetof(Elf64_Ehdr, e_phentsize)) != PROGRAM_HEADER_SIZE) {
        return malformed(boot, "is not for x86-64", err);
    }
    if (header_count(boot) == 0 || header_count(boot) > PROGRAM_HEADERS_MAX) {
        return malformed(boot, "has no, or too many, program headers", err);
    }
    uint32_t entry = 0;
    int result = entry_find(boot, &entry, err);
    for (unsigned i = 0; result == 0 && i < header_count(boot); i++) {
        struct program_header segment;
        result = header_read(boot, i, &segment, err);
        if (result == 0 && segment.type == PT_LOAD &&
            (segment.offset > boot->kernel.size ||
             segment.file_size > boot->kernel.size - segment.offset)) {
            result = malformed(boot, "is truncated", err);
        }
    }
    return result;
}

static int segments_load(const struct boot *boot, struct guest_ram *ram,
                         uint64_t *ret_end, struct error *err)
{
    uint64_t end = LAYOUT_HIGH_MEMORY;
    for (unsigned i = 0; i < header_count(boot); i++) {
        struct program_header segment;
        int result = header_read(boot, i, &segment, err);
        if (result < 0) {
            return result;
        }
        if (segment.type != PT_LOAD || segment.memory_size == 0) {
            continue;
        }
        uint8_t *to = guest_ram_pointer(ram, segment.paddr, segment.memory_size);
        if (segment.paddr < LAYOUT_HIGH_MEMORY ||
            segment.file_size > segment.memory_size || to == NULL) {
            return error_set(err, DROVER_EBADINPUT,
                             "kernel %s wants %" PRIu64 " bytes of memory at 0x%" PRIx64
                             ": give more with --memory",
                             boot->kernel.path, segment.memory_size, segment.paddr);
        }
        result = boot_file_load(&boot->kernel, segment.offset, segment.file_size, ram,
                                segment.paddr, err);
        if (result < 0) {
            return result;
        }
        /* Zeros too: after a reset something else stands there. */
        memset(to + segment.file_size, 0, segment.memory_size - segment.file_size);
        guest_ram_mark_dirty(ram, segment.paddr, segment.memory_size);
        uint64_t segment_end = segment.paddr + segment.memory_size;
        end = segment_end > end ? segment_end : end;
    }
    *ret_end = end;
    return 0;
}

static void start_info_write(const struct boot *boot, struct guest_ram *ram,
                             uint64_t initrd_gpa)
{
    uint8_t page[GUEST_PAGE_SIZE] = {0};
    uint64_t at = LAYOUT_BOOT_PVH;
    struct boot_e820 map[BOOT_E820_MAX];
    unsigned count = boot_e820_make(ram, map);
    boot_set32(page, START_INFO_MAGIC);
    boot_set32(page + 4, START_INFO_VERSION);
    boot_set64(page + 24, LAYOUT_BOOT_CMDLINE);
    boot_set64(page + 32, LAYOUT_ACPI_RSDP);
    boot_set64(page + 40, at + MEMORY_MAP_OFFSET);
    boot_set32(page + 48, count);
    if (boot->initrd.fd >= 0) {
        boot_set32(page + 12, 1);
        boot_set64(page + 16, at + MODULE_OFFSET);
        boot_set64(page + MODULE_OFFSET, initrd_gpa);
        boot_set64(page + MODULE_OFFSET + 8, boot->initrd.size);
    }
    for (unsigned i = 0; i < count; i++) {
        uint8_t *entry = page + MEMORY_MAP_OFFSET + 24 * i;
        boot_set64(entry, map[i].start);
        boot_set64(entry + 8, map[i].size);
        boot_set32(entry + 16, map[i].type);
    }
    CHECK(guest_ram_write(ram, at, page, sizeof(page)) == 0);
}

int boot_pvh_load(const struct boot *boot, struct guest_ram *ram,
                  struct kvm_boot_entry *ret_entry, struct error *err)
{
    uint32_t entry = 0;
    uint64_t end = 0;
    uint64_t initrd_gpa = 0;
    int result = entry_find(boot, &entry, err);
    result = result < 0 ? result : segments_load(boot, ram, &end, err);
    if (result == 0 && boot->initrd.fd >= 0) {
        result = boot_initrd_load(boot, ram, end, LAYOUT_LOW_RAM_END, &initrd_gpa, err);
    }
    if (result < 0) {
        return result;
    }
    start_info_write(boot, ram, initrd_gpa);
    *ret_entry = (struct kvm_boot_entry){.rip = entry, .rbx = LAYOUT_BOOT_PVH};
    return 0;
}
