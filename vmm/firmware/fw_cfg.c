/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Items and files of the firmware configuration device, its ports and its DMA.
 *
 *   port 0x510  selects an item (16 bits); port 0x511 reads it, byte by byte
 *   port 0x514  address of a DMA command, high half, then at 0x518 the low one, which
 *               starts it; big endian, as all of the command:
 *
 *       0  control (4): 1 error, 2 read, 4 skip, 8 select, 16 write; item in bits 16-31
 *       4  length (4)
 *       8  address (8)
 *
 * The control word is written back: 0, or "error".
 */
#include "vmm/firmware/fw_cfg.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "proto/device_state.pb-c.h"
#include "vmm/bus/bus.h"
#include "vmm/device.h"
#include "vmm/layout.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define PORTS_SIZE  12
#define PORT_SELECT 0
#define PORT_DATA   1
#define PORT_DMA    4
#define DMA_SIZE    8

#define KEY_SIGNATURE   0x00
#define KEY_ID          0x01
#define KEY_DIRECTORY   0x19
#define KEY_FILES       0x20
#define ID_PORTS        0x1
#define ID_DMA          0x2
#define DIRECTORY_ENTRY 64 /* size (4), key (2), reserved (2), name (56) */
#define NAME_SIZE       56

#define DMA_ERROR       0x01u
#define DMA_READ        0x02u
#define DMA_SKIP        0x04u
#define DMA_SELECT      0x08u
#define DMA_WRITE       0x10u
#define DMA_COMMAND     16 /* bytes */
/* No file is near that. A vCPU must not be kept long by one command. */
#define DMA_LENGTH_MAX  (4u << 20)
#define DMA_ZEROS       4096u
#define FILES_MAX       32
#define ITEMS_MAX       (FILES_MAX + 16)

struct item {
    uint16_t key;
    uint8_t *data;
    size_t size;
    char name[NAME_SIZE]; /* "": no file */
    fw_cfg_refresh refresh;
    void *refresh_owner;
};

struct fw_cfg {
    struct device device;
    struct vm *vm;
    pthread_mutex_t lock; /* of all below */
    unsigned item_count;
    unsigned file_count;
    struct item items[ITEMS_MAX];
    uint8_t directory[4 + FILES_MAX * DIRECTORY_ENTRY];
    uint16_t selected;
    uint32_t offset; /* of the next byte */
    uint32_t dma_high;
};

static const uint8_t dma_signature[DMA_SIZE] = {'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G'};

static void lock(struct fw_cfg *fw_cfg)
{
    CHECK(pthread_mutex_lock(&fw_cfg->lock) == 0);
}

static void unlock(struct fw_cfg *fw_cfg)
{
    CHECK(pthread_mutex_unlock(&fw_cfg->lock) == 0);
}

static uint32_t get_be32(const uint8_t *data)
{
    return (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 |
           data[3];
}

static void set_be32(uint8_t *data, uint32_t value)
{
    data[0] = (uint8_t)(value >> 24);
    data[1] = (uint8_t)(value >> 16);
    data[2] = (uint8_t)(value >> 8);
    data[3] = (uint8_t)value;
}

static struct item *item_find(struct fw_cfg *fw_cfg, uint16_t key)
{
    for (unsigned i = 0; i < fw_cfg->item_count; i++) {
        if (fw_cfg->items[i].key == key) {
            return &fw_cfg->items[i];
        }
    }
    return NULL;
}

/* The bytes of the selected item; an item that is not there has none. */
static const uint8_t *selected_data(struct fw_cfg *fw_cfg, size_t *ret_size)
{
    if (fw_cfg->selected == KEY_DIRECTORY) {
        *ret_size = 4 + (size_t)fw_cfg->file_count * DIRECTORY_ENTRY;
        return fw_cfg->directory;
    }
    const struct item *item = item_find(fw_cfg, fw_cfg->selected);
    *ret_size = item == NULL ? 0 : item->size;
    return item == NULL ? NULL : item->data;
}

static void item_select(struct fw_cfg *fw_cfg, uint16_t key)
{
    fw_cfg->selected = key;
    fw_cfg->offset = 0;
    struct item *item = item_find(fw_cfg, key);
    if (item != NULL && item->refresh != NULL) {
        item->refresh(item->refresh_owner, item->data, item->size);
    }
}

static void advance(struct fw_cfg *fw_cfg, uint32_t size)
{
    fw_cfg->offset =
        size > UINT32_MAX - fw_cfg->offset ? UINT32_MAX : fw_cfg->offset + size;
}

static uint8_t next_byte(struct fw_cfg *fw_cfg)
{
    size_t size = 0;
    const uint8_t *data = selected_data(fw_cfg, &size);
    uint8_t byte = fw_cfg->offset < size ? data[fw_cfg->offset] : 0;
    advance(fw_cfg, 1);
    return byte;
}

/* What lies behind an item's end reads as zeros. */
static int dma_read(struct fw_cfg *fw_cfg, uint64_t address, uint32_t length)
{
    static const uint8_t zeros[DMA_ZEROS];
    struct guest_ram *ram = vm_ram(fw_cfg->vm);
    size_t size = 0;
    const uint8_t *data = selected_data(fw_cfg, &size);
    uint32_t offset = fw_cfg->offset;
    size_t left = offset < size ? size - offset : 0;
    uint32_t there = left < length ? (uint32_t)left : length;
    if (guest_ram_pointer(ram, address, length) == NULL) {
        return -EFAULT;
    }
    int result = 0;
    if (there > 0) {
        result = guest_ram_write(ram, address, data + offset, there);
    }
    for (uint32_t done = there; result == 0 && done < length;) {
        uint32_t part = length - done < DMA_ZEROS ? length - done : DMA_ZEROS;
        result = guest_ram_write(ram, address + done, zeros, part);
        done += part;
    }
    advance(fw_cfg, length);
    return result;
}

static int dma_transfer(struct fw_cfg *fw_cfg, const uint8_t command[DMA_COMMAND])
{
    uint32_t control = get_be32(command);
    uint32_t length = get_be32(command + 4);
    uint64_t address = (uint64_t)get_be32(command + 8) << 32 | get_be32(command + 12);
    if ((control & DMA_SELECT) != 0) {
        item_select(fw_cfg, (uint16_t)(control >> 16));
    }
    if ((control & DMA_READ) != 0) {
        if (length > DMA_LENGTH_MAX) {
            return DROVER_ELIMIT;
        }
        return length == 0 ? 0 : dma_read(fw_cfg, address, length);
    }
    if ((control & DMA_WRITE) != 0) {
        return -EPERM;
    }
    if ((control & DMA_SKIP) != 0) {
        advance(fw_cfg, length);
    }
    return 0;
}

static void dma_run(struct fw_cfg *fw_cfg, uint64_t at)
{
    uint8_t command[DMA_COMMAND];
    if (guest_ram_read(vm_ram(fw_cfg->vm), at, command, sizeof(command)) < 0) {
        return; /* nowhere to say so */
    }
    uint8_t answer[4];
    set_be32(answer, dma_transfer(fw_cfg, command) < 0 ? DMA_ERROR : 0);
    (void)guest_ram_write(vm_ram(fw_cfg->vm), at, answer, sizeof(answer));
}

static void ports_read(void *owner, uint64_t offset, uint8_t *data, unsigned size)
{
    struct fw_cfg *fw_cfg = owner;
    memset(data, 0, size);
    if (offset == PORT_DATA && size == 1) {
        lock(fw_cfg);
        data[0] = next_byte(fw_cfg);
        unlock(fw_cfg);
    } else if (offset >= PORT_DMA && offset + size <= PORT_DMA + DMA_SIZE) {
        memcpy(data, dma_signature + (offset - PORT_DMA), size);
    }
}

static void ports_write(void *owner, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct fw_cfg *fw_cfg = owner;
    lock(fw_cfg);
    if (offset == PORT_SELECT && size == 2) {
        item_select(fw_cfg, (uint16_t)(data[0] | data[1] << 8));
    } else if (offset == PORT_DMA && size == 4) {
        fw_cfg->dma_high = get_be32(data);
    } else if (offset == PORT_DMA + 4 && size == 4) {
        uint64_t at = (uint64_t)fw_cfg->dma_high << 32 | get_be32(data);
        fw_cfg->dma_high = 0;
        dma_run(fw_cfg, at);
    }
    unlock(fw_cfg);
}

int fw_cfg_item_add(struct fw_cfg *fw_cfg, uint16_t key, const void *data, size_t size)
{
    CHECK(item_find(fw_cfg, key) == NULL);
    if (fw_cfg->item_count == ITEMS_MAX) {
        return -ENOSPC;
    }
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    if (copy == NULL) {
        return -ENOMEM;
    }
    if (size > 0) {
        memcpy(copy, data, size);
    }
    fw_cfg->items[fw_cfg->item_count++] =
        (struct item){.key = key, .data = copy, .size = size};
    return 0;
}

int fw_cfg_file_add(struct fw_cfg *fw_cfg, const char *name, const void *data,
                    size_t size)
{
    CHECK(strlen(name) < NAME_SIZE && size <= UINT32_MAX);
    if (fw_cfg->file_count == FILES_MAX) {
        return -ENOSPC;
    }
    uint16_t key = (uint16_t)(KEY_FILES + fw_cfg->file_count);
    int result = fw_cfg_item_add(fw_cfg, key, data, size);
    if (result < 0) {
        return result;
    }
    memcpy(fw_cfg->items[fw_cfg->item_count - 1].name, name, strlen(name) + 1);
    uint8_t *entry = &fw_cfg->directory[4 + fw_cfg->file_count * DIRECTORY_ENTRY];
    set_be32(entry, (uint32_t)size);
    entry[4] = (uint8_t)(key >> 8);
    entry[5] = (uint8_t)key;
    memcpy(entry + 8, name, strlen(name) + 1);
    fw_cfg->file_count++;
    set_be32(fw_cfg->directory, fw_cfg->file_count);
    return 0;
}

void fw_cfg_file_refresh(struct fw_cfg *fw_cfg, const char *name, fw_cfg_refresh refresh,
                         void *owner)
{
    for (unsigned i = 0; i < fw_cfg->item_count; i++) {
        struct item *item = &fw_cfg->items[i];
        if (strcmp(item->name, name) == 0) {
            item->refresh = refresh;
            item->refresh_owner = owner;
            return;
        }
    }
    CHECK(!"no such file");
}

static void fw_cfg_reset(struct device *device)
{
    struct fw_cfg *fw_cfg = (struct fw_cfg *)device;
    lock(fw_cfg);
    fw_cfg->selected = 0;
    fw_cfg->offset = 0;
    fw_cfg->dma_high = 0;
    unlock(fw_cfg);
}

static int fw_cfg_save(struct device *device, struct buffer *out)
{
    struct fw_cfg *fw_cfg = (struct fw_cfg *)device;
    Drover__FwCfgState state = DROVER__FW_CFG_STATE__INIT;
    lock(fw_cfg);
    state.selected = fw_cfg->selected;
    state.offset = fw_cfg->offset;
    state.dma_address_high = fw_cfg->dma_high;
    unlock(fw_cfg);
    return state_pack(&state.base, out);
}

static int fw_cfg_load(struct device *device, uint32_t version, const uint8_t *payload,
                       size_t size, struct error *err)
{
    struct fw_cfg *fw_cfg = (struct fw_cfg *)device;
    (void)version; /* 1 is the first */
    Drover__FwCfgState *state = drover__fw_cfg_state__unpack(NULL, size, payload);
    if (state == NULL || state->selected > UINT16_MAX) {
        drover__fw_cfg_state__free_unpacked(state, NULL);
        return error_set(err, DROVER_EMALFORMED,
                         "the saved firmware configuration is malformed");
    }
    lock(fw_cfg);
    item_select(fw_cfg, (uint16_t)state->selected);
    fw_cfg->offset = state->offset;
    fw_cfg->dma_high = state->dma_address_high;
    unlock(fw_cfg);
    drover__fw_cfg_state__free_unpacked(state, NULL);
    return 0;
}

static void fw_cfg_free(struct device *device)
{
    struct fw_cfg *fw_cfg = (struct fw_cfg *)device;
    bus_remove(vm_port_bus(fw_cfg->vm), LAYOUT_PORT_FW_CFG);
    for (unsigned i = 0; i < fw_cfg->item_count; i++) {
        free(fw_cfg->items[i].data);
    }
    (void)pthread_mutex_destroy(&fw_cfg->lock); /* nobody uses it any more */
    free(fw_cfg);
}

static const struct bus_ops ports_ops = {.read = ports_read, .write = ports_write};

static const struct device_ops fw_cfg_device_ops = {
    .name = "fw-cfg",
    .version = 1,
    .save = fw_cfg_save,
    .load = fw_cfg_load,
    .reset = fw_cfg_reset,
    .free = fw_cfg_free,
};

int fw_cfg_create(struct vm *vm, struct fw_cfg **ret_fw_cfg, struct error *err)
{
    static const uint8_t signature[4] = {'Q', 'E', 'M', 'U'};
    static const uint8_t id[4] = {ID_PORTS | ID_DMA};
    struct fw_cfg *fw_cfg = calloc(1, sizeof(*fw_cfg));
    if (fw_cfg == NULL) {
        return error_set(err, -ENOMEM, "out of memory");
    }
    fw_cfg->device.ops = &fw_cfg_device_ops;
    fw_cfg->vm = vm;
    int result =
        bus_add(vm_port_bus(vm), LAYOUT_PORT_FW_CFG, PORTS_SIZE, &ports_ops, fw_cfg);
    if (result < 0) {
        free(fw_cfg);
        return error_set(err, result, "cannot add the firmware configuration: %s",
                         err_text(result));
    }
    CHECK(pthread_mutex_init(&fw_cfg->lock, NULL) == 0);
    vm_device_add(vm, &fw_cfg->device);
    result = fw_cfg_item_add(fw_cfg, KEY_SIGNATURE, signature, sizeof(signature));
    result =
        result < 0 ? result : fw_cfg_item_add(fw_cfg, KEY_ID, id, sizeof(id));
    if (result < 0) {
        return error_set(err, result, "out of memory"); /* the VM frees the device */
    }
    *ret_fw_cfg = fw_cfg;
    return 0;
}
