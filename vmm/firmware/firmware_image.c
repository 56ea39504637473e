/* SPDX-License-Identifier: Apache-2.0 */
/* Firmware images: where Debian has them, and how to tell one from something else. */
#include "vmm/firmware/firmware_image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/err.h"
#include "vmm/firmware/flash.h"

#define BIOS_PATH        "/usr/share/seabios/bios-256k.bin"
#define BIOS_SIZE_MIN    (64u << 10)
#define BIOS_SIZE_MAX    (1u << 20)
#define UEFI_SIZE_MIN    (512u << 10)
#define UEFI_SIZE_MAX    (FLASH_SIZE_MAX / 2)
#define PAGE_BYTES       4096u
#define RESET_FROM_END   16 /* where the processor begins */
#define OPCODE_JUMP_FAR  0xea
#define OPCODE_JUMP_NEAR 0xe9
#define VOLUME_SIGNATURE 40
#define VOLUME_GUID      16
#define HEAD_SIZE        64
/* Of a bzImage: Documentation/arch/x86/boot.rst, "header". */
#define LINUX_MARK_OFFSET 0x202

/* Of OVMF; the first that is there, or that fits the variables that the VM has. */
static const struct {
    const char *code;
    const char *vars;
    uint64_t vars_bytes;
} uefi_images[] = {
    {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", 540672},
    {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd", 131072},
};

/* EFI_SYSTEM_NV_DATA_FV_GUID: an image that begins with its variables. */
static const uint8_t variables_guid[16] = {0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76,
                                           0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47,
                                           0x07, 0x5b, 0x4f, 0x50};

static int not_there(const char *firmware, const char *path, int result,
                     struct error *err)
{
    if (strcmp(firmware, "bios") == 0) {
        return error_set(err, result,
                         "cannot open %s: %s; install the Debian package seabios", path,
                         err_text(result));
    }
    if (strcmp(firmware, "uefi") == 0) {
        return error_set(err, result,
                         "cannot open %s: %s; install the Debian package ovmf", path,
                         err_text(result));
    }
    return error_set(err, result,
                     "cannot open --firmware %s: %s; give bios (Debian package seabios), "
                     "uefi (package ovmf) or an image of one of them",
                     path, err_text(result));
}

static int kind_judge(struct firmware_image *image, const uint8_t head[HEAD_SIZE],
                      const uint8_t end[RESET_FROM_END], struct error *err)
{
    image->is_uefi = memcmp(head + VOLUME_SIGNATURE, "_FVH", 4) == 0;
    if (image->is_uefi &&
        memcmp(head + VOLUME_GUID, variables_guid, sizeof(variables_guid)) == 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "--firmware %s holds or is a store of variables: give the code "
                         "alone, such as OVMF_CODE_4M.fd of the Debian package ovmf",
                         image->path);
    }
    if (image->is_uefi && strstr(image->path, "secboot") != NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "--firmware %s needs system management mode, which this machine "
                         "has not: give OVMF_CODE_4M.fd of the Debian package ovmf",
                         image->path);
    }
    uint8_t linux_mark[4] = {0};
    bool is_linux = pread(image->fd, linux_mark, sizeof(linux_mark), LINUX_MARK_OFFSET) ==
                        (ssize_t)sizeof(linux_mark) &&
                    memcmp(linux_mark, "HdrS", sizeof(linux_mark)) == 0;
    if (is_linux || memcmp(head,
                           "\x7f"
                           "ELF",
                           4) == 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "--firmware %s is a kernel, no firmware: give it with --kernel",
                         image->path);
    }
    uint64_t least = image->is_uefi ? UEFI_SIZE_MIN : BIOS_SIZE_MIN;
    uint64_t most = image->is_uefi ? UEFI_SIZE_MAX : BIOS_SIZE_MAX;
    if (image->size < least || image->size > most || image->size % PAGE_BYTES != 0) {
        return error_set(err, DROVER_EBADINPUT,
                         "--firmware %s has %" PRIu64 " bytes, which no %s image has: "
                         "install the Debian package %s again",
                         image->path, image->size, image->is_uefi ? "UEFI" : "BIOS",
                         image->is_uefi ? "ovmf" : "seabios");
    }
    if (!image->is_uefi && end[0] != OPCODE_JUMP_FAR && end[0] != OPCODE_JUMP_NEAR) {
        return error_set(err, DROVER_EBADINPUT,
                         "--firmware %s is no firmware image: give bios (Debian package "
                         "seabios), uefi (package ovmf) or an image of one of them",
                         image->path);
    }
    return 0;
}

static int image_judge(struct firmware_image *image, struct error *err)
{
    struct stat status;
    uint8_t head[HEAD_SIZE] = {0};
    uint8_t end[RESET_FROM_END] = {0};
    if (fstat(image->fd, &status) < 0 || !S_ISREG(status.st_mode)) {
        return error_set(err, DROVER_EBADINPUT, "--firmware %s is not a file: give one",
                         image->path);
    }
    image->size = (uint64_t)status.st_size;
    if (image->size >= PAGE_BYTES &&
        (pread(image->fd, head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
         pread(image->fd, end, sizeof(end), (off_t)(image->size - sizeof(end))) !=
             (ssize_t)sizeof(end))) {
        return error_set(err, -EIO, "cannot read --firmware %s", image->path);
    }
    return kind_judge(image, head, end, err);
}

/* OVMF_CODE_4M.fd has its template beside it: OVMF_VARS_4M.fd. */
static int template_find(struct firmware_image *image, struct error *err)
{
    const char *slash = strrchr(image->path, '/');
    const char *name = slash == NULL ? image->path : slash + 1;
    const char *code = strstr(name, "CODE");
    if (code == NULL) {
        return error_set(err, DROVER_EBADINPUT,
                         "--firmware %s: name the file ...CODE... and put the template "
                         "of its variables beside it as ...VARS...",
                         image->path);
    }
    memcpy(image->vars_template, image->path, sizeof(image->vars_template));
    memcpy(image->vars_template + (code - image->path), "VARS", 4);
    return 0;
}

static unsigned uefi_choose(uint64_t vars_bytes)
{
    unsigned there = 0;
    for (unsigned i = sizeof(uefi_images) / sizeof(uefi_images[0]); i-- > 0;) {
        if (access(uefi_images[i].code, R_OK) != 0) {
            continue;
        }
        there = i;
        if (uefi_images[i].vars_bytes == vars_bytes) {
            return i;
        }
    }
    return there;
}

int firmware_image_open(const char *firmware, uint64_t vars_bytes,
                        struct firmware_image *ret_image, struct error *err)
{
    struct firmware_image image = {.fd = -1};
    bool is_uefi = strcmp(firmware, "uefi") == 0;
    const char *path = firmware;
    if (strcmp(firmware, "bios") == 0) {
        path = BIOS_PATH;
    } else if (is_uefi) {
        path = uefi_images[uefi_choose(vars_bytes)].code;
    }
    CLEANUP(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return not_there(firmware, path, -errno, err);
    }
    /* As the file is really called: a link may lead to an image of another kind. */
    CLEANUP(cleanup_free) char *real = realpath(path, NULL);
    (void)snprintf(image.path, sizeof(image.path), "%s", real != NULL ? real : path);
    image.fd = fd;
    int result = image_judge(&image, err);
    if (result == 0 && image.is_uefi) {
        result = template_find(&image, err);
    }
    if (result == 0) {
        *ret_image = image;
        (void)take_fd(&fd);
    }
    return result;
}

void firmware_image_close(struct firmware_image *image)
{
    cleanup_fd(&image->fd);
    image->fd = -1;
}
