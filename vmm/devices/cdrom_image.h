/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ISO image (or block device) in a virtual CD-ROM drive: opening and judging it. What
 * is in it is hostile input.
 */
#ifndef DROVER_VMM_DEVICES_CDROM_IMAGE_H
#define DROVER_VMM_DEVICES_CDROM_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

struct error;

#define CDROM_BLOCK_SIZE 2048u

/* Embedded by its drive. Read only after open. */
struct cdrom_image {
    const char *path;
    int fd;
    uint32_t block_count;
    bool boots_bios; /* its El Torito catalog has an image for that */
    bool boots_uefi;
};

/*
 * `path` is borrowed. DROVER_EBADINPUT with one line when it is no ISO. After an error
 * nothing is open.
 */
int cdrom_image_open(struct cdrom_image *image, const char *path, struct error *err);
void cdrom_image_close(struct cdrom_image *image);

#endif
