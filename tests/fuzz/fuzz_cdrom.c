/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of judging a CD-ROM image. A small bootable one is changed as the input says:
 * its length, the volume that it says it is, where the boot catalog lies, and then bytes
 * anywhere. What must hold: no crash, and an error has its line.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "vmm/devices/cdrom_image.h"

#define BLOCKS     24u
#define DESCRIPTOR 16u /* the first */
#define CATALOG    20u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void image_make(uint8_t image[BLOCKS][CDROM_BLOCK_SIZE])
{
    static const char boot[] = "\0CD001\1EL TORITO SPECIFICATION";

    memset(image, 0, (size_t)BLOCKS * CDROM_BLOCK_SIZE);
    memcpy(image[DESCRIPTOR], "\1CD001\1", 7);
    image[DESCRIPTOR][80] = BLOCKS; /* of the volume */
    memcpy(image[DESCRIPTOR + 1], boot, sizeof(boot));
    image[DESCRIPTOR + 1][0x47] = CATALOG;
    memcpy(image[DESCRIPTOR + 2], "\377CD001\1", 7);
    image[CATALOG][0] = 1;
    image[CATALOG][30] = 0x55;
    image[CATALOG][31] = 0xaa;
    image[CATALOG][32] = 0x88;
    image[CATALOG][64] = 0x91;
    image[CATALOG][65] = 0xef;
    image[CATALOG][96] = 0x88;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t image[BLOCKS][CDROM_BLOCK_SIZE];
    static int fd = -1;
    struct cdrom_image opened;
    struct error err = {0};
    size_t bytes = sizeof(image);
    char path[64];

    if (fd < 0) {
        fd = memfd_create("iso", MFD_CLOEXEC);
        CHECK(fd >= 0);
    }
    image_make(image);
    if (size >= 3) {
        bytes -= (data[0] | (size_t)data[1] << 8) % (bytes + 1);
        memcpy(&image[DESCRIPTOR][82], data + 2,
               1); /* the volume's size, bits 16 to 23 */
    }
    /* Block from the first descriptor on, offset (2), value. */
    for (size_t at = 3; at + 4 <= size; at += 4) {
        unsigned offset = (data[at + 1] | data[at + 2] << 8u) % CDROM_BLOCK_SIZE;

        image[DESCRIPTOR + data[at] % (BLOCKS - DESCRIPTOR)][offset] = data[at + 3];
    }
    CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, image, bytes, 0) == (ssize_t)bytes);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (cdrom_image_open(&opened, path, &err) < 0) {
        CHECK(err.text[0] != '\0');
    } else {
        CHECK(opened.block_count == bytes / CDROM_BLOCK_SIZE);
    }
    cdrom_image_close(&opened);
    return 0;
}
