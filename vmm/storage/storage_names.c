/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers of qcow2 and VMDK images. The other formats name no files.
 *
 * qcow2, big endian:  0 magic | 4 version | 8 backing name's offset | 16 its size |
 * 20 cluster bits ... from version 3: 100 header's size. Behind the header extensions
 * until type 0: type | size | data, filled up to 8 bytes.
 *
 * VMDK: text, "RW SECTORS FLAT "NAME" OFFSET" for each part and
 * parentFileNameHint="NAME"; in a sparse image, little endian: 0 "KDMV" ... 28 the text's
 * sector | 36 its sectors.
 */
#include "vmm/storage/storage_names.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define QCOW2_HEADER_SIZE_2  72u
#define QCOW2_HEADER_SIZE_AT 100u
#define QCOW2_END            0u
#define QCOW2_BACKING_FORMAT 0xe2792acau
#define QCOW2_DATA_FILE      0x44415441u
#define QCOW2_EXTENSIONS_MAX 64
#define QCOW2_NAME_MAX       1023u

#define VMDK_TEXT_AT      28u
#define VMDK_TEXT_SECTORS 36u
#define VMDK_TEXT_MAX     20480u
#define SECTOR            512u

struct bytes {
    const uint8_t *data;
    size_t size;
};

static uint64_t get_big(const uint8_t *at, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static uint64_t get_little(const uint8_t *at, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = size; i > 0; i--) {
        value = value << 8 | at[i - 1];
    }
    return value;
}

/* A name that is cut, or has a NUL in it, is none. */
static struct storage_name *name_add(struct storage_names *names, const uint8_t *text,
                                     size_t size, bool backing)
{
    if (names->count == STORAGE_NAMES_MAX || size == 0 || size >= STORAGE_NAME_SIZE ||
        memchr(text, '\0', size) != NULL) {
        return NULL;
    }
    struct storage_name *name = &names->names[names->count++];
    memcpy(name->text, text, size);
    name->text[size] = '\0';
    name->format = backing ? STORAGE_FORMAT_NONE : STORAGE_FORMAT_RAW;
    name->backing = backing;
    return name;
}

/* "raw" is said by drivers of other names as well; what is unknown here has no names that
 * could be read. */
static enum storage_format format_named(const uint8_t *text, size_t size)
{
    char name[16] = "";
    if (size < sizeof(name)) {
        memcpy(name, text, size);
    }
    enum storage_format format = storage_format_parse(name);
    return format == STORAGE_FORMAT_NONE ? STORAGE_FORMAT_RAW : format;
}

static void qcow2_extensions(struct bytes image, size_t at, struct storage_names *names,
                             struct storage_name *backing)
{
    for (unsigned i = 0; i < QCOW2_EXTENSIONS_MAX && at + 8 <= image.size; i++) {
        uint32_t type = (uint32_t)get_big(image.data + at, 4);
        uint32_t size = (uint32_t)get_big(image.data + at + 4, 4);
        at += 8;
        if (type == QCOW2_END || size > image.size - at) {
            return;
        }
        if (type == QCOW2_BACKING_FORMAT && backing != NULL) {
            backing->format = format_named(image.data + at, size);
        } else if (type == QCOW2_DATA_FILE) {
            (void)name_add(names, image.data + at, size, false); /* or it is none */
        }
        at += ((size_t)size + 7) & ~(size_t)7;
    }
}

static void qcow2_read(struct bytes image, struct storage_names *names)
{
    if (image.size < QCOW2_HEADER_SIZE_2) {
        return;
    }
    uint64_t offset = get_big(image.data + 8, 8);
    uint64_t size = get_big(image.data + 16, 4);
    size_t header = QCOW2_HEADER_SIZE_2;
    struct storage_name *backing = NULL;
    if (get_big(image.data + 4, 4) >= 3 && image.size >= QCOW2_HEADER_SIZE_AT + 4) {
        header = (size_t)get_big(image.data + QCOW2_HEADER_SIZE_AT, 4);
    }
    if (offset != 0 && size <= QCOW2_NAME_MAX && offset < image.size &&
        size <= image.size - offset) {
        backing = name_add(names, image.data + offset, (size_t)size, true);
    }
    if (header >= QCOW2_HEADER_SIZE_2 && header < image.size) {
        qcow2_extensions(image, header, names, backing);
    }
}

/* What is between the first two quotation marks from `from` on. */
static void quoted_add(struct bytes line, size_t from, bool backing,
                       struct storage_names *names)
{
    const uint8_t *open = memchr(line.data + from, '"', line.size - from);
    const uint8_t *close = NULL;
    if (open != NULL) {
        open++;
        close = memchr(open, '"', line.size - (size_t)(open - line.data));
    }
    if (close != NULL) {
        (void)name_add(names, open, (size_t)(close - open), backing); /* or it is none */
    }
}

static bool line_begins(struct bytes line, const char *word)
{
    return line.size > strlen(word) && memcmp(line.data, word, strlen(word)) == 0;
}

/* A sparse image is one file, whatever its text says of parts. */
static void vmdk_text(struct bytes text, bool parts, struct storage_names *names)
{
    while (text.size > 0) {
        const uint8_t *end = memchr(text.data, '\n', text.size);
        size_t size = end != NULL ? (size_t)(end - text.data) : text.size;
        const struct bytes line = {text.data, size};
        if (line_begins(line, "parentFileNameHint")) {
            quoted_add(line, 0, true, names);
        } else if (parts && (line_begins(line, "RW ") || line_begins(line, "RDONLY "))) {
            quoted_add(line, 0, false, names);
        }
        size += end != NULL;
        text.data += size;
        text.size -= size;
    }
}

static void vmdk_read(struct bytes image, struct storage_names *names)
{
    if (image.size < VMDK_TEXT_SECTORS + 8 || memcmp(image.data, "KDMV", 4) != 0) {
        if (image.size > 0 && image.data[0] == '#') {
            image.size = image.size < VMDK_TEXT_MAX ? image.size : VMDK_TEXT_MAX;
            vmdk_text(image, true, names);
        }
        return;
    }
    uint64_t at = get_little(image.data + VMDK_TEXT_AT, 8);
    uint64_t sectors = get_little(image.data + VMDK_TEXT_SECTORS, 8);
    if (at < image.size / SECTOR && sectors <= VMDK_TEXT_MAX / SECTOR) {
        struct bytes text = {image.data + at * SECTOR, image.size - at * SECTOR};
        text.size = text.size < sectors * SECTOR ? text.size : sectors * SECTOR;
        vmdk_text(text, false, names);
    }
}

void storage_names_read(const uint8_t *data, size_t size, enum storage_format format,
                        struct storage_names *ret_names)
{
    const struct bytes image = {data, size};
    ret_names->count = 0;
    if (storage_format_probe(data, (unsigned)size) != format) {
        return;
    }
    if (format == STORAGE_FORMAT_QCOW2) {
        qcow2_read(image, ret_names);
    } else if (format == STORAGE_FORMAT_VMDK) {
        vmdk_read(image, ret_names);
    }
}

/* {"driver": ..., "file": {"filename": NAME}}, or with "file.filename". */
static bool json_name(const char *text, char *ret_name, size_t room)
{
    json_t *all = json_loads(text, 0, NULL);
    const json_t *node = all;
    const char *name = json_string_value(json_object_get(all, "file.filename"));
    for (unsigned depth = 0; name == NULL && node != NULL && depth < 4; depth++) {
        name = json_string_value(json_object_get(node, "filename"));
        node = json_object_get(node, "file");
    }
    bool found = name != NULL && strlen(name) < room;
    if (found) {
        (void)strcpy(ret_name, name);
    }
    json_decref(all);
    return found;
}

bool storage_name_resolve(const char *image, const char *name, char *ret_path,
                          size_t room)
{
    char inner[STORAGE_NAME_SIZE];
    if (strncmp(name, "json:", 5) == 0) {
        if (!json_name(name + 5, inner, sizeof(inner))) {
            return false;
        }
        name = inner;
    }
    name += strncmp(name, "file:", 5) == 0 ? 5 : 0;
    const char *colon = strchr(name, ':');
    const char *slash = strchr(name, '/');
    if (name[0] == '\0' || (colon != NULL && (slash == NULL || colon < slash))) {
        return false;
    }
    const char *last = strrchr(image, '/');
    int folder = name[0] == '/' || last == NULL ? 0 : (int)(last - image) + 1;
    int size = snprintf(ret_path, room, "%.*s%s", folder, image, name);
    return size > 0 && (size_t)size < room;
}
