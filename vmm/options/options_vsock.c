/* SPDX-License-Identifier: Apache-2.0 */
/* --vsock cid=N,unix=PATH */
#include "vmm/options/options_vsock.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vmm/virtio/virtio_vsock.h"

static int cid_set(const char *text, size_t size, struct options_vsock *vsock,
                   struct error *err)
{
    char *end = NULL;
    unsigned long cid = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;

    if (end != text + size || cid < VIRTIO_VSOCK_CID_MIN || cid > VIRTIO_VSOCK_CID_MAX) {
        return error_set(err, DROVER_EBADINPUT,
                         "--vsock: cid=%.*s: give a number from %u to %u", (int)size,
                         text, VIRTIO_VSOCK_CID_MIN, VIRTIO_VSOCK_CID_MAX);
    }
    vsock->cid = (uint32_t)cid;
    return 0;
}

int options_vsock_parse(const char *text, struct options_vsock *ret_vsock,
                        struct error *err)
{
    struct options_vsock vsock = {0};

    for (const char *part = text; *part != '\0';) {
        size_t size = strcspn(part, ",");
        int result = 0;

        if (size > 4 && memcmp(part, "cid=", 4) == 0) {
            result = cid_set(part + 4, size - 4, &vsock, err);
        } else if (size > 5 && memcmp(part, "unix=", 5) == 0) {
            if (size - 5 >= sizeof(vsock.path)) {
                return error_set(err, DROVER_EBADINPUT,
                                 "--vsock: the path is longer than %zu characters: give "
                                 "a shorter one",
                                 sizeof(vsock.path) - 1);
            }
            memcpy(vsock.path, part + 5, size - 5);
            vsock.path[size - 5] = '\0';
        } else {
            return error_set(err, DROVER_EBADINPUT, "--vsock %s: give cid=N,unix=PATH",
                             text);
        }
        if (result < 0) {
            return result;
        }
        part += size;
        part += *part == ',' ? 1 : 0;
    }
    if (vsock.cid == 0 || vsock.path[0] == '\0') {
        return error_set(err, DROVER_EBADINPUT, "--vsock %s: give cid=N,unix=PATH", text);
    }
    *ret_vsock = vsock;
    return 0;
}
