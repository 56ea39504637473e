/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Direct boot of a kernel: Linux bzImage by its 64-bit entry, ELF by its PVH note. The
 * files are opened once and judged before anything else happens; each load (first boot,
 * reset) reads them again through the same descriptors. Files are hostile input: whatever
 * is wrong with them gives one line in `err`.
 */
#ifndef DROVER_VMM_BOOT_BOOT_H
#define DROVER_VMM_BOOT_BOOT_H

#include <stddef.h>
#include <stdint.h>

struct boot;
struct error;
struct guest_ram;
struct kvm_boot_entry;
struct vm;

/* `cmdline` (may be NULL) is borrowed; `initrd` may be NULL. `ram_bytes` is what must
 * hold them. */
int boot_open(const char *kernel, const char *initrd, const char *cmdline,
              uint64_t ram_bytes, struct boot **ret_boot, struct error *err);
void boot_close(struct boot *boot);
/* Puts kernel, initrd, command line, boot tables and ACPI tables into memory. */
int boot_load(struct boot *boot, struct vm *vm, struct kvm_boot_entry *ret_entry,
              struct error *err);

#endif
