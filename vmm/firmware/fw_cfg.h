/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The firmware configuration device: numbered items and named files that firmware reads
 * by ports 0x510 and 0x511, or by DMA through ports 0x514 to 0x51b. The interface is
 * QEMU's (docs/specs/fw_cfg), since that is what SeaBIOS and OVMF know. The guest can
 * read only.
 */
#ifndef DROVER_VMM_FIRMWARE_FW_CFG_H
#define DROVER_VMM_FIRMWARE_FW_CFG_H

#include <stddef.h>
#include <stdint.h>

struct error;
struct fw_cfg;
struct vm;

#define FW_CFG_UUID       0x02
#define FW_CFG_RAM_SIZE   0x03
#define FW_CFG_NO_GRAPHIC 0x04
#define FW_CFG_CPUS       0x05
#define FW_CFG_BOOT_MENU  0x0e
#define FW_CFG_MAX_CPUS   0x0f

/* Adds the device to the VM, which owns it. */
int fw_cfg_create(struct vm *vm, struct fw_cfg **ret_fw_cfg, struct error *err);
/* Before the guest runs; data are copied. -ENOMEM, or -ENOSPC when there are too many. */
int fw_cfg_item_add(struct fw_cfg *fw_cfg, uint16_t key, const void *data, size_t size);
int fw_cfg_file_add(struct fw_cfg *fw_cfg, const char *name, const void *data,
                    size_t size);
/*
 * Has `refresh` bring a file's contents up to date each time the guest selects it. On a
 * vCPU's thread, with the device's lock held.
 */
typedef void (*fw_cfg_refresh)(void *owner, uint8_t *data, size_t size);
void fw_cfg_file_refresh(struct fw_cfg *fw_cfg, const char *name, fw_cfg_refresh refresh,
                         void *owner);

#endif
