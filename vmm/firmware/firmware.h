/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Boot by firmware: SeaBIOS ("bios") or OVMF ("uefi") as the distribution has them, or an
 * image of either kind. Adds flash and the firmware configuration device to the VM.
 */
#ifndef DROVER_VMM_FIRMWARE_FIRMWARE_H
#define DROVER_VMM_FIRMWARE_FIRMWARE_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct firmware;
struct options;
struct vm;

#define FIRMWARE_BOOT_MAX 64

enum firmware_boot_kind {
    FIRMWARE_BOOT_DISK,
    FIRMWARE_BOOT_NET,
    FIRMWARE_BOOT_CDROM,
};

/* A device that firmware can boot from. */
struct firmware_boot {
    enum firmware_boot_kind kind;
    unsigned place; /* PCI_PLACE() */
    unsigned port;  /* of a controller with several drives */
    unsigned order; /* 1: the first; 0: not named */
};

struct firmware_config {
    const char *firmware; /* "bios", "uefi", or a file */
    const char *vars;     /* file of the UEFI variables; NULL: in memory only */
    const char *uuid;     /* NULL: made from the VM's name and id */
    const char *log;      /* file for what firmware says on port 0x402; NULL: none */
    bool incoming;        /* the variables' file is still another VMM's */
    unsigned boot_count;
    const struct firmware_boot *boot;
};

/* After all other devices. One line in `err` names the file, or the package that has it. */
int firmware_create(struct vm *vm, const struct firmware_config *config,
                    struct error *err);
/* The same by the command line; 0 also when that names no firmware. */
int firmware_options_create(struct vm *vm, const struct options *options,
                            struct error *err);
/* Memory as the firmware finds it after a reset. VM is quiet. */
int firmware_boot(struct vm *vm, struct error *err);

/* The lines of the boot order, NUL included, or 0 if nothing was named; `ret_text` holds
 * `size` bytes. -ENOSPC. */
int firmware_boot_order(const struct firmware_boot *boot, unsigned count, char *ret_text,
                        unsigned size);
/* DROVER_EBADINPUT. */
int firmware_uuid_parse(const char *text, uint8_t ret_uuid[16]);
/* The same for each start of a VM. */
void firmware_uuid_make(const char *name, uint64_t vm_id, uint8_t ret_uuid[16]);

#endif
