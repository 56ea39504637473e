/* SPDX-License-Identifier: Apache-2.0 */
/* --disk FILE[,format=F][,ro][,direct][,serial=TEXT][,queues=N][,iops=N][,bps=SIZE]
 * [,boot=N][,key=FILE] */
#include "vmm/options/options_disk.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vmm/options/options.h"

#define PART_SIZE   300
#define REQUEST_MIN 512 /* bytes */
#define IOPS_MAX    100000000u

static const char usage[] = "FILE[,format=raw|qcow2|luks|vmdk|vdi|vhdx][,ro][,direct]"
                            "[,serial=TEXT][,queues=N][,iops=N][,bps=SIZE][,boot=N]"
                            "[,key=FILE]";

static int number(const char *key, const char *value, unsigned most, unsigned *ret_number,
                  struct error *err)
{
    char *end = NULL;
    unsigned long parsed =
        value[0] >= '0' && value[0] <= '9' ? strtoul(value, &end, 10) : 0;

    if (end == NULL || *end != '\0' || parsed < 1 || parsed > most) {
        return error_set(err, DROVER_EBADINPUT,
                         "--disk: %s=%s: give a number from 1 to %u", key, value, most);
    }
    *ret_number = (unsigned)parsed;
    return 0;
}

static int text_set(const char *key, const char *value, char *to, size_t room,
                    struct error *err)
{
    size_t size = strlen(value);

    if (size == 0 || size >= room) {
        return error_set(err, DROVER_EBADINPUT, "--disk: %s=%s: give 1 to %zu characters",
                         key, value, room - 1);
    }
    memcpy(to, value, size + 1);
    return 0;
}

static int format_set(const char *value, struct options_disk *disk, struct error *err)
{
    disk->format = storage_format_parse(value);
    return disk->format != STORAGE_FORMAT_NONE
               ? 0
               : error_set(err, DROVER_EBADINPUT,
                           "--disk: format=%s: give raw, qcow2, luks, vmdk, vdi or vhdx",
                           value);
}

static int limit_set(const char *key, const char *value, struct options_disk *disk,
                     struct error *err)
{
    unsigned requests = 0;
    int ret;

    if (strcmp(key, "iops") == 0) {
        ret = number(key, value, IOPS_MAX, &requests, err);
        disk->requests_per_s = requests;
        return ret;
    }
    return options_size_parse(value, &disk->bytes_per_s) == 0
               ? 0
               : error_set(err, DROVER_EBADINPUT,
                           "--disk: bps=%s: give bytes per second, such as 10M", value);
}

static int part_set(const char *key, const char *value, struct options_disk *disk,
                    struct error *err)
{
    if (value == NULL) {
        if (strcmp(key, "ro") == 0) {
            disk->read_only = true;
            return 0;
        }
        if (strcmp(key, "direct") == 0) {
            disk->direct = true;
            return 0;
        }
    } else if (strcmp(key, "format") == 0) {
        return format_set(value, disk, err);
    } else if (strcmp(key, "serial") == 0) {
        return text_set(key, value, disk->serial, sizeof(disk->serial), err);
    } else if (strcmp(key, "key") == 0) {
        return text_set(key, value, disk->key, sizeof(disk->key), err);
    } else if (strcmp(key, "queues") == 0) {
        return number(key, value, OPTIONS_DISK_QUEUES_MAX, &disk->queues, err);
    } else if (strcmp(key, "boot") == 0) {
        return number(key, value, OPTIONS_DISK_BOOT_MAX, &disk->boot, err);
    } else if (strcmp(key, "iops") == 0 || strcmp(key, "bps") == 0) {
        return limit_set(key, value, disk, err);
    }
    return error_set(err, DROVER_EBADINPUT, "--disk: what is \"%s\"? Give %s", key,
                     usage);
}

static int whole_judge(const struct options_disk *disk, struct error *err)
{
    if (disk->key[0] != '\0' && disk->format != STORAGE_FORMAT_LUKS &&
        disk->format != STORAGE_FORMAT_QCOW2) {
        return error_set(err, DROVER_EBADINPUT,
                         "--disk %s: key= goes with format=luks or format=qcow2 only",
                         disk->path);
    }
    if (disk->key[0] == '\0' && disk->format == STORAGE_FORMAT_LUKS) {
        return error_set(err, DROVER_EBADINPUT,
                         "--disk %s: format=luks needs key=FILE with its passphrase",
                         disk->path);
    }
    if (disk->direct && storage_is_remote(disk->path)) {
        return error_set(err, DROVER_EBADINPUT,
                         "--disk %s: direct is the server's affair: leave it out",
                         disk->path);
    }
    if (disk->requests_per_s != 0 && disk->bytes_per_s != 0 &&
        disk->bytes_per_s / REQUEST_MIN < disk->requests_per_s) {
        return error_set(err, DROVER_EBADINPUT,
                         "--disk %s: iops=%" PRIu64 " can't be reached with bps=%" PRIu64
                         " (a request has %d bytes at least): lower one, or raise the "
                         "other",
                         disk->path, disk->requests_per_s, disk->bytes_per_s,
                         REQUEST_MIN);
    }
    return 0;
}

int options_disk_parse(const char *text, struct options_disk *ret_disk, struct error *err)
{
    struct options_disk disk = {.queues = 1};
    size_t path_size = strcspn(text, ",");
    int ret;

    if (path_size == 0 || path_size >= sizeof(disk.path)) {
        return error_set(err, DROVER_EBADINPUT, "--disk %s: give %s", text, usage);
    }
    memcpy(disk.path, text, path_size);
    for (const char *part = text + path_size; *part != '\0';) {
        char key[PART_SIZE];
        char *value;
        size_t size;

        part++; /* the comma */
        size = strcspn(part, ",");
        if (size >= sizeof(key)) {
            return error_set(err, DROVER_EBADINPUT, "--disk %s: give %s", text, usage);
        }
        memcpy(key, part, size);
        key[size] = '\0';
        value = strchr(key, '=');
        if (value != NULL) {
            *value++ = '\0';
        }
        ret = part_set(key, value, &disk, err);
        if (ret < 0) {
            return ret;
        }
        part += size;
    }
    ret = whole_judge(&disk, err);
    if (ret == 0) {
        *ret_disk = disk;
    }
    return ret;
}
