/* SPDX-License-Identifier: Apache-2.0 */
/* Formats of disk images: names, and how their files begin. */
#include <string.h>

#include "base/check.h"
#include "vmm/storage/storage.h"

static const char *const names[STORAGE_FORMAT_COUNT] = {
    [STORAGE_FORMAT_NONE] = "raw",    [STORAGE_FORMAT_RAW] = "raw",
    [STORAGE_FORMAT_QCOW2] = "qcow2", [STORAGE_FORMAT_LUKS] = "luks",
    [STORAGE_FORMAT_VMDK] = "vmdk",   [STORAGE_FORMAT_VDI] = "vdi",
    [STORAGE_FORMAT_VHDX] = "vhdx",
};

/* How a file of a format begins. */
static const struct {
    enum storage_format format;
    unsigned offset;
    const char *bytes;
    unsigned size;
} beginnings[] = {
    {STORAGE_FORMAT_QCOW2, 0, "QFI\xfb", 4},
    {STORAGE_FORMAT_LUKS, 0, "LUKS\xba\xbe", 6},
    {STORAGE_FORMAT_VMDK, 0, "KDMV", 4},
    {STORAGE_FORMAT_VMDK, 0, "COWD", 4},
    {STORAGE_FORMAT_VMDK, 0, "# Disk DescriptorFile", 21},
    {STORAGE_FORMAT_VDI, 0x40, "\x7f\x10\xda\xbe", 4},
    {STORAGE_FORMAT_VHDX, 0, "vhdxfile", 8},
};

enum storage_format storage_format_parse(const char *name)
{
    for (unsigned i = STORAGE_FORMAT_RAW; i < STORAGE_FORMAT_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            return (enum storage_format)i;
        }
    }
    return STORAGE_FORMAT_NONE;
}

const char *storage_format_name(enum storage_format format)
{
    CHECK(format < STORAGE_FORMAT_COUNT);
    return names[format];
}

enum storage_format storage_format_probe(const uint8_t *data, unsigned size)
{
    for (unsigned i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++) {
        unsigned offset = beginnings[i].offset;

        if (size >= offset + beginnings[i].size &&
            memcmp(data + offset, beginnings[i].bytes, beginnings[i].size) == 0) {
            return beginnings[i].format;
        }
    }
    return STORAGE_FORMAT_RAW;
}

bool storage_format_caches(enum storage_format format)
{
    return format > STORAGE_FORMAT_LUKS || format == STORAGE_FORMAT_QCOW2;
}

bool storage_is_remote(const char *path)
{
    return strncmp(path, "nbd://", 6) == 0 || strncmp(path, "nbd+unix://", 11) == 0;
}

bool storage_needs_daemon(const char *path, enum storage_format format)
{
    return format > STORAGE_FORMAT_RAW || storage_is_remote(path);
}
