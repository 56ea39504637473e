/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by boot.c and its loaders only. */
#ifndef DROVER_VMM_BOOT_BOOT_INTERNAL_H
#define DROVER_VMM_BOOT_BOOT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/boot/boot.h"

#define BOOT_E820_MAX     8
#define BOOT_HEADER_BYTES 4096 /* of the kernel file, read to judge it */

enum boot_kind {
    BOOT_KIND_BZIMAGE,
    BOOT_KIND_PVH,
};

struct boot_file {
    const char *path;
    int fd;
    uint64_t size;
};

struct boot {
    struct boot_file kernel;
    struct boot_file initrd; /* fd -1: none */
    const char *cmdline;
    enum boot_kind kind;
    uint8_t header[BOOT_HEADER_BYTES]; /* zeros after the file's end */
};

/* As BIOS e820 and PVH both want it. */
struct boot_e820 {
    uint64_t start;
    uint64_t size;
    uint32_t type; /* 1 usable, 2 reserved */
};

unsigned boot_e820_make(const struct guest_ram *ram, struct boot_e820 map[BOOT_E820_MAX]);
/* Copies a part of a file into memory; all of it must fit. */
int boot_file_load(const struct boot_file *file, uint64_t offset, uint64_t size,
                   struct guest_ram *ram, uint64_t gpa, struct error *err);
/*
 * The highest page-aligned place below `limit` and the end of low memory for the initrd,
 * above `floor`.
 */
int boot_initrd_load(const struct boot *boot, struct guest_ram *ram, uint64_t floor,
                     uint64_t limit, uint64_t *ret_gpa, struct error *err);

/* Judge the header at open; load at boot. */
int boot_bzimage_judge(const struct boot *boot, struct error *err);
int boot_bzimage_load(const struct boot *boot, struct guest_ram *ram,
                      struct kvm_boot_entry *ret_entry, struct error *err);
int boot_pvh_judge(const struct boot *boot, struct error *err);
int boot_pvh_load(const struct boot *boot, struct guest_ram *ram,
                  struct kvm_boot_entry *ret_entry, struct error *err);

static inline uint16_t boot_get16(const uint8_t *data)
{
    return (uint16_t)(data[0] | data[1] << 8);
}

static inline uint32_t boot_get32(const uint8_t *data)
{
    return boot_get16(data) | (uint32_t)boot_get16(data + 2) << 16;
}

static inline uint64_t boot_get64(const uint8_t *data)
{
    return boot_get32(data) | (uint64_t)boot_get32(data + 4) << 32;
}

static inline void boot_set16(uint8_t *data, uint16_t value)
{
    data[0] = (uint8_t)value;
    data[1] = (uint8_t)(value >> 8);
}

static inline void boot_set32(uint8_t *data, uint32_t value)
{
    boot_set16(data, (uint16_t)value);
    boot_set16(data + 2, (uint16_t)(value >> 16));
}

static inline void boot_set64(uint8_t *data, uint64_t value)
{
    boot_set32(data, (uint32_t)value);
    boot_set32(data + 4, (uint32_t)(value >> 32));
}

#endif
