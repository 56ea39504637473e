/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux bzImage, Documentation/arch/x86/boot.rst. The 64-bit entry is used: the real-mode
 * part would need a BIOS, the 32-bit entry would only have the guest switch to long mode
 * by itself; each 64-bit kernel since 3.8 has the entry. The kernel is loaded where it
 * would move itself anyway (pref_address).
 */
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/limits.h"
#include "vmm/boot/boot_internal.h"
#include "vmm/kvm/kvm.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"

/* Offsets in the setup header, which are those in the zero page too. */
#define SETUP_SECTS       0x1f1
#define SETUP_SYSSIZE     0x1f4
#define SETUP_JUMP_LENGTH 0x201 /* the header ends at 0x202 + this */
#define SETUP_VERSION     0x206
#define SETUP_LOADER      0x210
#define SETUP_LOADFLAGS   0x211
#define SETUP_INITRD      0x218
#define SETUP_INITRD_SIZE 0x21c
#define SETUP_CMDLINE     0x228
#define SETUP_INITRD_MAX  0x22c
#define SETUP_XLOADFLAGS  0x236
#define SETUP_CMDLINE_MAX 0x238
#define SETUP_PREF        0x258
#define SETUP_INIT_SIZE   0x260

#define ZERO_RSDP       0x070
#define ZERO_E820_COUNT 0x1e8
#define ZERO_E820       0x2d0
#define ZERO_SIZE       4096

#define LOADER_UNKNOWN  0xff
#define LOADFLAG_HIGH   0x01
#define XLOADFLAG_64    0x01
#define VERSION_MIN     0x020c /* the first with xloadflags: Linux 3.8 */
#define ENTRY_64_OFFSET 0x200
#define SECTOR          512

#define TABLE_PRESENT_WRITE 0x3
#define TABLE_LARGE         0x80
#define IDENTITY_GIB        4

static uint64_t code_offset(const struct boot *boot)
{
    unsigned sectors = boot->header[SETUP_SECTS];
    return ((sectors == 0 ? 4 : sectors) + 1) * (uint64_t)SECTOR;
}

int boot_bzimage_judge(const struct boot *boot, struct error *err)
{
    const uint8_t *header = boot->header;
    const char *path = boot->kernel.path;
    if (boot_get16(header + SETUP_VERSION) < VERSION_MIN ||
        (boot_get16(header + SETUP_XLOADFLAGS) & XLOADFLAG_64) == 0) {
        return error_set(
            err, DROVER_EBADINPUT,
            "%s has no 64-bit entry: give a 64-bit Linux kernel, 3.8 or later", path);
    }
    uint64_t code_bytes = (uint64_t)boot_get32(header + SETUP_SYSSIZE) * 16;
    if (code_bytes == 0 || code_offset(boot) + code_bytes > boot->kernel.size + 15) {
        return error_set(err, DROVER_EBADINPUT,
                         "%s is truncated: %" PRIu64 " of %" PRIu64
                         " bytes; copy it again",
                         path, boot->kernel.size, code_offset(boot) + code_bytes);
    }
    uint64_t cmdline_max = boot_get32(header + SETUP_CMDLINE_MAX);
    if (strlen(boot->cmdline) > cmdline_max) {
        return error_set(err, DROVER_EBADINPUT,
                         "the command line has %zu characters, %s takes %" PRIu64,
                         strlen(boot->cmdline), path, cmdline_max);
    }
    return 0;
}

/* The first 4 GiB, one to one, in pages of 2 MiB. */
static void identity_tables_write(struct guest_ram *ram)
{
    uint8_t table[GUEST_PAGE_SIZE] = {0};
    uint64_t at = LAYOUT_BOOT_TABLES;
    boot_set64(table, (at + 0x1000) | TABLE_PRESENT_WRITE);
    CHECK(guest_ram_write(ram, at, table, sizeof(table)) == 0);
    for (unsigned i = 0; i < IDENTITY_GIB; i++) {
        boot_set64(table + 8 * i, (at + 0x2000 + i * 0x1000) | TABLE_PRESENT_WRITE);
    }
    CHECK(guest_ram_write(ram, at + 0x1000, table, sizeof(table)) == 0);
    for (uint64_t i = 0; i < IDENTITY_GIB; i++) {
        for (uint64_t j = 0; j < 512; j++) {
            boot_set64(table + 8 * j,
                       (i << 30 | j << 21) | TABLE_PRESENT_WRITE | TABLE_LARGE);
        }
        CHECK(guest_ram_write(ram, at + 0x2000 + i * 0x1000, table, sizeof(table)) == 0);
    }
}

static void zero_page_write(const struct boot *boot, struct guest_ram *ram,
                            uint64_t initrd_gpa)
{
    uint8_t zero[ZERO_SIZE] = {0};
    unsigned header_end = 0x202u + boot->header[SETUP_JUMP_LENGTH];
    memcpy(zero + SETUP_SECTS, boot->header + SETUP_SECTS, header_end - SETUP_SECTS);
    zero[SETUP_LOADER] = LOADER_UNKNOWN;
    zero[SETUP_LOADFLAGS] |= LOADFLAG_HIGH;
    boot_set32(zero + SETUP_CMDLINE, (uint32_t)LAYOUT_BOOT_CMDLINE);
    boot_set64(zero + ZERO_RSDP, LAYOUT_ACPI_RSDP);
    if (boot->initrd.fd >= 0) {
        boot_set32(zero + SETUP_INITRD, (uint32_t)initrd_gpa);
        boot_set32(zero + SETUP_INITRD_SIZE, (uint32_t)boot->initrd.size);
    }
    struct boot_e820 map[BOOT_E820_MAX];
    unsigned count = boot_e820_make(ram, map);
    zero[ZERO_E820_COUNT] = (uint8_t)count;
    for (unsigned i = 0; i < count; i++) {
        uint8_t *entry = zero + ZERO_E820 + i * 20;
        boot_set64(entry, map[i].start);
        boot_set64(entry + 8, map[i].size);
        boot_set32(entry + 16, map[i].type);
    }
    CHECK(guest_ram_write(ram, LAYOUT_BOOT_ZEROPAGE, zero, sizeof(zero)) == 0);
}

int boot_bzimage_load(const struct boot *boot, struct guest_ram *ram,
                      struct kvm_boot_entry *ret_entry, struct error *err)
{
    uint64_t offset = code_offset(boot);
    uint64_t load = boot_get64(boot->header + SETUP_PREF);
    uint64_t init_size = boot_get32(boot->header + SETUP_INIT_SIZE);
    uint64_t file_bytes = boot->kernel.size - offset;
    uint64_t needed = init_size > file_bytes ? init_size : file_bytes;
    if (load < LAYOUT_HIGH_MEMORY || guest_ram_pointer(ram, load, needed) == NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "kernel %s needs %" PRIu64 " bytes of memory at 0x%" PRIx64
                         ": give more with --memory",
                         boot->kernel.path, needed, load);
    }
    int result = boot_file_load(&boot->kernel, offset, file_bytes, ram, load, err);
    uint64_t initrd_gpa = 0;
    if (result == 0 && boot->initrd.fd >= 0) {
        uint64_t limit = (uint64_t)boot_get32(boot->header + SETUP_INITRD_MAX) + 1;
        result = boot_initrd_load(boot, ram, load + needed, limit, &initrd_gpa, err);
    }
    if (result < 0) {
        return result;
    }
    zero_page_write(boot, ram, initrd_gpa);
    identity_tables_write(ram);
    *ret_entry = (struct kvm_boot_entry){
        .is_64bit = true,
        .rip = load + ENTRY_64_OFFSET,
        .rsi = LAYOUT_BOOT_ZEROPAGE,
        .page_tables = LAYOUT_BOOT_TABLES,
        .stack = LAYOUT_BOOT_TABLES,
    };
    return 0;
}
