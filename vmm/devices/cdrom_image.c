/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ISO images: opening, the volume descriptors from block 16 on (ECMA-119 8), and the boot
 * catalog (El Torito 1.0).
 */
#include "vmm/devices/cdrom_image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"

#define DESCRIPTOR_FIRST   16u
#define DESCRIPTORS_MAX    32u
#define DESCRIPTOR_BOOT    0
#define DESCRIPTOR_PRIMARY 1
#define DESCRIPTOR_END     255
#define BOOT_SYSTEM        "EL TORITO SPECIFICATION"
#define BOOT_CATALOG_AT    0x47
#define CATALOG_ENTRY_SIZE 32u
#define VOLUME_BLOCKS_AT   80
#define PADDING_BLOCKS_MAX 300u
#define ENTRY_VALIDATION   0x01
#define ENTRY_BOOTABLE     0x88
#define ENTRY_HEADER       0x90 /* of a section; the last one has bit 0 set */
#define PLATFORM_BIOS      0x00
#define PLATFORM_UEFI      0xef

static int open_failed(const char *path, int result, struct error *err)
{
    switch (-result) {
    case ENOENT:
        return error_set(err, result, "CD-ROM image %s does not exist: correct the path",
                         path);
    case EACCES:
    case EPERM:
        return error_set(
            err, result,
            "no permission to read CD-ROM image %s: change its owner or mode", path);
    case ENOMEDIUM:
        return error_set(err, result, "there is no disc in %s: insert one", path);
    default:
        return error_set(err, result, "can't open CD-ROM image %s: %s", path,
                         err_text(result));
    }
}

static int kind_judge(const char *path, const struct stat *status, struct error *err)
{
    if (S_ISREG(status->st_mode) || S_ISBLK(status->st_mode)) {
        return 0;
    }
    return error_set(err, DROVER_EBADINPUT,
                     "CD-ROM image %s is %s: name an ISO file or a block device", path,
                     S_ISDIR(status->st_mode) ? "a directory" : "no file");
}

static int measure(struct cdrom_image *image, const struct stat *status,
                   struct error *err)
{
    uint64_t size_bytes = (uint64_t)status->st_size;
    if (S_ISBLK(status->st_mode) && ioctl(image->fd, BLKGETSIZE64, &size_bytes) < 0) {
        return error_set(err, -errno, "can't tell the size of CD-ROM %s: %s", image->path,
                         err_text(-errno));
    }
    if (size_bytes == 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "CD-ROM image %s is empty: is its download complete?",
                         image->path);
    }
    uint64_t block_count = size_bytes / CDROM_BLOCK_SIZE;
    if (block_count <= DESCRIPTOR_FIRST) {
        return error_set(err, DROVER_EBADINPUT,
                         "CD-ROM image %s has only %" PRIu64
                         " bytes, it is no ISO image: is its download complete?",
                         image->path, size_bytes);
    }
    if (block_count >= UINT32_MAX) {
        return error_set(err, DROVER_ELIMIT,
                         "CD-ROM image %s has more than 2^32 blocks: use --disk for it",
                         image->path);
    }
    image->block_count = (uint32_t)block_count;
    return 0;
}

static int block_read(const struct cdrom_image *image, uint32_t block,
                      uint8_t data[CDROM_BLOCK_SIZE], struct error *err)
{
    ssize_t got =
        pread(image->fd, data, CDROM_BLOCK_SIZE, (off_t)block * (off_t)CDROM_BLOCK_SIZE);
    int result = got < 0 ? -errno : (size_t)got != CDROM_BLOCK_SIZE ? -EIO : 0;
    return result == 0 ? 0
                       : error_set(err, result, "can't read CD-ROM image %s: %s",
                                   image->path, err_text(result));
}

static uint32_t little32(const uint8_t *data)
{
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

static void platform_add(struct cdrom_image *image, uint8_t platform)
{
    image->boots_bios = image->boots_bios || platform == PLATFORM_BIOS;
    image->boots_uefi = image->boots_uefi || platform == PLATFORM_UEFI;
}

/* One block of the catalog is looked at; who has more entries has made room for the
 * platforms in the first ones. */
static void catalog_judge(struct cdrom_image *image, const uint8_t *catalog)
{
    if (catalog[0] != ENTRY_VALIDATION || catalog[30] != 0x55 || catalog[31] != 0xaa) {
        return;
    }
    uint8_t platform = catalog[1];
    for (unsigned at = CATALOG_ENTRY_SIZE; at < CDROM_BLOCK_SIZE;
         at += CATALOG_ENTRY_SIZE) {
        const uint8_t *entry = &catalog[at];
        if ((entry[0] & ~1u) == ENTRY_HEADER) {
            platform = entry[1];
        } else if (entry[0] == ENTRY_BOOTABLE) {
            platform_add(image, platform);
        } else if (entry[0] == 0 && at > CATALOG_ENTRY_SIZE) {
            return;
        }
    }
}

static bool is_boot_record(const uint8_t *descriptor)
{
    return descriptor[0] == DESCRIPTOR_BOOT &&
           memcmp(descriptor + 7, BOOT_SYSTEM, sizeof(BOOT_SYSTEM) - 1) == 0;
}

/* A damaged boot record makes an image that can't be booted from, not one that can't be
 * read. */
static int boot_look(struct cdrom_image *image, struct error *err)
{
    uint8_t block[CDROM_BLOCK_SIZE];
    for (uint32_t i = 0; i < DESCRIPTORS_MAX; i++) {
        uint32_t at = DESCRIPTOR_FIRST + i;
        if (at >= image->block_count) {
            return 0;
        }
        int result = block_read(image, at, block, err);
        if (result < 0) {
            return result;
        }
        if (memcmp(block + 1, "CD001", 5) != 0 || block[0] == DESCRIPTOR_END) {
            return 0;
        }
        if (is_boot_record(block)) {
            uint32_t catalog = little32(block + BOOT_CATALOG_AT);
            result = catalog < image->block_count ? block_read(image, catalog, block, err)
                                                  : DROVER_EMALFORMED;
            if (result == 0) {
                catalog_judge(image, block);
            }
            return 0;
        }
    }
    return 0;
}

/* Writers differ by some blocks of padding at the end. */
static int length_judge(const struct cdrom_image *image, const uint8_t *primary,
                        struct error *err)
{
    uint32_t volume_blocks = little32(primary + VOLUME_BLOCKS_AT);
    if (primary[0] != DESCRIPTOR_PRIMARY ||
        volume_blocks <= (uint64_t)image->block_count + PADDING_BLOCKS_MAX) {
        return 0;
    }
    return error_set(err, DROVER_EBADINPUT,
                     "CD-ROM image %s is cut off, it has %" PRIu32 " of %" PRIu32
                     " blocks: is its download complete?",
                     image->path, image->block_count, volume_blocks);
}

static int content_judge(struct cdrom_image *image, struct error *err)
{
    uint8_t block[CDROM_BLOCK_SIZE];
    int result = block_read(image, DESCRIPTOR_FIRST, block, err);
    if (result < 0) {
        return result;
    }
    /* ISO 9660, or UDF alone. */
    if (memcmp(block + 1, "CD001", 5) != 0 && memcmp(block + 1, "BEA01", 5) != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "CD-ROM image %s is no ISO image: give an .iso file, or use "
                         "--disk for a disk image",
                         image->path);
    }
    if (memcmp(block + 1, "CD001", 5) == 0) {
        result = length_judge(image, block, err);
    }
    return result < 0 ? result : boot_look(image, err);
}

int cdrom_image_open(struct cdrom_image *image, const char *path, struct error *err)
{
    struct stat status;
    *image = (struct cdrom_image){.path = path, .fd = -1};
    /* Before the open, which would wait for ever on a pipe. */
    if (stat(path, &status) < 0) {
        return open_failed(path, -errno, err);
    }
    int result = kind_judge(path, &status, err);
    if (result < 0) {
        return result;
    }
    image->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (image->fd < 0) {
        return open_failed(path, -errno, err);
    }
    result = fstat(image->fd, &status) < 0 ? open_failed(path, -errno, err)
                                           : kind_judge(path, &status, err);
    result = result < 0 ? result : measure(image, &status, err);
    result = result < 0 ? result : content_judge(image, err);
    if (result < 0) {
        cdrom_image_close(image);
    }
    return result;
}

void cdrom_image_close(struct cdrom_image *image)
{
    if (image->fd >= 0) {
        (void)close(image->fd); /* it was only read */
        image->fd = -1;
    }
}
