/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SMBIOS structures, byte by byte; offsets are those of SMBIOS 2.8 chapter 7. Each is a
 * header (type, length, handle), its fields, then its strings, ended by an empty one.
 */
#include "vmm/firmware/smbios.h"

#include <string.h>

#include "base/buffer.h"
#include "base/check.h"

#define TYPE_SYSTEM       1
#define TYPE_CHASSIS      3
#define TYPE_PROCESSOR    4
#define TYPE_MEMORY_ARRAY 16
#define TYPE_MEMORY       17
#define TYPE_MEMORY_RANGE 19
#define TYPE_BOOT         32
#define TYPE_END          127

#define HANDLE(type) ((uint16_t)((type) << 8))
#define HANDLE_NONE  0xfffe
#define MIB          (UINT64_C(1) << 20)
#define UNKNOWN      2
#define STRUCTURES   8
#define LARGEST      64

static void set(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

/* `strings`: each ended by NUL, all by an empty one (the literal's own NUL). */
static int structure(struct buffer *out, uint8_t *data, unsigned type, unsigned size,
                     const char *strings)
{
    CHECK(size >= 4 && size <= LARGEST);
    data[0] = (uint8_t)type;
    data[1] = (uint8_t)size;
    set(data + 2, HANDLE(type), 2);
    int result = buffer_append(out, data, size);
    size_t strings_size = 0;
    while (strings[strings_size] != '\0') {
        strings_size += strlen(strings + strings_size) + 1;
    }
    result = result < 0 ? result : buffer_append(out, strings, strings_size);
    /* Without strings the end is two zeros. */
    return result < 0 ? result : buffer_append(out, "\0", strings_size == 0 ? 2 : 1);
}

static int system_make(const struct smbios_machine *machine, struct buffer *out)
{
    uint8_t data[27] = {0};
    data[4] = 1; /* strings by number: maker, product, version */
    data[5] = 2;
    data[6] = 3;
    /* The first three fields of a UUID are little endian here. */
    static const uint8_t order[16] = {3, 2, 1, 0, 5,  4,  7,  6,
                                      8, 9, 10, 11, 12, 13, 14, 15};
    for (unsigned i = 0; i < 16; i++) {
        data[8 + i] = machine->uuid[order[i]];
    }
    data[24] = 6; /* woken by the power switch */
    return structure(out, data, TYPE_SYSTEM, sizeof(data),
                     "Drover\0Virtual Machine\0" DROVER_VERSION "\0");
}

static int chassis_make(struct buffer *out)
{
    uint8_t data[22] = {0};
    data[4] = 1;
    data[5] = 1; /* other */
    data[9] = data[10] = data[11] = 3; /* states: safe */
    data[12] = UNKNOWN;
    return structure(out, data, TYPE_CHASSIS, sizeof(data), "Drover\0");
}

static int processor_make(const struct smbios_machine *machine, struct buffer *out)
{
    uint8_t data[42] = {0};
    uint8_t cores = (uint8_t)(machine->cpu_count > 255 ? 255 : machine->cpu_count);
    data[4] = 1; /* socket */
    data[5] = 3; /* central processor */
    data[6] = 1; /* family: other */
    data[7] = 2;
    data[24] = 0x41; /* there, enabled */
    data[25] = 1;    /* upgrade: other */
    set(data + 26, 0xffffffffffff, 6); /* no caches described */
    data[35] = data[36] = data[37] = cores;
    return structure(out, data, TYPE_PROCESSOR, sizeof(data), "CPU 0\0Drover\0");
}

static int memory_array_make(const struct smbios_machine *machine, struct buffer *out)
{
    uint8_t data[23] = {0};
    data[4] = 1; /* other */
    data[5] = 3; /* system memory */
    data[6] = 6; /* multi-bit ECC: the host's affair */
    set(data + 7, 0x80000000, 4);
    set(data + 11, HANDLE_NONE, 2);
    set(data + 13, 1, 2);
    set(data + 15, machine->memory_bytes, 8);
    return structure(out, data, TYPE_MEMORY_ARRAY, sizeof(data), "");
}

static int memory_make(const struct smbios_machine *machine, struct buffer *out)
{
    uint8_t data[40] = {0};
    uint64_t mib = machine->memory_bytes / MIB;
    set(data + 4, HANDLE(TYPE_MEMORY_ARRAY), 2);
    set(data + 6, HANDLE_NONE, 2);
    set(data + 8, 64, 2);
    set(data + 10, 64, 2);
    set(data + 12, mib < 0x7fff ? mib : 0x7fff, 2);
    data[14] = 9; /* DIMM */
    data[16] = 1;
    data[18] = 7; /* RAM */
    set(data + 19, UNKNOWN << 1, 2);
    data[23] = 2;
    set(data + 28, mib < 0x7fff ? 0 : mib, 4);
    return structure(out, data, TYPE_MEMORY, sizeof(data), "DIMM 0\0Drover\0");
}

static int memory_range_make(const struct smbios_machine *machine, struct buffer *out)
{
    uint8_t data[31] = {0};
    set(data + 4, 0xffffffff, 4); /* see the 64-bit fields */
    set(data + 8, 0xffffffff, 4);
    set(data + 12, HANDLE(TYPE_MEMORY_ARRAY), 2);
    data[14] = 1;
    set(data + 23, machine->memory_bytes - 1, 8);
    return structure(out, data, TYPE_MEMORY_RANGE, sizeof(data), "");
}

static uint8_t checksum(const uint8_t *data, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + data[i]);
    }
    return (uint8_t)-sum;
}

static void anchor_make(uint32_t address, size_t size,
                        uint8_t anchor[SMBIOS_ANCHOR_SIZE])
{
    memset(anchor, 0, SMBIOS_ANCHOR_SIZE);
    memcpy(anchor, "_SM_", 4);
    anchor[5] = SMBIOS_ANCHOR_SIZE;
    anchor[6] = 2; /* version 2.8 */
    anchor[7] = 8;
    set(anchor + 8, LARGEST + 64, 2); /* the largest structure with its strings */
    memcpy(anchor + 16, "_DMI_", 5);
    set(anchor + 22, size, 2);
    set(anchor + 24, address, 4);
    set(anchor + 28, STRUCTURES, 2);
    anchor[30] = 0x28;
    anchor[21] = checksum(anchor + 16, 15);
    anchor[4] = checksum(anchor, SMBIOS_ANCHOR_SIZE);
}

int smbios_make(const struct smbios_machine *machine, uint32_t address,
                struct buffer *out, uint8_t ret_anchor[SMBIOS_ANCHOR_SIZE])
{
    CHECK(out->size == 0);
    uint8_t boot[11] = {0};
    uint8_t end[4] = {0};
    int result = system_make(machine, out);
    result = result < 0 ? result : chassis_make(out);
    result = result < 0 ? result : processor_make(machine, out);
    result = result < 0 ? result : memory_array_make(machine, out);
    result = result < 0 ? result : memory_make(machine, out);
    result = result < 0 ? result : memory_range_make(machine, out);
    result = result < 0 ? result : structure(out, boot, TYPE_BOOT, sizeof(boot), "");
    result = result < 0 ? result : structure(out, end, TYPE_END, sizeof(end), "");
    if (result == 0) {
        anchor_make(address, out->size, ret_anchor);
    }
    return result;
}
