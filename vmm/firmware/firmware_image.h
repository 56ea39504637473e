/* SPDX-License-Identifier: Apache-2.0 */
/* Which firmware image an option means, and what the image is. */
#ifndef DROVER_VMM_FIRMWARE_FIRMWARE_IMAGE_H
#define DROVER_VMM_FIRMWARE_FIRMWARE_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"

struct error;

struct firmware_image {
    int fd;
    uint64_t size;
    bool is_uefi;
    char path[LIMIT_PATH_SIZE];
    char vars_template[LIMIT_PATH_SIZE]; /* UEFI only */
};

/*
 * `firmware` is "bios", "uefi", or a file; `vars_bytes` is the size of the variables'
 * file that the VM has, 0 if none: where the distribution has images of several layouts,
 * the one that fits is taken. The caller closes.
 */
int firmware_image_open(const char *firmware, uint64_t vars_bytes,
                        struct firmware_image *ret_image, struct error *err);
void firmware_image_close(struct firmware_image *image);

#endif
