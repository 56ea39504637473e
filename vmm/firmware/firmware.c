/* SPDX-License-Identifier: Apache-2.0 */
/* Puts together what firmware needs: flash, configuration files, boot order. */
#include "vmm/firmware/firmware.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "vmm/boot/acpi.h"
#include "vmm/bus/bus.h"
#include "vmm/bus/pci.h"
#include "vmm/device.h"
#include "vmm/firmware/firmware_image.h"
#include "vmm/firmware/flash.h"
#include "vmm/firmware/fw_cfg.h"
#include "vmm/firmware/smbios.h"
#include "vmm/firmware/vars_store.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/vm_internal.h"

#define BOOT_ORDER_SIZE 4096
#define E820_ENTRY      20 /* start (8), size (8), type (4) */
#define E820_USABLE     1
#define LOG_BYTES_MAX   (1u << 20)
#define LOG_PRESENT     0xe9 /* what the port reads as, if somebody listens */

/* It has no state: what it offers is made anew from the machine. */
struct firmware {
    struct device device;
    struct vm *vm;
    struct flash *flash;
    bool is_uefi;
    struct buffer tables; /* scratch, as large as the file of ACPI tables */
    int log_fd;           /* -1: none */
    unsigned logged_bytes;
};

/* ---- the port for firmware's own messages ------------------------------------------ */

static void log_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    (void)owner;
    (void)offset;
    memset(data, LOG_PRESENT, size);
}

/* For people who look for a firmware's fault; a guest can't fill the disk with it. */
static void log_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct firmware *firmware = owner;
    (void)offset;
    if (__atomic_fetch_add(&firmware->logged_bytes, size, __ATOMIC_RELAXED) <
            LOG_BYTES_MAX &&
        vm_io_allowed(firmware->vm)) {
        (void)!write(firmware->log_fd, data, size); /* nobody depends on it */
    }
}

static const struct bus_ops log_ops = {.read = log_read, .write = log_write};

static int log_open(struct firmware *firmware, const char *path, struct error *err)
{
    if (path == NULL) {
        return 0;
    }
    firmware->log_fd =
        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0600);
    int result = firmware->log_fd < 0 ? -errno
                                      : bus_add(vm_port_bus(firmware->vm),
                                                LAYOUT_PORT_DEBUG, 1, &log_ops, firmware);
    if (result < 0) {
        cleanup_fd(&firmware->log_fd);
        firmware->log_fd = -1;
        return error_set(err, result, "cannot open --firmware-log %s: %s", path,
                         err_text(result));
    }
    return 0;
}

/* ---- configuration files ----------------------------------------------------------- */

static void machine_describe(struct vm *vm, struct acpi_machine *ret_machine)
{
    acpi_machine_describe(vm_ram(vm), vm_config(vm)->cpus, vm_config(vm)->machine,
                          pci_bus_ecam(vm_pci(vm)),
                          ret_machine);
}

/* Firmware puts the ECAM range somewhere before it reads the tables, which name it. */
static void tables_refresh(void *owner, uint8_t *data, size_t size)
{
    struct firmware *firmware = owner;
    struct acpi_machine machine;
    struct acpi_places places;
    uint8_t rsdp[ACPI_RSDP_SIZE];
    machine_describe(firmware->vm, &machine);
    firmware->tables.size = 0;
    int result = acpi_files_make(&machine, &firmware->tables, rsdp, &places);
    CHECK(result == 0 && firmware->tables.size == size); /* the buffer is large enough */
    memcpy(data, firmware->tables.data, size);
}

static int acpi_add(struct firmware *firmware, struct fw_cfg *fw_cfg)
{
    struct acpi_machine machine;
    struct acpi_places places;
    uint8_t rsdp[ACPI_RSDP_SIZE];
    CLEANUP(buffer_done) struct buffer loader = {0};
    machine_describe(firmware->vm, &machine);
    int result = acpi_files_make(&machine, &firmware->tables, rsdp, &places);
    result = result < 0 ? result : acpi_loader_make(&places, &loader);
    result = result < 0 ? result
                        : fw_cfg_file_add(fw_cfg, ACPI_FILE_TABLES, firmware->tables.data,
                                          firmware->tables.size);
    result =
        result < 0 ? result : fw_cfg_file_add(fw_cfg, ACPI_FILE_RSDP, rsdp, sizeof(rsdp));
    result = result < 0
                 ? result
                 : fw_cfg_file_add(fw_cfg, ACPI_FILE_LOADER, loader.data, loader.size);
    if (result == 0) {
        fw_cfg_file_refresh(fw_cfg, ACPI_FILE_TABLES, tables_refresh, firmware);
    }
    return result;
}

static int smbios_add(struct vm *vm, struct fw_cfg *fw_cfg, const uint8_t uuid[16])
{
    struct smbios_machine machine = {.cpu_count = vm_config(vm)->cpus,
                                     .memory_bytes = guest_ram_size(vm_ram(vm))};
    memcpy(machine.uuid, uuid, sizeof(machine.uuid));
    uint8_t anchor[SMBIOS_ANCHOR_SIZE];
    CLEANUP(buffer_done) struct buffer tables = {0};
    int result = smbios_make(&machine, 0, &tables, anchor);
    result = result < 0 ? result
                        : fw_cfg_file_add(fw_cfg, "etc/smbios/smbios-tables", tables.data,
                                          tables.size);
    result = result < 0 ? result
                        : fw_cfg_file_add(fw_cfg, "etc/smbios/smbios-anchor", anchor,
                                          sizeof(anchor));
    return result < 0 ? result : fw_cfg_item_add(fw_cfg, FW_CFG_UUID, uuid, 16);
}

static void set(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static int memory_add(struct vm *vm, struct fw_cfg *fw_cfg)
{
    struct guest_ram *ram = vm_ram(vm);
    uint8_t map[GUEST_RAM_REGIONS_MAX * E820_ENTRY];
    unsigned count = guest_ram_region_count(ram);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *entry = &map[i * E820_ENTRY];
        set(entry, guest_ram_region(ram, i)->gpa, 8);
        set(entry + 8, guest_ram_region(ram, i)->size_bytes, 8);
        set(entry + 16, E820_USABLE, 4);
    }
    uint8_t size[8];
    set(size, guest_ram_size(ram), sizeof(size));
    int result = fw_cfg_file_add(fw_cfg, "etc/e820", map, (size_t)count * E820_ENTRY);
    return result < 0 ? result
                      : fw_cfg_item_add(fw_cfg, FW_CFG_RAM_SIZE, size, sizeof(size));
}

static int small_items_add(struct firmware *firmware, struct fw_cfg *fw_cfg)
{
    /* No suspend to memory, nor to disk by firmware (S3, S4). */
    static const uint8_t sleep_states[6] = {0x80, 0, 0, 1, 2, 0x80};
    static const uint8_t no_graphic[2] = {1};
    static const uint8_t boot_menu[2] = {0};
    uint8_t cpus[2];
    set(cpus, vm_config(firmware->vm)->cpus, sizeof(cpus));
    int result = fw_cfg_item_add(fw_cfg, FW_CFG_CPUS, cpus, sizeof(cpus));
    result = result < 0 ? result
                        : fw_cfg_item_add(fw_cfg, FW_CFG_MAX_CPUS, cpus, sizeof(cpus));
    result = result < 0 ? result
                        : fw_cfg_item_add(fw_cfg, FW_CFG_NO_GRAPHIC, no_graphic,
                                          sizeof(no_graphic));
    result = result < 0 ? result
                        : fw_cfg_item_add(fw_cfg, FW_CFG_BOOT_MENU, boot_menu,
                                          sizeof(boot_menu));
    result = result < 0 ? result
                        : fw_cfg_file_add(fw_cfg, "etc/system-states", sleep_states,
                                          sizeof(sleep_states));
    if (result == 0 && !firmware->is_uefi) {
        /* Without a screen, SeaBIOS and what it loads talk on the serial port. */
        uint8_t port[8];
        set(port, LAYOUT_PORT_COM1, sizeof(port));
        result = fw_cfg_file_add(fw_cfg, "etc/sercon-port", port, sizeof(port));
    }
    return result;
}

static int boot_order_add(const struct firmware_config *config, struct fw_cfg *fw_cfg)
{
    char text[BOOT_ORDER_SIZE];
    int size = firmware_boot_order(config->boot, config->boot_count, text, sizeof(text));
    return size <= 0 ? size : fw_cfg_file_add(fw_cfg, "bootorder", text, (size_t)size);
}

static int configuration_add(struct firmware *firmware,
                             const struct firmware_config *config, struct error *err)
{
    uint8_t uuid[16];
    const struct vm_config *machine = vm_config(firmware->vm);
    firmware_uuid_make(machine->name, machine->vm_id, uuid);
    if (config->uuid != NULL && firmware_uuid_parse(config->uuid, uuid) < 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "--uuid %s: give one such as "
                         "3d0c1a5e-8f2b-4b6e-9d37-5a1f0c9e2b44",
                         config->uuid);
    }
    struct fw_cfg *fw_cfg = NULL;
    int result = fw_cfg_create(firmware->vm, &fw_cfg, err);
    if (result < 0) {
        return result;
    }
    result = acpi_add(firmware, fw_cfg);
    result = result < 0 ? result : smbios_add(firmware->vm, fw_cfg, uuid);
    result = result < 0 ? result : memory_add(firmware->vm, fw_cfg);
    result = result < 0 ? result : small_items_add(firmware, fw_cfg);
    result = result < 0 ? result : boot_order_add(config, fw_cfg);
    return result < 0 ? error_set(err, result, "cannot describe the machine: %s",
                                  err_text(result))
                      : 0;
}

/* ---- flash ------------------------------------------------------------------------- */

/* What the chip holds: the VM's own variables, or the template's. */
static int variables_open(struct firmware *firmware, const struct firmware_config *config,
                          const struct firmware_image *image, uint8_t **ret_data,
                          struct flash_config *flash, struct error *err)
{
    int result = vars_file_read(image->vars_template, "the variables' template", ret_data,
                                &flash->variables_bytes, err);
    if (result < 0) {
        return result;
    }
    flash->variables = *ret_data;
    if (config->vars == NULL) {
        if (!config->incoming) {
            log_notice(vm_log(firmware->vm),
                       "without --vars, UEFI variables last as long as this process "
                       "vm=%s",
                       vm_config(firmware->vm)->name);
        }
        return 0;
    }
    result = vars_store_open(config->vars, flash->variables, flash->variables_bytes,
                             config->incoming, &flash->store, err);
    if (result == 0) {
        result = vars_store_broker_set(flash->store, vm_broker(firmware->vm), err);
    }
    if (result < 0) {
        return result;
    }
    uint8_t *own = NULL;
    result = vars_store_read(flash->store, flash->variables_bytes, &own, err);
    if (result < 0) {
        vars_store_close(flash->store);
        flash->store = NULL;
        return result;
    }
    free(*ret_data);
    *ret_data = own;
    flash->variables = own;
    return 0;
}

static int image_add(struct firmware *firmware, const struct firmware_config *config,
                     const struct firmware_image *image, struct error *err)
{
    firmware->is_uefi = image->is_uefi;
    if (!image->is_uefi && config->vars != NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "--vars is for UEFI firmware: leave it out with --firmware %s",
                         config->firmware);
    }
    CLEANUP(cleanup_free) uint8_t *variables = NULL;
    struct flash_config flash = {.code_fd = image->fd, .code_bytes = image->size};
    if (image->is_uefi) {
        int result = variables_open(firmware, config, image, &variables, &flash, err);
        if (result < 0) {
            return result;
        }
    }
    return flash_create(firmware->vm, &flash, &firmware->flash, err);
}

static int flash_add(struct firmware *firmware, const struct firmware_config *config,
                     struct error *err)
{
    struct stat status;
    bool has_vars = config->vars != NULL && stat(config->vars, &status) == 0;
    struct firmware_image image;
    int result = firmware_image_open(
        config->firmware, has_vars ? (uint64_t)status.st_size : 0, &image, err);
    if (result == 0) {
        result = image_add(firmware, config, &image, err);
        firmware_image_close(&image);
    }
    return result;
}

/* ---- the whole --------------------------------------------------------------------- */

static void firmware_free(struct device *device)
{
    struct firmware *firmware = (struct firmware *)device;
    if (firmware->log_fd >= 0) {
        bus_remove(vm_port_bus(firmware->vm), LAYOUT_PORT_DEBUG);
        cleanup_fd(&firmware->log_fd);
    }
    buffer_done(&firmware->tables);
    firmware->vm->firmware = NULL;
    free(firmware);
}

static const struct device_ops firmware_device_ops = {
    .name = "firmware",
    .version = 1,
    .free = firmware_free,
};

int firmware_create(struct vm *vm, const struct firmware_config *config,
                    struct error *err)
{
    struct firmware *firmware = calloc(1, sizeof(*firmware));
    if (firmware == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    firmware->device.ops = &firmware_device_ops;
    firmware->vm = vm;
    firmware->log_fd = -1;
    vm->firmware = firmware;
    vm_device_add(vm, &firmware->device); /* the VM frees it, whatever comes */
    int result = flash_add(firmware, config, err);
    result = result < 0 ? result : configuration_add(firmware, config, err);
    return result < 0 ? result : log_open(firmware, config->log, err);
}

/* A BIOS begins in the last 64 KiB below 1 MiB, where its end is mirrored. */
int firmware_boot(struct vm *vm, struct error *err)
{
    const struct firmware *firmware = vm->firmware;
    if (firmware->is_uefi) {
        return 0;
    }
    uint64_t size = flash_code_size(firmware->flash);
    uint64_t shadow = size < LAYOUT_BIOS_SHADOW_SIZE ? size : LAYOUT_BIOS_SHADOW_SIZE;
    uint8_t page[GUEST_PAGE_SIZE];
    for (uint64_t done = 0; done < shadow; done += sizeof(page)) {
        flash_code_read(firmware->flash, size - shadow + done, page, sizeof(page));
        int result = guest_ram_write(vm->ram, LAYOUT_HIGH_MEMORY - shadow + done, page,
                                     sizeof(page));
        if (result < 0) {
            return error_set(err, result, "cannot put the BIOS into memory: %s",
                             err_text(result));
        }
    }
    return 0;
}
