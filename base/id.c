/* SPDX-License-Identifier: Apache-2.0 */
/* Random identities, and which names are names. */
#include "base/id.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/limits.h"

#define RANDOM_BYTES 16

int id_random_bytes(void *data, size_t size)
{
    uint8_t *at = data;
    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        at += got;
        size -= (size_t)got;
    }
    return 0;
}

int id_random_text(char ret_text[ID_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[RANDOM_BYTES];
    int rv = id_random_bytes(bytes, sizeof(bytes));
    if (rv != 0) {
        return rv;
    }
    for (size_t i = 0; i < sizeof(bytes); i++) {
        ret_text[2 * i] = digits[bytes[i] >> 4];
        ret_text[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret_text[2 * sizeof(bytes)] = '\0';
    return 0;
}

int id_boot_text(char ret_text[ID_TEXT_SIZE])
{
    CLEANUP(cleanup_fd)
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    char text[ID_TEXT_SIZE] = {0};
    ssize_t got = read(fd, text, sizeof(text) - 1);
    if (got < 0) {
        return -errno;
    }
    text[strcspn(text, "\n")] = '\0';
    if (text[0] == '\0') {
        return -EIO;
    }
    memcpy(ret_text, text, sizeof(text));
    return 0;
}

static bool is_alphanumeric(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool id_name_valid(const char *name)
{
    size_t length = strnlen(name, LIMIT_NAME_SIZE);
    if (length == 0 || length >= LIMIT_NAME_SIZE) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        bool inner_dash = name[i] == '-' && i > 0 && i + 1 < length;
        if (!is_alphanumeric(name[i]) && !inner_dash) {
            return false;
        }
    }
    return true;
}
