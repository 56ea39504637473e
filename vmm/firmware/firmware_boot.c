/* SPDX-License-Identifier: Apache-2.0 */
/* The boot order as firmware reads it (OpenFirmware device paths), and the VM's UUID. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "vmm/bus/pci.h"
#include "vmm/firmware/firmware.h"

#define PATH_LINE_SIZE 96
#define UUID_TEXT_SIZE 36

static int line_make(const struct firmware_boot *boot, char line[PATH_LINE_SIZE])
{
    unsigned slot = boot->place / PCI_SLOT_FUNCTIONS;
    unsigned number = boot->place % PCI_SLOT_FUNCTIONS;
    switch (boot->kind) {
    case FIRMWARE_BOOT_DISK:
        return snprintf(line, PATH_LINE_SIZE, "/pci@i0cf8/scsi@%x/disk@0,0\n", slot);
    case FIRMWARE_BOOT_NET:
        return snprintf(line, PATH_LINE_SIZE, "/pci@i0cf8/ethernet@%x/ethernet-phy@0\n",
                        slot);
    case FIRMWARE_BOOT_CDROM:
        return snprintf(line, PATH_LINE_SIZE,
                        "/pci@i0cf8/pci8086,2922@%x,%x/drive@%x/disk@0\n", slot, number,
                        boot->port);
    }
    return 0;
}

int firmware_boot_order(const struct firmware_boot *boot, unsigned count, char *ret_text,
                        unsigned size)
{
    unsigned used = 0;
    /* Ascending, and as given where two are the same. */
    unsigned next = 1;
    while (next != 0) {
        unsigned now = next;
        next = 0;
        for (unsigned i = 0; i < count; i++) {
            char line[PATH_LINE_SIZE];
            if (boot[i].order > now && (next == 0 || boot[i].order < next)) {
                next = boot[i].order;
            }
            if (boot[i].order != now) {
                continue;
            }
            unsigned length = (unsigned)line_make(&boot[i], line);
            if (used + length >= size) {
                return -ENOSPC;
            }
            memcpy(ret_text + used, line, length);
            used += length;
        }
    }
    if (used == 0) {
        return 0;
    }
    ret_text[used - 1] = '\0'; /* instead of the last line's end */
    return (int)used;
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    digit = (char)(digit | 0x20);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

int firmware_uuid_parse(const char *text, uint8_t ret_uuid[16])
{
    uint8_t uuid[16] = {0};
    if (strlen(text) != UUID_TEXT_SIZE) {
        return DROVER_EBADINPUT;
    }
    unsigned digits = 0;
    for (unsigned i = 0; i < UUID_TEXT_SIZE; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (text[i] != '-') {
                return DROVER_EBADINPUT;
            }
            continue;
        }
        int value = hex_value(text[i]);
        if (value < 0) {
            return DROVER_EBADINPUT;
        }
        uuid[digits / 2] = (uint8_t)(uuid[digits / 2] << 4 | value);
        digits++;
    }
    memcpy(ret_uuid, uuid, sizeof(uuid));
    return 0;
}

/* FNV-1a, twice with different beginnings: alike names must differ, no more. */
static uint64_t hash(const char *text, uint64_t number, uint64_t start)
{
    uint64_t value = start;
    for (const char *at = text; *at != '\0'; at++) {
        value = (value ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
    }
    for (unsigned i = 0; i < 8; i++) {
        value = (value ^ (uint8_t)(number >> (8 * i))) * UINT64_C(0x100000001b3);
    }
    return value;
}

void firmware_uuid_make(const char *name, uint64_t vm_id, uint8_t ret_uuid[16])
{
    uint64_t first = hash(name, vm_id, UINT64_C(0xcbf29ce484222325));
    uint64_t second = hash(name, vm_id, first ^ UINT64_C(0x9e3779b97f4a7c15));
    for (unsigned i = 0; i < 8; i++) {
        ret_uuid[i] = (uint8_t)(first >> (8 * i));
        ret_uuid[8 + i] = (uint8_t)(second >> (8 * i));
    }
    ret_uuid[6] = (uint8_t)((ret_uuid[6] & 0x0f) | 0x80); /* version 8: of one's own */
    ret_uuid[8] = (uint8_t)((ret_uuid[8] & 0x3f) | 0x80); /* variant of RFC 9562 */
}
